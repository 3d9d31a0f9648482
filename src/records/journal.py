"""The journal of a run: ``journal.jsonl`` in its directory, append-only, the truth about the run.

One JSON object a line, each with ``event`` and ``time`` (Unix seconds, to the millisecond):

    started    uid, id, name, config, command, host, git, versions, experiment
    metric     name, step (environment steps), value
    artifact   name, path (relative to the run directory)
    resumed    keep: of the metric events that stood before this line, the first ``keep`` are valid; config,
               command, host, git, versions, as they are from here on
    ended      status, result, error, trace

Every line is handed to the operating system when its event happens, so that ``kill -9`` loses nothing; a
torn last line is dropped by readers and cut off by a writer that resumes. The file's modification time is
the run's heartbeat. Floats are written by repr, so float64, NaN and infinities are exact.
"""

import fcntl
import json
import os
import secrets
import string
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "journal.jsonl"
LOCK = "lock"  # file of a run directory that a living run holds locked
HEARTBEAT = 1.0  # seconds between two heartbeats of a living run
DEAD_AFTER = 60.0  # seconds without a heartbeat after which a run counts as dead
UID_LENGTH = 8
CURRENT = ("config", "command", "host", "git", "versions")  # what a resume renews

Event = dict[str, Any]


class DamagedRecord(ValueError):
    """A run directory whose record can't be read; its text is one sentence for the user."""


@dataclass
class Series:
    """The points of one metric, in the order they were logged; the three lists have the same length.

    ``steps`` are environment steps, ``times`` Unix seconds.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.steps)

    def append(self, step: int, value: float, time: float) -> None:
        self.steps.append(step)
        self.values.append(value)
        self.times.append(time)

    def truncate(self, length: int) -> None:
        del self.steps[length:], self.values[length:], self.times[length:]


@dataclass
class Record:
    """What a journal says.

    ``kept`` holds, for each time the run was resumed, how many points of each metric were valid then;
    ``earlier_commits`` are those that it was trained at before; ``damaged`` counts lines that are no events.
    """

    started: Event = field(default_factory=dict)
    metrics: dict[str, Series] = field(default_factory=dict)
    artifacts: list[Event] = field(default_factory=list)
    kept: list[dict[str, int]] = field(default_factory=list)
    earlier_commits: list[str] = field(default_factory=list)
    ended: Event | None = None
    heartbeat: float = 0.0
    damaged: int = 0
    _order: list[str] = field(default_factory=list, repr=False)  # the metrics' names, point by point

    @property
    def uid(self) -> str:
        return self.started["uid"]

    @property
    def config(self) -> dict[str, Any]:
        return self.started["config"]

    @property
    def points(self) -> int:
        """Number of valid metric events."""
        return len(self._order)

    @property
    def status(self) -> str:
        """``ended``'s status, else RUNNING, or DIED when the heartbeat stopped."""
        return self.ended["status"] if self.ended else living_status(self.heartbeat)

    def apply(self, event: Event) -> None:
        """Add what ``event`` says.

        Raises:
            KeyError, TypeError, AttributeError: it isn't an event of a journal.
        """
        kind = event["event"]
        if kind == "metric":
            point = event["step"], event["value"], event["time"]
            if not all(isinstance(number, int | float) for number in point):
                raise TypeError("a point is made of numbers")
            self.metrics.setdefault(event["name"], Series()).append(*point)
            self._order.append(event["name"])
        elif kind == "started":
            self.started = event
        elif kind == "artifact":
            self.artifacts = [a for a in self.artifacts if a["name"] != event["name"]] + [event]
        elif kind == "resumed":
            before = (self.started.get("git") or {}).get("commit")
            self.earlier_commits += [before] if before else []
            self.started = {**self.started, **{key: event[key] for key in CURRENT if key in event}}
            self._truncate(event["keep"])
        elif kind == "ended":
            self.ended = event

    def _truncate(self, keep: int) -> None:
        for name in reversed(self._order[keep:]):
            series = self.metrics[name]
            series.truncate(len(series) - 1)
        del self._order[keep:]
        self.metrics = {name: series for name, series in self.metrics.items() if series}
        self.kept.append({name: len(series) for name, series in self.metrics.items()})
        self.ended = None


def living_status(heartbeat: float) -> str:
    """Return the status of a run that has not ended and gave its last sign of life at ``heartbeat``."""
    return "DIED" if time.time() - heartbeat > DEAD_AFTER else "RUNNING"


class Journal:
    """Writes a run's journal. Safe to use from several threads."""

    def __init__(self, directory: Path, metrics_written: int) -> None:
        self.directory = directory
        self.metrics_written = metrics_written  # valid metric events so far
        self._lock = threading.Lock()
        self._file = os.open(directory / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @classmethod
    def create(cls, directory: Path, **started: Any) -> "Journal":
        """Begin the journal of a new run in ``directory``; ``started`` is what the first line holds."""
        journal = cls(directory, 0)
        uid = "".join(secrets.choice(string.ascii_lowercase) for _ in range(UID_LENGTH))
        journal._write("started", uid=uid, **started)
        return journal

    @classmethod
    def resume(cls, directory: Path, keep: int, **resumed: Any) -> "Journal":
        """Continue a journal of which the first ``keep`` metric events are valid.

        Raises:
            DamagedRecord: there is no journal, or it holds fewer valid metric events.
        """
        record = read_journal(directory)
        if record.points < keep:
            raise DamagedRecord(
                f"{directory} can't be continued after {keep} points: its journal holds only {record.points}."
            )
        _cut_torn_line(directory / FILE)
        journal = cls(directory, keep)
        journal._write("resumed", keep=keep, **resumed)
        journal.flush()  # a copy in a database tells by it what to cut off
        return journal

    def metric(self, name: str, step: int, value: float) -> None:
        """Write the value of the metric ``name`` at environment step ``step``."""
        self._write("metric", name=name, step=step, value=value)

    def artifact(self, name: str, path: str) -> None:
        """Write that the file at ``path``, relative to the run directory, belongs to the run as ``name``."""
        self._write("artifact", name=name, path=path)

    def ended(self, status: str, result: Any = None, **more: Any) -> None:
        """Write how the run ended: COMPLETED, FAILED or INTERRUPTED."""
        self._write("ended", status=status, result=result, **more)

    def heartbeat(self) -> None:
        """Show that the run lives."""
        os.utime(self.directory / FILE)

    def flush(self) -> None:
        """Make what was written survive a power cut, too."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, event: str, **content: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3), **content}, default=str) + "\n"
        data = line.encode()
        with self._lock:
            end = os.fstat(self._file).st_size
            try:
                while data:
                    data = data[os.write(self._file, data) :]
            except OSError:  # the disk is full: half a line would spoil the next one, too
                os.ftruncate(self._file, end)
                raise
            self.metrics_written += event == "metric"


def lock(directory: Path) -> bool:
    """Make this process the one that runs in ``directory`` until it ends; False if another one does."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    os.truncate(path, content.rfind(b"\n") + 1)


def read_journal(directory: Path) -> Record:
    """Return what the journal in ``directory`` says; lines that are no events are counted and left out.

    Raises:
        DamagedRecord: there is no journal, or its first line can't be read.
    """
    path = directory / FILE
    try:
        events, _, damaged = read_events(path)
        heartbeat = path.stat().st_mtime
    except OSError as error:
        raise DamagedRecord(f"{directory} holds no readable journal ({error.strerror}).") from error
    return record_of(events, directory, heartbeat, damaged)


def record_of(events: Iterable[Event], directory: Path, heartbeat: float, damaged: int = 0) -> Record:
    """Return the record that ``events`` make up.

    Raises:
        DamagedRecord: they don't say how the run began.
    """
    record = Record(heartbeat=heartbeat, damaged=damaged)
    for event in events:
        try:
            record.apply(event)
        except (KeyError, TypeError, AttributeError):
            record.damaged += 1
    if not isinstance(record.started.get("config"), Mapping) or "uid" not in record.started:
        raise DamagedRecord(
            f"The journal in {directory} doesn't say how the run began: its first line is lost."
        )
    return record


def read_events(path: Path, offset: int = 0, limit: int | None = None) -> tuple[list[Event], int, int]:
    """Return the events of the complete lines from byte ``offset`` on, at most ``limit``.

    With them, the offset of the next line and the number of lines that were no events.

    Raises:
        OSError: the file can't be read.
    """
    events: list[Event] = []
    damaged = 0
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n") or len(events) == limit:
                break
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                events.append(event)
            else:
                damaged += 1
    return events, offset, damaged
