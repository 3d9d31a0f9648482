"""How a controller's outputs become actions.

A selector is built from the run's arguments and offers

    select_action(agent_outputs, avail_actions, t_env, test_mode=False) -> actions

with outputs and availability of shape (batch, n_agents, n_actions) and actions (batch, n_agents) int64.
Random numbers come from torch's global generator. An unavailable action is never chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.epsilon_schedules import DecayThenFlatSchedule
from utils.rl_utils import sample_categorical
from utils.typed_args import read


def masked_argmax(scores: Tensor, avail_actions: Tensor) -> Tensor:
    """The available action of the highest score, over the last dimension."""
    return scores.masked_fill(avail_actions == 0, -torch.inf).argmax(dim=-1)


@dataclass(frozen=True)
class EpsilonGreedyConfig:
    """What epsilon-greedy exploration needs of the run's arguments."""

    epsilon_start: float
    """Share of random actions at the first environment step."""
    epsilon_finish: float
    """Share of random actions once annealed."""
    epsilon_anneal_time: int
    """Environment steps from the first to the second."""
    evaluation_epsilon: float
    """Share of random actions in test episodes."""


class EpsilonGreedyActionSelector:
    """The action of the highest Q-value, or with probability epsilon any available one."""

    def __init__(self, args: Any) -> None:
        self.config = read(EpsilonGreedyConfig, args)
        start, finish = self.config.epsilon_start, self.config.epsilon_finish
        self.schedule = DecayThenFlatSchedule(start, finish, self.config.epsilon_anneal_time, decay="linear")
        self.epsilon = self.schedule.eval(0)

    def select_action(
        self, agent_inputs: Tensor, avail_actions: Tensor, t_env: int, test_mode: bool = False
    ) -> Tensor:
        """Actions (batch, n_agents) from Q-values (batch, n_agents, n_actions)."""
        greedy = masked_argmax(agent_inputs, avail_actions)
        epsilon = self.config.evaluation_epsilon
        if not test_mode:
            epsilon = self.epsilon = self.schedule.eval(t_env)
        if epsilon == 0:
            return greedy
        explore = torch.rand_like(agent_inputs[..., 0]) < epsilon
        return torch.where(explore, sample_categorical(avail_actions.float()), greedy)

    def state_dict(self) -> dict[str, float]:
        """The last training epsilon; everything else follows from the environment step."""
        return {"epsilon": self.epsilon}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores what `state_dict` gave."""
        self.epsilon = state["epsilon"]


@dataclass(frozen=True)
class SoftPoliciesConfig:
    """What sampling from a policy needs of the run's arguments."""

    test_greedy: bool
    """Take the most probable action in test episodes; otherwise sample there too."""


class SoftPoliciesSelector:
    """Samples from the policy; greedy in test episodes when `test_greedy` says so."""

    def __init__(self, args: Any) -> None:
        self.config = read(SoftPoliciesConfig, args)

    def select_action(
        self, agent_inputs: Tensor, avail_actions: Tensor, t_env: int, test_mode: bool = False
    ) -> Tensor:
        """Actions (batch, n_agents) from probabilities (batch, n_agents, n_actions)."""
        if test_mode and self.config.test_greedy:
            return masked_argmax(agent_inputs, avail_actions)
        return sample_categorical(agent_inputs.masked_fill(avail_actions == 0, 0.0))


class MultinomialActionSelector(SoftPoliciesSelector):
    """EPyMARL's older name for sampling from the policy."""


REGISTRY: dict[str, type] = {
    "epsilon_greedy": EpsilonGreedyActionSelector,
    "soft_policies": SoftPoliciesSelector,
    "multinomial": MultinomialActionSelector,
}
