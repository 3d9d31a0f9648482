"""What a world model is trained on: balanced KL, reconstruction, availability, reward and continuation."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from components.trajectory_buffer import Trajectories
from modules.world_models.symlog import TwoHot
from modules.world_models.world_model import LatentState, Prediction, WorldModel

SMALLEST_VARIANCE = 1e-2  # added to that of every entry: one that hardly changes must not count without bound


@dataclass(frozen=True)
class WorldModelLossConfig:
    """Weights of the loss terms."""

    wm_kl_prior: float  # weight of pulling the prior towards the posterior
    wm_kl_posterior: float  # weight of pulling the posterior towards the prior
    wm_obs_scale: float  # weight of the observation's likelihood
    wm_reward_scale: float  # weight of the reward's cross-entropy
    wm_prior_scale: float  # weight of the errors of what is decoded from a draw of the prior


def alive(obs: Tensor) -> Tensor:
    """(..., obs_size) -> (...) bool: a dead agent observes nothing but zeros."""
    return (obs != 0).any(dim=-1)


def standardised_error(predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Squared error in units of each entry's own variance, summed over entries, the mean over what counts.

    So a position, which varies little, is not drowned by a weapon's cooldown, which varies much.

    Args:
        predicted, target: (..., size).
        counts: (...) bool, which ones to look at.
    """
    weights = counts.unsqueeze(-1) / counts.sum().clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return (values * weights).flatten(0, -2).sum(dim=0)

    variance = mean((target - mean(target)).square())
    return 0.5 * (mean((predicted - target).square()) / (variance + SMALLEST_VARIANCE)).sum()


def world_model_loss(
    model: WorldModel, data: Trajectories, config: WorldModelLossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a (B, T) batch of windows.

    A record that begins a window or an episode has no past, so nothing is asked of the prior there.

    Returns:
        The scalar to minimise and its terms, unweighted, each a mean over steps and agents.
    """
    state, posterior = model.observe(data.obs, data.actions, data.is_first)
    prior = model.prior(state.h)
    everywhere = torch.ones_like(data.is_first)
    has_past = ~data.is_first
    has_past[:, 0] = False

    kl_prior = _mean(model.latents.kl(posterior.detach(), prior), has_past)
    kl_posterior = _mean(model.latents.kl(posterior, prior.detach()), has_past)
    terms = _prediction_errors(model.predict(state.features), data, everywhere, model.two_hot)
    loss = config.wm_kl_prior * kl_prior + config.wm_kl_posterior * kl_posterior + _weighted(terms, config)
    terms["wm_kl"] = kl_prior.detach()
    if config.wm_prior_scale > 0:
        foreseen = model.predict(LatentState(state.h, model.latents.draw(prior)).features)
        terms["wm_foresight_loss"] = _weighted(
            _prediction_errors(foreseen, data, has_past, model.two_hot), config
        )
        loss = loss + config.wm_prior_scale * terms["wm_foresight_loss"]
    return loss, {**terms, "wm_loss": loss}


def _prediction_errors(
    predicted: Prediction, data: Trajectories, counts: Tensor, two_hot: TwoHot
) -> dict[str, Tensor]:
    """What every agent's heads got wrong, the mean over agents and over the (B, T) records that count."""
    living = alive(data.obs)
    n_agents = living.shape[-1]
    team_reward = data.trend.unsqueeze(-1).expand(-1, -1, n_agents)
    continues = data.continues.unsqueeze(-1).expand(-1, -1, n_agents)
    surprise = partial(F.binary_cross_entropy_with_logits, reduction="none")
    masks = surprise(predicted.avail_logits, data.avail_actions.float()).sum(dim=-1)
    return {
        "wm_obs_loss": standardised_error(predicted.obs, data.obs, living & counts.unsqueeze(-1)),
        "wm_avail_loss": _mean(masks + surprise(predicted.alive_logits, living.float()), counts),
        "wm_reward_loss": _mean(two_hot.loss(predicted.reward_logits, team_reward), counts),
        "wm_continue_loss": _mean(surprise(predicted.continue_logits, continues), counts),
    }


def _weighted(terms: dict[str, Tensor], config: WorldModelLossConfig) -> Tensor:
    return (
        config.wm_obs_scale * terms["wm_obs_loss"]
        + terms["wm_avail_loss"]
        + config.wm_reward_scale * terms["wm_reward_loss"]
        + terms["wm_continue_loss"]
    )


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of (B, T, n) over agents and over the (B, T) records that count."""
    return (values.mean(dim=-1) * counts).sum() / counts.sum().clamp_min(1)
