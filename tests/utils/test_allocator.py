"""Freed memory that is kept costs no page faults when it is used again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, sys
import torch
from utils.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def touch():
    held = [torch.ones(2**21) for _ in range(8)]  # 8 MiB each
for _ in range(3):
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told")
def test_kept_memory_is_not_faulted_in_again() -> None:
    assert page_faults("kept") < page_faults("given back") / 2  # the system may take some back by itself
