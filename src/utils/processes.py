"""Processes that don't outlive the one that started them."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl: the signal to get when the parent ends


def end_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Have the system signal this process when its parent ends, even by `kill -9`; only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
