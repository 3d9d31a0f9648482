"""How the cost of a world-model update grows with agents, sequence length and batch.

    make bench-full ONLY=wm_ && python benchmarks/scaling.py results/speed.json --png results/scaling.png

Draws the CPU time of the cases that differ from ``wm_8m`` in one size alone, beside growth in proportion to
it, and prints by which power of the size the cost grows: 1 is in proportion.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

BASE = "wm_8m"
SIZES = {"agents": 8, "length": 20, "batch": 40}  # of BASE
LABELS = {"agents": "agents", "length": "steps per window", "batch": "windows per update"}


def points(cases: dict[str, float], size: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of ``size`` that were measured, in order, and the seconds of each."""
    prefix = f"wm_{size}_"
    found = {int(name.removeprefix(prefix)): s for name, s in cases.items() if name.startswith(prefix)}
    found[SIZES[size]] = cases[BASE]
    return np.array(sorted(found)), np.array([found[value] for value in sorted(found)])


def power(values: np.ndarray, seconds: np.ndarray) -> float:
    """The exponent of the power law that fits best."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def draw(cases: dict[str, float], png: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(1, len(SIZES), figsize=(11, 3.5), layout="constrained")
    for ax, size in zip(axes, SIZES, strict=True):
        values, seconds = points(cases, size)
        ax.plot(values, seconds, "o-", label="measured")
        ax.plot(values, seconds[0] * values / values[0], ":", color="grey", label="in proportion")
        ax.set(xlabel=LABELS[size], xlim=(0, None), ylim=(0, None))
        ax.set_title(f"power {power(values, seconds):.2f}")
    axes[0].set_ylabel("CPU seconds per update")
    axes[0].legend()
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=120)


def main(argv: list[str]) -> int:
    """Run the command line ``argv`` and return the exit code."""
    parser = argparse.ArgumentParser(description="How the cost of a world-model update grows.")
    parser.add_argument("json", type=Path, help="figures of make bench-full")
    parser.add_argument("--png", type=Path, required=True, metavar="FILE", help="picture to write")
    given = parser.parse_args(argv)
    if not given.json.is_file():
        parser.error(f"there is no file {given.json}: make bench-full writes results/speed.json.")
    cases = {row["case"]: row["cpu_s"] for row in json.loads(given.json.read_text())["cases"]}
    missing = [s for s in SIZES if not any(name.startswith(f"wm_{s}_") for name in cases)]
    if missing or BASE not in cases:
        lacking = ", ".join(missing) or BASE
        parser.error(f"{given.json} lacks figures of {lacking}: write it by make bench-full ONLY=wm_.")
    draw(cases, given.png)
    for size in SIZES:
        values, seconds = points(cases, size)
        steps = ", ".join(f"{v}: {s:.2f} s" for v, s in zip(values, seconds, strict=True))
        print(f"{LABELS[size]} ({steps}) to the power of {power(values, seconds):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
