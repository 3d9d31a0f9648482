"""What a world model is trained on: balanced KL, reconstruction, availability, reward and continuation."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from components.trajectory_buffer import Trajectories
from modules.world_models.world_model import WorldModel

SMALLEST_VARIANCE = 1e-2  # added to that of every entry: one that hardly changes must not count without bound


@dataclass(frozen=True)
class WorldModelLossConfig:
    """Weights of the loss terms."""

    wm_kl_prior: float  # weight of pulling the prior towards the posterior
    wm_kl_posterior: float  # weight of pulling the posterior towards the prior
    wm_obs_scale: float  # weight of the observation's likelihood
    wm_reward_scale: float  # weight of the reward's cross-entropy


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

    Returns:
        The scalar to minimise and its terms, unweighted, each a mean over steps and agents.
    """
    state, posterior = model.observe(data.obs, data.actions, data.is_first)
    prior = model.prior(state.h)
    predicted = model.predict(state.features)
    n_agents = data.obs.shape[2]

    has_past = ~data.is_first  # where an episode or a window begins there is nothing to foresee from
    has_past[:, 0] = False
    kl_prior, kl_posterior = (_mean_where(kl, has_past) for kl in model.latents.balanced_kl(posterior, prior))
    living = alive(data.obs)
    team_reward = data.trend.unsqueeze(-1).expand(-1, -1, n_agents)
    continues = data.continues.unsqueeze(-1).expand(-1, -1, n_agents)
    terms = {
        "wm_kl": kl_prior.detach(),
        "wm_obs_loss": standardised_error(predicted.obs, data.obs, living),
        "wm_avail_loss": F.binary_cross_entropy_with_logits(
            predicted.avail_logits, data.avail_actions.float(), reduction="none"
        )
        .sum(dim=-1)
        .mean()
        + F.binary_cross_entropy_with_logits(predicted.alive_logits, living.float()),
        "wm_reward_loss": model.two_hot.loss(predicted.reward_logits, team_reward).mean(),
        "wm_continue_loss": F.binary_cross_entropy_with_logits(predicted.continue_logits, continues),
    }
    loss = (
        config.wm_kl_prior * kl_prior
        + config.wm_kl_posterior * kl_posterior
        + config.wm_obs_scale * terms["wm_obs_loss"]
        + terms["wm_avail_loss"]
        + config.wm_reward_scale * terms["wm_reward_loss"]
        + terms["wm_continue_loss"]
    )
    return loss, {**terms, "wm_loss": loss}


def _mean_where(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of (B, T, n) over agents and over the (B, T) records that count."""
    return (values.mean(dim=-1) * counts).sum() / counts.sum().clamp_min(1)
