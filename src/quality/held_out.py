"""Held-out play: recorded episodes that no model was trained on, the same ones for every method."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.episode_buffer import EpisodeBatch
from components.trajectory_buffer import on_arrival


class HeldOut(NamedTuple):
    """E episodes of up to T arrival records each (see ``components.trajectory_buffer``); the rest is zero."""

    obs: Tensor  # (E, T, n, obs_size) float32
    state: Tensor  # (E, T, state_size) float32
    actions: Tensor  # (E, T, n) int64, taken after the record
    reward: Tensor  # (E, T) float32, that came with the record, unsmoothed
    continues: Tensor  # (E, T) float32, 0 where the task terminated
    filled: Tensor  # (E, T) bool

    def select(self, episodes: slice) -> HeldOut:
        """Some of the episodes."""
        return HeldOut(*(part[episodes] for part in self))


def from_episodes(batch: EpisodeBatch) -> HeldOut:
    """The arrival records of complete episodes; rewards are summed over agents where each has its own."""
    filled = batch["filled"][..., 0].bool()
    acted = filled[:, 1:]
    return HeldOut(
        obs=batch["obs"],
        state=batch["state"],
        actions=batch["actions"][..., 0],
        reward=on_arrival(batch["reward"].sum(dim=-1)[:, :-1], acted),
        continues=1.0 - on_arrival(batch["terminated"][:, :-1, 0].float(), acted),
        filled=filled,
    )


def join(parts: list[HeldOut]) -> HeldOut:
    """The episodes of all parts, one part after the other."""
    length = max(part.filled.shape[1] for part in parts)

    def padded(values: Tensor) -> Tensor:
        missing = length - values.shape[1]
        return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)

    return HeldOut(*(torch.cat([padded(x) for x in field]) for field in zip(*parts, strict=True)))


def save(path: Path, data: HeldOut, about: dict[str, Any]) -> None:
    """Write the episodes, without their padding, and how they were recorded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    filled = data.filled.numpy()
    records = {key: value.numpy()[filled] for key, value in data._asdict().items() if key != "filled"}
    np.savez_compressed(path, lengths=filled.sum(axis=1), about=json.dumps(about), **records)


def load(path: Path) -> tuple[HeldOut, dict[str, Any]]:
    """Read what :func:`save` wrote.

    Raises:
        ValueError: the file can't be read, or holds something else.
    """
    try:
        with np.load(path) as file:
            lengths = file["lengths"]
            about = json.loads(str(file["about"]))
            filled = np.arange(lengths.max()) < lengths[:, None]
            parts = [_padded(file[key], filled) for key in HeldOut._fields if key != "filled"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no recorded play ({error}).") from error
    return HeldOut._make([*parts, torch.from_numpy(filled)]), about


def _padded(records: np.ndarray, filled: np.ndarray) -> Tensor:
    values = np.zeros((*filled.shape, *records.shape[1:]), dtype=records.dtype)
    values[filled] = records
    return torch.from_numpy(values)
