"""The speed benchmark's command line: figures as a table and a file, parts in a profile, unknown cases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from speed import chosen
from speed_cases import CASES, Setup

import gpu_stand_in
import run

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
    for part in ("observe", "Layers.forward", "Layers.backward", "predict", "step", "aten::mm"):
        assert part in done.stdout


def test_an_unknown_case_is_answered_with_the_known_ones() -> None:
    done = bench("--only", "qmxi")
    assert done.returncode == 2
    assert "qmxi" in done.stderr
    assert "wm_small" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["with", "wm_batch_siz=3"], "wm_batch_size"),
        (["wm_batch_size=3"], "'with' is missing"),
        (["--device", "cuda"], "there is no CUDA device"),
    ],
)
def test_what_cannot_be_timed_is_said(words: list[str], reason: str) -> None:
    if reason.endswith("CUDA device") and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = bench("--only", "sampling_small", *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_settings_are_those_of_the_runs() -> None:
    case = CASES["sampling_small"](Setup(settings=(("wm_sequence_length", "3000"),)))
    with pytest.raises(ValueError, match="a window of 3000 records"):
        case.call()


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("wm_small", {"wm_batch_size": 2, "wm_sequence_length": 4}),
        ("round_small", {"imagination_starts": 20, "imagination_horizon": 2, "imagination_episodes": 2}),
        ("imagination_small", {"imagination_starts": 20, "imagination_episodes": 2}),
        ("sampling_small", {}),
        ("muon", {}),
        ("qmix", {}),
        ("mappo", {}),
    ],
)
def test_cases_run_on_a_gpu(case: str, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_device", lambda *_: gpu_stand_in.NAME)
    gpu_stand_in.be_cuda(monkeypatch)
    settings = tuple((key, str(value)) for key, value in sizes.items())
    with gpu_stand_in.StandIn():
        made = CASES[case](Setup(gpu_stand_in.NAME, settings))
        assert made.call() == 1


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
