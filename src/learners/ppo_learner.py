"""Multi-agent PPO: MAPPO with a centralised critic, IPPO with a decentralised one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.chunks import Chunks
from components.episode_buffer import EpisodeBatch
from components.optimisers import Adam
from components.standarize_stream import RunningMeanStd
from controllers.basic_controller import can_unroll, sequence_outputs
from modules.critics import REGISTRY as critic_REGISTRY
from utils.clocks import Every
from utils.guards import check_all_finite
from utils.rl_utils import (
    clipped_surrogate,
    delayed,
    lambda_returns,
    log_softmax,
    masked_mean,
    softmax,
    standardised,
    step_mask,
    taken,
)
from utils.typed_args import read


@dataclass(frozen=True)
class PPOConfig:
    """What the learner needs of the run's arguments."""

    n_agents: int
    """Number of agents."""
    common_reward: bool
    """One reward for the team; otherwise one per agent."""
    critic_type: str
    """Name of the critic."""
    lr: float
    """Adam's step size for the actor."""
    critic_lr: float
    """Adam's step size for the critic."""
    optim_eps: float
    """Adam's epsilon."""
    grad_norm_clip: float
    """Gradients of actor and of critic are scaled down to this norm."""
    gamma: float
    """Discount."""
    gae_lambda: float
    """Lambda of the generalised advantage estimate and of the critic's targets."""
    epochs: int
    """Passes over the data of one update."""
    minibatches: int
    """Gradient steps of one pass."""
    chunk_length: int
    """Steps that the recurrent state is differentiated through; 0 for whole episodes."""
    eps_clip: float
    """How far the probability ratio may leave 1 before it gives no gradient."""
    entropy_coef: float
    """Weight of the policy's entropy."""
    normalise_values: bool
    """The critic predicts returns in running standard deviations."""
    standardise_rewards: bool
    """Rewards are scaled to a running mean square of 1; nothing is taken off."""
    learner_log_interval: int
    """Environment steps between two logs."""
    device: Any
    """Where the networks live."""


class PPOLearner:
    """EPyMARL's learner interface over PPO with generalised advantages.

    `train` expects fresh episodes, any number of them. Under rolling collection much of an episode may have
    been played by the policies before earlier updates; what counts as the old policy is the one that played,
    whose log-probabilities the controller noted. Where it notes none, as those written for EPyMARL, whose
    episodes are played by one policy, it is the current one at the start of an update.

    Values are bootstrapped where an episode was cut off. An agent's steps with a single available action (a
    dead agent's) are left out of the policy's loss.

    Data is gone over in chunks of `chunk_length` steps, each from the recurrent state that the old policy had
    there. Controllers, agents and critics written for EPyMARL are given whole episodes instead.
    """

    def __init__(self, mac: Any, scheme: dict[str, Any], logger: Any, args: Any) -> None:
        self.config = config = read(PPOConfig, args)
        self.mac, self.logger = mac, logger
        self.critic: Any = critic_REGISTRY[config.critic_type](scheme, args)
        self.agent_params, self.critic_params = list(mac.parameters()), list(self.critic.parameters())
        settings: dict[str, Any] = {"eps": config.optim_eps, "fused": True}
        self.agent_optimiser = Adam(self.agent_params, lr=config.lr, **settings)
        self.critic_optimiser = Adam(self.critic_params, lr=config.critic_lr, **settings)
        rewards = 1 if config.common_reward else config.n_agents
        self.reward_stats = RunningMeanStd(shape=(rewards,), device=config.device)
        self.value_stats = RunningMeanStd(shape=(rewards,), device=config.device)
        self.training_steps = 0
        self.log_clock = Every(config.learner_log_interval)

    def train(self, batch: EpisodeBatch, t_env: int, episode_num: int) -> None:
        """One update from the fresh episodes of `batch`.

        Raises:
            TrainingDiverged: a loss or gradient became NaN or infinite.
        """
        data = self._prepare(batch)
        logs = self.log_clock.due(t_env)
        stats = []
        for _ in range(self.config.epochs):
            order = torch.randperm(len(data), device=data["mask"].device)
            for part in order.chunk(self.config.minibatches):
                stats.append(self._step(data.select(part), batch, logs))
        mean = {key: torch.stack([step[key] for step in stats]).mean() for key in stats[0]}
        check_all_finite(mean, t_env)
        self.training_steps += len(stats)
        if logs:
            mean["target_mean"] = masked_mean(data["returns"], data["mask"])
            for key, value in mean.items():
                self.logger.log_stat(key, value.item(), t_env)
            self.logger.log_stat("updates", self.training_steps, t_env)

    # data

    @torch.no_grad()
    def _prepare(self, batch: EpisodeBatch) -> Chunks:
        """Everything that stays the same over the epochs, in chunks."""
        mask = step_mask(batch["filled"])
        avail_actions = batch["avail_actions"][:, :-1]
        steps = {
            "mask": mask.expand(-1, -1, self.config.n_agents),
            "deciding": mask * (avail_actions.sum(-1) > 1),
            "avail_actions": avail_actions,
            "actions": batch["actions"][:, :-1, :, 0],
            "episode": torch.arange(batch.batch_size, device=mask.device).view(-1, 1).expand(mask.shape[:2]),
        }
        starts, values = self._forward_old(batch, steps)
        if self.config.normalise_values:
            values = self.value_stats.denormalise(values)
        returns = lambda_returns(
            self._rewards(batch, mask), batch["terminated"][:, :-1].float(), mask, values[:, 1:],
            self.config.gamma, self.config.gae_lambda,
        )  # fmt: skip
        advantages = returns - values[:, :-1]
        steps["advantages"] = standardised(advantages, steps["deciding"])
        if self.config.normalise_values:
            returns = self.value_stats.standardise(returns, mask)
        steps["returns"] = returns
        return Chunks(steps, starts, self.config.chunk_length if starts else 0)

    def _forward_old(self, batch: EpisodeBatch, steps: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Adds the old log-probabilities to `steps`, and the networks' inputs where they can be kept.

        Returns the recurrent states before every step where a chunk may start from them, and the critic's
        values of all steps and of the arrival (batch, T + 1, n_agents).
        """
        if not (can_unroll(self.mac) and hasattr(self.critic, "inputs")):
            logits = sequence_outputs(self.mac, batch)[:, :-1]
            steps["old_log_pi"] = _old_log_pi(batch, logits)
            return {}, self.critic(batch).squeeze(-1)
        steps["agent_inputs"] = self.mac.sequence_inputs(batch)[:, :-1]
        outputs, hiddens = self.mac.run_agent(steps["agent_inputs"])
        steps["old_log_pi"] = _old_log_pi(batch, self.mac.masked(outputs, steps["avail_actions"]))
        critic_inputs = self.critic.inputs(batch)
        steps["critic_inputs"] = critic_inputs[:, :-1]
        before = delayed(hiddens, self.mac.initial_hidden(batch.batch_size))
        return {"hidden": before}, self.critic.values(critic_inputs).squeeze(-1)

    def _rewards(self, batch: EpisodeBatch, mask: Tensor) -> Tensor:
        rewards = batch["reward"][:, :-1]
        if self.config.standardise_rewards:
            rewards = self.reward_stats.scale(rewards, mask)
        return rewards

    # gradient steps

    def _step(self, data: Chunks, batch: EpisodeBatch, logs: bool) -> dict[str, Tensor]:
        """One gradient step of actor and critic; returns what must be finite, and what else is logged."""
        logits, values = self._forward(data, batch)
        log_pi = log_softmax(logits)
        deciding, advantages = data["deciding"], data["advantages"]
        ratio = (taken(log_pi, data["actions"]) - data["old_log_pi"]).exp()
        surrogate = clipped_surrogate(ratio, advantages, self.config.eps_clip)
        entropy = masked_mean(-(softmax(log_pi) * log_pi).sum(-1), deciding)
        pg_loss = -masked_mean(surrogate, deciding) - self.config.entropy_coef * entropy
        critic_loss = masked_mean((values - data["returns"]).square(), data["mask"])
        self.agent_optimiser.zero_grad()
        self.critic_optimiser.zero_grad()
        (pg_loss + critic_loss).backward()
        clip = torch.nn.utils.clip_grad_norm_
        stats = {
            "pg_loss": pg_loss,
            "critic_loss": critic_loss,
            "agent_grad_norm": clip(self.agent_params, self.config.grad_norm_clip),
            "critic_grad_norm": clip(self.critic_params, self.config.grad_norm_clip),
            "entropy": entropy,
        }
        if logs:
            stats |= {
                "pi_max": masked_mean(log_pi.amax(-1).exp(), deciding),
                "clip_fraction": masked_mean(((ratio - 1).abs() > self.config.eps_clip).float(), deciding),
                "td_error_abs": masked_mean((values - data["returns"]).abs(), data["mask"]),
                "q_taken_mean": masked_mean(values, data["mask"]),
            }
        self.agent_optimiser.step()
        self.critic_optimiser.step()
        return {key: value.detach() for key, value in stats.items()}

    def _forward(self, data: Chunks, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Masked logits (m, L, n_agents, n_actions) and values (m, L, n_agents) of a minibatch."""
        if "agent_inputs" not in data:
            episodes = batch[data["episode"][:, 0].tolist()]
            return sequence_outputs(self.mac, episodes)[:, :-1], self.critic(episodes)[:, :-1].squeeze(-1)
        outputs, _ = self.mac.run_agent(data["agent_inputs"], data["hidden"])
        logits = self.mac.masked(outputs, data["avail_actions"])
        return logits, self.critic.values(data["critic_inputs"]).squeeze(-1)

    # state

    def cuda(self) -> None:
        """Moves the networks to the GPU."""
        self.mac.cuda()
        self.critic.cuda()

    def save_models(self, path: str) -> None:
        """Writes actor, critic and the rest of the learner's state to the folder `path`."""
        self.mac.save_models(path)
        torch.save(self.state_dict(), f"{path}/learner.th")

    def load_models(self, path: str) -> None:
        """Reads what `save_models` wrote."""
        self.mac.load_models(path)
        self.load_state_dict(torch.load(f"{path}/learner.th", map_location=self.config.device))

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, running statistics, steps taken, and when was last logged."""
        parts = {name: getattr(self, name).state_dict() for name in self._parts}
        return {**parts, "training_steps": self.training_steps, "agent": self.mac.agent.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; training continues as if it had not been interrupted."""
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])
        self.mac.agent.load_state_dict(state["agent"])
        self.training_steps = state["training_steps"]

    _parts = ("critic", "agent_optimiser", "critic_optimiser", "reward_stats", "value_stats", "log_clock")


def _old_log_pi(batch: EpisodeBatch, logits: Tensor) -> Tensor:
    """Log-probabilities (batch, T, n_agents) of the actions when they were chosen, or by masked ``logits``
    (batch, T, n_agents, n_actions) where none were noted."""
    if "log_probs" in batch.scheme:
        return batch["log_probs"][:, :-1, :, 0]
    return taken(log_softmax(logits), batch["actions"][:, :-1, :, 0])
