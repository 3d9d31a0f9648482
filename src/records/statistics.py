"""Statistics of runs over seeds (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice").

Runs are stratified by map: the bootstrap draws anew among the runs of each map, never across maps.

Interquartile mean and bootstrap are those of scipy, written out: importing ``scipy.stats`` takes longer than
a table of 500 runs may. The tests compare them with it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95
SEED = 0  # the bootstrap's draws are the same each time


def iqm(values: Any, axis: int | None = None) -> Any:
    """Return the interquartile mean: the mean without the lowest and the highest quarter."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=axis)
    along = 0 if axis is None else axis
    runs = ordered.shape[along]
    return ordered.take(range(runs // 4, runs - runs // 4), axis=along).mean(axis=along)


def quartiles(values: Any, axis: int | None = None) -> Array:
    """Return the 25 % quantile, the median and the 75 % quantile."""
    return np.quantile(values, [0.25, 0.5, 0.75], axis=axis)


def interval(strata: Sequence[Array], statistic: Callable[..., Any] | None = None) -> tuple[Any, Any]:
    """Return the 95 % percentile bootstrap interval of ``statistic`` over runs, drawn within each stratum.

    ``strata`` holds one array (runs, ...) of values per map; ``statistic(*strata, axis)`` is, if
    None, the interquartile mean of all. Where a map has a single run there is no interval: both ends are NaN.
    """
    if min(map(len, strata)) < 2:
        nothing = np.full(np.shape(strata[0])[1:], np.nan)
        return nothing, nothing
    rng = np.random.default_rng(SEED)
    drawn = [values[rng.integers(len(values), size=(RESAMPLES, len(values)))] for values in strata]
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile((statistic or _iqm_of_all)(*drawn, axis=1), ends, axis=0)
    return low, high


def _iqm_of_all(*strata: Array, axis: int) -> Any:
    return iqm(np.concatenate(strata, axis=axis), axis=axis)


def values_at(frame: pd.DataFrame, step: int | None) -> tuple[Array, int]:
    """Return each run's value at ``step`` (None: its last), and the number of runs that end before it."""
    values = [value_at(points, step) for _, points in frame.groupby("run", sort=False)]
    there = [value for value in values if value is not None]
    return np.array(there, dtype=np.float64), len(values) - len(there)


def value_at(run: pd.DataFrame, step: int | None) -> float | None:
    """Return a run's value at ``step`` (None: its last), or None if it ends before.

    Between tests a curve is taken to be straight. A run counts as reaching a step that lies behind its last
    test by less than its usual interval; it has the last test's value there.
    """
    steps, values = run["t_env"].to_numpy(), run["value"].to_numpy(dtype=np.float64)
    if step is None:
        return float(values[-1])
    return float(np.interp(step, steps, values)) if reaches(steps, step) else None


def reaches(steps: NDArray[Any], step: int) -> bool:
    """Tell whether tests at ``steps`` cover ``step``, before which the last may lie by their spacing."""
    return bool(steps[0] <= step < steps[-1] + max(1, _spacing(steps)))


def _spacing(steps: NDArray[Any]) -> float:
    return float(np.median(np.diff(steps))) if len(steps) > 1 else 0.0


def align(frame: pd.DataFrame, x: str = "t_env", points: int = 200) -> tuple[Array, Array]:
    """Return a grid of ``x`` (points,) and the runs' values on it (runs, points).

    Between its tests a curve is taken to be straight; before its first and behind its last test it is NaN,
    so that runs of different lengths can be told apart. The last tests of runs of one length never fall on
    the same step: a run's last value is held for half its usual interval.
    """
    groups = [points.sort_values(x) for _, points in frame.groupby("run", sort=False)]
    grid = np.unique(np.concatenate([group[x].to_numpy(dtype=np.float64) for group in groups]))
    if len(grid) > points:
        grid = np.linspace(grid[0], grid[-1], points)
    rows = []
    for group in groups:
        steps = group[x].to_numpy(dtype=np.float64)
        row = np.interp(grid, steps, group["value"], left=np.nan)
        row[grid > steps[-1] + _spacing(steps) / 2] = np.nan
        rows.append(row)
    return grid, np.stack(rows)


def band(values: Array, kind: str) -> tuple[Array, Array, Array]:
    """Return centre, low and high of ``values`` (runs, points) at each point, over the runs that have one.

    ``kind`` is iqm (with its bootstrap interval) or median (with the quartiles).
    """
    if kind == "median":
        low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
        return middle, low, high
    centre, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    there, which = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for index, runs in enumerate(there.T):
        if runs.any():
            points = which.ravel() == index
            block = values[np.ix_(runs, points)]
            centre[points] = iqm(block, axis=0)
            low[points], high[points] = interval([block])
    return centre, low, high


def profile(strata: Sequence[Array], thresholds: Array) -> tuple[Array, Array, Array]:
    """Return the share of runs above each threshold, every map counting alike, and its 95 % interval."""
    above = [(np.asarray(values)[:, None] > thresholds).astype(np.float64) for values in strata]
    low, high = interval(above, _mean_of_means)
    return _mean_of_means(*above, axis=0), low, high


def _mean_of_means(*strata: Array, axis: int) -> Any:
    return np.mean([values.mean(axis) for values in strata], axis=0)


def improvement(one: Sequence[Array], other: Sequence[Array]) -> tuple[float, float, float]:
    """Return the probability that a run of ``one`` is better than one of ``other``, and its 95 % interval.

    Both hold one array of runs' values per map, in the same order. On each map it is the Mann-Whitney
    statistic divided by the number of pairs, a tie counting half; the mean over maps is returned.
    """

    from scipy.stats import mannwhitneyu

    def chance(*strata: Array, axis: int) -> Any:
        pairs = list(zip(strata[: len(one)], strata[len(one) :], strict=True))
        wins = [
            mannwhitneyu(a, b, axis=axis, method="asymptotic").statistic / (a.shape[axis] * b.shape[axis])
            for a, b in pairs
        ]
        return np.mean(wins, axis=0)

    low, high = interval([*one, *other], chance)
    return float(chance(*one, *other, axis=0)), float(low), float(high)


def area(steps: Any, values: Any, end: float) -> float:
    """Return the area under a curve up to ``end`` divided by its length: the mean value over the steps.

    Between its points a curve is taken to be straight; one that stops before ``end`` counts up to there.
    """
    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    end = min(end, steps[-1])
    x = np.append(steps[steps < end], end)
    y = np.interp(x, steps, values)
    return float(np.trapezoid(y, x) / (end - x[0])) if len(x) > 1 else float(y[0])
