"""How many CPU threads a run uses."""

import os


def limit_threads(n: int) -> None:
    """Let torch and jax use ``n`` threads each, 0 for all; call it before either is imported."""
    if n:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
        os.environ["NPROC"] = str(n)  # the size of XLA's thread pool on a CPU
