"""The world model's scan over real play for a CPU: the loop of ``WorldModel.observe`` by the layers of
``scan_layers``, which have kernels and gradients of their own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modules.gru import new_state_doubled
from modules.world_models.latents import CategoricalLatents
from modules.world_models.layers import AgentFusion, FusionLayer
from modules.world_models.scan_layers import Cell, Extent, Fusion, Head, Linear, Picks, Weights
from utils.compute import factor_dtype

if TYPE_CHECKING:
    from modules.world_models.world_model import LatentState, WorldModel


PIECE = 1280  # rows that `Ahead` moves together, so that they stay in a core's cache


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
    """Moves states of a model ahead, without gradients, as long as its weights don't change.

    They are moved in pieces of the same size; the last one may begin within the one before.
    """

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self._layers = cache(self._make_layers)

    @torch.no_grad()
    def advance(self, state: LatentState, actions: Tensor) -> Tensor:
        """The deterministic states (N, n, width) that states and actions (N, n) int64 lead to."""
        h, z = state.h, state.classes(self.model.latents)
        number, agents, width = h.shape
        size = -(-number // -(-number * agents // PIECE))
        taken, after = _classes(actions, self.model.n_actions), torch.empty_like(h)
        factors = factor_dtype(h)  # under the caller's autocast
        with torch.autocast("cpu", enabled=False):
            fusion, cell = self._layers(size, factors)
            for end in range(size, number + size, size):
                piece = slice(min(end, number) - size, min(end, number))
                fusion.project.z[0] = z[piece].flatten(0, 1)
                fusion.project.actions[0] = taken[piece].flatten(0, 1)
                fusion.forward(0, cell.of_input.inputs[0])
                moved = cell.forward(0, h[piece].flatten(0, 1).contiguous())
                after[piece] = moved.view(size, agents, width)
        return after

    def _make_layers(self, size: int, factors: torch.dtype) -> tuple[Fusion[Picks], Cell]:
        """For ``size`` moments at a time."""
        model = self.model
        extent, weights = Extent(1, size, model.n_agents, factors, kept=False), _act_weights(model)
        project = Picks(extent, weights, model.latents)
        return Fusion(extent, weights, project, *_shape(model.act_fusion)), Cell(extent, weights)


def _classes(actions: Tensor, number: int) -> Tensor:
    """Actions (...) int64 as kernels look them up, (..., 1) int16.

    Raises:
        ValueError: one of them is none of ``number`` actions.
    """
    if not 0 <= int(actions.min()) <= int(actions.max()) < number:
        raise ValueError(f"actions must be from 0 to {number - 1}, not {actions.min()} to {actions.max()}.")
    return actions.to(torch.int16).unsqueeze(-1)


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
        play, weights = Play(*given[:5]), iter(given[5:])
        ctx.layers = _Layers(shape, kept, play, weights)
        results = ctx.layers.forward(play)
        ctx.save_for_backward(results[0], results[2])
        ctx.mark_non_differentiable(results[3])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_results: Tensor) -> tuple[Tensor | None, ...]:
        results = ctx.saved_tensors
        layers, ctx.layers = ctx.layers, None  # what they keep of every step is freed
        of_embedded = layers.backward(results, *(x.flatten(1, 2).contiguous() for x in of_results[:3]))
        return None, None, of_embedded, None, None, None, None, *layers.gradients()


class _Layers:
    """The networks of the scan. Tensors have a step's rows (B * n) in one dimension, behind that of time."""

    def __init__(self, shape: Shape, kept: bool, play: Play, weights: Weights) -> None:
        steps, batch, agents, self.width = play.embedded.shape
        self.extent = extent = Extent(steps, batch, agents, shape.factors, kept)
        self.latents = shape.latents
        self.obs_fusion = Fusion(extent, weights, Linear(extent, weights, bias=False), *shape.obs_fusion)
        self.posterior_head = Head(extent, weights)
        self.act_fusion = Fusion(extent, weights, Picks(extent, weights, shape.latents), *shape.act_fusion)
        self.cell = Cell(extent, weights)
        self.goes_on = play.goes_on.expand(-1, -1, agents, -1).flatten(1, 2)
        self.living = play.living.flatten(1).contiguous()

    def forward(self, play: Play) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, latents, posterior probabilities and the latents' classes (T, B, n, ...)."""
        extent, latents, width = self.extent, self.latents, self.width
        shape = play.embedded.shape[:3]
        states = torch.empty(*shape, width)
        drawn = torch.empty(*shape, latents.size, dtype=extent.factors)
        posteriors = torch.empty(*shape, latents.classes, latents.groups)
        embedded, uniforms = (x.flatten(1, 2).contiguous() for x in (play.embedded, play.uniforms))
        done = self.act_fusion.project
        done.actions.copy_(_classes(play.actions.flatten(1), done.n_actions))
        after = torch.zeros(extent.rows, width)
        by_step = (x.flatten(1, 2).unbind() for x in (states, posteriors, drawn))
        for t, (h, posterior, z) in enumerate(zip(*by_step, strict=True)):
            torch.mul(after, self.goes_on[t], out=h)
            seen = self.obs_fusion.project.inputs[t]
            seen[:, :width].copy_(embedded[t])
            seen[:, width:].copy_(h)
            self.obs_fusion.forward(t, self.posterior_head.hidden.inputs[t])
            logits = self.posterior_head.forward(t)
            given = (logits, uniforms[t], self.living[t])
            extent.kernels.draw(*given, posterior, z, done.z[t], *self._distribution())
            if t + 1 < extent.steps:
                self.act_fusion.forward(t, self.cell.of_input.inputs[t])
                after = self.cell.forward(t, h)
        return states, drawn, posteriors, done.z.unflatten(1, shape[1:])

    def backward(
        self, results: tuple[Tensor, Tensor], of_hs: Tensor, of_zs: Tensor, of_posteriors: Tensor
    ) -> Tensor:
        """The gradient of the embedded observations from those of what ``forward`` returned.

        ``results`` are its states and probabilities, gradients (T, R, ...).
        """
        states, posteriors = (x.flatten(1, 2) for x in results)
        of_embedded = torch.empty_like(states)
        later: Tensor | None = None  # the gradient of the state that the cell gave at this step
        for t in reversed(range(self.extent.steps)):
            of_h: Tensor = of_hs[t]
            of_done: Tensor | None = None
            if later is not None:
                of_input, of_state = self.cell.backward(t, later, states[t])
                of_h = of_state.add_(of_h)
                of_done = self.act_fusion.backward(t, of_input)
            given = (of_zs[t], of_done, of_posteriors[t], posteriors[t], self.living[t])
            into = self.posterior_head.out.of_outputs[t]
            self.extent.kernels.draw_back(*given, into, *self._distribution())
            of_seen = self.obs_fusion.backward(t, self.posterior_head.backward(t))
            of_embedded[t], of_state = of_seen.split(self.width, dim=-1)
            later = of_state.add(of_h).mul_(self.goes_on[t])
        return of_embedded.unflatten(1, (self.extent.batch, self.extent.agents))

    def _distribution(self) -> tuple[float, int, int, int]:
        latents = self.latents
        return latents.uniform_mix, self.extent.rows, latents.classes, latents.groups

    def gradients(self) -> Iterator[Tensor]:
        """Those of all weights, in the order in which they were taken."""
        steps = self.extent.steps
        yield from self.obs_fusion.gradients(steps)
        yield from self.posterior_head.gradients(steps)
        yield from self.act_fusion.gradients(steps - 1)  # nothing follows the last step
        yield from self.cell.gradients(steps - 1)
