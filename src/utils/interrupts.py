"""Ctrl-C, SIGTERM and SIGHUP end a run in one way: a KeyboardInterrupt, after which everything is closed in
order.

Where work is held together by ``held``, the first of them waits for the work's end, so that it can be saved.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

WAITING = b"\nEnding when the step under way is done and saved; Ctrl-C again to end at once.\n"

_requested = False
_held = False


def install() -> None:
    """Let a SIGINT, SIGTERM or SIGHUP raise KeyboardInterrupt, and a SIGINT or SIGHUP after that not disturb
    the closing.

    A SIGTERM during the closing ends the process at once, should it hang. SIGHUP, by which a closed terminal
    ends its programs, stays ignored under ``nohup``.
    """
    signal.signal(signal.SIGINT, _handle)
    signal.signal(signal.SIGTERM, _handle)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    global _requested
    # Systems that stop a service or a job signal all of its processes, and a study passes its own signal on:
    # the second SIGTERM is not meant to be more urgent than the first.
    waits = _held and (number != signal.SIGINT or not _requested)
    _requested = True
    if waits:
        with suppress(OSError):  # the terminal may be gone
            os.write(2, WAITING)  # print may be what was interrupted
    else:
        check()


@contextmanager
def held() -> Iterator[None]:
    """Let signals within the block wait for its end; a second one that is a Ctrl-C raises KeyboardInterrupt
    there."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False


def requested() -> bool:
    """Whether there was a signal."""
    return _requested


def check() -> None:
    """Raise KeyboardInterrupt if there was a signal.

    One may have been held, or its exception lost: Python drops those raised in a destructor or callback.
    """
    if _requested:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt
