"""How many CPU threads a run uses, and how they wait for each other."""

import os


def limit_threads(n: int) -> None:
    """Let torch and jax use ``n`` threads each, 0 for all; call it before either is imported.

    A thread that waits for the others sleeps. By default it would keep its core busy, and where another
    process needs that core a world-model update of two threads took nine times as long. Who has a machine to
    themselves may set OMP_WAIT_POLICY=ACTIVE.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if n:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
        os.environ["NPROC"] = str(n)  # the size of XLA's thread pool on a CPU
