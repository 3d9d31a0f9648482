"""The runs that a study consists of: which are done, which are missing, and running those side by side."""

import logging
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import resume
from utils.config import map_name
from utils.constraints import ConfigError
from utils.processes import end_with_parent

MAIN = Path(__file__).with_name("main.py")
PAUSE = 0.2  # seconds between two looks at the running ones


@dataclass(frozen=True)
class Job:
    """One run: ``words`` is its command line, ``config`` what that composes to."""

    alg: str
    map: str
    seed: int
    words: tuple[str, ...] = field(repr=False, compare=False)
    config: dict[str, Any] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.alg} on {self.map}, seed {self.seed}"

    @property
    def name(self) -> str:
        """A name fit for a file."""
        return f"{self.alg}_{map_name(self.config)}_{self.seed}"

    def finished(self) -> Path | None:
        """The directory of the newest run of this configuration that took all its steps, if there is one."""
        finished, _ = resume.matching(self.config)
        return finished[0] if finished else None

    def command(self) -> list[str]:
        """What starts the run, or lets the newest one of this configuration that can go on do so."""
        _, unfinished = resume.matching(self.config)
        resumable = (directory for directory in unfinished if _can_go_on(directory))
        going_on = [f"resume={directory}" for directory in islice(resumable, 1)]
        return [sys.executable, str(MAIN), *self.words, *going_on]


def _can_go_on(directory: Path) -> bool:
    """Whether the newest checkpoint holds all that is needed, or there is none: then it begins anew."""
    from checkpoints import CheckpointError  # here, since torch takes its time
    from run import newest_checkpoint

    try:
        newest_checkpoint(directory, logging.getLogger(__name__))
    except (CheckpointError, ConfigError):  # all are damaged; it can't be resumed
        return False
    return True


class Pool:
    """Runs jobs as processes of their own, so many at a time; what they print goes to files in ``logs``."""

    def __init__(self, at_a_time: int, logs: Path) -> None:
        self.at_a_time, self.logs = at_a_time, logs
        self.running: dict[Job, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, int] | None]:
        """Yield each job with its exit code as it ends, and None now and then in between.

        If the caller stops before the end, the running ones are interrupted, and can be resumed.
        """
        waiting = deque(jobs)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.at_a_time:
                    self._start(waiting.popleft())
                for job, process in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[job]
                        yield job, process.returncode
                yield None
                time.sleep(PAUSE)
        finally:
            if self.running:
                print("Ending: the runs under way save what they have learnt", file=sys.stderr)
            for process in self.running.values():
                process.terminate()
            for process in self.running.values():
                process.wait()

    def _start(self, job: Job) -> None:
        # In a session of its own: Ctrl-C is for this process, which then ends its runs in order. Where this
        # process is killed, the system interrupts them.
        with self._log(job).open("wb") as log:
            self.running[job] = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )

    def last_line(self, job: Job) -> str:
        """The last thing that a job said."""
        lines = self._log(job).read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")

    def _log(self, job: Job) -> Path:
        return self.logs / f"{job.name}.log"
