"""Monotonic value decomposition (Rashid et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from utils.typed_args import read


@dataclass(frozen=True)
class QMixerConfig:
    """What the mixer needs of the run's arguments."""

    n_agents: int
    """Number of agents."""
    state_shape: int | tuple
    """Length (or shape) of the global state."""
    mixing_embed_dim: int
    """Width of the mixing network's hidden layer."""
    hypernet_layers: int
    """Layers, 1 or 2, of the networks that make the mixing weights."""
    hypernet_embed: int
    """Their width when they have two layers."""


class QMixer(nn.Module):
    """The team's value is a two-layer network of the agents' values that rises in each of them.

    Its weights come from the state through hypernetworks and are made non-negative by their absolute value;
    its biases come from the state, too, and may have any sign.
    """

    def __init__(self, args: Any) -> None:
        super().__init__()
        self.config = config = read(QMixerConfig, args)
        if config.hypernet_layers not in (1, 2):
            raise ValueError(f"hypernet_layers must be 1 or 2, got {config.hypernet_layers}")
        self.state_dim = int(np.prod(config.state_shape))
        width = config.mixing_embed_dim
        self.hyper_w_1 = self._hypernet(width * config.n_agents)
        self.hyper_w_final = self._hypernet(width)
        self.hyper_b_1 = nn.Linear(self.state_dim, width)
        self.hyper_b_final = nn.Sequential(nn.Linear(self.state_dim, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, agent_qs: Tensor, states: Tensor) -> Tensor:
        """Values (batch, T, n_agents) and states (batch, T, *state_shape) -> (batch, T, 1)."""
        shape = agent_qs.shape[:-1]
        states = states.reshape(-1, self.state_dim)
        w_1 = self.hyper_w_1(states).abs().view(-1, self.config.n_agents, self.config.mixing_embed_dim)
        # A matrix product of so few agents takes longer than multiplying and adding up.
        weighted = agent_qs.reshape(-1, self.config.n_agents, 1) * w_1
        hidden = F.elu(weighted.sum(dim=1) + self.hyper_b_1(states))
        w_final = self.hyper_w_final(states).abs()
        total = (hidden * w_final).sum(dim=-1, keepdim=True) + self.hyper_b_final(states)
        return total.view(*shape, 1)

    def _hypernet(self, outputs: int) -> nn.Module:
        if self.config.hypernet_layers == 1:
            return nn.Linear(self.state_dim, outputs)
        width = self.config.hypernet_embed
        return nn.Sequential(nn.Linear(self.state_dim, width), nn.ReLU(), nn.Linear(width, outputs))
