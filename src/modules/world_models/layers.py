"""Building blocks of the world models: multi-layer perceptrons and fusion over agents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kernels
from modules.world_models.latents import CategoricalLatents, CompactState
from modules.world_models.perceptron import Seen, perceptron


def mlp(input_size: int, width: int, output_size: int, layers: int) -> MLP:
    """``layers`` hidden layers of Linear, LayerNorm and SiLU, then a linear output."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(input_size, width), NormSiLU(width)]
        input_size = width
    return MLP(*parts, nn.Linear(input_size, output_size))


def latent_mlp(
    state_width: int, latents: CategoricalLatents, width: int, output_size: int, layers: int
) -> MLP:
    """``mlp`` on a world model's features, or on states by the classes of their latents."""
    first = LatentLinear(state_width, latents, width)
    return MLP(first, NormSiLU(width), *mlp(width, width, output_size, layers - 1))


class MLP(nn.Sequential):
    """Layers one after the other, on a CPU by one kernel."""

    def forward(self, x: Tensor | CompactState) -> Tensor:
        """What the last layer gives."""
        return in_turn(list(self.layers()), x)

    def layers(self) -> Iterator[nn.Module]:
        """All of them, those of an MLP within this one, too."""
        for layer in self:
            if isinstance(layer, MLP):
                yield from layer.layers()
            else:
                yield layer


def in_turn(layers: Sequence[nn.Module], x: Tensor | CompactState) -> Tensor:
    """What the last of ``layers`` gives, linear ones with a norm and SiLU behind each but the last."""
    seen = Seen(x) if isinstance(x, Tensor) else Seen(x.h, x.picked, x.z)
    if kernels.serve(seen.x):
        means = [isinstance(layer, MeanNormSiLU) for layer in layers if isinstance(layer, NormSiLU)]
        return perceptron(seen, means, [weight for layer in layers for weight in layer.parameters()])
    given: Any = x
    for layer in layers:
        given = layer(given)
    result: Tensor = given
    return result


class NormSiLU(nn.LayerNorm):
    """SiLU of a layer norm."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return F.silu(super().forward(x))


class MeanNormSiLU(NormSiLU):
    """The mean of that over all agents."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_agents, width) -> (..., width)."""
        return super().forward(x).mean(dim=-2)


class LatentLinear(nn.Linear):
    """A linear layer on a world model's features (h, z), or on states by the classes of their latents.

    A kernel lets each class pick a column of the weights: a product with ones and zeros is mostly one with
    zeros. So a column's numbers are next to each other in memory.

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
