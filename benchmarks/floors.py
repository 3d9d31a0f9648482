"""What players that learn nothing reach on SMAX: the floors under every learning curve.

    python benchmarks/floors.py --maps 3m,corridor --battles 1000 --csv benchmarks/results/smax_floors.csv

Each battle is the first episode of a seed of its own, so that short battles don't count more than long ones.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from envs.smax import BatchedSMAX
from envs.smax_scenarios import SCENARIOS
from envs.smax_scripted import Player, closest, random, scripted

PAPER_MAPS = ("2s_vs_1sc", "3s_vs_3z", "2s3z", "3s_vs_4z", "3s_vs_5z", "1c3s5z", "8m", "corridor")
COLUMNS = ("map", "player", "battles", "won", "win_rate", "low", "high", "timed_out", "mean_steps", "mean_return")
SIDE_BY_SIDE = 100  # battles stepped in one call


def play(env: BatchedSMAX, player: Player, rng: np.random.Generator) -> Iterator[tuple[float, ...]]:
    """One battle in each slot of ``env``: yields (won, timed out, steps, return) of each."""
    view = env.start_next_episodes()
    active = torch.ones(env.n_envs, dtype=torch.bool)
    steps, returns = torch.zeros(env.n_envs), torch.zeros(env.n_envs)
    while active.any():
        step = env.step(torch.from_numpy(player(view, rng)), active)
        steps += active
        returns += step.reward[:, 0] * active
        ended = (step.terminated | step.truncated) & active
        for slot in ended.nonzero().flatten():
            won, truncated = step.info["battle_won"][slot], step.truncated[slot]
            yield won.item(), float(truncated), steps[slot].item(), returns[slot].item()
        active, view = active & ~ended, step.view


def floor(map_name: str, player_name: str, battles: int) -> list[str]:
    """The row of COLUMNS for one player on one map."""
    scenario = SCENARIOS[map_name]
    player = {"random": lambda _: random, "closest": closest, "scripted": scripted}[player_name](scenario)
    ...


if __name__ == "__main__":
    pass
