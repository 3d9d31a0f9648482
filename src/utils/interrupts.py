"""Ctrl-C and SIGTERM end a run in one way: a KeyboardInterrupt, after which everything is closed in order."""

import signal
from types import FrameType

_requested = False


def install() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and a SIGINT after it not disturb the closing.

    A second SIGTERM ends the process at once, should the closing hang.
    """
    signal.signal(signal.SIGINT, _handle)
    signal.signal(signal.SIGTERM, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt again if it was lost: Python drops one raised in a destructor or callback."""
    if _requested:
        raise KeyboardInterrupt
