"""Sends to MongoDB what it lacks of the records in a folder, and verifies that both say the same."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pymongo.database import Database

from records import sacred_files
from records.folder import read_record
from records.journal import FILE, DamagedRecord, Record
from records.mongo import BehindError, Document, as_it_is_now, digest, send, series


def sync(database: Database[Document], directories: Iterable[Path]) -> Iterator[str]:
    """Send what is missing, run by run, and yield a line for each run that can't be read.

    Sacred's files of a run that died are renewed from its journal, too.
    """
    for directory in directories:
        try:
            record = read_record(directory)
        except DamagedRecord as error:
            yield str(error)
            continue
        try:
            send(database, record, directory)
        except BehindError as error:
            yield f"{directory} is being copied by its own run ({error}); send it again later."
            continue
        if record.status == "DIED" and (directory / FILE).exists():
            sacred_files.write(directory, record)


def verify(database: Database[Document], directories: Iterable[Path]) -> Iterator[str]:
    """Yield a line for each difference between the records in ``directories`` and the database."""
    for directory in directories:
        try:
            record = read_record(directory)
        except DamagedRecord as error:
            yield str(error)
        else:
            yield from (f"{directory}: {difference}" for difference in _differences(database, record))


def _differences(database: Database[Document], record: Record) -> Iterator[str]:
    run: dict[str, Any] | None = database.runs.find_one({"_id": record.uid})
    if run is None:
        yield "the database doesn't have this run"
        return
    if run["status"] != record.status:
        yield f"its status is {record.status}, in the database {run['status']}"
    if other := [key for key, value in as_it_is_now(record).items() if run[key] != value]:
        yield f"its {' and '.join(other)} differ from those in the database"
    there = {found["name"]: series(found) for found in database.metrics.find({"run_id": record.uid})}
    for name in sorted(record.metrics.keys() | there.keys()):
        here_n, there_n = (len(points.get(name, ())) for points in (record.metrics, there))
        if here_n != there_n:
            yield f"{name} has {here_n} points, in the database {there_n}"
        elif here_n and digest(record.metrics[name]) != digest(there[name]):
            yield f"the {here_n} points of {name} differ from those in the database"
    artifacts = {artifact["name"] for artifact in run["artifacts"]}
    for artifact in record.artifacts:
        if artifact["name"] not in artifacts:
            yield f"the database lacks the artifact {artifact['name']}"
