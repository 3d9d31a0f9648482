"""What a place with recorded runs can be asked: folders (folder.py) and MongoDB (mongo_store.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from records.journal import Record, Series, living_status
from utils.config import map_name

KEPT = "KEPT"  # status of a run of which no more than curves is left


@dataclass(frozen=True)
class Run:
    """A run without its points. Times are Unix seconds, ``seconds`` the time from its start to its last sign.

    ``metrics`` names its metrics, ``t_env`` is the last environment step of any. ``commit`` and ``dirty`` are
    those of the last part of the run; ``commits`` are all that it was trained at. ``damaged`` counts lines of
    its journal that can't be read.
    """

    run: str
    id: str
    alg: str
    map: str
    seed: int
    status: str
    started: float
    seconds: float
    t_env: int
    points: int
    commit: str | None
    dirty: bool | None
    commits: tuple[str, ...]
    build: str | None
    config: dict[str, Any] = field(repr=False)
    metrics: tuple[str, ...] = field(repr=False)
    damaged: int = field(repr=False)
    details: dict[str, Any] = field(repr=False)
    where: str = field(repr=False)


def order(run: Run) -> tuple[Any, ...]:
    """Return what runs are sorted by: the oldest first."""
    return run.started, run.map, run.alg, run.seed, run.run


class Store(Protocol):
    """A place with runs: ``where`` names it; ``problems`` says, a line each, which records can't be read."""

    where: str
    problems: list[str]

    def runs(self) -> list[Run]:
        """Return all runs, the oldest first."""

    def curves(self, runs: Sequence[Run], metric: str, times: bool = True) -> dict[str, Series]:
        """Return, by run, the points of ``metric`` of those ``runs`` that have it.

        Who doesn't need ``times`` may be given NaN for them, where reading them takes long.
        """


def summary(record: Record) -> dict[str, Any]:
    """Return what a Run holds of ``record``, in a form that JSON takes."""
    started, ended = record.started, record.ended or {}
    last = [(points.steps[-1], points.times[-1]) for points in record.metrics.values()]
    return {
        "run": record.uid,
        "id": str(started["id"]),
        "config": record.config,
        "started": started["time"],
        "last_step": max((step for step, _ in last), default=0),
        "last_time": max((time for _, time in last), default=started["time"]),
        "points": record.points or sum(map(len, record.metrics.values())),
        "git": started.get("git") or {},
        "earlier_commits": record.earlier_commits,
        "versions": started.get("versions", {}),
        "metrics": sorted(record.metrics),
        "damaged": record.damaged,
        "status": ended.get("status"),
        "ended": ended.get("time"),
        "details": {
            "command": started.get("command"),
            "host": (started.get("host") or {}).get("hostname"),
            "result": ended.get("result"),
            "error": ended.get("error"),
            "artifacts": [artifact["name"] for artifact in record.artifacts],
        },
    }


def run_of(summary: Mapping[str, Any], heartbeat: float, where: str) -> Run:
    """Return the run of a ``summary`` that lies ``where``; whether it lives its last ``heartbeat`` tells."""
    config, git = summary["config"], summary["git"]
    return Run(
        run=summary["run"],
        id=summary["id"],
        alg=config["name"],
        map=map_name(config),
        seed=config["seed"],
        status=summary["status"] or living_status(heartbeat),
        started=summary["started"],
        seconds=round((summary["ended"] or summary["last_time"]) - summary["started"], 3),
        t_env=summary["last_step"],
        points=summary["points"],
        commit=git.get("commit"),
        dirty=git.get("dirty"),
        commits=tuple(dict.fromkeys(filter(None, [*summary["earlier_commits"], git.get("commit")]))),
        build=summary["versions"].get("game_build"),
        config=config,
        metrics=tuple(summary["metrics"]),
        damaged=summary["damaged"],
        details=summary["details"],
        where=where,
    )
