"""World models measured run by run, put side by side."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from samples import write_run

import results
from quality.command import INDICES


def curve(value: float) -> dict[str, Any]:
    """An index or a part of it that rises by its value with each of three horizons."""
    steps = [value, 2 * value, 3 * value]
    bounds = {"low": [x - 0.1 for x in steps], "high": [x + 0.1 for x in steps]}
    mean = {"value": 2 * value, "low": 2 * value - 0.1, "high": 2 * value + 0.1}
    return {"mean": mean, "per_horizon": {"value": steps, **bounds}}


def measured(directory: Path, value: float, play: str = "a run") -> Path:
    """Write what `evaluate_world_model=` would write for a run."""
    index = curve(value) | {"parts": {"reward": curve(value / 2)}}
    result = {
        "step": 2000, "horizons": [1, 2, 3], **dict.fromkeys(INDICES, index),
        "dataset": {"file": str(directory), "run": play},
    }  # fmt: skip
    (directory / "world_model_quality.json").write_text(json.dumps(result))
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for alg, value in (("mamba", 0.4), ("gawm", 0.2)):
        for seed in range(2):
            measured(write_run(tmp_path, alg, seed=seed), value + seed / 100)
    write_run(tmp_path, "qmix")
    return tmp_path


def ask(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = results.main([words[0], "--dir", str(folder), *words[1:]])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_table_of_all_that_was_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(folder, capsys, "quality", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["alg"], row["seed"]) for row in rows[::4]] == [
        ("gawm", "0"), ("gawm", "1"), ("mamba", "0"), ("mamba", "1")
    ]  # fmt: skip
    assert [(row["index"], row["part"]) for row in rows[:4]] == [
        (index, part) for index in INDICES for part in ("all", "reward")
    ]
    second = {key: float(rows[5][key]) for key in ("value", "low", "high")}
    assert second == pytest.approx({"value": 0.21, "low": 0.11, "high": 0.31})
    assert err == "note: Left out, as they have no measured world model: 1 run of qmix on 3m.\n"


def test_curves_over_the_steps_ahead_are_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = folder / "quality.png"
    assert ask(folder, capsys, "plot", "--kind", "quality", "--out", str(picture))[0] == 0
    assert picture.stat().st_size > 5000
    code, _, err = ask(folder, capsys, "plot", "--kind", "quality", "--x", "hours", "--out", str(picture))
    assert (code, "has no use for --x" in err) == (2, True)


def test_runs_measured_on_other_play_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(write_run(folder, "mag"), 0.3, play="another run")
    assert "Not comparable: on 3m runs were measured on different play" in ask(folder, capsys, "quality")[2]
    assert "Not comparable" not in ask(folder, capsys, "quality", "--alg", "gawm", "mamba")[2]


def test_a_damaged_measurement_is_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = measured(write_run(folder, "mag"), 0.3) / "world_model_quality.json"
    file.write_text(file.read_text()[:40])
    code, _, err = ask(folder, capsys, "quality")
    assert (code, f"note: {file} is damaged (" in err) == (0, True)


def test_nothing_measured_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(folder, capsys, "quality", "--alg", "qmix")
    assert (code, out) == (2, "")
    assert err == (
        "error: None of these runs' world models has been measured: main.py evaluate_world_model=DIRECTORY.\n"
    )
