"""What state-value critics have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

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
        self.input_size = self.sees(scheme)
        self.first = nn.Linear(self.input_size + self.config.n_agents, width)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    @abstractmethod
    def inputs(self, batch: Any, ts: slice = slice(None)) -> Tensor:
        """Inputs at the steps `ts` but for the agent's number: (batch, T, n_agents, size), or
        (batch, T, 1, size) where all agents have the same."""

    @abstractmethod
    def sees(self, scheme: dict[str, Any]) -> int:
        """Length of such an input."""

    def forward(self, batch: Any, t: int | None = None) -> Tensor:
        """Values (batch, T, n_agents, 1) of all steps, or of step `t` alone with T = 1."""
        return self.values(self.inputs(batch, slice(None) if t is None else slice(t, t + 1)))

    def values(self, inputs: Tensor) -> Tensor:
        """Values (..., n_agents, 1) of `inputs` (..., n_agents or 1, size).

        An agent's one-hot number picks a column of the first layer's weights; added to the rest of that layer
        it need not be appended to the input, and an input that all agents share is multiplied once.
        """
        of_inputs, of_numbers = self.first.weight.split([self.input_size, self.config.n_agents], dim=1)
        values: Tensor = self.rest(F.linear(inputs, of_inputs, self.first.bias) + of_numbers.T)
        return values
