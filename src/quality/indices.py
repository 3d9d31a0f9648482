"""How far ahead a world model is right (GPE), and how far its agents agree (GCI), in open loop.

The definitions, with formulas, are in docs/world_model_quality.md. Lower is better for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.world_models.world_model import LatentState, alive
from quality.held_out import HeldOut
from quality.open_loop import OpenLoopModel
from quality.probe import Probe, fit_probe

GPE = ("obs", "reward", "continue")
GCI = ("reward", "continue", "state")
MEAN = "mean_predictor"  # the error of who always predicts the mean of all records
CHUNK = 512  # windows that are imagined at once
RESAMPLES = 1000  # of the episodes, for intervals
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Variances:
    """Of each quantity over all recorded play, summed over its entries: the unit of squared errors; and the
    means that they are taken around."""

    obs: float  # of the living
    reward: float
    continues: float
    state: float
    mean_obs: Tensor  # (obs_size,)
    mean_reward: Tensor
    mean_continues: Tensor

    @classmethod
    def of(cls, data: HeldOut) -> Variances:
        """Of all records; rewards and continue flags of those that an action led to.

        Raises:
            ValueError: a quantity never changes in the recorded play.
        """
        arrived = data.filled.clone()
        arrived[:, 0] = False
        seen, reward, continues = data.obs[alive(data.obs)], data.reward[arrived], data.continues[arrived]
        found = cls(
            obs=_variance(seen),
            reward=_variance(reward.unsqueeze(-1)),
            continues=_variance(continues.unsqueeze(-1)),
            state=_variance(data.state[data.filled]),
            mean_obs=seen.mean(dim=0),
            mean_reward=reward.mean(),
            mean_continues=continues.mean(),
        )
        for name in ("obs", "reward", "continues", "state"):
            if not getattr(found, name) > 0:
                raise ValueError(f"'{name}' never changes in the recorded play: record more.")
        return found


def _variance(values: Tensor) -> float:
    """Of (N, entries), summed over entries."""
    return float(values.double().var(dim=0, correction=0).sum())


class Tally:
    """Squares of one quantity, summed per episode (E) and horizon (K), and how many they are."""

    def __init__(self, n_episodes: int, horizon: int) -> None:
        self.total = np.zeros((n_episodes, horizon))
        self.count = np.zeros((n_episodes, horizon))

    def add(self, episode: Tensor, step: int, squares: Tensor, counts: Tensor | None = None) -> None:
        """Of windows (W,) in these episodes: sums of squares (W,) after ``step``, of ``counts`` (W,) each."""
        counts = torch.ones_like(squares) if counts is None else counts
        np.add.at(self.total[:, step], episode.numpy(), squares.double().numpy())
        np.add.at(self.count[:, step], episode.numpy(), counts.double().numpy())

    def root_mean(self, weights: np.ndarray) -> np.ndarray:
        """(R, K) root mean squares under weights (R, E) of the episodes; NaN where none has that horizon."""
        with np.errstate(invalid="ignore"):
            return np.sqrt((weights @ self.total) / (weights @ self.count))


@torch.no_grad()
def measure(model: OpenLoopModel, data: HeldOut, horizon: int = 15) -> dict[str, Any]:
    """Return GPE and GCI of a model as plain numbers and lists.

    Even episodes fit the probe of the global state, odd ones are predicted: from each of their records on
    that an action was taken after, for up to ``horizon`` steps, as far as the episode goes.

    Raises:
        ValueError: there are not two episodes, none is longer than ``horizon``, or a quantity never changes.
    """
    if len(data.obs) < 2 or int(data.filled.sum(dim=1)[1::2].max()) <= horizon:
        raise ValueError(f"No recorded episode is longer than the horizon of {horizon} steps: record more.")
    variances = Variances.of(data)
    probe = _fit(model, data.select(slice(0, None, 2)))
    tallies = _tally(model, probe, data.select(slice(1, None, 2)), variances, horizon)
    return {
        "horizons": list(range(1, horizon + 1)),
        "windows": tallies["gpe", "reward"].count.sum(axis=0).astype(int).tolist(),
        "gpe": _index({name: tallies["gpe", name] for name in GPE}),
        "gci": _index({name: tallies["gci", name] for name in GCI}),
        "probe_error": _index({"state": tallies["probe", "state"]}),
        MEAN: _index({name: tallies[MEAN, name] for name in GPE}),
    }


def _fit(model: OpenLoopModel, data: HeldOut) -> Probe:
    features = model.condition(data.obs, data.actions).features
    return fit_probe(features[data.filled], data.state[data.filled])


def _tally(
    model: OpenLoopModel, probe: Probe, data: HeldOut, variances: Variances, horizon: int
) -> dict[tuple[str, str], Tally]:
    """Imagine from every record that was acted on, and compare with what followed."""
    parts = {"gpe": GPE, "gci": GCI, "probe": ("state",), MEAN: GPE}
    names = [(index, part) for index, of_it in parts.items() for part in of_it]
    tallies = {name: Tally(len(data.obs), horizon) for name in names}
    states = model.condition(data.obs, data.actions)
    acted_on = torch.nn.functional.pad(data.filled[:, 1:], (0, 1))  # (E, T): a record follows
    for episode, now in (part.unbind(dim=1) for part in acted_on.nonzero().split(CHUNK)):
        state = states.at((episode, now))
        for step in range(horizon):
            goes_on = acted_on[episode, now]
            if not goes_on.any():
                break
            episode, now = episode[goes_on], now[goes_on]
            state = state.at(goes_on)
            state = model.imagine(state, data.actions[episode, now])
            now = now + 1
            for name, squares, counts in _compare(model, probe, state, data, (episode, now), variances):
                tallies[name].add(episode, step, squares, counts)
    return tallies


def _compare(
    model: OpenLoopModel,
    probe: Probe,
    state: LatentState,
    data: HeldOut,
    at: tuple[Tensor, Tensor],
    unit: Variances,
) -> Iterator[tuple[tuple[str, str], Tensor, Tensor | None]]:
    """What was imagined of records ``at`` (episodes, times; W each): names, sums of squares (W,), counts."""
    expected, read = model.outlook(state), probe.read(state.features)
    living = alive(data.obs[at])
    rewards, continues = expected.reward.mean(dim=-1), expected.continues.mean(dim=-1)
    for index, obs, reward, goes_on in (
        ("gpe", expected.obs, rewards, continues),
        (MEAN, unit.mean_obs, unit.mean_reward, unit.mean_continues),
    ):
        errors = (obs - data.obs[at]).square().sum(dim=-1)
        yield (index, "obs"), (errors * living).sum(dim=-1) / unit.obs, living.sum(dim=-1)
        yield (index, "reward"), (reward - data.reward[at]).square() / unit.reward, None
        yield (index, "continue"), (goes_on - data.continues[at]).square() / unit.continues, None
    yield ("gci", "reward"), expected.reward.var(dim=-1, correction=0) / unit.reward, None
    yield ("gci", "continue"), expected.continues.var(dim=-1, correction=0) / unit.continues, None
    yield ("gci", "state"), read.var(dim=-2, correction=0).sum(dim=-1) / unit.state, None
    misread = (read - data.state[at].unsqueeze(-2)).square().sum(dim=-1).mean(dim=-1)
    yield ("probe", "state"), misread / unit.state, None


def _index(tallies: dict[str, Tally]) -> dict[str, Any]:
    """The index and its parts, per horizon and as means over horizons, with intervals over episodes."""
    n_episodes = len(next(iter(tallies.values())).total)
    draws = np.random.default_rng(0).multinomial(n_episodes, np.full(n_episodes, 1 / n_episodes), RESAMPLES)
    weights = np.concatenate([np.ones((1, n_episodes)), draws])  # the first row is what was measured
    curves = {name: tally.root_mean(weights) for name, tally in tallies.items()}
    whole = np.mean(list(curves.values()), axis=0)
    return _curve(whole) | {"parts": {name: _curve(curve) for name, curve in curves.items()}}


def _curve(values: np.ndarray) -> dict[str, Any]:
    """(1 + R, K) measured and resampled values."""
    return {"mean": _interval(values.mean(axis=1)), "per_horizon": _interval(values)}


def _interval(values: np.ndarray) -> dict[str, Any]:
    low, high = np.nanpercentile(values[1:], PERCENTILES, axis=0)
    return {"value": values[0].tolist(), "low": low.tolist(), "high": high.tolist()}
