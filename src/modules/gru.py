"""Torch's GRU over whole sequences, in a way that a CPU computes faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

import kernels


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
            if kernels.serve(x):
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
    """The recurrence below, of rows as ``GRU`` has them, on a CPU.

        r, z = sigmoid(W_rz x + b_rz + V_rz h + c_rz)
        n = 2 sigmoid(W_n x + b_n + r * (V_n h + c_n)) - 1
        h' = (1 - z) * n + z * h

    With twice a GRU's parameters of n this is its tanh. Only what depends on the state is done step by step,
    in both directions: with d the gradient of h',

        of z, before the sigmoid:       d * (h - n) z (1 - z)
        of n, before the sigmoid:       d * (1 - z)(1 - n^2) / 2
        of r, before the sigmoid:       that times (V_n h + c_n) r (1 - r)
        of h:                           d * z, and V^T times the three (that of n times r)

    and the gradients of weights and inputs are taken at once, of all steps together.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hidden: Tensor, sizes: Sequence[int], w: Tensor, v: Tensor, b: Tensor, c: Tensor
    ) -> Tensor:
        width, step = hidden.shape[1], kernels.of(x.dtype).gru
        by_input = torch.addmm(b, x, w.T)
        by_state = torch.empty(sizes[0], 3 * width)
        states, kept = torch.empty(len(x), width), torch.empty(len(x), 4, width)
        v_turned, h = v.T.contiguous(), hidden.contiguous()
        steps = zip(*(rows.split(list(sizes)) for rows in (by_input, states, kept)), strict=True)
        for by_input_t, after, kept_t in steps:
            rows = len(after)
            h, by_state_t = _first(h, rows), _first(by_state, rows)
            torch.addmm(c, h, v_turned, out=by_state_t)
            step(by_input_t, by_state_t, h, after, kept_t, rows, width)
            h = after
        ctx.sizes = list(sizes)
        ctx.save_for_backward(x, hidden, w, v, states, kept)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, w, v, states, kept = ctx.saved_tensors
        sizes, width, step_back = ctx.sizes, hidden.shape[1], kernels.of(x.dtype).gru_back
        befores = [hidden.contiguous(), *states.split(sizes)[:-1]]
        befores = [_first(h, rows) for h, rows in zip(befores, sizes, strict=True)]
        of_input, of_state = torch.empty(len(x), 3 * width), torch.empty(len(x), 3 * width)
        back = torch.zeros_like(hidden)  # of rows that have ended it is nothing until their last step
        split = (rows.split(sizes) for rows in (gradient, kept, of_input, of_state))
        for h, of_h, kept_t, of_input_t, of_state_t in reversed(list(zip(befores, *split, strict=True))):
            from_later = _first(back, len(h))
            d = of_h + from_later
            step_back(d, h, kept_t, of_input_t, of_state_t, from_later, len(h), width)
            torch.addmm(from_later, of_state_t, v, out=from_later)
        of_v, of_c = of_state.T @ torch.cat(befores), of_state.sum(dim=0)
        of_w, of_b = of_input.T @ x, of_input.sum(dim=0)
        return of_input @ w, back, None, of_w, of_v, of_b, of_c


def _first(rows: Tensor, count: int) -> Tensor:
    return rows if len(rows) == count else rows[:count]  # a slice takes as long as a small operation
