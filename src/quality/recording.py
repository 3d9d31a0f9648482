"""Records held-out play of one map, which the world models of all methods are then measured on.

python src/main.py record_dataset=DIRECTORY [checkpoint=best|last|STEP] [episodes=128] [dataset=FILE]
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from quality.held_out import HeldOut, from_episodes, join, save
from run import saved_policy
from utils.config import TASK
from utils.rl_utils import sample_categorical

STREAM = "held_out"  # of random numbers, which no run draws from


class RandomMAC:
    """A controller that takes any available action, each as likely."""

    def init_hidden(self, batch_size: int) -> None:
        """There is nothing to remember."""

    def reset_hidden(self, slots: Tensor) -> None:
        """There is nothing to forget."""

    def select_actions(
        self, batch: Any, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False
    ) -> Tensor:
        """(B, n) int64 actions at step ``t_ep`` of the batch."""
        return sample_categorical(batch["avail_actions"][bs, t_ep].float())


def record(
    directory: Path, which: str, episodes: int, config: dict[str, Any], path: Path, log: logging.Logger
) -> str:
    """Play, save the episodes in ``path`` and say so in one line.

    Args:
        directory: of the run whose policy plays half of the episodes, exploring as in training.
        which: its checkpoint: best, last or a step.
        episodes: how many, an even number.
        config: the configuration in the run's record.
        path: the file.
        log: for messages.

    Raises:
        ConfigError: the configuration can't be run here.
        CheckpointError: there is no such checkpoint, or it is damaged.
        OSError: the file can't be written.
    """
    with saved_policy(directory, which, config, log) as policy:
        played: list[HeldOut] = []
        for name, player in (("trained", policy.mac), ("random", RandomMAC())):
            log.info("Recording %d episodes of %s play", episodes // 2, name)
            episode_batch = policy.runner.record_episodes(episodes // 2, f"{STREAM}_{name}", player)
            played.append(from_episodes(episode_batch))
    data = join(played)
    about = {
        "trained_policy": f"{config['name']} seed {config['seed']}, step {policy.checkpoint.step}",
        "run": str(directory),
        "episodes": episodes,
        "trained_episodes": episodes // 2,
        "records": int(data.filled.sum()),
        "n_actions": policy.args.n_actions,
        **{key: config[key] for key in TASK},
    }
    save(path, data, about)
    return f"{about['records']} records of {episodes} episodes are in {path}"
