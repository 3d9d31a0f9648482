"""What state-value critics have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.typed_args import read


@dataclass(frozen=True)
class CriticConfig:
    """What a critic needs of the run's arguments."""

    n_agents: int
    """Number of agents."""
    hidden_dim: int
    """Width of both hidden layers."""
    obs_individual_obs: bool
    """Centralised critics: append the observations of all agents to the state."""
    obs_last_action: bool
    """Centralised critics: append the previous actions of all agents to the state."""


class ValueCritic(nn.Module, ABC):
    """A feed-forward state value per agent, shared by the agents and told apart by a one-hot number.

    `critic(batch)` is EPyMARL's interface: values (batch, T, n_agents, 1) of all steps, or of step `t` alone.
    It is `values(inputs(batch))`: a learner that goes over the same data many times builds the inputs once.
    """

    output_type = "v"

    def __init__(self, scheme: dict[str, Any], args: Any) -> None:
        super().__init__()
        self.config = read(CriticConfig, args)
        width = self.config.hidden_dim
        self.net = nn.Sequential(
            nn.Linear(self.input_size(scheme), width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    @abstractmethod
    def inputs(self, batch: Any, ts: slice = slice(None)) -> Tensor:
        """Inputs (batch, T, n_agents, size) at the steps `ts`."""

    @abstractmethod
    def input_size(self, scheme: dict[str, Any]) -> int:
        """Length of one agent's input."""

    def forward(self, batch: Any, t: int | None = None) -> Tensor:
        """Values (batch, T, n_agents, 1) of all steps, or of step `t` alone with T = 1."""
        return self.values(self.inputs(batch, slice(None) if t is None else slice(t, t + 1)))

    def values(self, inputs: Tensor) -> Tensor:
        """Values (..., 1) of `inputs` (..., size)."""
        values: Tensor = self.net(inputs)
        return values

    def agent_ids(self, like: Tensor) -> Tensor:
        """One-hot agent numbers (batch, T, n_agents, n_agents) beside inputs (batch, T, n_agents, ...)."""
        ids = torch.eye(self.config.n_agents, device=like.device)
        return ids.expand(*like.shape[:2], -1, -1)
