"""A study in one command: trains what is missing of algorithms x maps x seeds, then compares.

    python src/compare.py --algs gawm_small,mamba_small,mappo --maps 3m,2s3z --seeds 3 --steps 50000 --jobs 2
    python src/compare.py --algs gawm_small,qmix --maps 3m --seeds 2 --steps 20000 with test_interval=5000

Each run is an ordinary one of main.py. A run of the same configuration that took all steps is not repeated,
one that broke off goes on; so the same command goes on after an interrupt, and is cheap when all is done.
With --jobs 0 nothing is trained. The output folder then holds a table (table.csv, table.md), the test curves
(curves.csv, curves.png), the losses of the world models (losses.png), and what each run printed (logs/).

Exit codes: 0 all runs are there, 1 some are missing (they are named, the others compared), 2 a request that
can't be run, 130 interrupted.
"""

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import Job, Pool
from main import INTERRUPTED, configuration, fail
from utils import interrupts
from utils.command_line import Parser, count, whole, writable
from utils.config import compose, parse_command_line
from utils.constraints import ConfigError

if TYPE_CHECKING:  # imported where needed: pandas and matplotlib take their time
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
STATUS_EVERY = 60.0  # seconds
DECIDED = {  # keys of a configuration, and what decides them in a study
    "seed": "--seeds N takes 0 to N - 1",
    "t_max": "name it as --steps",
    "resume": "runs that broke off go on anyway",
    "env_args.map_name": "name maps as --maps",
    "env_args.key": "name ids as --maps",
}
COLUMNS = [
    "map", "alg", "seeds", "mean", "iqm", "low", "high", "median", "q25", "q75", "std", "area", "minutes",
    "updates",
]  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run the command line ``argv`` and return the exit code."""
    interrupts.install()
    try:
        given = parser().parse_intermixed_args(argv)
        return study(given, plan(given), shlex.join(["python", "src/compare.py", *argv]))
    except ConfigError as error:
        return fail(error, 2)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        return INTERRUPTED


def study(given: argparse.Namespace, jobs: Sequence[Job], command: str) -> int:
    """Run what is missing of ``jobs``, compare what is there and return the exit code."""
    out = given.out
    wanted = [job for job in jobs if job.finished() is None]
    print(f"{len(wanted)} of {len(jobs)} runs are missing", file=sys.stderr)
    became = train(wanted, given.jobs, out / "logs") if given.jobs else {}
    done = {job: directory for job in jobs if (directory := job.finished()) is not None}
    if not done and not given.jobs:
        return fail("No run is finished, so nothing is compared; --jobs 1 or more trains what is missing", 1)
    missing = [f"{job} is missing ({became.get(job, 'not trained')})." for job in jobs if job not in done]
    if not done:
        return fail(f"No run is finished, so nothing is compared: {' '.join(missing)}", 1)
    out.mkdir(parents=True, exist_ok=True)
    text, notices = compare(done, given.steps, out)
    listed = "\n".join(f"- {note}" for note in [*missing, *notices])
    (out / "table.md").write_text(f"    {command}\n\n{text}\n\n{listed}\n")
    print(text)
    print(listed, file=sys.stderr)
    print(f"\nTable, curves and losses are in {out}")
    return 1 if missing else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = Parser(prog="compare.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--algs", type=_list, required=True, metavar="A,B", help="algorithms of src/config/algs")
    top.add_argument("--maps", type=_list, required=True, metavar="M,N", help="maps; for gymma, its ids")
    top.add_argument("--seeds", type=count, default=3, metavar="N", help="seeds 0 to N - 1 (3)")
    top.add_argument("--steps", type=count, default=50000, metavar="N", help="environment steps (50000)")
    top.add_argument("--env-config", default="smax", metavar="ENV", help="environment (smax)")
    top.add_argument("--jobs", type=whole, default=1, metavar="N", help="runs at a time (1); 0: none")
    top.add_argument("--out", type=Path, default=ROOT / "results" / "comparison", metavar="DIR")
    top.add_argument("rest", nargs="*", metavar="with key=value ...", help="changes of all configurations")
    return top


def _list(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names, such as a,b,c")
    return list(dict.fromkeys(names))


def plan(given: argparse.Namespace) -> list[Job]:
    """Return all runs of the study, seed by seed, so that the first results come early.

    Raises:
        ConfigError: one of them can't be run.
    """
    writable(given.out.absolute(), "set --out to another folder")
    if given.rest and given.rest[0] != "with":
        word = given.rest[0]
        names = ",".join([*given.algs, word])
        form = (
            "the form is: ... with key=value" if "=" in word else f"names take commas alone: --algs {names}"
        )
        raise ConfigError(f"'with' is missing before {word!r}; {form}.")
    for word in given.rest:
        if option := DECIDED.get(word.partition("=")[0]):
            raise ConfigError(f"{word!r} is decided by the study: {option}.")
    groups = [(alg, task) for task in given.maps for alg in given.algs]
    words = {group: _words(given, *group) for group in groups}
    configs = {group: _configuration(group, words[group]) for group in groups}
    _check_apart(given.algs, configs)
    return [
        Job(*group, seed, (*words[group], f"seed={seed}"), {**configs[group], "seed": seed})
        for seed in range(given.seeds)
        for group in groups
    ]


def _configuration(group: tuple[str, str], words: Sequence[str]) -> dict[str, Any]:
    """Return what an algorithm's ``words`` on a map compose to, for any seed."""
    try:
        return configuration([*words, "seed=0"])[0]
    except ConfigError as error:
        raise ConfigError(f"{group[0]} on {group[1]}: {error}") from error


def _check_apart(algs: Sequence[str], configs: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    """Raise ConfigError if two algorithms bear one name, under which their runs would be taken for one's."""
    names = {alg: config["name"] for (alg, _), config in configs.items()}
    for alg in algs:
        others = [other for other in algs if other != alg and names[other] == names[alg]]
        if others:
            raise ConfigError(
                f"{alg} and {others[0]} are both named {names[alg]!r}; give each a name of its own in its"
                f" file in src/config/algs."
            )


def _words(given: argparse.Namespace, alg: str, task: str) -> list[str]:
    """The command line of main.py but for the seed."""
    where = [f"--config={alg}", f"--env-config={given.env_config}"]
    known = compose(parse_command_line(where))["env_args"]
    task_key = "env_args.map_name" if "map_name" in known else "env_args.key"
    words = [*where, *(given.rest or ["with"]), f"{task_key}={task}", f"t_max={given.steps}"]
    if any(word.startswith("cpu_threads=") for word in given.rest):
        return words
    return [*words, f"cpu_threads={max(1, (os.cpu_count() or 1) // max(1, given.jobs))}"]


def train(jobs: Sequence[Job], at_a_time: int, logs: Path) -> dict[Job, str]:
    """Run ``jobs`` and return what became of each, in words."""
    became: dict[Job, str] = {}
    told = time.monotonic()
    pool = Pool(at_a_time, logs)
    for event in pool.run(jobs):
        if event is not None:
            job, code = event
            said = pool.last_line(job)
            became[job] = f"exit code {code}: {said}"
            print(f"[{len(became)}/{len(jobs)}] {job}: {said}", file=sys.stderr)
        elif time.monotonic() - told > STATUS_EVERY:
            told = time.monotonic()
            for job in pool.running:
                print(f"  {job}: {pool.last_line(job)}", file=sys.stderr)
    return became


def compare(done: Mapping[Job, Path], steps: int, out: Path) -> tuple[str, list[str]]:
    """Write the table, the curves and the losses of runs, up to ``steps``, into ``out``.

    Args:
        done: the run directory of each job.
        steps: environment steps that are compared.
        out: the folder.

    Returns:
        The table in Markdown, and what a reader of it must know, a sentence each.
    """
    from records import export, plots, query

    results = next(iter(done)).config["local_results_path"]
    store = query.open_store([Path(results, "sacred")])
    chosen = query.select(store, query.Filter(runs=tuple(str(directory) for directory in done.values())))

    def curves(metric: str) -> "pd.DataFrame":
        return query.up_to(query.curves(store, chosen, metric), steps)

    metric = query.metric_of(chosen, None)
    frame = curves(metric)
    summary = table(frame, steps, curves("wm_updates"), curves("updates"))
    summary.to_csv(out / "table.csv", index=False)
    (out / "curves.csv").write_text(export.curve_csv(frame, metric))
    plots.draw_curves({metric: frame}, out / "curves.png")
    losses = query.loss_metrics(chosen)
    if losses:
        plots.draw_curves({name: curves(name) for name in losses}, out / "losses.png")
    title = f"{plots.LABELS.get(metric, metric)} at {steps:,} environment steps"
    return f"{title}\n\n{markdown(summary)}", query.notices(chosen)


def table(frame: "pd.DataFrame", steps: int, *updates: "pd.DataFrame") -> "pd.DataFrame":
    """Return one row per map and algorithm: what its runs reached, how they spread, what they took.

    ``mean`` to ``std`` are of the runs' values at ``steps``, ``area`` is the mean area under their curves
    up to there, per step, ``minutes`` the mean time from the start to the last test, with pauses.

    Args:
        frame: the curves, up to the first test at ``steps`` or later.
        steps: environment steps that are compared.
        updates: counts of updates over time; of a run that has several, the first.
    """
    from functools import reduce

    import pandas as pd

    from records import query, statistics

    runs = frame.groupby(["map", "alg", "run"])
    counts = [count.groupby("run")["value"].last() for count in updates]
    each = pd.DataFrame(
        {
            "value": runs[["t_env", "value"]].apply(lambda run: statistics.value_at(run, steps)),
            "area": runs[["t_env", "value"]].apply(
                lambda run: statistics.area(run["t_env"], run["value"], steps)
            ),
            "minutes": runs["seconds"].last() / 60,
        }
    ).reset_index()
    each["updates"] = each["run"].map(reduce(pd.Series.combine_first, counts))
    spread = each.groupby(["map", "alg"], as_index=False).agg(
        mean=("value", "mean"),
        std=("value", "std"),
        area=("area", "mean"),
        minutes=("minutes", "mean"),
        updates=("updates", "mean"),
    )
    return query.table(frame, steps).drop(columns="short").merge(spread, on=["map", "alg"])[COLUMNS]


def markdown(frame: "pd.DataFrame") -> str:
    """Return a table as Markdown has it."""
    rows = [list(frame.columns), ["---"] * frame.shape[1]]
    rows += [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, str | int):
        return str(value)
    number = float(value)  # type: ignore[arg-type]
    return "-" if math.isnan(number) else f"{number:.3f}" if abs(number) < 10 else f"{number:,.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
