"""Questions about runs, answered as pandas frames: which runs, which curves, how good, against what.

examples/compare_runs.py shows how they are asked.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from records import statistics
from records.folder import FolderStore
from records.store import KEPT, Run, Store
from utils.config import TASK, flatten, may_change, read_value
from utils.constraints import ConfigError, unknown

TEST_METRICS = (
    "test_battle_won_mean",
    "test_return_mean",
)  # the first that there is, is what runs are judged by
MOST_KEYS = 5  # named where runs are configured differently
CURVE_COLUMNS = ["run", "alg", "map", "seed", "t_env", "seconds", "value"]


@dataclass(frozen=True)
class Filter:
    """Which runs are meant. An empty field admits all; ``keys`` holds texts of the form key=value.

    ``runs`` are the beginnings of ids or run directories; ``since`` and ``until`` are days in UTC, both
    included.
    """

    runs: tuple[str, ...] = ()
    alg: tuple[str, ...] = ()
    map: tuple[str, ...] = ()
    seed: tuple[int, ...] = ()
    status: tuple[str, ...] = ()
    commit: str = ""
    since: date | None = None
    until: date | None = None
    keys: tuple[str, ...] = field(default=())


def open_store(paths: Sequence[str | Path] = ("results",), mongo: str | None = None) -> Store:
    """Return the runs in the folders and CSV files ``paths``, or those in the database at ``mongo``.

    Raises:
        ConfigError: there is no such place.
    """
    if mongo is None:
        return FolderStore([Path(path) for path in paths])
    from records.mongo_store import MongoStore

    return MongoStore(mongo)


def select(store: Store, wanted: Filter) -> list[Run]:
    """Return the runs that are ``wanted``, the oldest first.

    Raises:
        ConfigError: there are none; the sentence names the field of the filter that left none.
    """
    left = store.runs()
    if not left:
        why = f": {' '.join(store.problems)}" if store.problems else "; runs are recorded by src/main.py."
        raise ConfigError(f"There is no run in {store.where}{why}")
    for name in ("alg", "map", "seed", "status"):
        values = getattr(wanted, name)
        there = sorted({getattr(run, name) for run in left})
        for value in values:
            if name != "status" and value not in there:  # of states none need be in one that is asked for
                raise unknown(f"run with {name}", value, [str(one) for one in there])
        left = _narrow(
            [run for run in left if not values or getattr(run, name) in values], name, values, there
        )
    for key in wanted.keys:
        left = _with_key(left, key)
    if wanted.runs:
        left = [run for text in wanted.runs for run in _named(left, text)]
    checks = {
        f"commit {wanted.commit}": lambda run: (
            not wanted.commit or any(commit.startswith(wanted.commit) for commit in run.commits)
        ),
        f"start since {wanted.since}": lambda run: not wanted.since or _day(run) >= wanted.since,
        f"start until {wanted.until}": lambda run: not wanted.until or _day(run) <= wanted.until,
    }
    for what, check in checks.items():
        left = _narrow([run for run in left if check(run)], what, (), [])
    return left


def _narrow(left: list[Run], name: str, values: Sequence[Any], there: Sequence[Any]) -> list[Run]:
    if not left and len(values) == 1:
        raise unknown(f"run with {name}", values[0], [str(value) for value in there])
    if not left:
        raise ConfigError(f"No run is left that has {name} {' or '.join(map(str, values))}".rstrip() + ".")
    return left


def _with_key(runs: list[Run], text: str) -> list[Run]:
    key, equals, value = text.partition("=")
    flat = {run.run: flatten(run.config) for run in runs}
    keys = sorted({name for config in flat.values() for name in config})
    if not equals:
        raise ConfigError(f"--key {text} must have the form key=value.")
    if key not in keys:
        raise unknown("configuration key", key, keys)
    values = [value, read_value(value)]
    left = [run for run in runs if flat[run.run].get(key) in values]
    there = sorted({str(config.get(key)) for config in flat.values()})
    return _narrow(left, f"the configuration {key} of", [value], there)


def _named(runs: list[Run], text: str) -> list[Run]:
    """Return the run whose id begins with ``text``, or which lies in the directory ``text``."""
    found = [run for run in runs if run.run.startswith(text)]
    found = found or [run for run in runs if Path(run.where).resolve() == Path(text).resolve()]
    if not found:
        raise ConfigError(f"No run's id begins with {text!r}; `results.py list` shows the ids.")
    if len(found) > 1:
        names = ", ".join(run.run for run in found[:5])
        raise ConfigError(f"{len(found)} runs' ids begin with {text!r} ({names}, ...); give more of it.")
    return found


def _day(run: Run) -> date:
    return datetime.fromtimestamp(run.started, UTC).date()


def runs(chosen: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run: what it is, how it stands, how far it is."""
    return pd.DataFrame(
        {
            "run": [run.run for run in chosen],
            "alg": [run.alg for run in chosen],
            "map": [run.map for run in chosen],
            "seed": [run.seed for run in chosen],
            "status": [run.status for run in chosen],
            "started": pd.to_datetime([round(run.started) or None for run in chosen], unit="s", utc=True),
            "minutes": [round(run.seconds / 60, 1) for run in chosen],
            "t_env": [run.t_env for run in chosen],
            "points": [run.points for run in chosen],
            "commit": [(run.commit or "")[:8] + "+" * bool(run.dirty) for run in chosen],
        }
    )


def metric_of(chosen: Sequence[Run], metric: str | None) -> str:
    """Return ``metric``, or what the runs are judged by if that is None.

    Raises:
        ConfigError: none of the runs has it.
    """
    names = sorted({name for run in chosen for name in run.metrics})
    if metric is None:
        metric = next((name for name in TEST_METRICS if name in names), TEST_METRICS[0])
    if metric not in names:
        raise unknown("metric", metric, names) if names else ConfigError("These runs have no points yet.")
    return metric


def curves(store: Store, chosen: Sequence[Run], metric: str, times: bool = True) -> pd.DataFrame:
    """Return one row per point: run, alg, map, seed, t_env, seconds (since the start), value.

    Without ``times`` the seconds may be NaN, and a database answers sooner.
    """
    points = store.curves(chosen, metric, times)
    there = [run for run in chosen if run.run in points]
    if not there:
        return pd.DataFrame(columns=CURVE_COLUMNS)
    lengths = [len(points[run.run]) for run in there]
    columns = {name: np.repeat([getattr(run, name) for run in there], lengths) for name in CURVE_COLUMNS[:4]}
    columns["alg"] = np.repeat([_curve_name(run) for run in there], lengths)
    started = np.repeat([run.started for run in there], lengths)
    steps, values, at = (
        np.concatenate([getattr(points[run.run], name) for run in there])
        for name in ("steps", "values", "times")
    )
    return pd.DataFrame(columns | {"t_env": steps, "seconds": (at - started).round(3), "value": values})


def up_to(frame: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Return each run's points before ``steps`` and the first one from there on."""
    reached = frame["t_env"].ge(steps).groupby(frame["run"]).cumsum()
    return frame[reached <= 1]


def _curve_name(run: Run) -> str:
    """The algorithm, and the build that it played on if there is one: their results never share a curve."""
    return run.alg if run.build is None else f"{run.alg} (StarCraft II {run.build})"


def table(frame: pd.DataFrame, at: int | None = None) -> pd.DataFrame:
    """Return one row per map and algorithm: its runs' values at step ``at`` (their last ones if None).

    ``iqm`` is the interquartile mean, ``low`` and ``high`` its 95 % bootstrap interval over runs. Runs that
    end before ``at`` are left out and counted as ``short``.
    """
    rows = []
    for (task, alg), group in frame.groupby(["map", "alg"]):
        values, short = statistics.values_at(group, at)
        row = {"map": task, "alg": alg, "seeds": len(values), "short": short, "iqm": np.nan}
        if len(values):
            low, high = map(float, statistics.interval([values]))
            quartiles = dict(zip(("q25", "median", "q75"), statistics.quartiles(values), strict=True))
            row |= {"iqm": statistics.iqm(values), "low": low, "high": high, **quartiles}
        rows.append(row)
    return pd.DataFrame(rows)


def best(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run, the best first: its best value and where, and its last one."""
    rows = []
    for _, points in frame.dropna(subset="value").groupby("run", sort=False):
        top, last = points.loc[points["value"].idxmax()], points.iloc[-1]
        row = {key: top[key] for key in ("run", "alg", "map", "seed")}
        rows.append(
            row | {"best": top["value"], "at": top["t_env"], "last": last["value"], "t_env": last["t_env"]}
        )
    columns = ["run", "alg", "map", "seed", "best", "at", "last", "t_env"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["best", "last"], ascending=False, ignore_index=True
    )


def notices(chosen: Sequence[Run]) -> list[str]:
    """Return what a reader of a comparison of these runs must know, a sentence each."""
    lines = []
    died = [run.run for run in chosen if run.status == "DIED"]
    if died:
        lines.append(f"Died without an end (no heartbeat): {', '.join(died)}.")
    lines += damages(chosen)
    for run in chosen:
        if len(run.commits) > 1:
            commits = _shortened(run.commits)
            lines.append(f"{run.run} ({run.alg} on {run.map}) was trained at commits {commits}.")
    on_map: dict[str, list[Run]] = defaultdict(list)
    for run in chosen:
        on_map[run.map].append(run)
    for task, there in sorted(on_map.items()):
        lines += _notices_on_map(task, there)
    builds = sorted({run.build for run in chosen if run.build})
    if len(builds) > 1:
        lines.append(f"There are results of different StarCraft II builds, kept apart: {', '.join(builds)}.")
    return lines


def damages(chosen: Sequence[Run]) -> list[str]:
    """Return which of the runs have lost part of their record, a sentence each."""
    return [
        f"{run.damaged} lines of the journal of {run.run} ({run.alg} on {run.map}), in {run.where}, are"
        " damaged: what they said is missing, and points that a resume replaced may show."
        for run in chosen
        if run.damaged
    ]


def _notices_on_map(task: str, on_map: Sequence[Run]) -> list[str]:
    """Return what to know of the runs on one map, first algorithm by algorithm."""
    lines = []
    of_alg: dict[str, list[Run]] = defaultdict(list)
    for run in on_map:
        of_alg[run.alg].append(run)
    free = {"seed", *may_change()}
    configured = {run.run: _configured(run, free) for run in on_map if run.status != KEPT}
    everywhere = {run.seed for run in on_map}
    for alg, there in sorted(of_alg.items()):
        counts = Counter(run.seed for run in there)
        if missing := sorted(everywhere - counts.keys()):
            lines.append(f"{alg} on {task} lacks seed {', '.join(map(str, missing))}, which others have.")
        if twice := sorted(seed for seed, n in counts.items() if n > 1):
            seeds = ", ".join(map(str, twice))
            lines.append(f"{alg} on {task} has seed {seeds} more than once; each run counts.")
        if different := _differing([configured[run.run][1] for run in there if run.run in configured]):
            lines.append(
                f"The runs of {alg} on {task} differ in {different} and are counted together; choose with"
                " --key KEY=VALUE."
            )
    if different := _differing([its_task for its_task, _ in configured.values()]):
        lines.append(f"The runs on {task} differ in their task, {different}; choose with --key KEY=VALUE.")
    commits = {alg: {run.commit for run in there if run.commit} for alg, there in of_alg.items()}
    if len(set().union(*commits.values())) > 1:
        listed = ", ".join(f"{alg} {_shortened(sorted(of))}" for alg, of in sorted(commits.items()) if of)
        lines.append(f"The runs on {task} are of different commits: {listed}.")
    return lines


def _shortened(commits: Iterable[str]) -> str:
    return " and ".join(commit[:8] for commit in commits)


def _configured(run: Run, free: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the run's task and its method: its configuration but for the keys that are ``free``."""
    task: dict[str, Any] = {}
    method: dict[str, Any] = {}
    for key, value in flatten(run.config).items():
        if key not in free:
            (task if key.partition(".")[0] in TASK else method)[key] = value
    return task, method


def _differing(configs: Sequence[dict[str, Any]]) -> str:
    """Return the keys in which ``configs`` differ, with their values; nothing if they don't."""
    values = {
        key: sorted({str(config.get(key, "-")) for config in configs})
        for key in sorted({key for config in configs for key in config})
    }
    different = [f"{key} ({', '.join(there)})" for key, there in values.items() if len(there) > 1]
    more = f" and {len(different) - MOST_KEYS} more keys" if len(different) > MOST_KEYS else ""
    return ", ".join(different[:MOST_KEYS]) + more


def without(chosen: Sequence[Run], metric: str) -> list[str]:
    """Return a sentence if some runs have no points of ``metric``, and so no part in what is shown."""
    return without_what([(run.alg, run.map) for run in chosen if metric not in run.metrics], metric)


def without_times(frame: pd.DataFrame) -> list[str]:
    """Return a sentence if some curves were kept without the times of their points."""
    timeless = frame[frame["seconds"].isna()].drop_duplicates("run")
    return without_what(list(zip(timeless["alg"], timeless["map"], strict=True)), "times")


def without_what(runs: Sequence[tuple[str, str]], what: str) -> list[str]:
    """Return a sentence if there are runs, each given as (algorithm, map), that have no such thing."""
    if not runs:
        return []
    named = ", ".join(f"{alg} on {task}" for alg, task in sorted(set(runs)))
    return [f"Left out, as they have no {what}: {len(runs)} run{'s' * (len(runs) > 1)} of {named}."]


def lengths(frame: pd.DataFrame) -> list[str]:
    """Return a sentence for each map and algorithm whose runs end at different places, and for each map on
    which the algorithms do."""
    lines = []
    for task, group in frame.groupby("map"):
        # Each algorithm's longest run, whose own spacing of tests says how near the end it must come.
        longest = {
            str(alg): max((run["t_env"].to_numpy() for _, run in points.groupby("run")), key=lambda t: t[-1])
            for alg, points in group.groupby("alg")
        }
        ends = {alg: int(steps[-1]) for alg, steps in longest.items()}
        if not all(statistics.reaches(steps, max(ends.values())) for steps in longest.values()):
            listed = ", ".join(f"{alg} {end:,}" for alg, end in sorted(ends.items()))
            lines.append(f"On {task} the algorithms end at different steps: {listed}.")
    for (task, alg), group in frame.groupby(["map", "alg"]):
        ends = group.groupby("run")["t_env"].max().tolist()
        full = [
            statistics.reaches(points["t_env"].to_numpy(), max(ends)) for _, points in group.groupby("run")
        ]
        if not all(full):
            lines.append(
                f"The {len(ends)} runs of {alg} on {task} end between {min(ends):,} and {max(ends):,} steps."
            )
    return lines


def scores(frame: pd.DataFrame, at: int | None = None) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the runs' values at step ``at`` (their last ones if None) per algorithm, an array per map.

    Only maps on which every algorithm has runs are compared; with them comes a sentence for each other map,
    and for runs that end before ``at``.
    """
    algs = sorted(frame["alg"].unique())
    values, left_out = {}, []
    for (alg, task), group in frame.groupby(["alg", "map"]):
        values[alg, task], short = statistics.values_at(group, at)
        if short:
            left_out.append(f"Runs of {alg} on {task} that end before step {at:,} are left out: {short}.")
    maps = []
    for task in sorted(frame["map"].unique()):
        missing = [alg for alg in algs if not len(values.get((alg, task), ()))]
        if missing:
            left_out.append(f"{task} is left out: it has no such result of {', '.join(missing)}.")
        else:
            maps.append(task)
    if not maps:
        raise ConfigError(
            " ".join(["There is no map on which all chosen algorithms have results.", *left_out])
        )
    return {alg: [values[alg, task] for task in maps] for alg in algs}, left_out


def differences(chosen: Sequence[Run]) -> pd.DataFrame:
    """Return the configuration keys in which the algorithms' runs differ, a column per algorithm.

    Where the runs of one algorithm differ among themselves, all values are given. Seeds are left out.
    """
    by_alg: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in chosen:
        for key, value in flatten(run.config).items():
            if str(value) not in by_alg[run.alg][key]:
                by_alg[run.alg][key].append(str(value))
    keys = sorted({key for values in by_alg.values() for key in values} - {"seed", "name"})
    rows = {key: [" | ".join(by_alg[alg].get(key, ["-"])) for alg in sorted(by_alg)] for key in keys}
    different = {key: row for key, row in rows.items() if len(set(row)) > 1 or " | " in row[0]}
    return pd.DataFrame.from_dict(different, orient="index", columns=sorted(by_alg))


def loss_metrics(chosen: Sequence[Run]) -> list[str]:
    """Return the names of the world model's losses that these runs recorded."""
    names = {name for run in chosen for name in run.metrics if name.startswith("wm_")}
    return sorted(name for name in names if "loss" in name or name == "wm_kl")
