"""What the thread pool of the numerical libraries is told before it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = (
    "from utils.threads import limit_threads; limit_threads(1); import torch; print(torch.get_num_threads())"
)


@pytest.mark.skipif(sys.platform != "linux", reason="torch's other builds have another thread pool")
@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({}, "GOMP_SPINCOUNT = '10000'"),
        ({"GOMP_SPINCOUNT": "5"}, "GOMP_SPINCOUNT = '5'"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "GOMP_SPINCOUNT = '0'"),
    ],
)
def test_threads_soon_sleep_while_they_wait_unless_the_user_says_otherwise(
    wish: dict[str, str], told: str
) -> None:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment = {
        **plain,
        **wish,
        "OMP_DISPLAY_ENV": "VERBOSE",  # the library says what it was told
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    }
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["1"]
    assert told in done.stderr
