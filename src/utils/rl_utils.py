"""Returns of padded episodes, and what else learners have in common.

Shapes: (batch, T, k), where k is 1 or the number of agents; inputs broadcast over k. Step t is real where
`mask` is 1, the real steps of an episode come first. `next_values[:, t]` is the value of what step t led to,
which exists for the last real step too: the episode's arrival. `terminated` is 1 at a true terminal only (in
imagination, its probability), so an episode that was cut off is bootstrapped from its arrival.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def step_mask(filled: Tensor) -> Tensor:
    """Which steps are real, (batch, T, 1) float, from `filled` (batch, T + 1, 1).

    A real step is one whose arrival is stored, too: the record of an arrival is no step itself.
    """
    return (filled[:, :-1] * filled[:, 1:]).float()


def lambda_returns(
    rewards: Tensor, terminated: Tensor, mask: Tensor, next_values: Tensor, gamma: float, lam: float
) -> Tensor:
    """TD(lambda) returns (batch, T, k), zero where `mask` is.

    G_t = r_t + gamma * ((1 - lam) * V_{t+1} + lam * G_{t+1}), where G_{t+1} is V_{t+1} behind the last real
    step, and r_t alone at a terminal. With action values in place of V these are Peng's Q(lambda) targets.
    """
    going_on = gamma * (1.0 - terminated)
    has_next = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    from_return = going_on * lam * has_next
    one_step = rewards + (going_on - from_return) * next_values
    one_step, from_return = torch.broadcast_tensors(one_step * mask, from_return * mask)
    following = torch.zeros_like(one_step[:, 0])
    returns = []
    for reward, weight in zip(reversed(one_step.unbind(1)), reversed(from_return.unbind(1)), strict=True):
        following = torch.addcmul(reward, weight, following)
        returns.append(following)
    return torch.stack(returns[::-1], dim=1)


def taken(of_all: Tensor, actions: Tensor) -> Tensor:
    """What is said of the `actions` (...) int64 taken, among what is said of all (..., n_actions)."""
    return of_all.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def delayed(values: Tensor, first: Tensor | None = None) -> Tensor:
    """`values` (batch, T, ...) one step later: `first` (batch, ...), or zeros, then all but the last."""
    start = torch.zeros_like(values[:, :1]) if first is None else first.unsqueeze(1)
    return torch.cat([start, values[:, :-1]], dim=1)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, eps_clip: float) -> Tensor:
    """PPO's objective (...), to be maximised, from ratios of probabilities (Schulman et al., 2017, eq. 7)."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - eps_clip, 1 + eps_clip) * advantages)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` over the entries where `mask` (of the same shape, or broadcasting to it) is 1."""
    mask = mask.expand_as(values)
    return (values * mask).sum() / mask.sum().clamp_min(1.0)


def standardised(values: Tensor, mask: Tensor) -> Tensor:
    """`values` shifted and scaled to mean 0 and standard deviation 1 over the entries where `mask` is 1."""
    centred = values - masked_mean(values, mask)
    return centred / (masked_mean(centred.square(), mask).sqrt() + 1e-5)


REGISTER = 16  # floats in a CPU's widest vector register


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities (..., k) over the last dimension, meant for few outcomes such as actions."""
    return _over_outcomes(torch.log_softmax, logits)


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (..., k) over the last dimension, of few outcomes, from logits or log-probabilities.

    Of impossible outcomes' log-probabilities `exp` takes a CPU ten times as long: numbers far below its range
    are exceptions to it.
    """
    return _over_outcomes(torch.softmax, logits)


def _over_outcomes(function: Callable[..., Tensor], logits: Tensor) -> Tensor:
    """`function` over the last dimension.

    torch fills a vector register from one row, and takes a row that is shorter number by number. With the
    outcomes first in memory a register holds as many rows instead, which is up to ten times faster.
    """
    if logits.shape[-1] >= REGISTER or logits.is_cuda:
        return function(logits, dim=-1)
    return function(logits.movedim(-1, 0).contiguous(), dim=0).movedim(0, -1)


def sample_categorical(weights: Tensor) -> Tensor:
    """Draws one outcome per row (...) int64 in proportion to non-negative `weights` (..., k), not all zero.

    An outcome of weight zero is never drawn. For few rows it is quicker than `torch.multinomial`.
    """
    cumulative = weights.cumsum(dim=-1)
    threshold = torch.rand((*weights.shape[:-1], 1), device=weights.device) * cumulative[..., -1:]
    return (cumulative <= threshold).sum(dim=-1).clamp_max(weights.shape[-1] - 1)
