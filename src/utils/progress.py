"""How far a run is: a live bar on a terminal, lines of the log elsewhere."""

import logging
import sys
import time
from collections import deque
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

WINDOW = 60.0  # seconds over which the speed is measured


class Progress:
    """Shows environment steps of the total, steps per second, time left and the last test's result.

    ``start`` is the number of steps that a resumed run begins with.
    """

    def __init__(self, total: int, console_logger: logging.Logger, start: int = 0) -> None:
        self.total = total
        self._log = console_logger
        self._result = ""
        self._marks = deque([(time.monotonic(), start)])
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            self._bar = Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True))
            self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tested(self, what: str, value: float) -> None:
        """Take note of a test's result, such as ``("win rate", 0.5)``."""
        self._result = f" | test {what} {value:.3g}"
        self._refresh()

    def update(self, t_env: int) -> None:
        """Take note of the steps taken so far."""
        now = time.monotonic()
        self._marks.append((now, t_env))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()
        self._refresh()

    def _refresh(self) -> None:
        if self._bar is not None:
            t_env = self._marks[-1][1]
            self._bar.update(self._task, completed=min(t_env, self.total), description=self.text())

    def log(self) -> None:
        """Write a line to the log, unless the bar shows the same."""
        if self._bar is None:
            self._log.info(self.text())

    def text(self) -> str:
        """Return the state in one line."""
        (t0, first), (t1, last) = self._marks[0], self._marks[-1]
        speed = (last - first) / (t1 - t0) if t1 > t0 else 0.0
        left = str(timedelta(seconds=round(max(0, self.total - last) / speed))) if speed > 0 else "?"
        return f"{last:,} of {self.total:,} steps | {speed:,.0f} steps/s | {left} left{self._result}"
