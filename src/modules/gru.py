"""Torch's GRU over whole sequences, in a way that a CPU computes faster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
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
                doubled = (new_state_doubled(w) for w in weights)
                return _Unrolled.apply(torch.is_grad_enabled(), x, hidden, list(sizes), *doubled)
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

    With twice a GRU's parameters of n this is its tanh. A kernel takes rows through all steps, each thread
    some of them, and back: with d the gradient of h',

        of z, before the sigmoid:       d * (h - n) z (1 - z)
        of n, before the sigmoid:       d * (1 - z)(1 - n^2) / 2
        of r, before the sigmoid:       that times (V_n h + c_n) r (1 - r)
        of h:                           d * z, and V^T times the three (that of n times r)

    and the gradients of weights are taken at once, of all steps together.
    """

    @staticmethod
    def forward(
        ctx: Any, kept: bool, x: Tensor, hidden: Tensor, sizes: list[int], *weights: Tensor
    ) -> Tensor:
        ctx.sizes, ctx.widths = sizes, (x.shape[1], hidden.shape[1])
        x, hidden, starts = x.contiguous(), hidden.contiguous(), torch.tensor([0, *accumulate(sizes)])
        states = torch.empty(len(x), hidden.shape[1])
        gates = torch.empty(len(x), 4, hidden.shape[1]) if kept else None
        extent = (starts, len(sizes), *ctx.widths)
        kernels.of(x.dtype).gru_over_time(x, hidden, *weights, states, gates, *extent)
        ctx.save_for_backward(x, hidden, *weights[:2], states, gates, starts)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_states: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, w, v, states, gates, starts = ctx.saved_tensors
        of_x, of_hidden = torch.empty_like(x), torch.zeros_like(hidden)
        of_input, of_state = (x.new_empty(len(x), len(w)) for _ in range(2))
        given = (of_states.contiguous(), hidden, w, v, states, gates)
        extent = (starts, len(ctx.sizes), *ctx.widths)
        kernels.of(x.dtype).gru_over_time_back(*given, of_x, of_hidden, of_input, of_state, *extent)
        befores = zip((hidden, *states.split(ctx.sizes)), ctx.sizes, strict=False)
        before = torch.cat([h[:rows] for h, rows in befores])
        of_w, of_v = of_input.T @ x, of_state.T @ before
        return None, of_x, of_hidden, None, of_w, of_v, of_input.sum(dim=0), of_state.sum(dim=0)
