"""What `main.py evaluate_world_model=` found, of many runs side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from quality.command import INDICES, MEASURE, RESULT
from records.query import without_what
from records.store import Run
from utils.constraints import ConfigError

Found = Sequence[tuple[Run, Mapping[str, Any]]]  # runs, each with what was found of it


def read(chosen: Sequence[Run]) -> tuple[Found, list[str]]:
    """Return what was found about the runs' world models, and what a reader of it must know.

    Raises:
        ConfigError: none of them has been measured.
    """
    found, unmeasured, damaged = [], [], []
    for run in sorted(chosen, key=lambda run: (run.map, run.alg, run.seed)):
        file = Path(run.where, f"{RESULT}.json")
        try:
            found.append((run, json.loads(file.read_text())))
            continue
        except (FileNotFoundError, NotADirectoryError):  # not measured, or a CSV of curves
            pass
        except ValueError as error:
            damaged.append(f"{file} is damaged ({error}); measure again.")
        unmeasured.append((run.alg, run.map))
    if not found:
        why = f"None of these runs' world models has been measured: main.py {MEASURE}=DIRECTORY."
        raise ConfigError(" ".join([why, *damaged]))
    return found, damaged + without_what(unmeasured, "measured world model") + _on_other_play(found)


def _on_other_play(found: Found) -> list[str]:
    """A sentence for each map whose runs were not all measured on the same play."""
    play: dict[str, set[str]] = {}
    for run, result in found:
        about = {key: value for key, value in result["dataset"].items() if key != "file"}
        about["horizons"] = result["horizons"]
        play.setdefault(run.map, set()).add(json.dumps(about, sort_keys=True))
    return [
        f"Not comparable: on {task} runs were measured on different play, or over different horizons."
        for task, kinds in sorted(play.items())
        if len(kinds) > 1
    ]


def table(found: Found) -> pd.DataFrame:
    """Return one row per run, index and part of it: the mean over horizons and its 95 % interval."""
    return pd.DataFrame(
        {
            "map": run.map, "alg": run.alg, "seed": run.seed, "run": run.run, "step": result["step"],
            "index": index, "part": part, **curve["mean"],
        }
        for run, result in found
        for index in INDICES
        for part, curve in {"all": result[index], **result[index]["parts"]}.items()
    )  # fmt: skip


def curves(found: Found) -> dict[str, pd.DataFrame]:
    """Return each index over the steps predicted ahead, one row per run and step."""
    return {
        index: pd.DataFrame(
            {"run": run.run, "alg": run.alg, "map": run.map, "seed": run.seed, "horizon": k, "value": value}
            for run, result in found
            for k, value in zip(result["horizons"], result[index]["per_horizon"]["value"], strict=True)
        )
        for index in INDICES
    }
