"""Metrics to the run's journal and TensorBoard, messages to the console."""

import logging
import shutil
import sys
from collections import defaultdict, deque
from contextlib import suppress
from typing import Any

from torch import Tensor

from records.journal import Journal

RECENT = 5  # values of a metric that the console's figure is the mean of
CELL = 38  # characters of one figure on the console


class Logger:
    """What learners and runners log through.

    ``stats`` keeps the last few ``(t, value)`` of every metric; the whole series go to the journal and
    TensorBoard.
    """

    def __init__(self, console_logger: logging.Logger) -> None:
        self.console_logger = console_logger
        self.stats: dict[str, deque[tuple[int, float]]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._journal: Journal | None = None
        self._tb_writer: Any = None

    def setup_journal(self, journal: Journal) -> None:
        """Record every metric in ``journal``."""
        self._journal = journal

    def setup_tb(self, directory: str, after: int = 0) -> None:
        """Write every metric to TensorBoard event files in ``directory``; what is there of later steps than
        ``after``, from before the run was resumed, is not shown, nor anything if it starts anew."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import and rarely asked for

        self._tb_writer = SummaryWriter(directory, purge_step=after + 1 if after else 0)

    def log_stat(self, key: str, value: float | Tensor, t: int) -> None:
        """Record a value (a number or one-element tensor) of the metric ``key`` at environment step ``t``."""
        number = float(value)
        self.stats[key].append((t, number))
        if self._journal is not None:
            self._journal.metric(key, t, number)
        if self._tb_writer is not None:
            self._tb_writer.add_scalar(key, number, t)

    def last(self, key: str) -> float | None:
        """Return the metric's newest value, None before the first."""
        series = self.stats.get(key)
        return series[-1][1] if series else None

    def print_recent_stats(self) -> None:
        """Print all metrics, each as the mean of its last few values, counts as they are."""
        shown = {key: _recent([v for _, v in series]) for key, series in self.stats.items() if series}
        cells = [f"  {key}: {number}".ljust(CELL) for key, number in sorted(shown.items())]
        n = max(1, shutil.get_terminal_size(fallback=(3 * CELL, 24)).columns // CELL)
        rows = ["".join(cells[i : i + n]).rstrip() for i in range(0, len(cells), n)]
        self.console_logger.info("\n".join([f"Recent stats (means of the last {RECENT} values)", *rows]))

    def finish(self) -> None:
        """Flush and close what was opened."""
        if self._tb_writer is not None:
            self._tb_writer.close()
            self._tb_writer = None

    def state_dict(self) -> dict[str, Any]:
        return {"stats": {key: list(series) for key, series in self.stats.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stats.clear()
        for key, series in state["stats"].items():
            self.stats[key].extend((t, value) for t, value in series)


def _recent(values: list[float]) -> str:
    """The mean of values; of whole numbers that never fall, which count something, the last."""
    if all(value.is_integer() for value in values) and values == sorted(values):
        return str(int(values[-1]))
    return f"{sum(values) / len(values):.4g}"


class _Stderr(logging.Handler):
    """Writes to what sys.stderr is at the moment: a live bar takes its place, to stay below the lines.

    A reader that goes away, such as ``head``, and a terminal that is closed, must not end the run.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            print(self.format(record), file=sys.stderr, flush=True)


def get_console_logger() -> logging.Logger:
    """Return the run's logger, which writes lines with a time to stderr."""
    logger = logging.getLogger("marl")
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("[%(levelname)s %(asctime)s] %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
