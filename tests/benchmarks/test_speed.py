"""The speed benchmark's command line: figures as a table and a file, parts in a profile, unknown cases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from speed import chosen

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "speed.py"), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_figures_come_with_the_machine(tmp_path: Path) -> None:
    done = bench("--only", "muon_library", "--json", str(tmp_path / "deep" / "speed.json"))
    assert done.returncode == 0, done.stderr
    assert "muon_library" in done.stdout
    found = json.loads((tmp_path / "deep" / "speed.json").read_text())
    (row,) = found["cases"]
    assert row["case"] == "muon_library"
    assert row["gflop"] > 1
    assert 0 < row["fastest_s"] <= row["median_s"]
    assert found["machine"]["threads"] == 1
    assert found["machine"]["torch"]


@pytest.mark.slow
def test_a_profile_names_parts() -> None:
    done = bench("--profile", "--only", "wm_small")
    assert done.returncode == 0, done.stderr
    for part in ("observe", "obs_fusion", "predict", "step", "aten::mm"):
        assert part in done.stdout


def test_an_unknown_case_is_answered_with_the_known_ones() -> None:
    done = bench("--only", "qmxi")
    assert done.returncode == 2
    assert "qmxi" in done.stderr
    assert "wm_small" in done.stderr


@pytest.mark.parametrize(
    ("word", "full", "there", "left_out"),
    [
        ("run_", False, "run_gawm_small_3m", "run_gawm_8m"),
        ("run_", True, "run_gawm_8m", "qmix"),
        ("wm_agents", False, "wm_agents_27", "wm_8m"),
    ],
)
def test_large_cases_are_left_out_unless_they_are_meant(word, full, there, left_out) -> None:
    names = chosen(word, full)
    assert there in names
    assert left_out not in names
