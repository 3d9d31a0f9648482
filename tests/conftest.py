"""Settings of all tests, made before anything is imported; the processes that tests start inherit them."""

import os
import tempfile
from pathlib import Path

# The tensors are small and a test machine is shared: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What one test has compiled, the next one finds: a battle's step takes some ten seconds to compile.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), "marl-tests-jax-cache")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
