"""What players that learn nothing reach on SMAX: the floors under every learning curve.

    python benchmarks/floors.py --maps 3m,corridor --battles 1000 --csv benchmarks/smax_floors.csv

Every battle is the first one of a seed of its own, so that short battles don't count more than long ones.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from envs.smax import BatchedSMAX
from envs.smax_scenarios import SCENARIOS
from envs.smax_scripted import Closest, Player, play, random, scripted
from evaluation import wilson
from utils.command_line import count

PAPER_MAPS = "2s_vs_1sc,3s_vs_3z,2s3z,3s_vs_4z,3s_vs_5z,1c3s5z,8m,corridor"
COLUMNS = (
    "map",
    "player",
    "battles",
    "won",
    "win_rate",
    "low",
    "high",
    "timed_out",
    "mean_return",
    "mean_length",
)
SIDE_BY_SIDE = 100  # battles stepped in one call


def player_of(name: str, map_name: str) -> Player:
    """A player, as all of a map's battles start."""
    if name == "random":
        return random
    return Closest(SCENARIOS[map_name]) if name == "closest" else scripted(map_name)


def floor(map_name: str, name: str, battles: int) -> dict[str, object]:
    """The row of COLUMNS of a player on a map."""
    parts = []
    for first in range(0, battles, SIDE_BY_SIDE):
        env = BatchedSMAX(range(first, first + SIDE_BY_SIDE), map_name)
        parts.append(play(env, player_of(name, map_name), np.random.default_rng(first)))
    played = {key: np.concatenate([part[key] for part in parts])[:battles] for key in parts[0]}
    low, high = wilson(int(played["won"].sum()), battles)
    return {
        "map": map_name,
        "player": name,
        "battles": battles,
        "won": int(played["won"].sum()),
        "win_rate": f"{played['won'].mean():.3f}",
        "low": f"{low:.3f}",
        "high": f"{high:.3f}",
        "timed_out": int(played["timed_out"].sum()),
        "mean_return": f"{played['return'].mean():.2f}",
        "mean_length": f"{played['length'].mean():.1f}",
    }


def main(argv: list[str]) -> None:
    """Run the command line ``argv``."""
    parser = argparse.ArgumentParser(description="Floors of players that learn nothing on SMAX.")
    parser.add_argument("--maps", default=PAPER_MAPS, help="names of SMAX battles, separated by commas")
    parser.add_argument("--battles", type=count, default=1000, help="battles of each player on each map")
    parser.add_argument("--csv", type=Path, required=True, help="file to write")
    given = parser.parse_args(argv)
    unknown = set(given.maps.split(",")) - set(SCENARIOS)
    if unknown:
        parser.error(
            f"there is no SMAX battle {', '.join(sorted(unknown))}; there are: {', '.join(SCENARIOS)}"
        )
    with given.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for map_name in given.maps.split(","):
            for name in ("random", "closest", "scripted"):
                row = floor(map_name, name, given.battles)
                writer.writerow(row)
                file.flush()
                print(f"{map_name} {name}: won {row['win_rate']} ({row['low']} to {row['high']})")


if __name__ == "__main__":
    main(sys.argv[1:])
