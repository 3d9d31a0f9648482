"""Settings of all tests: one thread each, since the tensors are small and a test machine is shared."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
