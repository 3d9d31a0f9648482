"""How many CPU threads a run uses, and how they wait for each other."""

import os


def limit_threads(n: int) -> None:
    """Let torch and jax use ``n`` threads each, 0 for all; call it before either is imported.

    A thread that waits for the others soon sleeps. By default it keeps its core busy for long: where another
    process needed that core, a world-model update of two threads took nine times as long. One that sleeps at
    once makes them three times slower on a machine with nothing else to do. OMP_WAIT_POLICY, ACTIVE or
    PASSIVE, has its way where it is set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if n:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n)
        os.environ["NPROC"] = str(n)  # the size of XLA's thread pool on a CPU
