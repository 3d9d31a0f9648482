"""What becomes of steps: episodes to learn from, and statistics to log."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.episode_buffer import EpisodeBatch
from envs.batched_env import BatchedStep, View
from runners.acting import NewBatch


class Recorder:
    """Writes the steps of all slots into episodes and keeps the complete ones, oldest first, until taken."""

    def __init__(self, new_batch: NewBatch, n_slots: int, length: int):
        self._new_batch, self._length = new_batch, length
        self._running = new_batch(n_slots, length)
        self._fields = self._running.data.transition_data
        self._t = torch.zeros(n_slots, dtype=torch.long)  # steps recorded of each running episode
        self._complete: deque[dict[str, Tensor]] = deque()  # fields (steps and the arrival, ...) of each

    def __len__(self) -> int:
        """How many complete episodes wait."""
        return len(self._complete)

    def add(self, view: View, decision: dict[str, Tensor], step: BatchedStep, active: Tensor) -> None:
        """Records one step of the ``active`` slots (B,) bool: what was seen, decided, and came of it.

        ``decision`` holds the actions (B, n_agents, 1), and what the controller noted with them.
        """
        slots = active.nonzero().flatten()
        if not len(slots):
            return
        record = {
            **view._asdict(),
            **decision,
            "reward": step.reward,
            "terminated": step.terminated.unsqueeze(-1),
        }
        if len(slots) < len(active):
            record = {key: value[slots] for key, value in record.items()}
        self._running.update(record, bs=slots, ts=self._t[slots])
        self._t += active
        ended = (active & (step.terminated | step.truncated)).nonzero().flatten()
        if len(ended):
            arrived = {key: value[ended] for key, value in step.arrived._asdict().items()}
            self._running.update(arrived, bs=ended, ts=self._t[ended])
            self._complete.extend(self._take_out(slot) for slot in ended.tolist())

    def _take_out(self, slot: int) -> dict[str, Tensor]:
        length = int(self._t[slot]) + 1
        episode = _copied(self._fields, slot, length)
        for field in self._fields.values():
            field[slot, :length] = 0
        self._t[slot] = 0
        return episode

    def take(self, n: int) -> EpisodeBatch:
        """The ``n`` oldest complete episodes."""
        return self._padded([self._complete.popleft() for _ in range(n)])

    def _padded(self, episodes: Sequence[dict[str, Tensor]]) -> EpisodeBatch:
        batch = self._new_batch(len(episodes), self._length)
        for key, field in batch.data.transition_data.items():
            for place, episode in zip(field, episodes, strict=True):
                place[: len(episode[key])] = episode[key]
        return batch

    def drop(self, slots: Tensor) -> int:
        """Forgets what was recorded of the running episodes in ``slots`` (B,) bool; returns their steps."""
        dropped = int(self._t[slots].sum())
        for field in self._fields.values():
            field[slots] = 0
        self._t[slots] = 0
        return dropped

    def state_dict(self) -> dict[str, Any]:
        """Running and complete episodes."""
        complete = self._padded(self._complete).state_dict()
        return {"running": self._running.state_dict(), "t": self._t, "complete": complete}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a :meth:`state_dict`."""
        self._running.load_state_dict(state["running"])
        self._t.copy_(state["t"])
        fields = state["complete"]["transition_data"]
        lengths = fields["filled"].sum(dim=1).flatten().tolist()
        self._complete = deque(_copied(fields, i, length) for i, length in enumerate(lengths))


def _copied(fields: dict[str, Tensor], i: int, length: int) -> dict[str, Tensor]:
    """The first ``length`` records of episode ``i``."""
    return {key: field[i, :length].clone() for key, field in fields.items()}


class EpisodeStatistics:
    """Returns, lengths and environment's statistics of ended episodes, logged under EPyMARL's names."""

    def __init__(self, prefix: str, n_slots: int, reward_size: int):
        self.prefix = prefix
        self._running_return = torch.zeros(n_slots, reward_size, dtype=torch.float64)
        self._running_length = torch.zeros(n_slots, dtype=torch.long)
        self.clear()

    def clear(self) -> None:
        """Forgets the ended episodes."""
        self._returns: list[list[float]] = []
        self._values: list[dict[str, float]] = []

    def add(self, step: BatchedStep, active: Tensor) -> None:
        """Counts one step of the ``active`` slots."""
        self._running_return += step.reward * active.unsqueeze(1)
        self._running_length += active
        for slot in (active & (step.terminated | step.truncated)).nonzero().flatten().tolist():
            self._returns.append(self._running_return[slot].tolist())
            ended = {key: value[slot].item() for key, value in step.info.items()}
            self._values.append({**ended, "ep_length": self._running_length[slot].item()})
            self._running_return[slot] = 0
            self._running_length[slot] = 0

    def drop(self, slots: Tensor) -> None:
        """Forgets the steps of the running episodes in ``slots`` (B,) bool."""
        self._running_return[slots] = 0
        self._running_length[slots] = 0

    def per_episode(self) -> dict[str, np.ndarray]:
        """Of the ended episodes, in the order in which they ended, (episodes,) each: ``return``, summed over
        agents where each has its own, ``ep_length``, and what the environment told, such as ``battle_won``: 0
        where it told nothing of the kind.
        """
        named = {"return": np.array(self._returns).sum(axis=1)} if self._returns else {}
        names = dict.fromkeys(name for values in self._values for name in values)
        return named | {name: np.array([values.get(name, 0.0) for values in self._values]) for name in names}

    def log(self, logger: Any, t_env: int) -> None:
        """Logs the means over the ended episodes and forgets them; nothing if there are none."""
        if not self._returns:
            return
        returns = np.array(self._returns)  # (episodes, 1 or n_agents)
        told = self.per_episode()
        named = {"return": told.pop("return")}
        if returns.shape[1] > 1:
            named |= {f"agent_{i}_return": column for i, column in enumerate(returns.T)}
            named["total_return"] = named["return"]  # EPyMARL's name for it
        for name, values in named.items():
            logger.log_stat(f"{self.prefix}{name}_mean", float(values.mean()), t_env)
            logger.log_stat(f"{self.prefix}{name}_std", float(values.std()), t_env)
        for name, values in told.items():
            logger.log_stat(f"{self.prefix}{name}_mean", float(values.mean()), t_env)
        self.clear()

    def state_dict(self) -> dict[str, Any]:
        """What has been counted and not yet logged."""
        return {
            "running_return": self._running_return,
            "running_length": self._running_length,
            "returns": self._returns,
            "values": self._values,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a :meth:`state_dict`."""
        self._running_return.copy_(state["running_return"])
        self._running_length.copy_(state["running_length"])
        self._returns = list(state["returns"])
        self._values = [dict(values) for values in state["values"]]
