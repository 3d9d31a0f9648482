"""Freed memory stays with the process, ready for the next tensor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 2**20
GIVEN_BACK = """
import sys
import psutil
import torch
from utils.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
held = [torch.ones(2**21) for _ in range(8)]  # 8 MiB each
before = psutil.Process().memory_info().vms
del held
print(before - psutil.Process().memory_info().vms)
"""


def given_back(how: str) -> int:
    """Bytes of address space that a process gives back with eight tensors of 8 MiB."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", GIVEN_BACK, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is told")
def test_freed_memory_is_kept() -> None:
    assert given_back("by default") > 60 * MIB
    assert given_back("kept") < 8 * MIB
