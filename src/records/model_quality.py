"""What `main.py evaluate_world_model=` found, of many runs side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from quality.command import INDICES, MEASURE, RESULT
from records.query import without_what
from records.store import Run
from utils.constraints import ConfigError

Found = Mapping[str, Mapping[str, Any]]  # what was found, by run


def read(chosen: Sequence[Run]) -> tuple[Found, list[str]]:
    """Return what was found about the runs' world models, and what a reader of it must know.

    Raises:
        ConfigError: none of them has been measured.
    """
    found, damaged = {}, []
    for run in chosen:
        file = Path(run.where, f"{RESULT}.json")
        try:
            found[run.run] = json.loads(file.read_text())
        except (FileNotFoundError, NotADirectoryError):  # not measured, or a CSV of curves
            continue
        except ValueError as error:
            damaged.append(f"{file} is damaged ({error}); measure again.")
    if not found:
        why = f"None of these runs' world models has been measured: main.py {MEASURE}=DIRECTORY."
        raise ConfigError(" ".join([why, *damaged]))
    unmeasured = [(run.alg, run.map) for run in chosen if run.run not in found]
    notes = without_what(unmeasured, "measured world model")
    return found, damaged + notes + _on_other_play(chosen, found)


def _on_other_play(chosen: Sequence[Run], found: Found) -> list[str]:
    """A sentence for each map whose runs were not all measured on the same play."""
    play: dict[str, set[str]] = {}
    for run in chosen:
        if run.run in found:
            about = {key: value for key, value in found[run.run]["dataset"].items() if key != "file"}
            about["horizons"] = found[run.run]["horizons"]
            play.setdefault(run.map, set()).add(json.dumps(about, sort_keys=True))
    return [
        f"Not comparable: on {task} runs were measured on different play, or over different horizons."
        for task, kinds in sorted(play.items())
        if len(kinds) > 1
    ]


def table(chosen: Sequence[Run], found: Found) -> pd.DataFrame:
    """Return one row per run, index and part of it: the mean over horizons and its 95 % interval."""
    ordered = sorted(chosen, key=lambda run: (run.map, run.alg, run.seed))
    return pd.DataFrame(
        {
            "map": run.map, "alg": run.alg, "seed": run.seed, "run": run.run, "step": found[run.run]["step"],
            "index": index, "part": part, **curve["mean"],
        }
        for run in ordered if run.run in found
        for index in INDICES
        for part, curve in _with_parts(found[run.run][index])
    )  # fmt: skip


def _with_parts(index: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "all", index
    yield from index["parts"].items()


def curves(chosen: Sequence[Run], found: Found) -> dict[str, pd.DataFrame]:
    """Return each index over the steps predicted ahead, one row per run and step."""
    return {
        index: pd.DataFrame(
            {"run": run.run, "alg": run.alg, "map": run.map, "seed": run.seed, "horizon": k, "value": value}
            for run in chosen if run.run in found
            for k, value in zip(
                found[run.run]["horizons"], found[run.run][index]["per_horizon"]["value"], strict=True
            )
        )
        for index in INDICES
    }  # fmt: skip
