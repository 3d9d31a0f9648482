"""Answers from recorded runs: which, how good, against what; and their copies in MongoDB.

    python src/results.py list   --map 3m --status COMPLETED
    python src/results.py show   --run RUN
    python src/results.py curves --alg qmix mappo --format csv --out curves.csv
    python src/results.py table  --at 50000 --format latex
    python src/results.py best   --key lr=0.0005 --top 5
    python src/results.py quality --map 3m
    python src/results.py plot   --map 3m --out curves.png
    python src/results.py report --out report.html
    python src/results.py sync   [DIR]
    python src/results.py verify [DIR]

RUN is the beginning of a run's id, or its directory. Runs are read from folders (--dir) or from MongoDB
(--mongo). What a reader must know of a comparison is said on stderr. Exit codes: 0 done, 1 `verify` found
a difference or `sync` had to leave something out, 2 a request that can't be answered.
"""

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from utils.command_line import Parser, count, whole
from utils.constraints import ConfigError

if TYPE_CHECKING:  # imported where needed: pandas and matplotlib take their time
    import pandas as pd

    from records.store import Run, Store

ROOT = Path(__file__).resolve().parents[1]
FROM_ENVIRONMENT = "MONGO_URI"
PICTURES = (".png", ".pdf", ".svg")
FORMATS = {
    "list": ("table", "csv", "json"),
    "curves": ("table", "csv", "json", "marl-eval"),
    "table": ("table", "csv", "json", "latex"),
    "best": ("table", "csv", "json"),
    "quality": ("table", "csv", "json"),
}
# Kinds of pictures
CURVES, QUALITY = ("curves", "losses"), ("quality",)
SCORES = ("aggregate", "profile", "improvement")
USED_BY = {  # options of `plot`: their defaults, and the kinds of pictures that use them
    "at": (None, CURVES + SCORES),
    "metric": (None, ("curves", *SCORES)),
    "x": ("t_env", CURVES),
    "band": ("iqm", CURVES + QUALITY),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = Parser(prog="results.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    place, chosen = _place(), _chosen()
    for name, text in {
        "list": "a line per run", "show": "all about a run", "curves": "the points of a metric",
        "table": "last values per map and algorithm", "best": "the best runs",
        "quality": "how good their world models are", "plot": "a picture", "report": "one HTML page",
    }.items():  # fmt: skip
        command = commands.add_parser(name, help=text, parents=[place, chosen])
        if name in ("curves", "table", "best", "plot", "report"):
            command.add_argument(
                "--metric", nargs="+", help="metrics; the test win rate or return if not given"
            )
        if name in ("table", "plot"):
            command.add_argument(
                "--at", type=whole, metavar="STEP", help="compare at this step, draw curves up to it"
            )
        if name in FORMATS:
            command.add_argument("--format", choices=FORMATS[name], default="table")
            command.add_argument("--out", type=Path, metavar="FILE", help="write to this file")
        if name == "best":
            command.add_argument("--top", type=count, default=10, help="number of runs (10)")
        if name == "plot":
            command.add_argument("--kind", choices=CURVES + QUALITY + SCORES, default="curves")
            command.add_argument("--band", choices=("iqm", "median"), default=USED_BY["band"][0])
            command.add_argument("--x", choices=("t_env", "hours"), default=USED_BY["x"][0])
            command.add_argument("--out", type=Path, required=True, metavar="FILE", help=", ".join(PICTURES))
        if name == "report":
            command.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")
            command.add_argument("--title", default="Recorded runs")
    for name, text in {"sync": "send what MongoDB lacks", "verify": "compare with MongoDB"}.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("directory", type=Path, nargs="?", default=ROOT / "results", metavar="DIR")
        command.add_argument("--mongo", metavar="URI", default=FROM_ENVIRONMENT)
    return top


def _place() -> Parser:
    group = Parser(add_help=False)
    group.add_argument(
        "--dir", type=Path, nargs="+", metavar="DIR",
        help="folders with runs, run directories, CSV files with curves (results)",
    )  # fmt: skip
    group.add_argument(
        "--mongo", metavar="URI", nargs="?", const=FROM_ENVIRONMENT,
        help="read from this MongoDB database (without URI: MONGO_URI of the environment)",
    )  # fmt: skip
    return group


def _chosen() -> Parser:
    group = Parser(add_help=False)
    group.add_argument(
        "--run", nargs="+", default=[], metavar="RUN", help="beginnings of ids, or directories"
    )
    group.add_argument("--alg", nargs="+", default=[])
    group.add_argument("--map", nargs="+", default=[])
    group.add_argument("--seed", nargs="+", type=int, default=[])
    group.add_argument(
        "--status", nargs="+", default=[], help="COMPLETED, RUNNING, DIED, FAILED, INTERRUPTED"
    )
    group.add_argument("--key", nargs="+", default=[], metavar="KEY=VALUE", help="of the configuration")
    group.add_argument("--commit", default="", help="beginning of the git commit")
    group.add_argument(
        "--since", type=_day, metavar="DAY", help="started on this day or later, like 2030-12-31"
    )
    group.add_argument("--until", type=_day, metavar="DAY", help="started on this day or earlier")
    return group


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no day, such as 2030-12-31") from error


def main(argv: Sequence[str]) -> int:
    """Run the command line ``argv`` and return the exit code."""
    try:
        given = parser().parse_args(argv)
        if given.command in ("sync", "verify"):
            return copies(given)
        return answer(given)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def copies(given: argparse.Namespace) -> int:
    """Send records to MongoDB, or compare them with what is there."""
    from pymongo.errors import PyMongoError

    from records import mongo, sync
    from records.folder import run_directories

    uri = _uri(given.mongo)
    directories = run_directories(given.directory)
    if not directories:
        raise ConfigError(f"There is no run in {given.directory}; name a folder with run directories.")
    database = mongo.connect(uri)
    mongo.check(database, uri)
    work = sync.sync if given.command == "sync" else sync.verify
    lines = 0
    try:
        for line in work(database, directories):
            print(line, file=sys.stderr)
            lines += 1
    except PyMongoError as error:
        raise ConfigError(mongo.explain(error, uri)) from error
    done = "sent, or were there already" if given.command == "sync" else "compared"
    print(f"{len(directories)} runs {done}; {lines or 'no'} complaint{'s' * (lines != 1)}")
    return 1 if lines else 0


def _uri(text: str) -> str:
    if text != FROM_ENVIRONMENT:
        return text
    if FROM_ENVIRONMENT not in os.environ:
        raise ConfigError("The address of MongoDB is missing: --mongo URI, or MONGO_URI in the environment.")
    return os.environ[FROM_ENVIRONMENT]


def answer(given: argparse.Namespace) -> int:
    """Answer a question about runs."""
    from records import query

    if given.command == "plot" and given.out.suffix not in PICTURES:
        raise ConfigError(f"{given.out} must end in {', '.join(PICTURES)}.")
    if given.dir and given.mongo:
        raise ConfigError("Runs are read from folders (--dir) or a database (--mongo): name one of them.")
    store = query.open_store(given.dir or _places(given.run), given.mongo and _uri(given.mongo))
    fields = {name: tuple(getattr(given, name)) for name in ("alg", "map", "seed", "status")}
    wanted = query.Filter(
        runs=tuple(given.run), keys=tuple(given.key), commit=given.commit, since=given.since,
        until=given.until, **fields,
    )  # fmt: skip
    chosen = query.select(store, wanted)
    try:
        notes = ANSWERS[given.command](given, store, chosen)
    except OSError as error:
        raise ConfigError(f"{error.filename} can't be written ({error.strerror}).") from error
    for line in [*store.problems, *notes]:
        print(f"note: {line}", file=sys.stderr)
    return 0


def _places(runs: Sequence[str]) -> list[Path]:
    """Return where ``runs`` lie: among all results, unless they are named by directories elsewhere."""
    directories = [Path(run).resolve() for run in runs if Path(run).is_dir()]
    all_results = ROOT / "results"
    elsewhere = any(not directory.is_relative_to(all_results.resolve()) for directory in directories)
    return directories if elsewhere and len(directories) == len(runs) else [all_results]


def _list(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import query

    _print(given, query.runs(chosen))
    return query.notices(chosen)


def _show(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    if not given.run:
        raise ConfigError("show needs --run RUN; `results.py list` shows the ids.")
    from records import query

    for run in chosen:
        print(f"{run.run}: {run.alg} on {run.map}, seed {run.seed}, {run.status}, {run.where}")
        took = "" if math.isnan(run.seconds) else f" in {run.seconds / 60:.1f} minutes"
        print(f"  {run.t_env:,} steps{took}, commit {run.commit or 'unknown'}")
        for name, value in run.details.items():
            print(f"  {name}: {' '.join(value) if isinstance(value, list) else value}")
        print("  metrics, last value:")
        for metric in run.metrics:
            points = store.curves([run], metric)[run.run]
            print(
                f"    {metric}: {points.values[-1]:.6g} ({len(points)} points, to step {points.steps[-1]:,})"
            )
        print("  configuration:")
        print(json.dumps(run.config, indent=2, sort_keys=True).replace("\n", "\n    "))
    return query.damages(chosen)


def _curves(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import export

    metric, frame, notes = _frame(given, store, chosen, times=True)
    if given.format == "csv":
        _write(given, export.curve_csv(frame, metric))
    elif given.format == "marl-eval":
        environments = {run.run: run.config["env"] for run in chosen}
        _write(given, json.dumps(export.marl_eval(frame, metric, environments), indent=1))
    else:
        _print(given, frame)
    return notes


def _table(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import export, query

    _, frame, notes = _frame(given, store, chosen)
    table = query.table(frame, given.at)
    if given.format == "latex":
        _write(given, export.latex(table))
    else:
        _print(given, table)
    return notes + (query.lengths(frame) if given.at is None else [])


def _best(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import query

    _, frame, notes = _frame(given, store, chosen)
    _print(given, query.best(frame).head(given.top))
    return notes


def _quality(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import model_quality

    found, notes = model_quality.read(chosen)
    _print(given, model_quality.table(found))
    return notes


def _plot(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    for option, (default, kinds) in USED_BY.items():
        if given.kind not in kinds and getattr(given, option) != default:
            raise ConfigError(f"--kind {given.kind} has no use for --{option}; {', '.join(kinds)} do.")
    draws = (_plot_curves, CURVES), (_plot_quality, QUALITY), (_plot_scores, SCORES)
    draw = next(draw for draw, kinds in draws if given.kind in kinds)
    notes = draw(given, store, chosen)
    print(f"Drawn in {given.out}")
    return notes


def _plot_curves(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import plots, query

    metrics = query.loss_metrics(chosen) if given.kind == "losses" else given.metric or [None]
    if not metrics:
        raise ConfigError("None of these runs recorded losses of a world model.")
    names = [query.metric_of(chosen, metric) for metric in metrics]
    frames = {name: query.curves(store, chosen, name, times=given.x == "hours") for name in names}
    if given.at is not None:
        frames = {name: query.up_to(frame, given.at) for name, frame in frames.items()}
    notes = query.notices(chosen)
    if given.x == "hours":
        notes += [line for frame in frames.values() for line in query.without_times(frame)]
        frames = {name: frame.dropna(subset="seconds") for name, frame in frames.items()}
        if all(frame.empty for frame in frames.values()):
            raise ConfigError("These curves were kept without their times; draw them over --x t_env.")
    plots.draw_curves(frames, given.out, given.band, given.x)
    if given.kind == "curves":
        notes += [line for name in names for line in query.without(chosen, name)]
    return notes + [line for frame in frames.values() for line in query.lengths(frame)]


def _plot_quality(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import model_quality, plots

    found, notes = model_quality.read(chosen)
    plots.draw_curves(model_quality.curves(found), given.out, given.band, x="horizon")
    return notes


def _plot_scores(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import plots, query

    metric, frame, notes = _frame(given, store, chosen)
    scores, left_out = query.scores(frame, given.at)
    if given.kind == "improvement":
        if len(scores) < 2:
            raise ConfigError("The probability of improvement needs two algorithms; choose more with --alg.")
        plots.draw_improvement(scores, given.out)
    else:
        draw = plots.draw_aggregate if given.kind == "aggregate" else plots.draw_profiles
        draw(scores, metric, given.out)
    return notes + (query.lengths(frame) if given.at is None else []) + left_out


def _report(given: argparse.Namespace, store: "Store", chosen: "list[Run]") -> list[str]:
    from records import query, report

    metric = _one_metric(given, chosen)
    report.write(given.out, store, chosen, metric, given.title)
    print(f"Written to {given.out}")
    return query.without(chosen, metric)


ANSWERS = {
    "list": _list, "show": _show, "curves": _curves, "table": _table, "best": _best, "quality": _quality,
    "plot": _plot, "report": _report,
}  # fmt: skip


def _frame(
    given: argparse.Namespace, store: "Store", chosen: "list[Run]", times: bool = False
) -> "tuple[str, pd.DataFrame, list[str]]":
    """Return the one metric that is asked for, its curves, with their ``times`` where these are shown, and
    what a reader must know of them."""
    from records import query

    metric = _one_metric(given, chosen)
    frame = query.curves(store, chosen, metric, times)
    return metric, frame, query.notices(chosen) + query.without(chosen, metric)


def _one_metric(given: argparse.Namespace, chosen: "list[Run]") -> str:
    from records import query

    if given.metric and len(given.metric) > 1:
        raise ConfigError("This takes one --metric; only `plot --kind curves` takes several.")
    return query.metric_of(chosen, given.metric and given.metric[0])


def _print(given: argparse.Namespace, frame: "pd.DataFrame") -> None:
    if given.format == "csv":
        text = frame.to_csv(index=False, lineterminator="\n")
    elif given.format == "json":
        text = frame.to_json(orient="records", date_format="iso", indent=1, double_precision=15) + "\n"
    else:
        text = frame.to_string(index=False, na_rep="-", float_format="{:.3f}".format, max_rows=None) + "\n"
    _write(given, text)


def _write(given: argparse.Namespace, text: str) -> None:
    if given.out is None:
        sys.stdout.write(text)
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text)
    print(f"Written to {given.out}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when piped into `head`
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # at a usual exit pymongo waits up to half a second for its threads, which nothing needs
