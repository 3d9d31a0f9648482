"""Torch's GRU over whole sequences, in a way that a CPU computes faster."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

sigmoid_gradient = torch.ops.aten.sigmoid_backward.grad_input
tanh_gradient = torch.ops.aten.tanh_backward


class GRU(nn.GRU):
    """One layer of ``nn.GRU``, whose parameters these are, from ``inputs`` numbers per step to ``width``.

    In float32 in any precision: autocast would take a sequence to float16 on a GPU, which has no room for the
    small gradients of a policy, and a single step to another type than the sequence.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:  # type: ignore[override]
        """The state (T, N, width) after each step of ``x`` (T, N, inputs), from ``hidden`` (N, width)."""
        with torch.autocast(x.device.type, enabled=False):
            x, hidden, weights = x.float(), hidden.float(), self.all_weights[0]
            if len(x) == 1:  # acting, for which the module for sequences takes twice as long
                return torch.gru_cell(x[0], hidden, *weights).unsqueeze(0)
            if x.device.type != "cpu":
                return super().forward(x, hidden.unsqueeze(0).contiguous())[0]
            if torch.is_grad_enabled():
                return _Unrolled.apply(x, hidden, *weights)
            return _unrolled(x, hidden, *weights, keep=False).states[1:]


class _Course(NamedTuple):
    """What there was at each step."""

    states: Tensor  # (T + 1, N, width), the first one before the first step
    gates: Tensor  # (T, N, 2 * width), r and z
    new: Tensor  # (T, N, width), n
    of_state: Tensor  # (T, N, 3 * width), the products with the state


def _unrolled(
    x: Tensor, hidden: Tensor, w: Tensor, v: Tensor, b: Tensor, c: Tensor, *, keep: bool
) -> _Course:
    """The recurrence that `_Unrolled` writes down.

    Unless all is to be kept, each step takes the place of the one before, but for its state.
    """
    (steps, rows, _), width = x.shape, hidden.shape[-1]
    parts = [2 * width, width]
    c_n = torch.cat([torch.zeros_like(c[: 2 * width]), c[2 * width :]])  # the others join b
    of_x_rz, of_x_n = (part.unbind() for part in F.linear(x, w, b + c - c_n).split(parts, dim=-1))
    states = x.new_empty(steps + 1, rows, width)
    states[0] = hidden
    gates, new, of_state = (
        x.new_empty(steps if keep else 1, rows, size).expand(steps, -1, -1)
        for size in (2 * width, width, 3 * width)
    )
    of_h_rz, of_h_n = (part.unbind() for part in of_state.split(parts, dim=-1))
    r, z = (gate.unbind() for gate in gates.split(width, dim=-1))
    h, rz, n, of_h = (every.unbind() for every in (states, gates, new, of_state))
    minus_one = x.new_tensor(-1.0)
    for t in range(steps):
        torch.addmm(c_n, h[t], v.T, out=of_h[t])
        torch.add(of_x_rz[t], of_h_rz[t], out=rz[t]).sigmoid_()
        torch.addcmul(of_x_n[t], r[t], of_h_n[t], out=n[t]).mul_(2).sigmoid_()
        torch.add(minus_one, n[t], alpha=2, out=n[t])  # tanh, in half of the time that it takes
        torch.lerp(n[t], h[t], z[t], out=h[t + 1])
    return _Course(states, gates, new, of_state)


class _Unrolled(torch.autograd.Function):
    """The recurrence below, of time steps (T, N, ...) that follow each other in memory.

        r, z = sigmoid(W_rz x + b_rz + V_rz h + c_rz)
        n = tanh(W_n x + b_n + r * (V_n h + c_n))
        h' = (1 - z) * n + z * h

    Only what depends on the state is done step by step, in both directions: with d the gradient of h',

        of z, before the sigmoid:       d * (h - n) z (1 - z)
        of n, before the tanh:          d * (1 - z)(1 - n^2)
        of r, before the sigmoid:       d * (1 - z)(1 - n^2) (V_n h + c_n) r (1 - r)
        of h:                           d * z, and V^T times the three (that of n times r)

    where all factors of d are computed for all steps at once, and so are the gradients of weights and inputs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: Tensor, w: Tensor, v: Tensor, b: Tensor, c: Tensor) -> Tensor:
        course = _unrolled(x, hidden, w, v, b, c, keep=True)
        ctx.save_for_backward(x, w, v, *course)
        return course.states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, w, v, states, gates, new, of_state = ctx.saved_tensors
        steps, rows, width = new.shape
        r, z = gates.split(width, dim=-1)
        before, recalled = states[:-1], of_state[:, :, 2 * width :]

        # First the factors, then gradients of what r, z, n sum up.
        sums = new.new_empty(steps, rows, 3, width)
        of_n = tanh_gradient(1 - z, new)
        sigmoid_gradient(of_n * recalled, r, grad_input=sums[:, :, 0])
        sigmoid_gradient(before - new, z, grad_input=sums[:, :, 1])
        torch.mul(of_n, r, out=sums[:, :, 2])
        through = torch.empty_like(new)
        back = torch.zeros_like(new[0])
        for t in reversed(range(steps)):
            d = torch.add(gradient[t], back, out=through[t])
            sums[t].mul_(d.unsqueeze(1))
            back = torch.addmm(d * z[t], sums[t].view(rows, -1), v)

        flat = sums.view(steps * rows, 3 * width)
        dv, dc = flat.T @ before.reshape(steps * rows, width), flat.sum(dim=0)
        torch.mul(through, of_n, out=sums[:, :, 2])  # of n itself, which enters past r
        dw, db = flat.T @ x.reshape(steps * rows, -1), flat.sum(dim=0)
        return (flat @ w).view_as(x), back, dw, dv, db, dc
