"""Settings of all tests, made before anything is imported; the processes that tests start inherit them."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sc2_stand_in import install
from sc2_stand_in.battle import MAPS
from utils import interrupts

# The tensors are small and a test machine is shared: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# PySC2's messages load in this way only, and what imports protobuf first decides.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

# What one test has compiled, the next one finds: a battle's step takes some ten seconds to compile.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), "marl-tests-jax")))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**28))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(autouse=True)
def _one_library_multiplies() -> Iterator[None]:
    """What a test lets multiply matrices in this process, or a run that it makes in it, ends with it."""
    import torch

    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads until the test ends."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> Path:
    """A folder in which the stand-in for StarCraft II is installed, with all maps that it knows."""
    return install(tmp_path_factory.mktemp("stand-in") / "SC2", MAPS)


@pytest.fixture
def interruptible(monkeypatch) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP are handled as in a run, and afterwards as before."""
    monkeypatch.setattr(interrupts, "_requested", False)
    monkeypatch.setattr(interrupts, "_held", False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    interrupts.install()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
