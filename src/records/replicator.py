"""Copies a run's journal to MongoDB while the run goes on, from a thread that training never waits for."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError
from sacred.observers import RunObserver

from records.journal import FILE, Series, read_events, record_of
from records.mongo import BehindError, explain, send
from records.observer import JournalObserver

POLL = 0.5  # seconds between two looks at the journal
HEARTBEAT = 10.0  # seconds between two heartbeats in the database
BACK_OFF = (0.5, 30.0)  # seconds before the first retry, doubled up to the second
PATIENCE = 2.0  # seconds that the end of the run waits for a copy that makes no progress
LINES = 2000  # of the journal held in memory at a time


class MongoReplicator(RunObserver):
    """Follows the journal of ``source`` and sends what is new; the journal itself is the queue.

    A server that is away is warned of once and tried again, at growing intervals. What is missing when the
    run ends is named, and can be sent later with ``results.py sync``.
    """

    priority = 10

    def __init__(self, source: JournalObserver, database: Database[dict[str, Any]], uri: str) -> None:
        self._source = source
        self._database = database
        self._uri = uri
        self._log = logging.getLogger("marl")
        self._closing = threading.Event()
        self._progress = time.monotonic()
        self._away = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="mongo-replicator", daemon=True)

    def started_event(self, *event: Any, **named: Any) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for the rest of the copy as long as it makes progress."""
        if self._thread.ident is None:  # the run did not begin
            return
        self._progress = time.monotonic()
        self._closing.set()
        while self._thread.is_alive() and time.monotonic() - self._progress < PATIENCE:
            self._thread.join(0.05)
        if not self._complete:
            self._log.warning(
                "MongoDB lacks a part of this run's record; send it with: python src/results.py sync %s",
                self._source.dir,
            )

    def _work(self) -> None:
        delay = BACK_OFF[0]
        while True:
            try:
                copy = _Copy(self._database, self._source.dir, self._wrote)
                while not copy.step():
                    self._answered()
                    delay = BACK_OFF[0]
                    self._closing.wait(POLL)
                self._complete = True
                return
            except (PyMongoError, BehindError) as error:
                self._failed(error)
            if self._closing.is_set():
                time.sleep(BACK_OFF[0])
            else:
                self._closing.wait(delay)
            delay = min(2 * delay, BACK_OFF[1])

    def _wrote(self) -> None:
        self._progress = time.monotonic()

    def _answered(self) -> None:
        if self._away:
            self._log.info("MongoDB answers again; the record is being copied")
        self._away = False

    def _failed(self, error: Exception) -> None:
        if not self._away and not self._closing.is_set():
            self._log.warning("%s Training goes on; the record is kept here.", explain(error, self._uri))
        self._away = True


class _Copy:
    """One attempt: everything the journal says so far, then step by step what it says next."""

    def __init__(
        self, database: Database[dict[str, Any]], directory: Path, wrote: Callable[[], None]
    ) -> None:
        database.command("ping")  # before the journal is read, in vain if nobody is there
        self._journal = directory / FILE
        events, self._offset, _ = read_events(self._journal)
        record = record_of(events, directory, self._journal.stat().st_mtime)
        self._seen = Counter({name: len(points) for name, points in record.metrics.items()})
        self._replica = send(database, record, directory, wrote)
        self._record = replace(record, metrics={}, _order=[])
        self._beat = time.monotonic()

    def step(self) -> bool:
        """Send what is new, at most ``LINES`` lines of it; tell whether the run has ended and all is sent."""
        events, self._offset, _ = read_events(self._journal, self._offset, LINES)
        points: dict[str, Series] = defaultdict(Series)
        for event in events:
            if event["event"] == "metric":
                points[event["name"]].append(event["step"], event["value"], event["time"])
            else:
                self._record.apply(event)
            if event["event"] == "artifact":
                self._replica.artifact(event["name"], event["path"])
        for name, series in points.items():
            self._replica.push(name, self._seen[name], series)
            self._seen[name] += len(series)
        self._record.heartbeat = self._journal.stat().st_mtime
        if self._record.ended and len(events) < LINES:
            self._replica.state(self._record)
            return True
        if time.monotonic() - self._beat > HEARTBEAT:
            self._replica.heartbeat(self._record.heartbeat)
            self._beat = time.monotonic()
        return False
