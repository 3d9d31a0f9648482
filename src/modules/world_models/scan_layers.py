"""Layers of a scan over time for a CPU: their weights, rooms for what they keep of all steps, and the
gradients of weights. What they do at a step is in ``kernels/scan.cpp``, which has layers of the same names.

Autograd keeps a node per operation and step, and adds the gradients of every weight up step by step. Here a
layer keeps what it needs of all steps next to each other in memory. Only what the recurrence itself needs is
done step by step: the gradients of weights are taken once, of all steps together.

A step has R = batch * agents rows. ``entries(back)`` is what the kernel is told of a layer, in the order of
its members there; what only gradients need is in it if these are to be taken. ``gradients(steps)`` gives
those of its weights, in the order in which its constructor took them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from kernels.products import laid_out
from modules.world_models.latents import CategoricalLatents
from modules.world_models.layers import gradient_of_table

Weights = Iterator[Tensor]
Entries = Iterator[Tensor | int | None]

MOST_ROWS = 640  # that a thread takes through a layer together, so that they stay in a core's cache
# What is worth a thread; tiles of bfloat16 need as many, or results would depend on the number of threads.
LEAST_ROWS = {torch.float32: 10, torch.bfloat16: 32}


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

    def room(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor (steps, R, *shape), of one step where nothing is kept."""
        return torch.empty(self.steps if self.kept else 1, self.rows, *shape, dtype=dtype)

    @property
    def pieces(self) -> int:
        """How many shares of the windows there are, as equal as they can be, of which a thread takes some."""
        threads = torch.get_num_threads()
        enough = -(-self.rows // (MOST_ROWS * threads)) * threads
        least = -(-LEAST_ROWS[self.factors] // self.agents)  # windows of a piece
        return max(1, min(enough, self.batch // least))

    def entries(self) -> Entries:
        yield from (self.steps, self.batch, self.agents, self.pieces, int(self.kept))


class Weighted:
    """A product with a weight (outputs, inputs), as seen from its output."""

    def __init__(self, extent: Extent, weight: Tensor) -> None:
        self.extent, self.weight = extent, weight

    @cached_property
    def all_of_outputs(self) -> Tensor:
        """Room for the gradients of what it puts out."""
        return self.extent.room(len(self.weight), dtype=self.extent.factors)

    @cached_property
    def back_by_weight(self) -> Tensor:
        """What these are multiplied by."""
        return laid_out(self.weight, self.extent.factors, turned=True)

    def of_outputs(self, steps: int) -> Tensor:
        """The gradients (steps * R, outputs) of the first ``steps`` steps."""
        return self.all_of_outputs[:steps].flatten(0, 1)

    def entries(self, back: bool) -> Entries:
        outputs, inputs = self.weight.shape
        yield from (inputs, outputs)
        yield self.back_by_weight if back else None
        yield self.all_of_outputs if back else None


class Linear(Weighted):
    """``x W^T + b``; without a ``b`` if ``bias`` is false."""

    def __init__(self, extent: Extent, weights: Weights, bias: bool = True) -> None:
        super().__init__(extent, next(weights))
        self.bias = next(weights) if bias else None
        self.by_weight = laid_out(self.weight, extent.factors)
        self.all_inputs = extent.room(self.weight.shape[1], dtype=extent.factors)

    @cached_property
    def of_bias(self) -> Tensor:
        """Each window's part of the gradient of the bias, which the kernel adds up."""
        return torch.zeros(self.extent.batch, len(self.weight))

    def entries(self, back: bool) -> Entries:
        yield from super().entries(back)
        yield from (self.by_weight, self.bias, self.all_inputs)
        yield self.of_bias if back and self.bias is not None else None

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield (self.of_outputs(steps).T @ self.all_inputs[:steps].flatten(0, 1)).float()
        if self.bias is not None:
            yield self.of_bias.sum(dim=0)


class Picks(Weighted):
    """``x W^T`` for an x of ones and zeros: latents and the action taken, each of which picks a column of W.

    Gradients reach the latents alone. Those of W need the classes that were picked, (steps, R, groups) and
    (steps, R, 1) int16.
    """

    def __init__(self, extent: Extent, weights: Weights, latents: CategoricalLatents) -> None:
        of_both = next(weights).tensor_split([latents.size], dim=1)
        super().__init__(extent, of_both[0])
        self.groups = latents.groups
        self.tables = [of.T.to(extent.factors).contiguous() for of in of_both]

    @property
    def n_actions(self) -> int:
        """How many actions there are to pick from."""
        return len(self.tables[1])

    def entries(self, back: bool) -> Entries:
        yield from super().entries(back)
        yield self.groups
        yield from self.tables

    def gradients(self, steps: int, picked: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        of_tables = [
            gradient_of_table(classes[:steps].flatten(0, 1), self.of_outputs(steps), len(table))
            for classes, table in zip(picked, self.tables, strict=True)
        ]
        yield torch.cat(of_tables).T


Project = TypeVar("Project", bound=Linear | Picks)


class AddNorm:
    """The sum of the residual stream and what a layer adds to it, and its norm.

    The norm's gain and bias are in the weights of what reads it.
    """

    def __init__(self, extent: Extent, width: int) -> None:
        self.width = width
        self.rooms = (extent.room(width), extent.room(), extent.room())  # the sum, the norm's mean and scale

    def entries(self) -> Entries:
        yield from (self.width, *self.rooms)


class FusionLayer:
    """``layers.FusionLayer``, with the scale of its scores in the weights of queries.

    Its heads take turns in the rows of queries, keys, values and what they give.
    """

    def __init__(self, extent: Extent, weights: Weights, width: int, heads: int, alone: bool) -> None:
        self.query_key_value, self.attention_out, self.widen, self.narrow = self.linear = [
            Linear(extent, weights) for _ in range(4)
        ]
        self.norms = [AddNorm(extent, width) for _ in range(2)]
        self.sizes = (width, heads, 1 if alone else extent.agents)
        attending, hidden = (
            extent.room(len(layer.weight), dtype=extent.factors)
            for layer in (self.query_key_value, self.widen)
        )
        self.rooms = (attending, hidden, extent.room(self.sizes[2], heads))

    def entries(self, back: bool) -> Entries:
        yield from self.sizes
        for norm in self.norms:
            yield from norm.entries()
        for linear in self.linear:
            yield from linear.entries(back)
        yield from self.rooms

    def gradients(self, steps: int) -> Iterator[Tensor]:
        for linear in self.linear:
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

    def entries(self, back: bool) -> Entries:
        yield from self.project.entries(back)
        yield from (len(self.of_agents), self.of_agents, len(self.layers))
        for layer in self.layers:
            yield from layer.entries(back)
        yield from self.norm.entries()

    def gradients(self, steps: int, *picked: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        """With what was ``picked`` where the projection picks."""
        yield from self.project.gradients(steps, *picked)
        yield self.project.of_outputs(steps).view(-1, *self.of_agents.shape).sum(dim=0).float()
        for layer in self.layers:
            yield from layer.gradients(steps)


class Head:
    """Linear, LayerNorm, SiLU, Linear."""

    def __init__(self, extent: Extent, weights: Weights) -> None:
        self.hidden = Linear(extent, weights, bias=False)
        self.norm = [next(weights) for _ in range(3)]  # what is added before it, gain and bias
        self.out = Linear(extent, weights)
        width = self.out.weight.shape[1]
        self.rooms = (extent.room(), extent.room(), extent.room(width, dtype=extent.factors))
        self.of_norm = torch.zeros(3, extent.batch, width)  # each window's part of its weights' gradients

    def entries(self, back: bool) -> Entries:
        for linear in (self.hidden, self.out):
            yield from linear.entries(back)
        yield from (*self.norm, *self.rooms, *self.of_norm)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.hidden.gradients(steps)
        yield from self.of_norm.sum(dim=1)
        yield from self.out.gradients(steps)


class Cell:
    """``torch.nn.GRUCell`` with twice its weights of n; ``modules.gru`` has the formulas."""

    def __init__(self, extent: Extent, weights: Weights) -> None:
        self.of_input, self.of_state = Linear(extent, weights), Linear(extent, weights)
        self.kept = extent.room(4, self.of_state.weight.shape[1])

    def entries(self, back: bool) -> Entries:
        for linear in (self.of_input, self.of_state):
            yield from linear.entries(back)
        yield self.kept

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.of_input.gradients(steps)
        yield from self.of_state.gradients(steps)
