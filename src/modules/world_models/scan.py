"""The world model's scan over real play for a CPU: the loop of ``WorldModel.observe`` by one kernel, with
gradients of its own, and a step of imagination by another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import kernels
from modules.gru import new_state_doubled
from modules.world_models.kernel_layers import (
    Cell,
    Entries,
    Fusion,
    Linear,
    Perceptron,
    Picks,
    Weights,
    Windows,
    as_read,
)
from modules.world_models.latents import CategoricalLatents
from modules.world_models.layers import AgentFusion, FusionLayer
from utils.compute import factor_dtype

if TYPE_CHECKING:
    from modules.world_models.world_model import LatentState, WorldModel


class Play(NamedTuple):
    """What the scan goes over, time first."""

    embedded: Tensor  # (T, B, n, width) observations
    living: Tensor  # (T, B, n, 1), 1 or 0
    actions: Tensor  # (T, B, n) int64
    goes_on: Tensor  # (T, B, 1, 1), 0 where an episode begins
    uniforms: Tensor  # (T, B, n, groups) numbers in [0, 1) that the latents are drawn by


class Shape(NamedTuple):
    """Of the networks."""

    latents: CategoricalLatents
    obs_fusion: tuple[int, int, bool]  # layers, heads, whether agents are alone
    act_fusion: tuple[int, int, bool]
    factors: torch.dtype  # of matrix products


def scan(model: WorldModel, play: Play) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the posterior of ``model``.

    Returns:
        Deterministic states (B, T, n, width), latents (B, T, n, size), rounded where autocast rounds,
        posterior probabilities (B, T, n, classes, groups) and the classes (B, T, n, groups) int16 of the
        latents, -1 for the dead, all of them with the time first in memory.
    """
    factors = play.embedded.dtype  # what a product gave under the caller's autocast
    shape = Shape(model.latents, _shape(model.obs_fusion), _shape(model.act_fusion), factors)
    with torch.autocast("cpu", enabled=False):
        play = play._replace(embedded=play.embedded.to(play.living.dtype))
        h, z, posterior, picked = _Scan.apply(shape, torch.is_grad_enabled(), *play, *_weights(model))
    return h.transpose(0, 1), z.transpose(0, 1), posterior.transpose(0, 1), picked.transpose(0, 1)


class Ahead:
    """Moves states of a model ahead, without gradients, as long as its weights don't change."""

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self._layers = cache(self._make_layers)

    @torch.no_grad()
    def advance(self, state: LatentState, actions: Tensor) -> Tensor:
        """The deterministic states (N, n, width) that states and actions (N, n) int64 lead to."""
        h, z = as_read(state.h), state.classes(self.model.latents).contiguous()
        taken, after = _classes(actions, self.model.n_actions), torch.empty_like(h)
        number, agents = actions.shape
        expected = (number, self.model.n_agents, self.model.width)
        if h.shape != expected or agents != self.model.n_agents:
            raise ValueError(f"states {expected} were expected, not {(*h.shape,)} and actions of {agents}.")
        extent = Windows(1, number, agents, factor_dtype(h), kept=False)  # as the caller's autocast has it
        rooms = torch.get_num_threads() * -(-number // extent.pieces)  # moments
        with torch.autocast("cpu", enabled=False):
            fusion, cell = self._layers(rooms, extent.factors)
        layers = (*fusion.entries(back=False), *cell.entries(back=False))
        kernels.of(extent.factors).advance((*extent.entries(), *layers, h, z, taken, after))
        return after

    def _make_layers(self, size: int, factors: torch.dtype) -> tuple[Fusion[Picks], Cell]:
        """For ``size`` moments at a time."""
        model = self.model
        extent, weights = Windows(1, size, model.n_agents, factors, kept=False), _act_weights(model)
        project = Picks(extent, weights, model.latents)
        return Fusion(extent, weights, project, *_shape(model.act_fusion)), Cell(extent, weights)


def _classes(actions: Tensor, number: int) -> Tensor:
    """Actions (...) int64 as kernels look them up, (..., 1) int16.

    Raises:
        ValueError: one of them is none of ``number`` actions.
    """
    if not 0 <= int(actions.min()) <= int(actions.max()) < number:
        raise ValueError(f"actions must be from 0 to {number - 1}, not {actions.min()} to {actions.max()}.")
    return actions.to(torch.int16).unsqueeze(-1).contiguous()


def _shape(fusion: AgentFusion) -> tuple[int, int, bool]:
    layers = _layers(fusion)
    return len(layers), layers[0].heads, fusion.alone or len(fusion.agent_embedding) == 1


def _layers(fusion: AgentFusion) -> list[FusionLayer]:
    return [layer for layer in fusion.layers if isinstance(layer, FusionLayer)]


def _weights(model: WorldModel) -> Iterator[Tensor]:
    """What the layers take, with what can be taken into a weight taken into it."""
    hidden, hidden_bias, *others = model.posterior_head.parameters()
    yield from _fusion_weights(model.obs_fusion)
    yield from _after(model.obs_fusion.norm, hidden, hidden_bias)
    yield from others
    yield from _act_weights(model)


def _act_weights(model: WorldModel) -> Iterator[Tensor]:
    yield from _fusion_weights(model.act_fusion)
    cell = model.cell
    of_input = _after(model.act_fusion.norm, cell.weight_ih, cell.bias_ih)
    yield from map(new_state_doubled, (*of_input, cell.weight_hh, cell.bias_hh))


def _fusion_weights(fusion: AgentFusion) -> Iterator[Tensor]:
    yield fusion.project.weight
    yield fusion.project.bias + fusion.agent_embedding
    for layer in _layers(fusion):
        weight, bias = _after(layer.attention_norm, *layer.query_key_value.parameters())
        scale, width = torch.ones_like(bias), layer.attention_out.in_features
        scale[:width] = (width // layer.heads) ** -0.5  # of the scores, on the queries
        of_heads = (-1, layer.heads, width // layer.heads)
        # Where all first numbers of heads come before the second ones, attention takes a third of the time.
        yield (weight * scale.unsqueeze(-1)).unflatten(0, of_heads).transpose(1, 2).flatten(0, 2)
        yield (bias * scale).unflatten(0, of_heads).transpose(1, 2).flatten()
        attended, attended_bias = layer.attention_out.parameters()
        yield attended.unflatten(1, of_heads[1:]).transpose(1, 2).flatten(1)
        yield attended_bias
        widen, widen_bias, *narrow = layer.feed_forward.parameters()
        yield from _after(layer.feed_forward_norm, widen, widen_bias)
        yield from narrow


def _after(norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of a linear layer that reads what ``norm`` gives before its gain and bias."""
    return weight * norm.weight, torch.addmv(bias, weight, norm.bias)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: Shape, kept: bool, *given: Tensor) -> tuple[Tensor, ...]:
        play = Play(*given[:5])
        ctx.layers = Layers(shape, kept, play, iter(given[5:]))
        results = ctx.layers.forward(play)
        ctx.save_for_backward(results[0], results[2], results[3])
        ctx.mark_non_differentiable(results[3])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_results: Tensor) -> tuple[Tensor | None, ...]:
        states, posteriors, picked = ctx.saved_tensors
        layers, ctx.layers = ctx.layers, None  # what they keep of every step is freed
        of_embedded = layers.backward(states, posteriors, *(x.contiguous() for x in of_results[:3]))
        return None, None, of_embedded, None, None, None, None, *layers.gradients(picked)


class Layers:
    """The networks of the scan, and who does what when; tensors (T, B, n, ...)."""

    def __init__(self, shape: Shape, kept: bool, play: Play, weights: Weights) -> None:
        steps, batch, agents, self.width = play.embedded.shape
        self.latents = shape.latents
        self.extent = extent = Windows(steps, batch, agents, shape.factors, kept)
        self.obs_fusion = Fusion(extent, weights, Linear(extent, weights, bias=False), *shape.obs_fusion)
        self.posterior_head = Perceptron(extent, weights, over=[1])
        self.act_fusion = Fusion(extent, weights, Picks(extent, weights, shape.latents), *shape.act_fusion)
        self.cell = Cell(extent, weights)
        self.living, self.goes_on = as_read(play.living), as_read(play.goes_on)
        self.actions = _classes(play.actions, self.act_fusion.project.n_actions)

    def entries(self, back: bool) -> Entries:
        """What the kernels are told of the layers, and of who is there at which step."""
        yield from self.extent.entries()
        yield from (self.width, self.latents.classes, self.latents.groups)
        for layer in (self.obs_fusion, self.posterior_head, self.act_fusion, self.cell):
            yield from layer.entries(back)
        yield from (self.living, self.goes_on)

    def forward(self, play: Play) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, latents, posterior probabilities and the latents' classes."""
        latents, embedded, uniforms = self.latents, as_read(play.embedded), as_read(play.uniforms)
        shape, states = embedded.shape[:3], torch.empty_like(embedded)
        drawn = torch.empty(*shape, latents.size, dtype=self.extent.factors)
        posteriors = torch.empty(*shape, latents.classes, latents.groups)
        picked = torch.empty(*shape, latents.groups, dtype=torch.int16)
        given, results = (embedded, uniforms, self.actions), (states, posteriors, drawn, picked)
        entries = (*self.entries(back=False), *given, *results)
        kernels.of(self.extent.factors).scan(entries, latents.uniform_mix)
        return states, drawn, posteriors, picked

    def backward(
        self, states: Tensor, posteriors: Tensor, of_states: Tensor, of_drawn: Tensor, of_posteriors: Tensor
    ) -> Tensor:
        """The gradient of the embedded observations from those of what ``forward`` returned."""
        of_embedded = torch.empty_like(states)
        results = (states, posteriors, of_states, of_drawn, of_posteriors)
        entries = (*self.entries(back=True), *results, of_embedded)
        kernels.of(self.extent.factors).scan_back(entries, self.latents.uniform_mix)
        return of_embedded

    def gradients(self, picked: Tensor) -> list[Tensor]:
        """Those of all weights, in the order in which they were taken."""
        steps, classes = self.extent.steps, (picked.flatten(1, 2), self.actions.flatten(1, 2))
        return [
            *self.obs_fusion.gradients(steps),
            *self.posterior_head.gradients(steps),
            *self.act_fusion.gradients(steps - 1, classes),  # nothing follows the last step
            *self.cell.gradients(steps - 1),
        ]
