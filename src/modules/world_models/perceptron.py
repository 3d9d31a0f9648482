"""A multi-layer perceptron on a CPU: all of its layers by one kernel, with gradients of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import kernels
from modules.world_models.kernel_layers import Entries, Perceptron, Table, as_read
from utils.compute import factor_dtype

PIECE = 320  # rows, about, that a thread takes through all layers


class Seen(NamedTuple):
    """What a perceptron is given: rows of numbers, and perhaps latents beside them."""

    x: Tensor  # (..., inputs)
    picked: Tensor | None = None  # (..., groups) int16, the latents' classes, -1 where there is none
    z: Tensor | None = None  # (..., size), the same as ones and zeros, where gradients are to reach them


@dataclass(frozen=True)
class Rows:
    """Rows of a layer, and the pieces that they are taken in, whatever the number of threads.

    Each piece is a part of the sums of gradients.
    """

    groups: int
    size: int  # rows of a group, which stay together
    parts: int
    factors: torch.dtype  # of the factors of matrix products; all else is float32
    kept: bool  # for gradients; otherwise a thread has the same memory for all of its pieces

    def room(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor (1, rows, *shape) for all rows that there are at a time."""
        at_once = self.groups if self.kept else torch.get_num_threads() * -(-self.groups // self.parts)
        return torch.empty(1, at_once * self.size, *shape, dtype=dtype)

    def merged(self, over: int) -> Rows:
        """What is left where each ``over`` rows have become one."""
        return replace(self, size=self.size // over)

    def entries(self) -> Entries:
        yield from (self.groups, self.size, self.parts, int(self.kept))


def perceptron(seen: Seen, means: Sequence[bool], weights: Sequence[Tensor]) -> Tensor:
    """Linear layers, with a layer norm and SiLU behind each but the last one.

    Args:
        seen: what the first layer is given. Latents are the last of its inputs.
        means: for each norm whether the mean over the last dimension but one is taken behind it. One may.
        weights: weight and bias of each layer in turn.

    Returns:
        (..., outputs), rounded where autocast rounds.
    """
    factors = factor_dtype(seen.x)
    x, z = seen.x.to(factors), None if seen.z is None else seen.z.to(factors)
    with torch.autocast("cpu", enabled=False):
        result: Tensor = _Perceptron.apply(means, torch.is_grad_enabled(), x, seen.picked, z, *weights)
    return result


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Sequence[bool],
        kept: bool,
        x: Tensor,
        picked: Tensor | None,
        z: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        ctx.layers = layers = Layers(means, kept, Seen(x, picked, z), weights)
        ctx.save_for_backward(x, *weights)
        return layers.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_result: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # an error if these were changed, or gradients are taken a second time
        layers, ctx.layers = ctx.layers, None  # what they keep is freed
        x_needed, _, z_needed = ctx.needs_input_grad[2:5]
        of_x, of_z = layers.backward(of_result.contiguous(), x_needed, z_needed)
        return None, None, of_x, None, of_z, *layers.gradients()


class Layers:
    """The layers of one call, and what they were given."""

    def __init__(self, means: Sequence[bool], kept: bool, seen: Seen, weights: Sequence[Tensor]) -> None:
        *self.shape, inputs = seen.x.shape
        size = self.shape.pop() if any(means) else 1
        groups = prod(self.shape)
        parts = max(1, min(groups, -(-groups * size // PIECE)))
        self.rows = Rows(groups, size, parts, seen.x.dtype, kept)
        self.x = seen.x.contiguous()
        self.picked = None if seen.picked is None else as_read(seen.picked, torch.int16)
        first, *others = weights
        table = None
        if self.picked is not None:
            first, of_latents = first.tensor_split([inputs], dim=1)
            table = Table(self.rows, of_latents, self.picked.shape[-1])
        given, over = self.x.view(1, -1, inputs), [size if mean else 1 for mean in means]
        self.perceptron = Perceptron(self.rows, iter((first, *others)), over, given, table)

    def forward(self) -> Tensor:
        """The result (..., outputs)."""
        result = self.x.new_empty(*self.shape, len(self.perceptron.out.weight))
        entries = (*self.rows.entries(), *self.perceptron.entries(back=False), self.x, self.picked, result)
        kernels.of(self.x.dtype).perceptron(entries)
        return result

    def backward(
        self, of_result: Tensor, x_needed: bool, z_needed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of x and z, if they are needed, from that of the result."""
        net, of_x, of_z = self.perceptron, None, None
        net.out.all_of_outputs = of_result.view(1, -1, of_result.shape[-1])
        net.first.passed_on = x_needed
        if x_needed:
            of_x = torch.empty_like(self.x)
        if net.table is not None:
            net.table.passed_on = z_needed
            of_z = self.x.new_empty(*self.x.shape[:-1], net.table.weight.shape[1]) if z_needed else None
        entries = (*self.rows.entries(), *net.entries(back=True), of_x, of_z)
        kernels.of(self.x.dtype).perceptron_back(entries)
        return of_x, of_z

    def gradients(self) -> list[Tensor]:
        """Those of all weights."""
        first, *others = self.perceptron.gradients(steps=1)
        if self.perceptron.table is not None and self.picked is not None:
            of_table = self.perceptron.table.gradient(1, self.picked.flatten(0, -2))
            first = torch.cat([first.T, of_table]).T
        return [first, *others]
