"""What a world model is trained on: balanced KL, reconstruction, availability, reward and continuation."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from components.trajectory_buffer import Trajectories
from modules.world_models.world_model import LatentState, WorldModel, alive
from utils.rl_utils import masked_mean

SMALLEST_VARIANCE = 1e-2  # added to that of every entry: one that hardly changes must not count without bound


@dataclass(frozen=True)
class WorldModelLossConfig:
    """Weights of the loss terms."""

    wm_kl_prior: float  # weight of pulling the prior towards the posterior
    wm_kl_posterior: float  # weight of pulling the posterior towards the prior
    wm_obs_scale: float  # weight of the observation's likelihood
    wm_reward_scale: float  # weight of the reward's cross-entropy


class WorldModelLoss(NamedTuple):
    """Loss of a (B, T) batch of windows."""

    total: Tensor  # the scalar to minimise
    terms: dict[str, Tensor]  # unweighted, each a mean over the steps and agents that it looks at
    per_agent: Tensor  # (B, T, n) the weighted sum of the terms at one step of one agent, detached
    state: LatentState  # (B, T, n, ...) posterior

    def detached(self) -> "WorldModelLoss":
        """The same without what gradients need."""
        return self._replace(total=self.total.detach(), state=self.state.each(Tensor.detach))


class _Term(NamedTuple):
    """One part of the loss."""

    losses: Tensor  # (T, B, n)
    counts: Tensor  # (T, B, n) bool, where it is looked at
    weight: float = 1.0


def world_model_loss(model: WorldModel, data: Trajectories, config: WorldModelLossConfig) -> WorldModelLoss:
    """Run the posterior over windows of real play and compare what it decodes with what was there."""
    state, posterior = model.observe(data.obs, data.actions, data.is_first)
    # Those have the time first in memory, so the heads and all terms take it first: nothing is copied.
    by_time = Trajectories(*(field.transpose(0, 1) for field in data))
    terms = _terms(model, by_time, config, state.transposed(), posterior.transpose(0, 1))
    means = {key: masked_mean(term.losses, term.counts) for key, term in terms.items()}
    total = torch.stack([term.weight * means[key] for key, term in terms.items()]).sum()
    by_term = [term.weight * term.losses.detach() * term.counts for term in terms.values()]
    per_agent = torch.stack(by_term).sum(0).transpose(0, 1)
    logged = {key: mean.detach() for key, mean in means.items()}
    return WorldModelLoss(total, {**logged, "wm_loss": total.detach()}, per_agent, state)


def _terms(
    model: WorldModel,
    data: Trajectories,
    config: WorldModelLossConfig,
    state: LatentState,
    posterior: Tensor,
) -> dict[str, _Term]:
    """Of windows, their posterior states and its probabilities, all of them (T, B, ...)."""
    predicted = model.predict(state)
    living = alive(data.obs)
    everywhere = torch.ones_like(living)
    acted = has_past(data.is_first.T).T.unsqueeze(-1).expand_as(living)
    kl_weight = config.wm_kl_prior + config.wm_kl_posterior
    prior_share = config.wm_kl_prior / kl_weight if kl_weight else 0.0
    kl = model.latents.balanced_kl(posterior, model.prior_logits(state.h), prior_share)
    reward, continues = (x.unsqueeze(-1).expand_as(living) for x in (data.trend, data.continues))
    may = _log_odds_loss(predicted.sight.avail_logits, data.avail_actions.float()).sum(dim=-1)
    terms = {
        "wm_kl": _Term(kl, living, kl_weight),
        "wm_obs_loss": _Term(
            _obs_losses(model, predicted.sight.obs, data.obs, living), living, config.wm_obs_scale
        ),
        "wm_avail_loss": _Term(may, everywhere),
        "wm_alive_loss": _Term(_log_odds_loss(predicted.alive_logits, living.float()), acted),
        "wm_reward_loss": _Term(
            model.reward_code.loss(predicted.reward_logits, reward), acted, config.wm_reward_scale
        ),
        "wm_continue_loss": _Term(_log_odds_loss(predicted.continue_logits, continues), acted),
    }
    if model.action_head is not None:
        logits = model.action_head(model.as_read(state)).flatten(0, 2).float()
        losses = F.cross_entropy(logits, data.actions.roll(1, dims=0).flatten(), reduction="none")
        terms["wm_action_loss"] = _Term(losses.view_as(kl), acted)
    return terms


def has_past(is_first: Tensor) -> Tensor:
    """(B, T) bool: where an episode or a window begins there is no action that led there."""
    known = ~is_first
    known[:, 0] = False
    return known


def _obs_losses(model: WorldModel, predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Error of observations (T, B, n, obs_size), summed over their entries."""
    if model.scale_free:
        return standardised_error(predicted, target, counts)
    return F.smooth_l1_loss(predicted, target, reduction="none").sum(dim=-1)


def standardised_error(predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Squared error (...) in units of each entry's own variance, summed over entries.

    So a position, which varies little, is not drowned by a weapon's cooldown, which varies much.

    Args:
        predicted, target: (..., size).
        counts: (...) bool, over which ones the variance is taken.
    """
    weights = (counts / counts.sum().clamp_min(1)).unsqueeze(-1)

    def mean(values: Tensor) -> Tensor:
        return (values * weights).flatten(0, -2).sum(dim=0)

    variance = mean((target - mean(target)).square())
    return 0.5 * ((predicted - target).square() / (variance + SMALLEST_VARIANCE)).sum(dim=-1)


def _log_odds_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
