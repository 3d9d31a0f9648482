"""Learning curves from run directories or CSV files, as a picture or as one CSV file.

    python src/plot.py results/sacred/gawm_small/3m/* --out picture.png
    python src/plot.py results/sacred/*/3m/* --csv benchmarks/results/3m.csv
    python src/plot.py benchmarks/results/*.csv --out picture.png

One panel per map, one line per algorithm: the mean over seeds, and a band from the lowest to the highest.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.config import map_name

LABELS = {"test_battle_won_mean": "test win rate", "test_return_mean": "test return"}
COLUMNS = ["alg", "map", "seed", "t_env"]


@dataclass(frozen=True)
class Curve:
    """One run's values of ``metric`` over environment steps; steps and values have the same length."""

    alg: str
    map: str
    seed: int
    metric: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def read_run(directory: Path) -> Curve:
    """Return the test curve of a run directory: of the win rate, or of the return where nothing is won.

    Raises:
        ValueError: the directory holds no record of a run that was tested.
    """
    try:
        config = json.loads((directory / "config.json").read_text())
        metrics = json.loads((directory / "metrics.json").read_text())
        game = _game(directory)
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{directory} holds no readable record of a run ({error})") from error
    for metric in LABELS:
        if metric in metrics:
            steps = np.array(metrics[metric]["steps"], dtype=np.int64)
            values = np.array(metrics[metric]["values"], dtype=np.float64)
            return Curve(config["name"] + game, map_name(config), config["seed"], metric, steps, values)
    raise ValueError(f"{directory} holds no test result yet")


def _game(directory: Path) -> str:
    """Return what to add to the algorithm's name, to tell StarCraft II's builds apart."""
    path = directory / "versions.json"
    versions = json.loads(path.read_text()) if path.exists() else {}
    return f" (StarCraft II {versions['game_version']})" if "game_version" in versions else ""


def read_csv(path: Path) -> list[Curve]:
    """Return the curves of a file with the columns alg, map, seed, t_env and the metric's name.

    Raises:
        ValueError: the file has other columns or values.
    """
    rows: dict[tuple[str, str, int, str], list[tuple[int, float]]] = defaultdict(list)
    try:
        with path.open(newline="") as file:
            reader = csv.reader(file)
            *columns, metric = next(reader)
            if columns != COLUMNS or metric not in LABELS:
                raise ValueError(f"its columns are not {', '.join(COLUMNS)} and one of {', '.join(LABELS)}")
            for alg, task, seed, step, value in reader:
                rows[alg, task, int(seed), metric].append((int(step), float(value)))
    except (OSError, ValueError, StopIteration) as error:
        raise ValueError(f"{path} holds no curves ({error})") from error
    return [
        Curve(*key, steps=np.array([t for t, _ in points]), values=np.array([v for _, v in points]))
        for key, points in rows.items()
    ]


def write_csv(curves: Sequence[Curve], path: Path) -> None:
    """Write curves of one metric, sorted, to a file that ``read_csv`` reads."""
    metrics = sorted({curve.metric for curve in curves})
    if len(metrics) != 1:
        raise ValueError(f"one file holds one metric, these runs have {' and '.join(metrics)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, metrics[0]])
        for curve in sorted(curves, key=lambda c: (c.alg, c.map, c.seed)):
            points = zip(curve.steps.tolist(), curve.values.tolist(), strict=True)
            writer.writerows([curve.alg, curve.map, curve.seed, t, f"{value:.6g}"] for t, value in points)


def band(curves: Sequence[Curve]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return steps, mean, lowest and highest value over the curves, where all of them have values.

    Between its tests a curve is taken to be straight.
    """
    first = max(curve.steps[0] for curve in curves)
    last = min(curve.steps[-1] for curve in curves)
    steps = np.unique(np.concatenate([curve.steps for curve in curves] + [np.array([last])]))
    steps = steps[(steps >= first) & (steps <= last)]
    values = np.stack([np.interp(steps, curve.steps, curve.values) for curve in curves])
    return steps, values.mean(0), values.min(0), values.max(0)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw the curves, one panel per map, into the picture ``path``."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    maps = sorted({curve.map for curve in curves})
    algs = sorted({curve.alg for curve in curves})
    figure, panels = plt.subplots(
        1, len(maps), figsize=(1.2 + 4.6 * len(maps), 3.8), squeeze=False, layout="constrained"
    )
    for panel, task in zip(panels[0], maps, strict=True):
        here = [curve for curve in curves if curve.map == task]
        for index, alg in enumerate(algs):
            _draw_alg(panel, [curve for curve in here if curve.alg == alg], f"C{index}")
        panel.set(title=task, xlabel="environment steps", ylabel=LABELS[here[0].metric], xlim=(0, None))
        if here[0].metric == "test_battle_won_mean":
            panel.set_ylim(0, 1)
        panel.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_alg(panel: Any, curves: Sequence[Curve], colour: str) -> None:
    if not curves:
        return
    steps, mean, low, high = band(curves)
    seeds = f"{len(curves)} seed{'s' * (len(curves) > 1)}"
    panel.plot(steps, mean, color=colour, label=f"{curves[0].alg} ({seeds})")
    panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def read_all(paths: Iterable[Path]) -> list[Curve]:
    """Return the curves of all paths; one that can't be read is named on stderr and left out."""
    curves: list[Curve] = []
    for path in paths:
        try:
            curves += read_csv(path) if path.suffix == ".csv" else [read_run(path)]
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
    return curves


def main(argv: list[str]) -> int:
    """Run the command line ``argv`` and return the exit code."""
    parser = argparse.ArgumentParser(description="Draw learning curves, or gather them in a CSV file.")
    parser.add_argument("paths", nargs="+", type=Path, help="run directories and CSV files")
    parser.add_argument("--out", type=Path, help="picture to draw: PNG, PDF or SVG")
    parser.add_argument("--csv", type=Path, help="CSV file to gather the curves in")
    given = parser.parse_args(argv)
    if not given.out and not given.csv:
        parser.error("name a picture with --out or a file with --csv")
    curves = read_all(given.paths)
    if not curves:
        print("error: there is no curve to show", file=sys.stderr)
        return 2
    if given.csv:
        write_csv(curves, given.csv)
        print(f"Curves gathered in {given.csv}")
    if given.out:
        draw(curves, given.out)
        print(f"Learning curve drawn in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
