"""Freed memory that is kept costs no page faults when it is used again."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils import allocator

WORK = """
import resource
import torch
from utils.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    y = x
    for _ in range(6):
        y = torch.tanh(y) + x

keep_freed_memory()
x = torch.ones(2000, 1000)
for _ in range(9):
    work()
before = faults()
for _ in range(5):
    work()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told")
def test_kept_memory_is_not_faulted_in_again() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", WORK]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert int(done.stdout) < 1000  # some 19,000 otherwise


def test_a_version_that_refuses_large_blocks_is_asked_for_smaller_ones(monkeypatch) -> None:
    """Else its threshold, told to trim no more, would stay so low that it maps every tensor anew."""
    asked: dict[int, int] = {}

    def mallopt(name: int, value: int) -> int:
        if name == allocator.M_MMAP_THRESHOLD and value > 2**25:
            return 0
        asked[name] = value
        return 1

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    allocator.keep_freed_memory()
    assert asked == {allocator.M_MMAP_THRESHOLD: 2**25, allocator.M_TRIM_THRESHOLD: allocator.LARGEST_INT}
