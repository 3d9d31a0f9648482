"""B_r: the replay of real trajectories that trains a world model."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.episode_buffer import EpisodeBatch
from components.reward_trend import reward_trend
from utils.memory import require


class Trajectories(NamedTuple):
    """Consecutive records of real play; the leading dimensions are (batch, time).

    A record is an *arrival*: what was seen on reaching a time step, the reward that came with it, and the
    action then taken. The last record of an episode is its final observation, after which no action is
    taken; world models learn its reward and continue flag, and imagination never starts from it.
    """

    obs: Tensor  # (B, T, n, obs_size) float32
    avail_actions: Tensor  # (B, T, n, n_actions) bool
    actions: Tensor  # (B, T, n) int64
    reward: Tensor  # (B, T) float32, as the environment gave it
    trend: Tensor  # (B, T) float32, smoothed over the episode
    continues: Tensor  # (B, T) float32, 0 where the task terminated; a time limit continues
    is_first: Tensor  # (B, T) bool
    is_last: Tensor  # (B, T) bool


def on_arrival(values: Tensor, acted: Tensor) -> Tensor:
    """Move what came of steps, ``values`` (E, T - 1), to the records after them (E, T).

    It is zero where ``acted`` (E, T - 1) bool says that no such step was taken, and on first records.
    """
    return torch.nn.functional.pad(values * acted, (1, 0))


class TrajectoryBuffer:
    """A preallocated ring of arrival records, episodes laid end to end.

    Args:
        capacity: records kept; the oldest episodes make room for new ones.
        n_agents, obs_size, n_actions: shapes of a record.
        trend_sigma, trend_border: how rewards are smoothed (``components.reward_trend``).
        seed: seed of the buffer's own sampling stream.
        device: where the records live and samples are produced.

    Raises:
        ValueError: there is not enough memory for it.
    """

    def __init__(
        self,
        capacity: int,
        n_agents: int,
        obs_size: int,
        n_actions: int,
        trend_sigma: float,
        trend_border: str,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.capacity = capacity
        self.trend_sigma = trend_sigma
        self.trend_border = trend_border
        self.device = torch.device(device)

        def rings(device: torch.device | str) -> Trajectories:
            def ring(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
                return torch.zeros((capacity, *shape), dtype=dtype, device=device)

            return Trajectories(
                obs=ring(n_agents, obs_size),
                avail_actions=ring(n_agents, n_actions, dtype=torch.bool),
                actions=ring(n_agents, dtype=torch.int64),
                reward=ring(),
                trend=ring(),
                continues=ring(),
                is_first=ring(dtype=torch.bool),
                is_last=ring(dtype=torch.bool),
            )

        self.nbytes = sum(ring.nbytes for ring in rings("meta"))
        require("buffer of real play", self.nbytes, self.device, "replay_capacity")
        self._records = rings(self.device)
        self._written = 0  # records ever written; the write position is this modulo the capacity
        self._episodes: deque[tuple[int, int]] = deque()  # (index of the first record ever written, length)
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Records that can be sampled."""
        return min(self._written, self.capacity)

    def insert_episode_batch(self, batch: EpisodeBatch) -> None:
        """Append complete episodes; rewards are summed over agents where each has its own.

        Of more than fit the newest ones are kept, as if they had come one by one.
        """
        records = self._arrivals(batch)
        lengths = batch["filled"][..., 0].sum(dim=1).tolist()
        if max(lengths) > self.capacity:
            raise ValueError(
                f"An episode of {max(lengths)} records does not fit a trajectory buffer of {self.capacity}; "
                "raise replay_capacity."
            )
        while sum(lengths) > self.capacity:
            lengths.pop(0)
        total = int(sum(lengths))
        index = torch.arange(self._written, self._written + total, device=self.device) % self.capacity
        for ring, new in zip(self._records, records, strict=True):
            ring[index] = new[len(new) - total :].to(self.device)
        for length in lengths:
            self._episodes.append((self._written, int(length)))
            self._written += int(length)
        while self._episodes[0][0] < self._written - self.capacity:
            self._episodes.popleft()

    def _arrivals(self, batch: EpisodeBatch) -> Trajectories:
        """Flatten a batch of episodes into arrival records, in order of episode and time."""
        filled = batch["filled"][..., 0].bool()
        acted = filled[:, 1:]  # step t was acted on if the record after it exists
        raw = batch["reward"].sum(dim=-1)[:, :-1]
        trend = reward_trend(raw, acted, self.trend_sigma, self.trend_border)
        terminated = batch["terminated"][:, :-1, 0].float()
        is_last = filled & ~torch.nn.functional.pad(acted, (0, 1))
        is_first = torch.zeros_like(filled)
        is_first[:, 0] = True

        return Trajectories(
            obs=batch["obs"][filled],
            avail_actions=batch["avail_actions"][filled].bool(),
            actions=batch["actions"][..., 0][filled],
            reward=on_arrival(raw, acted)[filled],
            trend=on_arrival(trend, acted)[filled],
            continues=1.0 - on_arrival(terminated, acted)[filled],
            is_first=is_first[filled],
            is_last=is_last[filled],
        )

    def sample_windows(self, batch_size: int, length: int) -> Trajectories:
        """Draw windows of consecutive records, uniform over where they start; they may span episodes.

        Returns:
            Trajectories of shape (batch_size, length).
        """
        if len(self) < length:
            raise ValueError(f"a window of {length} records was asked of a buffer that holds {len(self)}.")
        oldest = self._written - len(self)
        starts = self._rng.integers(oldest, self._written - length + 1, size=batch_size)
        return self._gather(starts[:, None] + np.arange(length))

    def sample_episodes(self, batch_size: int, newest: int | None = None) -> tuple[Trajectories, Tensor]:
        """Draw whole episodes, with replacement, in proportion to their lengths.

        Args:
            batch_size: how many.
            newest: draw from the newest so many records only, rounded up to whole episodes.

        Returns:
            Trajectories (batch_size, T) with T the longest length drawn, and a (batch_size, T) bool mask of
            the records that belong to the episode; the others repeat its last record.
        """
        spans = np.array(self._episodes)
        if newest is not None:
            spans = spans[spans.sum(axis=1) > self._written - newest]
        chosen = self._rng.choice(len(spans), size=batch_size, p=spans[:, 1] / spans[:, 1].sum())
        starts, lengths = spans[chosen, 0], spans[chosen, 1]
        steps = np.arange(lengths.max())
        index = starts[:, None] + np.minimum(steps, lengths[:, None] - 1)
        mask = torch.as_tensor(steps < lengths[:, None], device=self.device)
        return self._gather(index), mask

    def _gather(self, index: np.ndarray) -> Trajectories:
        at = torch.as_tensor(index % self.capacity, device=self.device)
        return Trajectories(*(ring[at] for ring in self._records))

    def state_dict(self) -> dict[str, Any]:
        """Everything written (views, not copies), the episode table and the sampling stream."""
        size = len(self)
        return {
            "records": {key: ring[:size] for key, ring in self._records._asdict().items()},
            "written": self._written,
            "episodes": list(self._episodes),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        for key, saved in state["records"].items():
            getattr(self._records, key)[: len(saved)] = saved
        self._written = state["written"]
        self._episodes = deque(tuple(span) for span in state["episodes"])
        self._rng.bit_generator.state = state["rng"]
