"""Records in MongoDB, in Sacred's schema: collections ``runs``, ``metrics`` and ``fs``.

A run's ``_id`` is its uid. Each metric of a run is one document with ``steps``, ``values`` and
``timestamps``, to which points are appended only where its count ``n`` says that exactly these are missing:
an update whose reply was lost is found done when it is tried again, on any server, standalone ones included.
Ids of metrics and files are derived from what they hold, so that two writers can't make one twice.

``epoch`` counts how often the run was resumed; points that a resumed run has dropped are cut off by the
first writer that knows of it.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gridfs
import pymongo
from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from records.journal import Record, Series
from records.sacred_files import run_entry
from utils.constraints import ConfigError

DATABASE = "sacred"  # where the address names none
CONNECT_MS, OPERATION_MS = 2000, 5000  # time-outs
CHUNK = 2000  # points sent in one update
INT64 = 2**63

Document = dict[str, Any]


class BehindError(RuntimeError):
    """The database is not where this copy left it: it lost points, or the run was resumed meanwhile."""


def connect(uri: str) -> Database[Document]:
    """Return the database that ``uri`` names, without waiting for a server.

    Raises:
        ConfigError: ``uri`` has another form.
    """
    try:
        if "://" not in uri:
            raise InvalidURI("a bare name")  # which pymongo would take for a host
        client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            uri,
            connectTimeoutMS=CONNECT_MS,
            serverSelectionTimeoutMS=CONNECT_MS,
            socketTimeoutMS=OPERATION_MS,
            retryWrites=False,  # a standalone server has none, and nothing here needs them
            retryReads=False,
        )
        options: CodecOptions[Document] = CodecOptions(tz_aware=True)
        return client.get_default_database(DATABASE, codec_options=options)
    except (ConfigurationError, InvalidName, ValueError, TypeError) as error:
        raise ConfigError(
            "The address of MongoDB must have the form mongodb://[user:password@]host[:port]/database"
            " (special characters in a password percent-encoded)."
        ) from error


def check(database: Database[Document], uri: str) -> None:
    """Raise ConfigError if the server doesn't answer, or refuses the credentials."""
    try:
        database.runs.find_one({}, {"_id": True})
    except PyMongoError as error:
        raise ConfigError(explain(error, uri)) from error


def hosts(uri: str) -> str:
    """Return the servers that ``uri`` names, without credentials."""
    return uri.partition("://")[2].partition("/")[0].rpartition("@")[2]


def explain(error: Exception, uri: str) -> str:
    """Return in one sentence, free of credentials, what is wrong with the server at ``uri``."""
    server = f"MongoDB at {hosts(uri)}"
    if isinstance(error, OperationFailure) and error.code in (13, 18):
        return f"{server} refused the user name or the password; check MONGO_URI or --mongo."
    if isinstance(error, ConnectionFailure):
        return f"{server} doesn't answer; check that it runs, or MONGO_URI or --mongo."
    return f"{server} answered with an error: {error}."


class Replica:
    """The copy of one run in the database; what is there already is not sent again.

    Args:
        database: where it lies.
        record: what is known of the run.
        directory: the run's.
        wrote: is called whenever a part of the record has been stored.
    """

    def __init__(
        self,
        database: Database[Document],
        record: Record,
        directory: Path,
        wrote: Callable[[], None] = lambda: None,
    ) -> None:
        self._wrote = wrote
        self._runs, self._metrics = database.runs, database.metrics
        self._files = gridfs.GridFS(database)
        self._directory = directory
        self.uid = record.uid
        self._epoch = len(record.kept)
        self._metrics.create_index([("run_id", pymongo.ASCENDING), ("name", pymongo.ASCENDING)])
        self._runs.update_one(
            {"_id": self.uid},
            {"$setOnInsert": _new_run(record), "$set": as_it_is_now(record)},
            upsert=True,
        )
        self._known = self._cut(record)

    def _cut(self, record: Record) -> dict[str, int]:
        """Cut off what was dropped when the run was resumed; return how many points of each metric remain."""
        known = {}
        query = {"run_id": self.uid}
        for found in self._metrics.find(query, {"name": True, "n": True, "epoch": True}):
            name, n, epoch = found["name"], found["n"], found["epoch"]
            if epoch < self._epoch:
                n = min(n, *(kept.get(name, 0) for kept in record.kept[epoch:]))
                points = record.metrics.get(name, Series())
                last = _last(Series(points.steps[:n], points.values[:n], points.times[:n])) if n else {}
                first = {"$each": [], "$slice": n}
                self._metrics.update_one(
                    {"_id": found["_id"], "epoch": epoch},
                    {
                        "$push": {"steps": first, "values": first, "timestamps": first},
                        "$set": {"n": n, "epoch": self._epoch, **last},
                    },
                )
            known[name] = n
        return known

    def push(self, name: str, start: int, points: Series) -> None:
        """Append ``points``, those of metric ``name`` from number ``start`` on, as far as they are missing.

        Raises:
            BehindError: points before ``start`` are missing, too, or the run was resumed meanwhile.
        """
        begin = max(0, self._known.get(name, 0) - start)
        while begin < len(points):
            end = begin + CHUNK
            part = Series(points.steps[begin:end], points.values[begin:end], points.times[begin:end])
            if self._append(name, start + begin, part):
                begin += len(part)
                self._known[name] = start + begin
                self._wrote()
            else:
                self._known[name] = self._recount(name)
                begin = self._known[name] - start
                if begin < 0:
                    raise BehindError(f"{name} has {self._known[name]} points, {start} were there before")

    def _append(self, name: str, start: int, points: Series) -> bool:
        """Append if the document holds ``start`` points, and tell whether it did."""
        _id = _object_id(self.uid, name)
        dates = [datetime.fromtimestamp(time, UTC) for time in points.times]
        lists: dict[str, list[Any]] = {"steps": points.steps, "values": points.values, "timestamps": dates}
        if start == 0:
            link = {"name": name, "id": str(_id)}  # Sacred's readers look for it there
            self._runs.update_one({"_id": self.uid}, {"$addToSet": {"info.metrics": link}})
            document = {"_id": _id, "run_id": self.uid, "name": name, "n": len(points), "epoch": self._epoch}
            try:
                self._metrics.insert_one({**document, **lists, **_last(points)})
            except DuplicateKeyError:
                pass  # it is there, though perhaps empty
            else:
                return True
        result = self._metrics.update_one(
            {"_id": _id, "n": start, "epoch": self._epoch},
            {
                "$push": {key: {"$each": content} for key, content in lists.items()},
                "$set": {"n": start + len(points), **_last(points)},
            },
        )
        return result.matched_count == 1

    def _recount(self, name: str) -> int:
        found = self._metrics.find_one({"_id": _object_id(self.uid, name)}, {"n": True, "epoch": True})
        if found is None:
            return 0
        if found["epoch"] != self._epoch:
            raise BehindError(f"{name} was cut off since the run was resumed")
        return int(found["n"])

    def artifact(self, name: str, path: str) -> None:
        """Store the file at ``path``, relative to the run directory; one that is gone is left out."""
        try:
            content = (self._directory / path).read_bytes()
        except FileNotFoundError:
            return
        _id = _object_id(self.uid, name, hashlib.sha256(content).hexdigest())
        if not self._files.exists(_id):
            self._files.delete(_id)  # what an upload that broke off has left
            self._files.put(content, _id=_id, filename=f"artifact://runs/{self.uid}/{name}")
        link = {"name": name, "file_id": _id}
        self._runs.update_one(
            {"_id": self.uid}, {"$pull": {"artifacts": {"name": name, "file_id": {"$ne": _id}}}}
        )
        self._runs.update_one({"_id": self.uid}, {"$addToSet": {"artifacts": link}})
        self._wrote()

    def heartbeat(self, time: float) -> None:
        self._runs.update_one({"_id": self.uid}, {"$set": {"heartbeat": datetime.fromtimestamp(time, UTC)}})

    def state(self, record: Record) -> None:
        """Set the run's status and what goes with it: the last thing that is written of a run.

        Who read the record before the run ended, or was resumed, leaves what has been written since.
        """
        entry = run_entry(record)
        state = {"status": entry["status"], "result": entry["result"]}
        state["heartbeat"] = datetime.fromtimestamp(record.heartbeat, UTC)
        state["stop_time"] = datetime.fromtimestamp(record.ended["time"], UTC) if record.ended else None
        state["fail_trace"] = entry.get("fail_trace")
        state["epoch"] = self._epoch
        not_later: Document = {"_id": self.uid, "epoch": {"$not": {"$gt": self._epoch}}}
        if not record.ended:
            not_later["$or"] = [{"stop_time": None}, {"epoch": {"$not": {"$gte": self._epoch}}}]
        self._runs.update_one(not_later, {"$set": storable(state)})
        self._wrote()


def _last(points: Series) -> Document:
    return {"last_step": points.steps[-1], "last_time": points.times[-1]}


def send(
    database: Database[Document], record: Record, directory: Path, wrote: Callable[[], None] = lambda: None
) -> Replica:
    """Store all that ``record``, that of the run in ``directory``, has more than the database.

    ``wrote`` is called after each part.
    """
    replica = Replica(database, record, directory, wrote)
    for name, points in record.metrics.items():
        replica.push(name, 0, points)
    for artifact in record.artifacts:
        replica.artifact(artifact["name"], artifact["path"])
    replica.state(record)
    return replica


def _object_id(*words: str) -> ObjectId:
    """Return the id of what ``words`` name."""
    return ObjectId(hashlib.sha256("\0".join(words).encode()).digest()[:12])


def as_it_is_now(record: Record) -> Document:
    """Return what a resume renews of the run's document."""
    started, entry = record.started, run_entry(record)
    versions = [f"{name}=={version}" for name, version in started.get("versions", {}).items()]
    git = {"git": started.get("git"), "earlier_commits": record.earlier_commits}
    return storable(
        {"config": record.config, "host": entry["host"], "meta": entry["meta"]}
        | {"record": {"id": started["id"], **git, "versions": versions}}
    )


def _new_run(record: Record) -> Document:
    entry = run_entry(record)
    return storable(
        {key: entry[key] for key in ("command", "experiment", "resources")}
        | {
            "format": "MongoObserver-0.7.0",
            "start_time": datetime.fromtimestamp(record.started["time"], UTC),
            "status": "RUNNING",
            "heartbeat": datetime.fromtimestamp(record.heartbeat, UTC),
            "result": None,
            "stop_time": None,
            "fail_trace": None,
            "artifacts": [],
            "captured_out": "",
            "info": {"metrics": []},
        }
    )


def storable(value: Any) -> Any:
    """Return ``value`` in a form that MongoDB takes: keys are texts, integers have 64 bits."""
    if isinstance(value, Mapping):
        return {str(key): storable(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [storable(content) for content in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -INT64 <= value < INT64:
        return str(value)
    return value


def series(document: Document) -> Series:
    """Return the points of a document of ``metrics``; their times are NaN if it came without."""
    steps, dates = document["steps"], document.get("timestamps")
    times = [math.nan] * len(steps) if dates is None else [date.timestamp() for date in dates]
    return Series(steps, document["values"], times)


def digest(points: Series) -> str:
    """Return a hash of the points' exact values; all NaN count as one."""
    text = hashlib.sha256()
    for step, value, time in zip(points.steps, points.values, points.times, strict=True):
        number = "nan" if math.isnan(value) else float(value).hex()
        text.update(f"{step} {number} {time:.3f}\n".encode())
    return text.hexdigest()
