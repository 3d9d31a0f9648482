"""Runs in MongoDB, read with two plain finds, which any server answers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from records.journal import Series
from records.mongo import Document, connect, explain, hosts, series
from records.store import Run, order, run_of
from utils.constraints import ConfigError


class MongoStore:
    """The runs in the database at ``uri``.

    Raises:
        ConfigError: the address is none, or the server can't be used.
    """

    def __init__(self, uri: str) -> None:
        self.problems: list[str] = []
        self._uri = uri
        self.where = f"the database at {hosts(uri)}"
        self._database: Database[Document] = connect(uri)

    def runs(self) -> list[Run]:
        self.problems.clear()
        metrics: dict[str, list[Document]] = defaultdict(list)
        fields = {"run_id": True, "name": True, "n": True, "last_step": True, "last_time": True}
        for found in self._find("metrics", {"n": {"$gt": 0}}, fields):
            metrics[found["run_id"]].append(found)
        hidden = {"experiment.sources": False, "experiment.dependencies": False, "info": False}
        runs = []
        for document in self._find("runs", {}, hidden):
            try:
                summary = _summary(document, metrics[document["_id"]])
                heartbeat = document["heartbeat"].timestamp()
                runs.append(run_of(summary, heartbeat, f"MongoDB, {document['_id']}"))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                self.problems.append(f"The run {document['_id']} in MongoDB is of another kind ({error!r}).")
        return sorted(runs, key=order)

    def curves(self, runs: Sequence[Run], metric: str, times: bool = True) -> dict[str, Series]:
        wanted = {"name": metric, "n": {"$gt": 0}, "run_id": {"$in": [run.run for run in runs]}}
        fields = None if times else {"timestamps": False}  # dates take four times as long as all else
        return {found["run_id"]: series(found) for found in self._find("metrics", wanted, fields)}

    def _find(self, collection: str, query: Document, fields: Document | None) -> list[Document]:
        try:
            return list(self._database[collection].find(query, fields))
        except PyMongoError as error:
            raise ConfigError(explain(error, self._uri)) from error


def _summary(document: Document, metrics: Sequence[Document]) -> dict[str, Any]:
    started = document["start_time"].timestamp()
    ended = document["stop_time"]
    return {
        "run": document["_id"],
        "id": document["record"]["id"],
        "config": document["config"],
        "started": started,
        "last_step": max((found["last_step"] for found in metrics), default=0),
        "last_time": max((found["last_time"] for found in metrics), default=started),
        "points": sum(found["n"] for found in metrics),
        "git": document["record"]["git"] or {},
        "earlier_commits": document["record"].get("earlier_commits", []),
        "versions": dict(text.split("==", 1) for text in document["record"]["versions"]),
        "metrics": sorted(found["name"] for found in metrics),
        "damaged": 0,
        "status": document["status"] if ended else None,
        "ended": ended and ended.timestamp(),
        "details": {
            "command": document["meta"]["command"],
            "host": document["host"].get("hostname"),
            "result": document["result"],
            "error": document["fail_trace"] and document["fail_trace"][-1].strip(),
            "artifacts": [artifact["name"] for artifact in document["artifacts"]],
        },
    }
