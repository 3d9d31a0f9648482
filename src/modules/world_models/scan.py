"""The world model's scan over real play for a CPU: the loop of ``WorldModel.observe`` by the layers of
``scan_layers``, which have kernels and gradients of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modules.gru import new_state_doubled
from modules.world_models.latents import CategoricalLatents
from modules.world_models.layers import AgentFusion, FusionLayer
from modules.world_models.scan_layers import Cell, Extent, Fusion, Head, Weights

if TYPE_CHECKING:
    from modules.world_models.world_model import WorldModel


class Play(NamedTuple):
    """What the scan goes over, time first."""

    embedded: Tensor  # (T, B, n, width) observations
    living: Tensor  # (T, B, n, 1), 1 or 0
    actions: Tensor  # (T, B, n, n_actions) one-hot
    goes_on: Tensor  # (T, B, 1, 1), 0 where an episode begins
    uniforms: Tensor  # (T, B, n, groups) numbers in [0, 1) that the latents are drawn by


class Shape(NamedTuple):
    """Of the networks."""

    latents: CategoricalLatents
    obs_fusion: tuple[int, int, bool]  # layers, heads, whether agents are alone
    act_fusion: tuple[int, int, bool]
    factors: torch.dtype  # of matrix products


def scan(model: WorldModel, play: Play) -> tuple[Tensor, Tensor, Tensor]:
    """Run the posterior of ``model``.

    Returns:
        Deterministic states (B, T, n, width), latents (B, T, n, size), rounded where autocast rounds, and
        posterior probabilities (B, T, n, classes, groups).
    """
    factors = play.embedded.dtype  # what a product gave under the caller's autocast
    shape = Shape(model.latents, _shape(model.obs_fusion), _shape(model.act_fusion), factors)
    with torch.autocast("cpu", enabled=False):
        play = play._replace(embedded=play.embedded.to(play.living.dtype))
        results: tuple[Tensor, Tensor, Tensor] = _Scan.apply(
            shape, torch.is_grad_enabled(), *play, *_weights(model)
        )
    return results


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
        yield from (weight * scale.unsqueeze(-1), bias * scale)
        yield from layer.attention_out.parameters()
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
        # Results are never what is saved.
        results = (x.clone(memory_format=torch.contiguous_format) for x in ctx.layers.forward(play))
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_results: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.layers is None:
            raise RuntimeError("gradients can't be taken a second time: what the scan kept for them is freed.")
        layers, ctx.layers = ctx.layers, None
        of_embedded = layers.backward(*(x.transpose(0, 1).flatten(1, 2).contiguous() for x in of_results))
        return None, None, of_embedded, None, None, None, None, *layers.gradients()


class _Layers:
    """The networks of the scan. Tensors have a step's rows (B * n) in one dimension, behind that of time."""

    def __init__(self, shape: Shape, kept: bool, play: Play, weights: Weights) -> None:
        steps, batch, agents, self.width = play.embedded.shape
        self.extent = extent = Extent(steps, batch, agents, shape.factors, kept)
        self.latents = shape.latents
        self.obs_fusion = Fusion(extent, weights, *shape.obs_fusion)
        self.posterior_head = Head(extent, weights)
        self.act_fusion = Fusion(extent, weights, *shape.act_fusion)
        self.cell = Cell(extent, weights)
        self.goes_on = play.goes_on.expand(-1, -1, agents, -1).flatten(1, 2)
        self.living = play.living.flatten(1).contiguous()
        self.states = play.embedded.new_empty(steps, extent.rows, self.width)
        self.posteriors = self.states.new_empty(steps, extent.rows, self.latents.size)

    def forward(self, play: Play) -> tuple[Tensor, ...]:
        """States, latents and posterior probabilities, views (B, T, n, ...)."""
        extent, latents, width = self.extent, self.latents, self.width
        embedded, actions, uniforms = (
            x.flatten(1, 2).contiguous() for x in (play.embedded, play.actions, play.uniforms)
        )
        drawn = torch.empty(extent.steps, extent.rows, latents.size, dtype=extent.factors)
        after = torch.zeros(extent.rows, width)
        for t, (h, posterior, z) in enumerate(zip(self.states, self.posteriors, drawn, strict=True)):
            torch.mul(after, self.goes_on[t], out=h)
            seen = self.obs_fusion.project.inputs[t]
            seen[:, :width].copy_(embedded[t])
            seen[:, width:].copy_(h)
            self.obs_fusion.forward(t, self.posterior_head.hidden.inputs[t])
            logits = self.posterior_head.forward(t)
            extent.kernels.draw(logits, uniforms[t], self.living[t], posterior, z, *self._distribution())
            if t + 1 < extent.steps:
                done = self.act_fusion.project.inputs[t]
                done[:, : latents.size].copy_(z)
                done[:, latents.size :].copy_(actions[t])
                self.act_fusion.forward(t, self.cell.of_input.inputs[t])
                after = self.cell.forward(t, h)
        posteriors = self.posteriors.unflatten(-1, (latents.classes, latents.groups))
        by_agent = (x.unflatten(1, (extent.batch, extent.agents)) for x in (self.states, drawn, posteriors))
        return tuple(x.transpose(0, 1) for x in by_agent)

    def backward(self, of_hs: Tensor, of_zs: Tensor, of_posteriors: Tensor) -> Tensor:
        """The gradient of the embedded observations from those of what ``forward`` returned."""
        of_embedded = torch.empty_like(self.states)
        later = None  # the gradient of the state that the cell gave at this step
        for t in reversed(range(self.extent.steps)):
            of_h, of_done, row = of_hs[t], of_zs[t], 0
            if later is not None:
                of_input, of_state = self.cell.backward(t, later, self.states[t])
                of_h = of_state.add_(of_h)
                of_done = self.act_fusion.backward(t, of_input)
                row = of_done.shape[1]
            given = (of_done, row, of_zs[t], of_posteriors[t], self.posteriors[t], self.living[t])
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
