"""Behaviour learnt in imagination: PPO for the decentralised policy, a critic on model features."""

import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.epsilon_schedules import DecayThenFlatSchedule
from components.imagination import masked_log_softmax
from components.optimisers import Adam, give_gradients, gradients_of
from components.pseudo_buffer import Imagined
from controllers.basic_controller import BasicMAC
from modules.critics.latent_critic import LatentCritic
from modules.world_models.latents import CompactState
from modules.world_models.world_model import WorldModel
from utils.compute import ComputeConfig
from utils.rl_utils import clipped_surrogate, lambda_returns, masked_mean, softmax, standardised, taken

log = logging.getLogger("marl.learner")

SMALLEST_BONUS, LARGEST_BONUS = 1e-2, 0.1  # weights between which the entropy bonus moves
BONUS_GAIN = 3.0  # change of its logarithm per round and unit of missing entropy


@dataclass(frozen=True)
class ImaginedPPOConfig:
    """Hyper-parameters of the behaviour, from ``config/algs/gawm*.yaml``."""

    gamma: float  # discount per step
    gae_lambda: float  # trace decay of the lambda-returns
    epochs: int  # passes over the pseudo buffer per imagination round
    minibatches: int  # gradient steps per pass
    eps_clip: float  # PPO's clipping of the probability ratio
    entropy_coef: float  # weight of the entropy bonus at the start, per nat where there is no target
    entropy_decay: float  # its factor per gradient step where there is no target for it to follow
    entropy_target: float | None  # entropy aimed at, as a share of the uniform policy's, at the start
    entropy_target_final: float  # and after policy_anneal_time
    lr: float  # Adam step size of the policy at the start
    lr_final: float  # and after policy_anneal_time
    policy_anneal_time: int  # environment steps over which both fall linearly
    critic_lr: float  # Adam step size of the critic
    optim_eps: float  # Adam's epsilon
    grad_norm_clip: float  # of policy and critic each
    critic_width: int  # hidden units of the critic
    critic_real_scale: float  # weight of the critic's error on real play


class RealPlay(NamedTuple):
    """Real episodes as the world model's posterior sees them, to keep the critic in touch with reality."""

    state: CompactState  # (B, T, n, ...)
    reward: Tensor  # (B, T) on arrival
    continues: Tensor  # (B, T) on arrival, 0 where the task terminated
    mask: Tensor  # (B, T) bool, which records belong to the episode


class ImaginedPPO:
    """Trains a controller's policy and its critic on imagined trajectories.

    Args:
        mac: the controller that acts; only its agent network is trained.
        model: the world model whose states the critic looks at.
        config: hyper-parameters.
        compute: how the networks are computed.
    """

    def __init__(
        self,
        mac: BasicMAC,
        model: WorldModel,
        config: ImaginedPPOConfig,
        compute: ComputeConfig,
    ) -> None:
        self.mac, self.compute = mac, compute
        self.config = config
        self.latents = model.latents
        self.critic = LatentCritic(model.width, model.latents, config.critic_width)
        self.weights = [p for p in mac.parameters() if p.requires_grad]
        settings: dict[str, Any] = {"eps": config.optim_eps, "fused": True}
        self.actor_optimiser = Adam(mac.parameters(), lr=config.lr, **settings)
        self.critic_optimiser = Adam(self.critic.parameters(), lr=config.critic_lr, **settings)
        anneal = config.policy_anneal_time
        self.lr_schedule = DecayThenFlatSchedule(config.lr, config.lr_final, anneal, decay="linear")
        self.entropy_schedule = None
        if config.entropy_target is not None:
            self.entropy_schedule = DecayThenFlatSchedule(
                config.entropy_target, config.entropy_target_final, anneal, decay="linear"
            )
        self.entropy_coef = config.entropy_coef
        self.differentiate_actor = compute.graphed(self._differentiate_actor)
        self._warned = False  # of returns that the critic can't tell apart

    def update(self, data: Imagined, real: RealPlay, t_env: int) -> dict[str, Tensor]:
        """One PPO phase over all of ``data``; returns the mean of each statistic over its gradient steps.

        The critic is trained on real play, too: an imagined rollout ends in a value, and one that was learnt
        from imagination alone passes the model's errors on.
        """
        for group in self.actor_optimiser.param_groups:
            group["lr"] = self.lr_schedule.eval(t_env)
        returns, advantages, weight = self._targets(data)
        # Nothing is done in the last states.
        acted = data._replace(h=data.h[:, :-1], picked=data.picked[:, :-1])
        real_state, real_returns = self._real_targets(real)
        self._warn_of_large_returns(real_returns)
        statistics: list[dict[str, Tensor]] = []
        for _ in range(self.config.epochs):
            parts = zip(self._minibatches(returns), self._minibatches(real_returns), strict=True)
            for index, real_index in parts:
                chosen = acted.select(index)
                statistics.append(
                    {
                        **self._critic_step(
                            self._states(chosen),
                            returns[index],
                            weight[index],
                            real_state.select(real_index),
                            real_returns[real_index],
                        ),
                        **self._actor_step(chosen, advantages[index], weight[index]),
                    }
                )
        mean = {key: torch.stack([s[key] for s in statistics]).mean() for key in statistics[0]}
        self._move_entropy_coef(mean["entropy_share"].item(), t_env)
        return {
            **mean,
            "imagined_return": returns[:, 0].mean(),
            "entropy_coef": returns.new_full((), self.entropy_coef),
        }

    def _warn_of_large_returns(self, returns: Tensor) -> None:
        limit = self.critic.two_hot.limit
        if not self._warned and (returns.abs() > limit).any():
            self._warned = True
            log.warning("Returns beyond %.0f all count as so much to the critic: scale rewards down", limit)

    def _minibatches(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Indices that divide the rows at random."""
        return torch.randperm(len(rows)).to(rows.device).tensor_split(self.config.minibatches)

    def _move_entropy_coef(self, share: float, t_env: int) -> None:
        """Raise the bonus where the policy has become more certain than it should be yet, lower it else.

        How strong a bonus keeps a policy exploring differs from map to map, and with the model's certainty;
        how much exploration is wanted does not. But a policy that would be certain much earlier is not kept
        from it by all means: a large bonus makes it worse. Without a target the bonus decays.
        """
        if self.entropy_schedule is None:
            self.entropy_coef *= self.config.entropy_decay ** (self.config.epochs * self.config.minibatches)
            return
        missing = self.entropy_schedule.eval(t_env) - share
        self.entropy_coef = min(
            max(self.entropy_coef * math.exp(BONUS_GAIN * missing), SMALLEST_BONUS), LARGEST_BONUS
        )

    @torch.no_grad()
    def _targets(self, data: Imagined) -> tuple[Tensor, Tensor, Tensor]:
        """Lambda-returns, standardised advantages, how likely each step is reached; all (N, H)."""
        with self.compute.autocast():
            values = self.critic.value(self._states(data))
        everywhere = torch.ones_like(data.reward)
        returns = self._lambda_returns(data.reward, data.continues, everywhere, values)
        reached = torch.nn.functional.pad(data.continues[:, :-1], (1, 0), value=1.0).cumprod(dim=1)
        return returns, standardised(returns - values[:, :-1], reached), reached

    @torch.no_grad()
    def _real_targets(self, real: RealPlay) -> tuple[CompactState, Tensor]:
        """States (M, n, ...) of all steps that another followed, and their lambda-returns (M,)."""
        with self.compute.autocast():
            values = self.critic.value(real.state)
        happened = real.mask[:, 1:]
        returns = self._lambda_returns(real.reward[:, 1:], real.continues[:, 1:], happened.float(), values)
        return real.state.at((slice(None), slice(-1))).at(happened), returns[happened]

    def _lambda_returns(self, reward: Tensor, continues: Tensor, mask: Tensor, values: Tensor) -> Tensor:
        """Of steps (N, T) with the values (N, T + 1) of the states before and after them."""
        gamma, lam = self.config.gamma, self.config.gae_lambda
        return lambda_returns(reward, 1.0 - continues, mask, values[:, 1:], gamma, lam)

    def _critic_step(
        self,
        state: CompactState,
        returns: Tensor,
        weight: Tensor,
        real_state: CompactState,
        real_returns: Tensor,
    ) -> dict[str, Tensor]:
        with self.compute.autocast():
            imagined_loss = masked_mean(self.critic.loss(state, returns), weight)
            real_loss = self.critic.loss(real_state, real_returns).sum() / max(len(real_returns), 1)
        loss = imagined_loss + self.config.critic_real_scale * real_loss
        self.critic_optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters(), self.config.grad_norm_clip)
        self.critic_optimiser.step()
        return {
            "critic_loss": imagined_loss.detach(),
            "critic_real_loss": real_loss.detach(),
            "critic_grad_norm": norm,
        }

    def _actor_step(self, data: Imagined, advantages: Tensor, weight: Tensor) -> dict[str, Tensor]:
        bonus_weight = advantages.new_full((), self.entropy_coef)
        statistics, gradients = self.differentiate_actor(data, advantages, weight, bonus_weight)
        norm = give_gradients(self.weights, gradients, self.config.grad_norm_clip)
        self.actor_optimiser.step()
        return {**{key: value.clone() for key, value in statistics.items()}, "agent_grad_norm": norm}

    def _differentiate_actor(
        self, data: Imagined, advantages: Tensor, weight: Tensor, bonus_weight: Tensor
    ) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """Statistics of the policy's loss, and its gradients to all weights."""
        inputs = self.mac.policy_inputs(data.obs, self._states(data))
        with self.compute.autocast():
            logits, _ = self.mac.run_agent(inputs, data.actor_hidden)
        log_policy = masked_log_softmax(logits, data.avail_actions)
        nats = -(softmax(log_policy) * log_policy).sum(dim=-1)
        # Where only one action can be taken there is nothing to learn, and nothing to explore.
        choices = data.avail_actions.sum(dim=-1)
        weight = weight.unsqueeze(-1) * (choices > 1)
        share = nats / choices.clamp_min(2).log()  # of the uniform policy's entropy
        log_ratio = taken(log_policy, data.actions) - data.log_probs
        ratio = log_ratio.exp()
        surrogate = clipped_surrogate(ratio, advantages.unsqueeze(-1), self.config.eps_clip)
        pg_loss = -masked_mean(surrogate, weight)
        mean_share = masked_mean(share, weight)
        bonus = masked_mean(nats, weight) if self.entropy_schedule is None else mean_share
        with torch.no_grad():
            drift = masked_mean(ratio - 1 - log_ratio, weight)
        statistics = {
            "pg_loss": pg_loss.detach(),
            "entropy_share": mean_share.detach(),
            "policy_drift": drift,
        }
        return statistics, gradients_of(pg_loss - bonus_weight * bonus, self.weights)

    def _states(self, data: Imagined) -> CompactState:
        return CompactState(data.h, data.picked, self.latents)

    def _parts(self) -> dict[str, Any]:
        return {
            "agent": self.mac.agent,
            "critic": self.critic,
            "actor_optimiser": self.actor_optimiser,
            "critic_optimiser": self.critic_optimiser,
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers and the entropy bonus."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "entropy_coef": self.entropy_coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.entropy_coef = state["entropy_coef"]
