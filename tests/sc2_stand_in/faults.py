"""What can go wrong with the game, by request."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

NEVER = 1 << 62
FAULTS = ("refuse", "mute", "die", "hang", "garbage")


class Faults:
    """The fault that ``switch`` names: "" for none, else ``kind[:step[:times]]``.

    refuse: the process ends at once; mute: it never listens; die, hang, garbage: at the given step request it
    is killed, stops answering, or answers with bytes that are no message. With ``times``, only so many games
    are affected, counted by files in ``folder``.
    """

    def __init__(self, switch: str, folder: Path):
        kind, _, rest = switch.partition(":")
        at, _, times = rest.partition(":")
        if kind and (kind not in FAULTS or not _claim(folder, kind, int(times or NEVER))):
            kind = ""
        self._kind, self._at, self._steps = kind, int(at or 1), 0

    @property
    def refuses(self) -> bool:
        """Whether the process is to end at once."""
        return self._kind == "refuse"

    @property
    def mute(self) -> bool:
        """Whether the process is never to listen."""
        return self._kind == "mute"

    @property
    def _due(self) -> bool:
        return self._steps >= self._at

    def count_step(self) -> None:
        """A step has been asked for: die or hang if that is due."""
        self._steps += 1
        if self._due and self._kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while self._due and self._kind == "hang":
            time.sleep(60)

    def spoil(self, response: bytes) -> bytes:
        """The response, or garbage if that is due."""
        return b"\xff\x00garbage" if self._due and self._kind == "garbage" else response


def _claim(folder: Path, kind: str, times: int) -> bool:
    """Whether this game is one of the ``times`` affected ones; all are if there is no limit."""
    if times == NEVER:
        return True
    for i in range(times):
        try:
            (folder / f"{kind}-{i}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False
