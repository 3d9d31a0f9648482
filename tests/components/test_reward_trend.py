"""The reward trend against an obvious reference, and its promise: an episode's return does not change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.reward_trend import BORDER_RULES, reward_trend


def slow_trend(rewards: list[float], sigma: float) -> list[float]:
    """Each reward is handed out in shares proportional to a Gaussian around its own step."""
    smoothed = [0.0] * len(rewards)
    for source, reward in enumerate(rewards):
        weights = [math.exp(-0.5 * ((t - source) / sigma) ** 2) for t in range(len(rewards))]
        for t, weight in enumerate(weights):
            smoothed[t] += reward * weight / sum(weights)
    return smoothed


def padded(episodes: list[list[float]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    rewards = torch.full((len(episodes), length), 99.0)  # what stands on padding must not matter
    valid = torch.zeros(len(episodes), length, dtype=torch.bool)
    for row, episode in enumerate(episodes):
        rewards[row, : len(episode)] = torch.tensor(episode)
        valid[row, : len(episode)] = True
    return rewards, valid


rewards_of_an_episode = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40)


@settings(deadline=None)
@given(st.lists(rewards_of_an_episode, min_size=1, max_size=4), st.floats(0.1, 10))
def test_return_is_preserved_and_padding_stays_empty(episodes: list[list[float]], sigma: float) -> None:
    rewards, valid = padded(episodes, 45)
    trend = reward_trend(rewards, valid, sigma)
    assert torch.all(trend[~valid] == 0)
    for row, episode in enumerate(episodes):
        assert trend[row].sum().item() == pytest.approx(sum(episode), abs=1e-3)


@settings(deadline=None)
@given(rewards_of_an_episode, st.floats(0.2, 5))
def test_equals_the_slow_reference(episode: list[float], sigma: float) -> None:
    rewards, valid = padded([episode], 41)
    trend = reward_trend(rewards, valid, sigma)
    assert trend[0, : len(episode)].tolist() == pytest.approx(slow_trend(episode, sigma), abs=1e-3)


def test_the_other_borders_change_a_win_bonus_on_the_last_step() -> None:
    rewards, valid = padded([[0.0] * 29 + [10.0]], 30)
    total = {border: reward_trend(rewards, valid, 3.0, border).sum().item() for border in BORDER_RULES}
    assert total["preserve"] == pytest.approx(10, abs=1e-4)
    assert total["nearest"] == pytest.approx(17.5, abs=0.3)
    assert total["constant"] == pytest.approx(5.7, abs=0.1)


def test_sigma_zero_is_the_raw_reward() -> None:
    rewards, valid = padded([[1.0, 2.0], [3.0]], 3)
    assert torch.equal(reward_trend(rewards, valid, 0.0), rewards * valid)


def test_an_unknown_border_is_refused() -> None:
    rewards, valid = padded([[1.0]], 2)
    with pytest.raises(ValueError, match="preserve"):
        reward_trend(rewards, valid, 1.0, "mirrored")
