"""Q-learning of the team's value: QMIX, VDN, and independent Q-learning without a mixer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.action_selectors import masked_argmax
from components.episode_buffer import EpisodeBatch
from components.optimisers import Adam
from components.real_steps import RealSteps
from components.standarize_stream import RunningMeanStd
from controllers.basic_controller import sequence_outputs
from modules.mixers import REGISTRY as mixer_REGISTRY
from utils.clocks import Every
from utils.guards import check_all_finite
from utils.rl_utils import lambda_returns, masked_mean, step_mask, taken
from utils.typed_args import read


@dataclass(frozen=True)
class QConfig:
    """What the learner needs of the run's arguments."""

    n_agents: int
    """Number of agents."""
    common_reward: bool
    """One reward for the team; otherwise one per agent, which allows no mixer."""
    mixer: str | None
    """Name of the mixer; none learns each agent's values on their own."""
    lr: float
    """Adam's step size."""
    optim_eps: float
    """Adam's epsilon."""
    grad_norm_clip: float
    """Gradients are scaled down to this norm."""
    gamma: float
    """Discount."""
    td_lambda: float
    """Lambda of the targets; 0 gives one-step targets."""
    double_q: bool
    """The online network picks the next action, the target network values it."""
    target_update_interval_or_tau: float
    """Above 1: updates between two copies to the target network. Otherwise: share mixed in at each update."""
    standardise_rewards: bool
    """Rewards are scaled to a running mean square of 1; nothing is taken off."""
    learner_log_interval: int
    """Environment steps between two logs."""
    device: Any
    """Where the networks live."""


class QLearner:
    """EPyMARL's learner interface over deep Q-learning with recurrent agents and whole episodes.

    Agents and mixers run over all steps in one call. Values are bootstrapped where an episode was cut off.
    """

    def __init__(self, mac: Any, scheme: dict[str, Any], logger: Any, args: Any) -> None:
        self.config = config = read(QConfig, args)
        if config.mixer is not None and not config.common_reward:
            raise ValueError(f"mixer '{config.mixer}' mixes into a common reward: set common_reward=True")
        self.mac, self.logger = mac, logger
        self.target_mac = copy.deepcopy(mac)
        self.mixer: nn.Module = PerAgent() if config.mixer is None else mixer_REGISTRY[config.mixer](args)
        self.target_mixer = copy.deepcopy(self.mixer)
        self.params = [*mac.parameters(), *self.mixer.parameters()]
        self.optimiser = Adam(self.params, lr=config.lr, eps=config.optim_eps, fused=True)
        rewards = 1 if config.common_reward else config.n_agents
        self.reward_stats = RunningMeanStd(shape=(rewards,), device=config.device)
        self.training_steps = 0
        self.log_clock = Every(config.learner_log_interval)

    def train(self, batch: EpisodeBatch, t_env: int, episode_num: int) -> None:
        """One gradient step on the episodes of `batch`.

        Raises:
            TrainingDiverged: the loss or its gradient became NaN or infinite.
        """
        mask = step_mask(batch["filled"])
        real = RealSteps(mask)
        agent_qs = sequence_outputs(self.mac, batch)
        chosen = taken(agent_qs[:, :-1], batch["actions"][:, :-1, :, 0])
        values = _mixed(self.mixer, chosen, batch["state"][:, :-1], real)
        targets = self._targets(batch, agent_qs.detach(), mask, real).expand_as(values)
        error = values - targets
        loss = masked_mean(error.square(), mask)

        self.optimiser.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self.params, self.config.grad_norm_clip)
        check_all_finite({"loss": loss, "grad_norm": grad_norm}, t_env)
        self.optimiser.step()
        self.training_steps += 1
        self._update_targets()

        if self.log_clock.due(t_env):
            self.logger.log_stat("updates", self.training_steps, t_env)
            self.logger.log_stat("loss", loss.item(), t_env)
            self.logger.log_stat("grad_norm", grad_norm.item(), t_env)
            self.logger.log_stat("td_error_abs", masked_mean(error.abs(), mask).item(), t_env)
            self.logger.log_stat("q_taken_mean", masked_mean(values, mask).item(), t_env)
            self.logger.log_stat("target_mean", masked_mean(targets, mask).item(), t_env)

    @torch.no_grad()
    def _targets(self, batch: EpisodeBatch, agent_qs: Tensor, mask: Tensor, real: RealSteps) -> Tensor:
        """TD(lambda) targets (batch, T, 1 or n_agents) from the online values of all actions `agent_qs`."""
        rewards = batch["reward"][:, :-1]
        if self.config.standardise_rewards:
            rewards = self.reward_stats.scale(rewards, mask)
        target_qs = sequence_outputs(self.target_mac, batch)
        judge = agent_qs if self.config.double_q else target_qs
        best = masked_argmax(judge[:, 1:], batch["avail_actions"][:, 1:])
        best_qs = taken(target_qs[:, 1:], best)
        next_values = _mixed(self.target_mixer, best_qs, batch["state"][:, 1:], real)
        terminated = batch["terminated"][:, :-1].float()
        return lambda_returns(
            rewards, terminated, mask, next_values, self.config.gamma, self.config.td_lambda
        )

    def _update_targets(self) -> None:
        interval_or_tau = self.config.target_update_interval_or_tau
        if interval_or_tau <= 1:
            targets = [*self.target_mac.parameters(), *self.target_mixer.parameters()]
            for target, online in zip(targets, self.params, strict=True):
                target.data.lerp_(online.data, interval_or_tau)
        elif self.training_steps % interval_or_tau < 1:
            self.target_mac.load_state(self.mac)
            self.target_mixer.load_state_dict(self.mixer.state_dict())

    def cuda(self) -> None:
        """Moves the networks to the GPU."""
        for part in (self.mac, self.target_mac, self.mixer, self.target_mixer):
            part.cuda()

    def save_models(self, path: str) -> None:
        """Writes the agents and the rest of the learner's state to the folder `path`."""
        self.mac.save_models(path)
        torch.save(self.state_dict(), f"{path}/learner.th")

    def load_models(self, path: str) -> None:
        """Reads what `save_models` wrote."""
        self.mac.load_models(path)
        self.load_state_dict(torch.load(f"{path}/learner.th", map_location=self.config.device))

    def state_dict(self) -> dict[str, Any]:
        """Networks and their targets, optimiser, running statistics and counters."""
        return {
            "agent": self.mac.agent.state_dict(),
            "target_agent": self.target_mac.agent.state_dict(),
            **{name: getattr(self, name).state_dict() for name in self._parts},
            "training_steps": self.training_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; training continues as if it had not been interrupted."""
        self.mac.agent.load_state_dict(state["agent"])
        self.target_mac.agent.load_state_dict(state["target_agent"])
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])
        self.training_steps = state["training_steps"]

    _parts = ("mixer", "target_mixer", "optimiser", "reward_stats", "log_clock")


def _mixed(mixer: nn.Module, agent_qs: Tensor, states: Tensor, real: RealSteps) -> Tensor:
    """The mixer's values (batch, T, 1), or (batch, T, n_agents) without one, of `real` steps."""
    values: Tensor = mixer(real.of(agent_qs).unsqueeze(0), real.of(states).unsqueeze(0))
    return real.padded(values.squeeze(0))


class PerAgent(nn.Module):
    """Stands where a mixer would: each agent's value is its own."""

    def forward(self, agent_qs: Tensor, states: Tensor) -> Tensor:
        """`agent_qs` (batch, T, n_agents) as they are."""
        return agent_qs
