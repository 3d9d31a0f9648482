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
from utils.rl_utils import sample_categorical, softmax
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


@dataclass(frozen=True)
class CommittedPoliciesConfig:
    """What commitment needs of the run's arguments, beside what sampling does."""

    commitment_strength: float
    """Standard deviation, in nats, of what a preference adds to an action's log-probability."""
    commitment_environments: float
    """Share of the environments, rounded up, whose agents commit; in the others the policy is left alone."""
    commitment_share: float
    """Share of their preferences that are one; the others leave the policy as it is."""
    commitment_steps: float
    """Steps that a preference lasts on average."""


class CommittedPoliciesSelector(SoftPoliciesSelector):
    """Samples from the policy; in training all agents of an environment prefer some actions for a while.

    Agents that explore each on their own and anew at each step never try together, and for long, what pays
    only so: another enemy first, say. Committed joint exploration does (Mahajan et al., 2019, MAVEN, arXiv
    1910.07483). There a hierarchy of policies learns what to commit to; here it is drawn at random, which is
    enough for a world model to see what else can happen. Some environments are left out, since it must also
    see the policy's own play from beginning to end: of long episodes, preferences that may come at any time
    leave hardly one as it would have been. Not for learners that take real play for the policy's own.
    """

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self.commitment = read(CommittedPoliciesConfig, args)
        self._preferences: Tensor | None = None  # (batch, 1, n_actions)

    def select_action(
        self, agent_inputs: Tensor, avail_actions: Tensor, t_env: int, test_mode: bool = False
    ) -> Tensor:
        """Actions (batch, n_agents) from probabilities (batch, n_agents, n_actions)."""
        if test_mode:
            return super().select_action(agent_inputs, avail_actions, t_env, test_mode)
        preferred = agent_inputs.float().log() + self._preferences_of(agent_inputs)
        return sample_categorical(softmax(preferred.masked_fill(avail_actions == 0, -torch.inf)))

    def _preferences_of(self, probs: Tensor) -> Tensor:
        """What each environment's agents prefer now; all begin anew where their number has changed."""
        number, _, n_actions = probs.shape
        config, device = self.commitment, probs.device
        is_one, ends = torch.rand((2, number, 1, 1), device=device)
        fresh = config.commitment_strength * torch.randn((number, 1, n_actions), device=device)
        commit = torch.arange(number, device=device).view(-1, 1, 1) < config.commitment_environments * number
        fresh = fresh * (commit & (is_one < config.commitment_share))
        kept = self._preferences
        if kept is not None and len(kept) == number:
            fresh = torch.where(ends * config.commitment_steps < 1, fresh, kept.to(device))
        self._preferences = fresh
        return fresh

    def state_dict(self) -> dict[str, Tensor | None]:
        """What is preferred."""
        return {"preferences": self._preferences}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Restores what `state_dict` gave."""
        self._preferences = state["preferences"]


class MultinomialActionSelector(SoftPoliciesSelector):
    """EPyMARL's older name for sampling from the policy."""


REGISTRY: dict[str, type] = {
    "epsilon_greedy": EpsilonGreedyActionSelector,
    "soft_policies": SoftPoliciesSelector,
    "committed_policies": CommittedPoliciesSelector,
    "multinomial": MultinomialActionSelector,
}
