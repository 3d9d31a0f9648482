"""Layers of a scan over time, with gradients written out by hand, for a CPU.

Autograd keeps a node per operation and step, and adds the gradients of every weight up step by step. Here a
layer is called with the number of a step, forwards and then backwards, and keeps what it needs of all steps
next to each other in memory. Only what the recurrence itself needs is done step by step: the gradients of
weights are taken once, of all steps together.

A step has R = batch * agents rows. ``forward(t, x)`` returns a layer's output, ``backward(t, g)`` the
gradient of its input from ``g``, that of its output, and ``gradients(steps)`` those of its weights, in the
order in which the constructor took them. A ``Linear`` finds its input in ``inputs[t]`` and the gradient of
its output in ``of_outputs[t]``, where others write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

silu_gradient = torch.ops.aten.silu_backward
softmax_gradient = torch.ops.aten._softmax_backward_data
norm_gradient = torch.ops.aten.native_layer_norm_backward

Weights = Iterator[Tensor]
EPSILON = 1e-5  # torch's, of a layer norm


@dataclass(frozen=True)
class Extent:
    """What is scanned, and in which precision."""

    steps: int
    batch: int
    agents: int
    factors: torch.dtype  # of the factors of matrix products; all else is in the weights' own

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.batch * self.agents


class Linear:
    """``x W^T + b``; without a ``b`` if ``bias`` is false."""

    def __init__(self, extent: Extent, weights: Weights, bias: bool = True) -> None:
        weight = next(weights)
        self.kind, self.weight = weight.dtype, weight.to(extent.factors)
        self.bias = next(weights).to(extent.factors) if bias else None
        self.all_inputs, self.all_of_outputs = (
            torch.empty(extent.steps, extent.rows, size, dtype=extent.factors)
            for size in (weight.shape[1], weight.shape[0])
        )
        self.inputs, self.of_outputs = self.all_inputs.unbind(), self.all_of_outputs.unbind()

    def forward(self, t: int) -> Tensor:
        """(R, outputs), as its factors are."""
        return F.linear(self.inputs[t], self.weight, self.bias)

    def backward(self, t: int) -> Tensor:
        """(R, inputs), as its factors are."""
        return self.of_outputs[t] @ self.weight

    def gradients(self, steps: int) -> Iterator[Tensor]:
        """Of what the first ``steps`` steps did."""
        of_outputs = self.all_of_outputs[:steps].flatten(0, 1)
        yield (of_outputs.T @ self.all_inputs[:steps].flatten(0, 1)).to(self.kind)
        if self.bias is not None:
            yield of_outputs.sum(dim=0).to(self.kind)


class Norm:
    """A layer norm, in the weights' own precision."""

    def __init__(self, extent: Extent, gain: Tensor, bias: Tensor) -> None:
        self.gain, self.bias = gain, bias
        self.seen: list[tuple[Tensor, ...]] = [()] * extent.steps

    def forward(self, t: int, x: Tensor) -> Tensor:
        normed, mean, scale = torch.native_layer_norm(x, self.gain.shape, self.gain, self.bias, EPSILON)
        self.seen[t] = (x, mean, scale)
        return normed

    def backward(self, t: int, g: Tensor) -> Tensor:
        x, mean, scale = self.seen[t]
        mask = [True, False, False]
        return norm_gradient(g.to(x.dtype), x, self.gain.shape, mean, scale, self.gain, self.bias, mask)[0]

    def gradients(self, steps: int, of_outputs: list[Tensor]) -> Iterator[Tensor]:
        """Of gain and bias, from what all ``backward`` were given."""
        x, mean, scale = (torch.cat(parts) for parts in zip(*self.seen[:steps], strict=True))
        g, mask = torch.cat(of_outputs[:steps]), [False, True, True]
        yield from norm_gradient(g, x, self.gain.shape, mean, scale, self.gain, self.bias, mask)[1:]


def bare_norm(extent: Extent, like: Tensor) -> Norm:
    """One whose gain and bias the next layer's weights have taken in; ``like`` is a row (width)."""
    return Norm(extent, torch.ones_like(like), torch.zeros_like(like))


class FusionLayer:
    """``layers.FusionLayer``, its norms' gains and the scale of its scores taken into the weights.

    ``row`` is as its inputs' rows are (width).
    """

    def __init__(self, extent: Extent, weights: Weights, row: Tensor, heads: int, alone: bool) -> None:
        self.query_key_value, self.attention_out, self.widen, self.narrow = self._linear = [
            Linear(extent, weights) for _ in range(4)
        ]
        self.attention_norm, self.feed_forward_norm = (bare_norm(extent, row) for _ in range(2))
        self.extent, self.heads, self.width, self.alone = extent, heads, len(row), alone
        self.by_head: list[Tensor] = [torch.empty(0)] * extent.steps
        self.shares, self.hidden = self.by_head.copy(), self.by_head.copy()

    def forward(self, t: int, x: Tensor) -> Tensor:
        self.query_key_value.inputs[t].copy_(self.attention_norm.forward(t, x))
        self._attend(t, self.query_key_value.forward(t), self.attention_out.inputs[t])
        x = x + self.attention_out.forward(t)
        self.widen.inputs[t].copy_(self.feed_forward_norm.forward(t, x))
        self.hidden[t] = self.widen.forward(t)
        torch.ops.aten.silu.out(self.hidden[t], out=self.narrow.inputs[t])
        return x + self.narrow.forward(t)

    def backward(self, t: int, g: Tensor) -> Tensor:
        """Adds to ``g`` itself."""
        self.narrow.of_outputs[t].copy_(g)
        silu_gradient.grad_input(
            self.narrow.backward(t), self.hidden[t], grad_input=self.widen.of_outputs[t]
        )
        g.add_(self.feed_forward_norm.backward(t, self.widen.backward(t)))
        self.attention_out.of_outputs[t].copy_(g)
        self._attend_back(t, self.attention_out.backward(t), self.query_key_value.of_outputs[t])
        return g.add_(self.attention_norm.backward(t, self.query_key_value.backward(t)))

    def gradients(self, steps: int) -> Iterator[Tensor]:
        for linear in self._linear:
            yield from linear.gradients(steps)

    def _attend(self, t: int, query_key_value: Tensor, attended: Tensor) -> None:
        if self.alone:  # all attention is one's own
            attended.copy_(query_key_value[:, 2 * self.width :])
            return
        by_head = query_key_value.view(*self._shape(3)).permute(2, 0, 3, 1, 4).flatten(1, 2).contiguous()
        query, key, value = by_head.unbind()
        scores = torch.bmm(key, query.transpose(1, 2)).transpose(0, 1).contiguous()
        self.by_head[t], self.shares[t] = by_head, scores.softmax(dim=0)  # (keys, N, queries)
        of_heads = torch.bmm(self.shares[t].permute(1, 2, 0), value)
        of_heads = of_heads.view(self.extent.batch, self.heads, self.extent.agents, -1)
        attended.view(*self._shape()).copy_(of_heads.transpose(1, 2))

    def _attend_back(self, t: int, g: Tensor, of_input: Tensor) -> None:
        if self.alone:
            of_input[:, : 2 * self.width].zero_()
            of_input[:, 2 * self.width :].copy_(g)
            return
        of_heads = g.view(*self._shape()).transpose(1, 2).flatten(0, 1)
        shares, gradients = self.shares[t], torch.empty_like(self.by_head[t])
        (query, key, value), (of_query, of_key, of_value) = self.by_head[t].unbind(), gradients.unbind()
        torch.bmm(shares.transpose(0, 1), of_heads, out=of_value)
        of_shares = torch.bmm(value, of_heads.transpose(1, 2)).transpose(0, 1).contiguous()
        of_scores = softmax_gradient(of_shares, shares, 0, shares.dtype).transpose(0, 1)
        torch.bmm(of_scores, query, out=of_key)
        torch.bmm(of_scores.transpose(1, 2), key, out=of_query)
        by_part = gradients.view(3, self.extent.batch, self.heads, self.extent.agents, -1)
        of_input.view(*self._shape(3)).copy_(by_part.permute(1, 3, 0, 2, 4))

    def _shape(self, *parts: int) -> tuple[int, ...]:
        return (self.extent.batch, self.extent.agents, *parts, self.heads, self.width // self.heads)


class Fusion:
    """``layers.AgentFusion``, the gain of its last norm taken into what reads it."""

    def __init__(self, extent: Extent, weights: Weights, layers: int, heads: int, alone: bool) -> None:
        self.project = Linear(extent, weights, bias=False)
        self.of_agents = next(weights)  # (agents, width)
        row = self.of_agents[0]
        self.layers = [FusionLayer(extent, weights, row, heads, alone) for _ in range(layers)]
        self.norm = bare_norm(extent, row)

    def forward(self, t: int) -> Tensor:
        x = (self.project.forward(t).unflatten(0, (-1, len(self.of_agents))) + self.of_agents).flatten(0, 1)
        for layer in self.layers:
            x = layer.forward(t, x)
        return self.norm.forward(t, x)

    def backward(self, t: int, g: Tensor) -> Tensor:
        g = self.norm.backward(t, g)
        for layer in reversed(self.layers):
            g = layer.backward(t, g)
        self.project.of_outputs[t].copy_(g)
        return self.project.backward(t)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.project.gradients(steps)
        by_agent = self.project.all_of_outputs[:steps].reshape(-1, *self.of_agents.shape)
        yield by_agent.sum(dim=0).to(self.of_agents.dtype)
        for layer in self.layers:
            yield from layer.gradients(steps)


class Head:
    """Linear, LayerNorm, SiLU, Linear."""

    def __init__(self, extent: Extent, weights: Weights) -> None:
        self.hidden = Linear(extent, weights)
        self.norm = Norm(extent, next(weights), next(weights))
        self.out = Linear(extent, weights)
        self.normed: list[Tensor] = [torch.empty(0)] * extent.steps
        self.of_normed = self.normed.copy()

    def forward(self, t: int) -> Tensor:
        self.normed[t] = self.norm.forward(t, self.hidden.forward(t).to(self.out.kind))
        self.out.inputs[t].copy_(F.silu(self.normed[t]))
        return self.out.forward(t).to(self.out.kind)

    def backward(self, t: int) -> Tensor:
        g = self.of_normed[t] = silu_gradient(self.out.backward(t).to(self.out.kind), self.normed[t])
        self.hidden.of_outputs[t].copy_(self.norm.backward(t, g))
        return self.hidden.backward(t)

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.hidden.gradients(steps)
        yield from self.norm.gradients(steps, self.of_normed)
        yield from self.out.gradients(steps)


class Cell:
    """``torch.nn.GRUCell`` with twice its weights of n; ``modules.gru`` has the formulas."""

    def __init__(self, extent: Extent, weights: Weights) -> None:
        self.of_input, self.of_state = Linear(extent, weights), Linear(extent, weights)
        self.width, kind = self.of_state.weight.shape[1], self.of_state.kind
        kept = torch.empty(4, extent.steps, extent.rows, self.width, dtype=kind)
        self.r, self.z, self.n, self.recalled = kept
        self.factors = torch.empty(0)  # of the gradients of r, z, n before the sigmoid, (steps, R, 3, width)

    def forward(self, t: int, h: Tensor) -> Tensor:
        self.of_state.inputs[t].copy_(h)
        r, z, n, recalled = self.r[t], self.z[t], self.n[t], self.recalled[t]
        from_input = self.of_input.forward(t).chunk(3, dim=-1)
        from_state = self.of_state.forward(t).chunk(3, dim=-1)
        r.copy_(from_input[0]).add_(from_state[0]).sigmoid_()
        z.copy_(from_input[1]).add_(from_state[1]).sigmoid_()
        n.copy_(from_input[2]).addcmul_(r, recalled.copy_(from_state[2])).sigmoid_().mul_(2).sub_(1)
        return torch.lerp(n, h, z)

    def prepare(self, states: Tensor) -> None:
        """Before going back: ``states`` (steps, R, width) is what the steps began with."""
        r, z, n = self.r, self.z, self.n
        of_n = (1 - z) * (1 - n.square()) / 2
        of_z = (states - n) * z * (1 - z)
        of_r = of_n * self.recalled * r * (1 - r)
        self.factors = torch.stack([of_r, of_z, of_n], dim=2)

    def backward(self, t: int, g: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of input and state from ``g``, that of the state after the step."""
        of_input, of_state = self.of_input.of_outputs[t], self.of_state.of_outputs[t]
        torch.mul(self.factors[t], g.unsqueeze(1), out=of_input.view(-1, 3, self.width))
        of_state[:, : 2 * self.width].copy_(of_input[:, : 2 * self.width])
        torch.mul(of_input[:, 2 * self.width :], self.r[t], out=of_state[:, 2 * self.width :])
        return self.of_input.backward(t), (g * self.z[t]).add_(self.of_state.backward(t))

    def gradients(self, steps: int) -> Iterator[Tensor]:
        yield from self.of_input.gradients(steps)
        yield from self.of_state.gradients(steps)
