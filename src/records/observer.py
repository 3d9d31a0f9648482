"""Keeps a run's journal from what Sacred tells of the run."""

import logging
import os
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sacred.observers import RunObserver

from records import sacred_files
from records.journal import DamagedRecord, Journal, lock, read_journal

log = logging.getLogger("marl")

FILES_INTERVAL = 10.0  # seconds between two renewals of Sacred's files, at least
FILES_SHARE = 0.01  # of the time goes into renewing them, at most


class JournalObserver(RunObserver):
    """Opens the run directory and its journal when the run starts, and closes it when the run ends.

    ``root`` gets a new directory per run: 1, 2, 3, ..., which is locked. A run that is ``resumed`` goes on in
    that directory, locked already, of whose journal the first ``keep`` metric events are valid. ``versions``
    are those of Python and the packages; ``command`` is the command line, free of credentials.

    Metrics are best given to ``journal`` directly, which writes them at once; those logged with Sacred's
    ``log_scalar`` arrive with the next heartbeat.
    """

    priority = 100
    dir: Path
    """Of the run; there is none before the run has started."""
    journal: Journal

    def __init__(
        self,
        root: Path,
        command: list[str],
        versions: dict[str, str],
        resumed: Path | None = None,
        keep: int = 0,
    ) -> None:
        self._root = root
        self._command = command
        self._versions = versions
        self._resumed = resumed
        self._keep = keep
        self._files_due = 0.0
        self._writing = threading.Lock()  # Sacred may end the run while its heartbeat still writes

    def started_event(
        self,
        ex_info: dict[str, Any],
        command: str,
        host_info: dict[str, Any],
        start_time: datetime,
        config: dict[str, Any],
        meta_info: dict[str, Any],
        _id: str | None,
    ) -> str:
        repositories = ex_info.get("repositories") or [{}]
        git = {key: repositories[0].get(key) for key in ("commit", "dirty")}
        now = {"command": self._command, "host": host_info, "versions": self._versions, "git": git}
        if self._resumed is None:
            self.dir = _new_directory(self._root)
            lock(self.dir)  # before there is a journal that another process could go on with
            self.journal = Journal.create(
                self.dir,
                id=self.dir.name,
                name=ex_info["name"],
                config=config,
                experiment=ex_info,
                **now,
            )
        else:
            self.dir = self._resumed
            config = {**config, "resume": None}  # how this part of the run began is no property of the run
            self.journal = Journal.resume(self.dir, self._keep, config=config, **now)
        self._write_files()
        self.journal.artifact("versions.json", "versions.json")
        return self.dir.name

    def log_metrics(self, metrics_by_name: dict[str, dict[str, list[Any]]], info: dict[str, Any]) -> None:
        for name, points in metrics_by_name.items():
            for step, value in zip(points["steps"], points["values"], strict=True):
                self.journal.metric(name, step, value)

    def heartbeat_event(
        self, info: dict[str, Any], captured_out: str, beat_time: datetime, result: Any
    ) -> None:
        with suppress(OSError):  # Sacred would never ask again, and the next one may succeed
            self.journal.heartbeat()
        if time.monotonic() >= self._files_due:
            self._write_files()

    def artifact_event(
        self, name: str, filename: str, metadata: Any = None, content_type: str | None = None
    ) -> None:
        """Record the file ``filename``; one that lies elsewhere is copied into the run directory."""
        path = Path(filename)
        if not path.is_relative_to(self.dir):
            path = self.dir / name
            path.write_bytes(Path(filename).read_bytes())
        self.journal.artifact(name, str(path.relative_to(self.dir)))

    def completed_event(self, stop_time: datetime, result: Any) -> None:
        self._end("COMPLETED", result)

    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:
        self._end(status)

    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:
        self._end("FAILED", error=fail_trace[-1].strip(), trace=fail_trace)

    def _end(self, status: str, result: Any = None, **more: Any) -> None:
        self.journal.ended(status, result, **more)
        self.journal.flush()
        self.journal.close()
        self._write_files()

    def _write_files(self) -> None:
        """Renew Sacred's files; what can't be written now is not lost, since the journal has it."""
        with self._writing:
            begin = time.monotonic()
            try:
                sacred_files.write(self.dir, read_journal(self.dir))
            except (OSError, DamagedRecord) as error:
                log.warning("Sacred's files in %s were not renewed: %s", self.dir, error)
            now = time.monotonic()
            self._files_due = now + max(FILES_INTERVAL, (now - begin) / FILES_SHARE)


def _new_directory(root: Path) -> Path:
    """Make the next of the directories 1, 2, 3, ... in ``root``, one that no other run gets."""
    root.mkdir(parents=True, exist_ok=True)
    number = max((int(name) for name in os.listdir(root) if name.isdigit()), default=0)
    while True:
        number += 1
        directory = root / str(number)
        try:
            directory.mkdir()
        except FileExistsError:
            continue  # a run that started at the same moment was first
        return directory
