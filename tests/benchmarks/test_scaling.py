"""The scaling plot: its exponents are those of the figures, and figures that are missing are named."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "wm_8m": 1.0,
    "wm_agents_4": 0.25,
    "wm_agents_16": 4.0,  # quadratic
    "wm_length_10": 0.5,
    "wm_batch_80": 2.0,
}


def scaling(figures: Path, png: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), str(figures), "--png", str(png)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def write(figures: Path, cases: dict[str, float]) -> None:
    rows = [{"case": name, "cpu_s": seconds} for name, seconds in cases.items()]
    figures.write_text(json.dumps({"cases": rows}))


def test_powers_are_those_of_the_figures(tmp_path: Path) -> None:
    write(tmp_path / "speed.json", CASES)
    done = scaling(tmp_path / "speed.json", tmp_path / "deep" / "scaling.png")
    assert done.returncode == 0, done.stderr
    powers = [line.rpartition(" ")[2] for line in done.stdout.splitlines()]
    assert powers == ["2.00", "1.00", "1.00"]
    assert (tmp_path / "deep" / "scaling.png").stat().st_size > 5000


def test_figures_that_do_not_suffice_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "speed.json", {"wm_8m": 1.0, "wm_agents_4": 0.25})
    for name, named in (("speed.json", "length, batch"), ("none.json", "bench-full")):
        done = scaling(tmp_path / name, tmp_path / "scaling.png")
        assert done.returncode == 2
        assert named in done.stderr
        assert "Traceback" not in done.stderr
