"""Layers of a scan over time for a CPU: products, kernels between them, and gradients written out by hand.

Autograd keeps a node per operation and step, and adds the gradients of every weight up step by step. Here a
layer is called with the number of a step, forwards and then backwards, and keeps what it needs of all steps
next to each other in memory. Only what the recurrence itself needs is done step by step: the gradients of
weights are taken once, of all steps together.

A step has R = batch * agents rows. A ``Linear`` finds its input in ``inputs[t]`` and the gradient of its
output in ``of_outputs[t]``, where the layers around it write them: ``into`` is such a place.
``gradients(steps)`` gives those of a layer's weights, in the order in which its constructor took them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

import kernels
from kernels.products import Matrix
from modules.world_models.latents import CategoricalLatents
from modules.world_models.layers import SHARES, gradient_of_table

Weights = Iterator[Tensor]


@dataclass(frozen=True)
class Extent:
    """What is scanned, and in which precision."""

    steps: int
    batch: int
    agents: int
    factors: torch.dtype  # of the factors of matrix products; all else is float32
    kept: bool  # for gradients; otherwise all steps share their memory

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.batch * self.agents

    @cached_property
    def kernels(self) -> kernels.Kernels:
        """Those for these factors."""
        return kernels.of(self.factors)

    def room(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor (steps, *shape), of which all steps are the same memory where nothing is kept."""
        return torch.empty(self.steps if self.kept else 1, *shape, dtype=dtype).expand(self.steps, *shape)


class Weighted:
    """A product with a weight (outputs, inputs), as seen from its output."""

    def __init__(self, extent: Extent, weight: Tensor) -> None:
        self.factors, self.weight = extent.factors, weight
        self.all_of_outputs = extent.room(extent.rows, len(weight), dtype=extent.factors)
        self.of_outputs = self.all_of_outputs.unbind()

    def backward(self, t: int) -> Tensor:
        """The gradient of the input (R, inputs), as its factors are."""
        return self.back_by_weight.times(self.of_outputs[t])

    @cached_property
    def back_by_weight(self) -> Matrix:
        """What gradients are multiplied by."""
        return Matrix(self.weight, self.factors, turned=True)


class Linear(Weighted):
    """``x W^T + b``; without a ``b`` if ``bias`` is false."""

    def __init__(self, extent: Extent, weights: Weights, bias: bool = True) -> None:
        super().__init__(extent, next(weights))
        self.bias = next(weights) if bias else None
        self.by_weight = Matrix(self.weight, extent.factors)
        self.all_inputs = extent.room(extent.rows, self.weight.shape[1], dtype=extent.factors)
        self.inputs = self.all_inputs.unbind()

    def forward(self, t: int) -> Tensor:
        """(R, outputs), as its factors are."""
        return self.by_weight.times(self.inputs[t], self.bias)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        """Of what the first ``steps`` steps did."""
        of_outputs = self.all_of_outputs[:steps].flatten(0, 1)
        yield (of_outputs.T @ self.all_inputs[:steps].flatten(0, 1)).float()
        if self.bias is not None:
            yield of_outputs.sum(dim=0).float()


class Picks(Weighted):
    """``x W^T`` for an x of ones and zeros: latents and the action taken, each of which picks a column of W.

    ``z[t]`` (R, groups) and ``actions[t]`` (R, 1), both int16, have their classes. Gradients reach the
    latents alone.
    """

    def __init__(self, extent: Extent, weights: Weights, latents: CategoricalLatents) -> None:
        of_both = next(weights).tensor_split([latents.size], dim=1)
        super().__init__(extent, of_both[0])
        self.width, self.n_actions = of_both[1].shape
        self.tables = [of.T.to(extent.factors).contiguous() for of in of_both]
        rows = (extent.steps, extent.rows)
        self.z, self.actions = (torch.empty(*rows, k, dtype=torch.int16) for k in (latents.groups, 1))
        self.kernels = extent.kernels

    def forward(self, t: int) -> Tensor:
        """(R, outputs), as factors of products are."""
        out = torch.zeros(self.z.shape[1], self.width, dtype=self.factors)
        for picked, table in zip((self.z[t], self.actions[t]), self.tables, strict=True):
            self.kernels.add_picked(picked, table, out, *picked.shape, self.width)
        return out

    def gradients(self, steps: int) -> Iterator[Tensor]:
        of_outputs = self.all_of_outputs[:steps].flatten(0, 1)
        of_tables = [
            gradient_of_table(picked[:steps].flatten(0, 1), of_outputs, len(table))
            for picked, table in zip((self.z, self.actions), self.tables, strict=True)
        ]
        yield torch.cat(of_tables).T


Project = TypeVar("Project", bound=Linear | Picks)


class AddNorm:
    """The sum of the residual stream and what a layer adds to it, and its norm.

    The norm's gain and bias are in the weights of what reads it.
    """

    def __init__(self, extent: Extent, width: int) -> None:
        self.rows, self.width, self.kernels = extent.rows, width, extent.kernels
        self.totals = extent.room(extent.rows, width).unbind()
        self.means, self.scales = (extent.room(extent.rows).unbind() for _ in range(2))

    def forward(self, t: int, x: Tensor, y: Tensor, into: Tensor) -> Tensor:
        """The sum (R, width) of ``x``, whose rows come again and again if they are less, and ``y``."""
        total, seen = self.totals[t], (self.means[t], self.scales[t])
        self.kernels.add_norm(x, len(x), y, total, into, *seen, self.rows, self.width)
        return total

    def backward(self, t: int, of_normed: Tensor, of_total: Tensor, into: Tensor) -> None:
        """Adds the gradient by the norm to ``of_total``."""
        seen = (self.totals[t], self.means[t], self.scales[t])
        self.kernels.add_norm_back(of_normed, *seen, of_total, into, self.rows, self.width)


class FusionLayer:
    """``layers.FusionLayer``, with the scale of its scores in the weights of queries.

    Its heads take turns in the rows of queries, keys, values and what they give.
    """

    def __init__(self, extent: Extent, weights: Weights, width: int, heads: int, alone: bool) -> None:
        self.kernels = extent.kernels
        self.query_key_value, self.attention_out, self.widen, self.narrow = self._linear = [
            Linear(extent, weights) for _ in range(4)
        ]
        self.attention_norm, self.feed_forward_norm = (AddNorm(extent, width) for _ in range(2))
        groups, agents = (extent.rows, 1) if alone else (extent.batch, extent.agents)
        self.sizes = (groups, agents, heads, width // heads)
        self.shares = extent.room(groups, agents, agents, heads).unbind()
        self.attending, self.hidden = ([torch.empty(0)] * extent.steps for _ in range(2))

    def forward(self, t: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream (R, width) and what is to be added to it, from the same before."""
        x = self.attention_norm.forward(t, x, y, self.query_key_value.inputs[t])
        self.attending[t] = self.query_key_value.forward(t)
        self.kernels.attend(self.attending[t], self.attention_out.inputs[t], self.shares[t], *self.sizes)
        x = self.feed_forward_norm.forward(t, x, self.attention_out.forward(t), self.widen.inputs[t])
        self.hidden[t] = self.widen.forward(t)
        self.kernels.silu(self.hidden[t], self.narrow.inputs[t], self.hidden[t].numel())
        return x, self.narrow.forward(t)

    def backward(self, t: int, g: Tensor, into: Tensor) -> None:
        """Makes ``g``, the gradient of the two outputs, that of the inputs; ``of_outputs`` has it, too."""
        hidden, of_hidden = self.hidden[t], self.widen.of_outputs[t]
        self.kernels.silu_back(self.narrow.backward(t), hidden, of_hidden, hidden.numel())
        self.feed_forward_norm.backward(t, self.widen.backward(t), g, self.attention_out.of_outputs[t])
        seen, of_seen = (self.attending[t], self.shares[t]), self.query_key_value.of_outputs[t]
        self.kernels.attend_back(self.attention_out.backward(t), *seen, of_seen, *self.sizes)
        self.attention_norm.backward(t, self.query_key_value.backward(t), g, into)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        for linear in self._linear:
            yield from linear.gradients(steps)


class Fusion(Generic[Project]):
    """``layers.AgentFusion``, with the gain and bias of its last norm in the weights of what reads it."""

    def __init__(
        self, extent: Extent, weights: Weights, project: Project, layers: int, heads: int, alone: bool
    ) -> None:
        self.project = project
        self.of_agents = next(weights)  # (agents, width)
        width = self.of_agents.shape[1]
        self.layers = [FusionLayer(extent, weights, width, heads, alone) for _ in range(layers)]
        self.norm = AddNorm(extent, width)
        self.rows = extent.rows

    def forward(self, t: int, into: Tensor) -> None:
        x, y = self.of_agents, self.project.forward(t)
        for layer in self.layers:
            x, y = layer.forward(t, x, y)
        self.norm.forward(t, x, y, into)

    def backward(self, t: int, of_normed: Tensor) -> Tensor:
        """The gradient of what is projected, from that of the norm (R, width)."""
        adding: list[Linear | Picks] = [self.project, *(layer.narrow for layer in self.layers)]
        g = torch.zeros(self.rows, self.of_agents.shape[1])
        self.norm.backward(t, of_normed, g, adding.pop().of_outputs[t])
        for layer in reversed(self.layers):
            layer.backward(t, g, adding.pop().of_outputs[t])
        return self.project.backward(t)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.project.gradients(steps)
        yield self.project.all_of_outputs[:steps].reshape(-1, *self.of_agents.shape).sum(dim=0).float()
        for layer in self.layers:
            yield from layer.gradients(steps)


class Head:
    """Linear, LayerNorm, SiLU, Linear."""

    def __init__(self, extent: Extent, weights: Weights) -> None:
        self.hidden = Linear(extent, weights, bias=False)
        self.norm = [next(weights) for _ in range(3)]  # what is added before it, gain and bias
        self.out = Linear(extent, weights)
        self.rows, self.width, self.kernels = extent.rows, self.out.weight.shape[1], extent.kernels
        self.means, self.scales = (extent.room(extent.rows).unbind() for _ in range(2))
        self.seen = [torch.empty(0)] * extent.steps
        self.of_norm = torch.zeros(3, SHARES, self.width)  # parts of the gradients of its weights

    def forward(self, t: int) -> Tensor:
        self.seen[t] = self.hidden.forward(t)
        statistics = (self.means[t], self.scales[t])
        sizes = (1, self.rows, self.width)
        self.kernels.norm_silu(self.seen[t], *self.norm, self.out.inputs[t], *statistics, *sizes)
        return self.out.forward(t)

    def backward(self, t: int) -> Tensor:
        """The gradient of what it reads, from that of its output, which ``out.of_outputs[t]`` has."""
        seen = (self.seen[t], *self.norm, self.means[t], self.scales[t])
        sizes = (1, SHARES, self.rows, self.width)
        self.kernels.norm_silu_back(
            self.out.backward(t), *seen, self.hidden.of_outputs[t], self.of_norm, *sizes
        )
        return self.hidden.backward(t)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.hidden.gradients(steps)
        yield from self.of_norm.sum(dim=1)
        yield from self.out.gradients(steps)


class Cell:
    """``torch.nn.GRUCell`` with twice its weights of n; ``modules.gru`` has the formulas."""

    def __init__(self, extent: Extent, weights: Weights) -> None:
        self.of_input, self.of_state = Linear(extent, weights), Linear(extent, weights)
        self.sizes = (extent.rows, self.of_state.weight.shape[1])
        self.kept = extent.room(extent.rows, 4, self.sizes[1]).unbind()
        self.kernels = extent.kernels

    def forward(self, t: int, h: Tensor) -> Tensor:
        """The state (R, width) after ``h``."""
        self.of_state.inputs[t].copy_(h)
        after = torch.empty_like(h)
        by_both = (self.of_input.forward(t), self.of_state.forward(t))
        self.kernels.gru(*by_both, h, after, self.kept[t], *self.sizes)
        return after

    def backward(self, t: int, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of input and state ``h`` from ``g``, that of the state after it."""
        of_h, of_both = torch.empty_like(h), (self.of_input.of_outputs[t], self.of_state.of_outputs[t])
        self.kernels.gru_back(g, h, self.kept[t], *of_both, of_h, *self.sizes)
        return self.of_input.backward(t), of_h.add_(self.of_state.backward(t))

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.of_input.gradients(steps)
        yield from self.of_state.gradients(steps)
