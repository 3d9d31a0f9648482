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
@pytest.mark.parametrize("wish", [None, "ACTIVE"])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(wish: str | None) -> None:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    environment = {
        **plain,
        **({"OMP_WAIT_POLICY": wish} if wish else {}),
        "OMP_DISPLAY_ENV": "TRUE",  # the library says what it was told
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    }
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["1"]
    assert f"OMP_WAIT_POLICY = '{wish or 'PASSIVE'}'" in done.stderr
