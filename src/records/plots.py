"""Pictures of runs: learning curves and comparisons over maps, each one file (PNG, PDF or SVG)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from records import statistics
from records.statistics import Array

mpl.use("Agg")
import matplotlib.pyplot as plt

LABELS = {
    "test_battle_won_mean": "test win rate",
    "test_return_mean": "test return",
    "gpe": "global prediction error (GPE)",
    "gci": "global consistency index (GCI)",
}
X_LABELS = {"t_env": "environment steps", "hours": "hours", "horizon": "steps ahead"}
LEGEND_ENTRY = 3.2  # inches that a name in a legend may take
BANDS = {"iqm": "interquartile mean, 95 % bootstrap interval", "median": "median, quartiles"}
WIN_RATES = ("test_battle_won_mean", "battle_won_mean")

Scores = Mapping[str, Sequence[Array]]  # runs' values per algorithm: one array per map, in the same order


def draw_curves(frames: Mapping[str, pd.DataFrame], path: Path, kind: str = "iqm", x: str = "t_env") -> None:
    """Draw curves over ``x`` (one of ``X_LABELS``): a column per map, a row per metric of ``frames``."""
    everything = pd.concat(frames.values())
    maps = sorted(everything["map"].unique())
    algs = sorted(everything["alg"].unique())
    colours = {str(alg): f"C{i}" for i, alg in enumerate(algs)}
    width = 1.2 + 4.6 * len(maps)
    columns = max(1, int(width / LEGEND_ENTRY))
    size = (width, 0.4 + 3.5 * len(frames) + 0.25 * math.ceil(len(algs) / columns))
    figure, panels = plt.subplots(len(frames), len(maps), figsize=size, squeeze=False, layout="constrained")
    for row, (metric, frame) in zip(panels, frames.items(), strict=True):
        for panel, task in zip(row, maps, strict=True):
            here = frame[frame["map"] == task]
            for alg, group in here.groupby("alg"):
                _draw_band(panel, group, kind, x, colours[str(alg)])
            panel.set(title=task, xlabel=X_LABELS[x], ylabel=LABELS.get(metric, metric), xlim=(0, None))
            if metric in WIN_RATES:
                panel.set_ylim(-0.02, 1.02)
            if x == "t_env":
                panel.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
            tidy(panel, legend=False)
    seeds = everything.groupby(["alg", "map"])["run"].nunique().groupby("alg").agg(["min", "max"])
    handles = [
        mpl.lines.Line2D([], [], color=colours[str(alg)], label=f"{alg} ({_seeds(*seeds.loc[alg])})")
        for alg in algs
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)
    figure.supxlabel(BANDS[kind], fontsize="small", color="0.4")
    save(figure, path)


def _seeds(fewest: int, most: int) -> str:
    """Say of how many seeds an algorithm's curves are, which may differ from map to map."""
    return f"{fewest} seed{'s' * (fewest > 1)}" if fewest == most else f"{fewest} to {most} seeds"


def _draw_band(panel: Any, group: pd.DataFrame, kind: str, x: str, colour: str) -> None:
    """Draw one algorithm; where only some of its runs go on, its line is dotted."""
    if x == "hours":
        group = group.assign(hours=group["seconds"] / 3600).dropna(subset="hours")
    group = group.dropna(subset="value")
    if group.empty:
        return
    grid, values = statistics.align(group, x)
    centre, low, high = statistics.band(values, kind)
    partial = np.isnan(values).any(axis=0)
    end = int(np.flatnonzero(~partial)[-1]) if not partial.all() else 0
    panel.plot(grid[: end + 1], centre[: end + 1], color=colour)
    panel.plot(grid[end:], centre[end:], color=colour, linestyle=":")
    panel.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)


def draw_aggregate(scores: Scores, metric: str, path: Path) -> None:
    """Draw, over all maps, each algorithm's interquartile mean, median and mean with 95 % intervals."""
    measures = {
        "interquartile mean": statistics.iqm,
        "median": np.median,
        "mean": np.mean,
    }
    figure, panels = plt.subplots(
        1,
        len(measures),
        figsize=(4 * len(measures), 1 + 0.5 * len(scores)),
        sharey=True,
        layout="constrained",
    )
    for panel, (name, measure) in zip(panels, measures.items(), strict=True):

        def over_all(*strata: Array, axis: int, measure: Any = measure) -> Any:
            return measure(np.concatenate(strata, axis=axis), axis=axis)

        for i, strata in enumerate(scores.values()):
            low, high = statistics.interval(strata, over_all)
            panel.barh(i, high - low, left=low, color=f"C{i}", alpha=0.5, height=0.6)
            panel.plot(2 * [over_all(*strata, axis=0)], [i - 0.3, i + 0.3], color="black")
        panel.set(title=name, xlabel=LABELS.get(metric, metric), yticks=range(len(scores)))
        panel.set_yticklabels(scores)
        tidy(panel, legend=False)
    save(figure, path)


def draw_profiles(scores: Scores, metric: str, path: Path) -> None:
    """Draw the share of runs above each value, with 95 % intervals."""
    every = np.concatenate([values for strata in scores.values() for values in strata])
    thresholds = np.linspace(min(0.0, every.min()), max(every.max(), 1e-9), 101)
    figure, panel = plt.subplots(figsize=(5.8, 3.8), layout="constrained")
    for i, (alg, strata) in enumerate(scores.items()):
        share, low, high = statistics.profile(strata, thresholds)
        panel.plot(thresholds, share, color=f"C{i}", label=alg)
        panel.fill_between(thresholds, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
    panel.set(xlabel=f"{LABELS.get(metric, metric)} (τ)", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    tidy(panel)
    save(figure, path)


def draw_improvement(scores: Scores, path: Path) -> None:
    """Draw, for each pair of algorithms, the probability that the first is better, with 95 % intervals."""
    algs = list(scores)
    pairs = [(a, b) for i, a in enumerate(algs) for b in algs[i + 1 :]]
    figure, panel = plt.subplots(figsize=(5.8, 1 + 0.45 * len(pairs)), layout="constrained")
    for i, (a, b) in enumerate(reversed(pairs)):
        chance, low, high = statistics.improvement(scores[a], scores[b])
        panel.barh(i, high - low, left=low, color="C0", alpha=0.5, height=0.6)
        panel.plot([chance, chance], [i - 0.3, i + 0.3], color="black")
    panel.axvline(0.5, color="0.6", linestyle=":")
    panel.set(xlim=(0, 1), xlabel="probability of improvement", yticks=range(len(pairs)))
    panel.set_yticklabels([f"{a} > {b}" for a, b in reversed(pairs)])
    tidy(panel, legend=False)
    save(figure, path)


def tidy(panel: Any, legend: bool = True) -> None:
    """Give a panel the look of all pictures."""
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    if legend:
        panel.legend(frameon=False)


def save(figure: Any, path: Path) -> None:
    """Write a figure to ``path``, making its folder, and forget it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
