"""Building blocks of the world models: multi-layer perceptrons and fusion over agents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import kernels
from modules.world_models.latents import CategoricalLatents, CompactState
from utils.compute import factor_dtype

SHARES = 32  # of all rows whose gradients of a norm's gain and bias are summed up one beside the other


def mlp(input_size: int, width: int, output_size: int, layers: int) -> MLP:
    """``layers`` hidden layers of Linear, LayerNorm and SiLU, then a linear output."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [Linear(input_size, width), NormSiLU(width)]
        input_size = width
    return MLP(*parts, Linear(input_size, output_size))


def latent_mlp(
    state_width: int, latents: CategoricalLatents, width: int, output_size: int, layers: int
) -> MLP:
    """``mlp`` on a world model's features, or on states by the classes of their latents."""
    first = LatentLinear(state_width, latents, width)
    return MLP(first, NormSiLU(width), *mlp(width, width, output_size, layers - 1))


class MLP(nn.Sequential):
    """Layers one after the other, on a CPU with the bias of a linear layer added by the norm behind it.

    That is a pass less over what the layer puts out, and another one over the gradients of that.
    """

    def forward(self, x: Tensor | CompactState) -> Tensor:
        """What the last layer gives."""
        if not kernels.serve(x if isinstance(x, Tensor) else x.h):
            plain: Tensor = super().forward(x)
            return plain
        layers = list(self.layers())
        seen: Any = x
        added: Tensor | None = None  # to what is seen, by the next layer
        for layer, behind in zip(layers, (*layers[1:], None), strict=True):
            if isinstance(layer, NormSiLU):
                seen, added = layer(seen, added), None
            elif isinstance(layer, Linear) and isinstance(behind, NormSiLU):
                seen, added = layer.product(seen), layer.bias
            else:
                seen = layer(seen)
        given: Tensor = seen
        return given

    def layers(self) -> Iterator[nn.Module]:
        """All of them, those of an MLP within this one, too."""
        for layer in self:
            if isinstance(layer, MLP):
                yield from layer.layers()
            else:
                yield layer


class Linear(nn.Linear):
    """Torch's."""

    def product(self, x: Tensor) -> Tensor:
        """What it gives (..., outputs), before the bias is added."""
        return F.linear(x, self.weight)


class NormSiLU(nn.LayerNorm):
    """SiLU of a layer norm."""

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Of x (..., width) plus ``added`` (width) -> (..., width), on a CPU as x is in any precision."""
        if kernels.serve(x):
            return self._by_kernel(x.unsqueeze(-2), added)
        return F.silu(super().forward(x if added is None else x + added))

    def _by_kernel(self, x: Tensor, added: Tensor | None) -> Tensor:
        added = torch.zeros_like(self.bias) if added is None else added
        mean: Tensor = _NormSiLU.apply(x, added, self.weight, self.bias)
        return mean


class MeanNormSiLU(NormSiLU):
    """The mean over all agents of SiLU of a layer norm, of which nothing is kept for each agent."""

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(..., n_agents, width) -> (..., width)."""
        return self._by_kernel(x, added) if kernels.serve(x) else super().forward(x, added).mean(dim=-2)


class _NormSiLU(torch.autograd.Function):
    """The mean (..., width) over rows (..., over, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        rows, width = x.numel() // len(gain), len(gain)
        out = x.new_empty(*x.shape[:-2], width)
        statistics = x.new_empty(2, rows, dtype=torch.float32)
        ctx.sizes = (x.shape[-2], SHARES, rows, width)
        kernels.of(x.dtype).norm_silu(x, added, gain, bias, out, *statistics, x.shape[-2], rows, width)
        ctx.save_for_backward(x, added, gain, bias, statistics)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, ...]:
        x, *weights, statistics = ctx.saved_tensors
        of_x, of_weights = torch.empty_like(x), torch.zeros(3, SHARES, x.shape[-1])
        seen = (of_out.contiguous(), x, *weights, *statistics)
        kernels.of(x.dtype).norm_silu_back(*seen, of_x, of_weights, *ctx.sizes)
        return of_x, *of_weights.sum(dim=1)


class LatentLinear(Linear):
    """A linear layer on a world model's features (h, z), or on states by the classes of their latents.

    Within an ``MLP`` each class picks a column of the weights: a product with ones and zeros is mostly one
    with zeros. So a column's numbers are next to each other in memory.

    Args:
        width: length of h.
        latents: what z are samples of.
        outputs: numbers that it puts out.
    """

    def __init__(self, width: int, latents: CategoricalLatents, outputs: int) -> None:
        super().__init__(width + latents.size, outputs)
        self.weight = nn.Parameter(self.weight.detach().T.contiguous().T)

    def forward(self, x: Tensor | CompactState) -> Tensor:
        """Features (..., width + latents' size), or states (...) -> (..., outputs)."""
        return super().forward(x if isinstance(x, Tensor) else x.features)

    def product(self, x: Tensor | CompactState) -> Tensor:
        """The same on a CPU, before the bias is added."""
        if isinstance(x, Tensor):
            return super().product(x)
        product: Tensor = _PickedProduct.apply(x.h.to(factor_dtype(x.h)), self.weight, x.picked, x.z)
        return product


class _PickedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, picked: Tensor, z: Tensor | None) -> Tensor:
        rows, picked = h.reshape(-1, h.shape[-1]), picked.contiguous()
        of_h, of_z = weight.T.to(h.dtype).tensor_split([h.shape[-1]])
        out = rows @ of_h
        ctx.save_for_backward(rows, picked, of_h, of_z)
        sizes = (len(rows), picked.shape[-1], len(weight))
        kernels.of(h.dtype).add_picked(picked, of_z.contiguous(), out, *sizes)
        return out.view(*h.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, picked, of_h, of_z = ctx.saved_tensors
        of_out = gradient.reshape(len(rows), of_z.shape[1]).contiguous()
        of_table = gradient_of_table(picked.flatten(0, -2), of_out, len(of_z))
        of_weight = torch.cat([(rows.T @ of_out).float(), of_table]).T
        of_state = [
            (of_out @ weight.T).view(*gradient.shape[:-1], len(weight)) if needed else None
            for weight, needed in ((of_h, ctx.needs_input_grad[0]), (of_z, ctx.needs_input_grad[3]))
        ]
        return of_state[0], of_weight, None, of_state[1]


def gradient_of_table(picked: Tensor, of_out: Tensor, size: int) -> Tensor:
    """That of a table (size, width) whose rows are picked by the classes (rows, groups) int16 of latents.

    ``of_out`` (rows, width) is the gradient of the sums of these.
    """
    rows, groups = picked.shape
    of_table = torch.zeros(size, of_out.shape[1])
    sizes = (rows, size // groups, groups, of_out.shape[1])
    kernels.of(of_out.dtype).add_picked_back(picked, of_out, of_table, *sizes)
    return of_table


class FusionLayer(nn.Module):
    """One pre-norm Transformer layer whose sequence is the handful of agents of one time step."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be split over {heads} attention heads.")
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_agents, width) -> (N, n_agents, width)."""
        x = x + self._attend(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))

    def _attend(self, x: Tensor) -> Tensor:
        n, agents, width = x.shape
        by_head = self.query_key_value(x).view(n, agents, 3, self.heads, width // self.heads)
        query_key_value = by_head.permute(2, 0, 3, 1, 4)
        alone = agents == 1  # then all attention is its own
        attended = query_key_value[2] if alone else _attended(query_key_value)
        return self.attention_out(attended.transpose(1, 2).flatten(2))


def _attended(query_key_value: Tensor) -> Tensor:
    """Softmax attention: (3, N, heads, agents, size) -> (N, heads, agents, size).

    A GPU has a kernel for it. A CPU is the fastest with plain products for a handful of agents; weights have
    the keys first, as a softmax along a last dimension this short is taken number by number.
    """
    if query_key_value.is_cuda:
        return F.scaled_dot_product_attention(*query_key_value)
    query, key, value = query_key_value.flatten(1, 2).unbind()
    scores = torch.bmm(key, query.transpose(1, 2)).transpose(0, 1).contiguous()  # (keys, N, queries)
    weights = F.softmax(scores * key.shape[-1] ** -0.5, dim=0)
    return torch.bmm(weights.permute(1, 2, 0), value).view(query_key_value.shape[1:])


class AgentFusion(nn.Module):
    """A Transformer over agents: every agent's output depends on every agent's input.

    A learned embedding per agent tells the agents apart, since attention itself cannot. ``alone`` is the
    ablation: the same layers, but each agent attends to itself only.
    """

    def __init__(
        self, input_size: int, width: int, n_agents: int, layers: int, heads: int, alone: bool = False
    ) -> None:
        super().__init__()
        self.alone = alone
        self.project = nn.Linear(input_size, width)
        self.agent_embedding = nn.Parameter(torch.zeros(n_agents, width))
        self.layers = nn.Sequential(*(FusionLayer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, n_agents, input_size) -> (N, n_agents, width)."""
        x = self.project(x) + self.agent_embedding
        fused = self.layers(x.flatten(0, 1).unsqueeze(1)).view_as(x) if self.alone else self.layers(x)
        return self.norm(fused)
