"""Settings of all tests, made before anything is imported; the processes that tests start inherit them."""

import os
import tempfile
from pathlib import Path

import pytest

from sc2_stand_in import install
from sc2_stand_in.battle import MAPS

# The tensors are small and a test machine is shared: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# PySC2's messages load in this way only, and what imports protobuf first decides.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

# What one test has compiled, the next one finds: a battle's step takes some ten seconds to compile.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), "marl-tests-jax")))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**28))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> Path:
    """A folder in which the stand-in for StarCraft II is installed, with all maps that it knows."""
    return install(tmp_path_factory.mktemp("stand-in") / "SC2", MAPS)
