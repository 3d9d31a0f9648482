"""Torch's GRU over whole sequences, in a way that a CPU computes faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

sigmoid_gradient = torch.ops.aten.sigmoid_backward.grad_input
tanh_gradient = torch.ops.aten.tanh_backward


class GRU(nn.GRU):
    """One layer of ``nn.GRU``, whose parameters these are, from ``inputs`` numbers per step to ``width``.

    In float32 in any precision: autocast would take a sequence to float16 on a GPU, which has no room for the
    small gradients of a policy, and a single step to another type than the sequence.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width)

    def forward(self, x: Tensor, hidden: Tensor, sizes: Sequence[int]) -> Tensor:  # type: ignore[override]
        """The states (rows, width) after all steps of ``x`` (rows, inputs), from ``hidden`` (N, width).

        All rows of a step come before those of the next. ``sizes`` has the number of each step, N and then
        never more than at the step before: the first ones go on, the last ones have ended.
        """
        with torch.autocast(x.device.type, enabled=False):
            x, hidden, weights = x.float(), hidden.float(), self.all_weights[0]
            if len(sizes) == 1:  # acting, for which the module for sequences takes twice as long
                return torch.gru_cell(x, hidden, *weights)
            if x.device.type == "cpu":
                return _Unrolled.apply(x, hidden, sizes, *(new_state_doubled(w) for w in weights))
            hidden = hidden.unsqueeze(0).contiguous()
            if sizes[0] == sizes[-1]:
                return super().forward(x.view(len(sizes), sizes[0], -1), hidden)[0].flatten(0, 1)
            return super().forward(PackedSequence(x, torch.tensor(sizes)), hidden)[0].data


def new_state_doubled(weights: Tensor) -> Tensor:
    """A GRU's matrix or bias (3 * width, ...) with twice what makes n, so that a sigmoid can be its tanh."""
    of_r, of_z, of_n = weights.chunk(3)
    return torch.cat([of_r, of_z, 2 * of_n])


class _Unrolled(torch.autograd.Function):
    """The recurrence below, of rows as ``GRU`` has them.

        r, z = sigmoid(W_rz x + b_rz + V_rz h + c_rz)
        n = 2 sigmoid(W_n x + b_n + r * (V_n h + c_n)) - 1
        h' = (1 - z) * n + z * h

    With twice a GRU's parameters of n this is its tanh, which takes twice as long as a sigmoid. Only what
    depends on the state is done step by step, in both directions: with d the gradient of h',

        of z, before the sigmoid:       d * (h - n) z (1 - z)
        of n, before the sigmoid:       d * (1 - z)(1 - n^2) / 2
        of r, before the sigmoid:       that times (V_n h + c_n) r (1 - r)
        of h:                           d * z, and V^T times the three (that of n times r)

    where all factors of d are computed for all steps at once, and so are the gradients of weights and inputs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hidden: Tensor, sizes: Sequence[int], w: Tensor, v: Tensor, b: Tensor, c: Tensor
    ) -> Tensor:
        width = hidden.shape[-1]
        parts, sizes = [2 * width, width], list(sizes)
        (w_rz, w_n), (b_rz, b_n) = w.split(parts), b.split(parts)
        # What the input gives to r and z lies where the state adds to it.
        of_state = (c + torch.cat([b_rz, torch.zeros_like(b_n)])).expand(len(x), -1).contiguous()
        gates, recalled = of_state.split(parts, dim=-1)
        torch.addmm(gates, x, w_rz.T, out=gates)
        new = torch.addmm(b_n, x, w_n.T)
        states = torch.empty_like(new)
        r, z = gates.split(width, dim=-1)
        of_all = (of_state, gates, r, z, recalled, new, states)
        steps = zip(*(rows.split(sizes) for rows in of_all), strict=True)
        minus_one, v_turned, h = x.new_tensor(-1.0), v.T, hidden
        for of_h, rz, r_t, z_t, recalled_t, n, after in steps:
            h = _first(h, len(n))
            torch.addmm(of_h, h, v_turned, out=of_h)
            rz.sigmoid_()
            n.addcmul_(r_t, recalled_t).sigmoid_()
            torch.add(minus_one, n, alpha=2, out=n)
            h = torch.lerp(n, h, z_t, out=after)
        ctx.sizes = sizes
        ctx.save_for_backward(x, hidden, w, v, of_state, new, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, w, v, of_state, n, states = ctx.saved_tensors
        sizes, width = ctx.sizes, hidden.shape[-1]
        gates, recalled = of_state.split([2 * width, width], dim=-1)
        r, z = gates.split(width, dim=-1)
        befores = [hidden, *states.split(sizes)[:-1]]
        before = torch.cat([_first(h, rows) for h, rows in zip(befores, sizes, strict=True)])

        # First the factors, then gradients of what r, z, n sum up.
        sums = torch.empty_like(of_state)
        of_r, of_z, of_recalled = sums.split(width, dim=-1)
        of_rz = sums[:, : 2 * width]
        of_n = tanh_gradient(torch.add(n.new_tensor(0.5), z, alpha=-0.5), n)
        torch.mul(of_n, recalled, out=of_r)
        torch.sub(before, n, out=of_z)
        sigmoid_gradient(of_rz, gates, grad_input=of_rz)
        torch.mul(of_n, r, out=of_recalled)
        through = torch.empty_like(n)
        back = torch.zeros_like(hidden)  # of rows that have ended it is nothing until their last step
        by_part = sums.unflatten(-1, (3, width))
        steps = zip(*(rows.split(sizes) for rows in (gradient, z, through, sums, by_part)), strict=True)
        for of_h, z_t, d, sums_t, by_part_t in reversed(list(steps)):
            from_later = _first(back, len(d))
            torch.add(of_h, from_later, out=d)
            by_part_t.mul_(d.unsqueeze(1))
            torch.mul(d, z_t, out=from_later)
            torch.addmm(from_later, sums_t, v, out=from_later)

        dv, dc = sums.T @ before, sums.sum(dim=0)
        torch.mul(through, of_n, out=of_recalled)  # of n itself, which enters past r
        dw, db = sums.T @ x, torch.cat([dc[: 2 * width], of_recalled.sum(dim=0)])
        return sums @ w, back, None, dw, dv, db, dc


def _first(rows: Tensor, count: int) -> Tensor:
    return rows if len(rows) == count else rows[:count]  # a slice takes as long as a small operation
