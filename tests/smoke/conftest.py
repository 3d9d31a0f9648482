"""Real command lines, run as subprocesses with all results in a temporary folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class CommandLine:
    """Runs ``src/main.py`` from a folder outside the repository, with its results in ``results``."""

    results: Path
    cwd: Path
    environ: dict[str, str]

    def words(self, alg: str, env: str, *assignments: str) -> list[str]:
        where = f"local_results_path={self.results}"
        return [f"--config={alg}", f"--env-config={env}", "with", where, *assignments]

    def start(self, words: list[str], errors: Any = subprocess.PIPE, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "src" / "main.py"), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
        return subprocess.Popen(command, cwd=self.cwd, env=self.environ, **pipes, **options)

    def run(self, words: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
        process = self.start(words)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def train(self, alg: str, env: str, *assignments: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.words(alg, env, *assignments))


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    return CommandLine(tmp_path / "results", cwd, dict(os.environ))


@pytest.fixture
def load() -> Callable[[Path], Any]:
    """A reader of JSON files."""
    return lambda path: json.loads(path.read_text())
