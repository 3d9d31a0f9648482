"""Team-reward trend: an episode's rewards smoothed by a Gaussian over time (GAWM, arXiv 2501.10116).

The trend is what the world model's reward head learns; it is computed once, when an episode is complete.
Half of a battle's return is one win bonus on the last step, so what happens at an episode's borders
decides whether the smoothed rewards still add up to the return. The rule ``preserve`` spreads each raw
reward with a total mass of exactly one over the steps inside its episode, so the undiscounted return is
unchanged. ``nearest`` and ``constant`` are scipy's border rules, kept for comparison.
"""

import torch
from torch import Tensor

BORDER_RULES = ("preserve", "nearest", "constant")


def reward_trend(rewards: Tensor, valid: Tensor, sigma: float, border: str = "preserve") -> Tensor:
    """Smooth the rewards of a batch of episodes along time.

    Args:
        rewards: (B, T) raw rewards; whatever stands on padded steps is ignored.
        valid: (B, T) bool, true on the first steps of each episode and false on its padding.
        sigma: standard deviation of the Gaussian in steps; 0 returns the raw rewards.
        border: one of ``BORDER_RULES``.

    Returns:
        (B, T) smoothed rewards, zero on padded steps.
    """
    rewards = rewards * valid
    if sigma == 0:
        return rewards
    if border == "preserve":
        return _spread_inside(rewards, valid, sigma)
    if border not in BORDER_RULES:
        raise ValueError(f"reward_trend_border is {border!r}; expected one of {', '.join(BORDER_RULES)}.")
    from scipy.ndimage import gaussian_filter1d  # a tenth of a run's imports, and rarely needed

    smoothed = torch.zeros_like(rewards)
    for row, length in enumerate(valid.sum(dim=1).tolist()):
        trend = gaussian_filter1d(rewards[row, :length].cpu().double().numpy(), sigma, mode=border)
        smoothed[row, :length] = torch.as_tensor(trend, dtype=rewards.dtype)
    return smoothed


def _spread_inside(rewards: Tensor, valid: Tensor, sigma: float) -> Tensor:
    """Spread each reward by Gaussian weights that are normalised over the steps of its own episode."""
    steps = torch.arange(rewards.shape[1], device=rewards.device, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((steps[:, None] - steps[None, :]) / sigma) ** 2)  # (source, target)
    mass = valid.double() @ kernel  # (B, source): what lands inside the episode
    # A padded source far from its episode has no mass at all; its reward is zero, so any divisor will do.
    shares = torch.where(valid, rewards.double() / mass.clamp_min(1e-300), 0.0)
    return torch.where(valid, shares @ kernel, 0.0).to(rewards.dtype)
