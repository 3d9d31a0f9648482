"""Layers as kernels take rows through them: their weights, rooms for what they keep, and the gradients of
weights. What they do with a piece of the rows is in ``kernels/layers.h`` and ``kernels/scan.cpp``, which have
layers of the same names.

Autograd keeps a node per operation and step, and adds the gradients of every weight up step by step. Here a
layer keeps what it needs of all steps next to each other in memory. Only what the recurrence itself needs is
done step by step: the gradients of weights are taken once, of all steps together.

A step has R rows. ``entries(back)`` is what the kernel is told of a layer, in the order of its members there;
what only gradients need is in it if these are to be taken. ``gradients(steps)`` gives those of its weights,
in the order in which its constructor took them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

import kernels
from kernels.products import laid_out
from modules.world_models.latents import CategoricalLatents

Weights = Iterator[Tensor]
Entries = Iterator[Tensor | int | None]

MOST_ROWS = 640  # that a thread takes through a layer together, so that they stay in a core's cache
# What is worth a thread; tiles of bfloat16 need as many, or results would depend on the number of threads.
LEAST_ROWS = {torch.float32: 10, torch.bfloat16: 32}


def as_read(x: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
    """The tensor as kernels read it, without gaps.

    Raises:
        TypeError: it is of another kind than they take it for.
    """
    if x.dtype != kind:
        raise TypeError(f"{kind} was expected, not {x.dtype}.")
    return x.contiguous()


class Extent(Protocol):
    """How many rows layers are for, and in which precision."""

    @property
    def factors(self) -> torch.dtype:
        """Of the factors of matrix products; all else is float32."""

    @property
    def parts(self) -> int:
        """Of the sums over rows that gradients of biases and norms are, each summed up by itself."""

    def room(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor (steps, R, *shape) for all that is there at a time."""

    def merged(self, over: int) -> Self:
        """What is left where each ``over`` rows have become one."""


@dataclass(frozen=True)
class Windows:
    """Of a scan: R = batch * agents."""

    steps: int
    batch: int
    agents: int
    factors: torch.dtype  # of the factors of matrix products; all else is float32
    kept: bool  # for gradients; otherwise all steps share their memory

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.batch * self.agents

    @property
    def parts(self) -> int:
        """One of each window."""
        return self.batch

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

    def merged(self, over: int) -> Self:
        """What is left where each ``over`` agents of a window have become one."""
        return replace(self, agents=self.agents // over)

    def entries(self) -> Entries:
        yield from (self.steps, self.batch, self.agents, self.pieces, int(self.kept))


class Weighted:
    """A product with a weight (outputs, inputs), as seen from its output."""

    def __init__(self, extent: Extent, weight: Tensor) -> None:
        self.extent, self.weight = extent, weight
        self.passed_on = True  # whether gradients are, to what it is given

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
        yield self.back_by_weight if back and self.passed_on else None
        yield self.all_of_outputs if back else None


class Linear(Weighted):
    """``x W^T + b``; without a ``b`` if ``bias`` is false.

    Its inputs are written to a room of its own where none are ``given``.
    """

    def __init__(
        self, extent: Extent, weights: Weights, bias: bool = True, given: Tensor | None = None
    ) -> None:
        super().__init__(extent, next(weights))
        self.bias = as_read(next(weights)) if bias else None
        self.by_weight = laid_out(self.weight, extent.factors)
        if given is None:
            given = extent.room(self.weight.shape[1], dtype=extent.factors)
        self.all_inputs = given

    @cached_property
    def of_bias(self) -> Tensor:
        """Each part of the gradient of the bias, which the kernel adds up."""
        return torch.zeros(self.extent.parts, len(self.weight))

    def entries(self, back: bool) -> Entries:
        yield from super().entries(back)
        yield from (self.by_weight, self.bias, self.all_inputs)
        yield self.of_bias if back and self.bias is not None else None

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield (self.of_outputs(steps).T @ self.all_inputs[:steps].flatten(0, 1)).float()
        if self.bias is not None:
            yield self.of_bias.sum(dim=0)


class Table(Weighted):
    """``x W^T`` of latents, of ones and zeros, each of which picks a column of W: a row of the table."""

    def __init__(self, extent: Extent, weight: Tensor, groups: int) -> None:
        super().__init__(extent, weight)
        self.groups = groups
        self.rows = weight.T.to(extent.factors).contiguous()

    def entries(self, back: bool) -> Entries:
        yield from super().entries(back)
        yield from (self.groups, self.rows)

    def gradient(self, steps: int, picked: Tensor) -> Tensor:
        """Of the table (inputs, outputs), by the classes that were ``picked`` (steps * R, groups) int16."""
        return gradient_of_table(picked, self.of_outputs(steps), len(self.rows))


def gradient_of_table(picked: Tensor, of_out: Tensor, size: int) -> Tensor:
    """That of a table (size, width) whose rows are picked by the classes (rows, groups) int16 of latents.

    ``of_out`` (rows, width) is the gradient of the sums of these.
    """
    rows, groups = picked.shape
    of_table = torch.zeros(size, of_out.shape[1])
    sizes = (rows, size // groups, groups, of_out.shape[1])
    kernels.of(of_out.dtype).add_picked_back(picked, of_out, of_table, *sizes)
    return of_table


class Picks(Table):
    """The same for latents and the action taken. Gradients reach the latents alone."""

    def __init__(self, extent: Extent, weights: Weights, latents: CategoricalLatents) -> None:
        of_latents, of_actions = next(weights).tensor_split([latents.size], dim=1)
        super().__init__(extent, of_latents, latents.groups)
        self.of_actions = of_actions.T.to(extent.factors).contiguous()

    @property
    def n_actions(self) -> int:
        """How many actions there are to pick from."""
        return len(self.of_actions)

    def entries(self, back: bool) -> Entries:
        yield from super().entries(back)
        yield self.of_actions

    def gradients(self, steps: int, picked: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        """By the classes (steps, R, groups) and (steps, R, 1) int16 that were picked."""
        latents, actions = (classes[:steps].flatten(0, 1) for classes in picked)
        of_actions = gradient_of_table(actions, self.of_outputs(steps), self.n_actions)
        yield torch.cat([self.gradient(steps, latents), of_actions]).T


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

    def __init__(self, extent: Windows, weights: Weights, width: int, heads: int, alone: bool) -> None:
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
        self, extent: Windows, weights: Weights, project: Project, layers: int, heads: int, alone: bool
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


class Stage:
    """Linear, LayerNorm and the mean of SiLU over ``over`` rows that follow each other."""

    def __init__(self, extent: Extent, weights: Weights, over: int, given: Tensor | None) -> None:
        self.product, self.over = Linear(extent, weights, bias=False, given=given), over
        self.norm = [as_read(next(weights)) for _ in range(3)]  # what is added before it, gain and bias
        width = len(self.product.weight)
        self.rooms = (extent.room(), extent.room(), extent.room(width, dtype=extent.factors))

    @cached_property
    def of_norm(self) -> Tensor:
        """Each part of the gradients of its weights, which the kernel adds up."""
        return torch.zeros(3, self.product.extent.parts, len(self.product.weight))

    def entries(self, back: bool) -> Entries:
        yield from self.product.entries(back)
        yield self.over
        yield from (*self.norm, *self.rooms)
        yield from self.of_norm if back else (None, None, None)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.product.gradients(steps)
        yield from self.of_norm.sum(dim=1)


class Perceptron:
    """Some stages, the norm of each ``over`` so many rows, and a linear layer.

    Its inputs may be ``given``, and beside them latents, with a ``table`` that they pick from.
    """

    def __init__(
        self,
        extent: Extent,
        weights: Weights,
        over: Sequence[int],
        given: Tensor | None = None,
        table: Table | None = None,
    ) -> None:
        self.table = table
        self.stages: list[Stage] = []
        for rows in over:
            self.stages.append(Stage(extent, weights, rows, given))
            extent, given = extent.merged(rows), None
        self.out = Linear(extent, weights, given=given)

    @property
    def layers(self) -> list[Stage | Linear]:
        """All of them."""
        return [*self.stages, self.out]

    @property
    def first(self) -> Linear:
        """What sees the inputs."""
        return self.stages[0].product if self.stages else self.out

    def entries(self, back: bool) -> Entries:
        yield int(self.table is not None)
        if self.table is not None:
            if back:
                self.table.all_of_outputs = self.first.all_of_outputs
            yield from self.table.entries(back)
        yield len(self.stages)
        for layer in self.layers:
            yield from layer.entries(back)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        for layer in self.layers:
            yield from layer.gradients(steps)


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
