"""Sacred's usual files in a run directory, made from its journal, for scripts that know Sacred's folders.

    config.json    the configuration
    run.json       status, times, host, command, experiment, artifacts, result
    metrics.json   {metric: {"steps": [...], "values": [...], "timestamps": [...]}}
    versions.json  versions of Python and all packages

They also are the only record of runs made before there was a journal, or by EPyMARL: ``read`` takes those.
"""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from records.journal import DamagedRecord, Record, Series


def write(directory: Path, record: Record) -> None:
    """Write the files of ``record`` into its run ``directory``; each is replaced as a whole."""
    metrics = {
        name: {
            "steps": series.steps,
            "values": series.values,
            "timestamps": [_iso(time) for time in series.times],
        }
        for name, series in record.metrics.items()
    }
    contents = {
        "config.json": record.config,
        "run.json": run_entry(record),
        "metrics.json": metrics,
        "versions.json": record.started.get("versions", {}),
    }
    for name, content in contents.items():
        whole = directory / f".{name}.new"
        whole.write_text(json.dumps(content, sort_keys=True, indent=2))
        os.replace(whole, directory / name)


def run_entry(record: Record) -> dict[str, Any]:
    """Return what Sacred's ``run.json`` holds."""
    started, ended = record.started, record.ended or {}
    entry = {
        "command": "main",
        "experiment": started.get("experiment", {}),
        "host": started.get("host", {}),
        "meta": {"command": started.get("command")},
        "uid": record.uid,
        "status": record.status,
        "start_time": _iso(started["time"]),
        "heartbeat": _iso(record.heartbeat),
        "result": ended.get("result"),
        "artifacts": [artifact["name"] for artifact in record.artifacts],
        "resources": [],
    }
    if ended:
        entry["stop_time"] = _iso(ended["time"])
    if "trace" in ended:
        entry["fail_trace"] = ended["trace"]
    return entry


def read(directory: Path) -> Record:
    """Return the record of a run directory that holds Sacred's files and no journal.

    Raises:
        DamagedRecord: a file is missing or not what Sacred writes.
    """
    try:
        config, run = (json.loads((directory / name).read_text()) for name in ("config.json", "run.json"))
        path = directory / "metrics.json"  # Sacred makes it when the first point is logged
        metrics = json.loads(path.read_text()) if path.exists() else {}
        record = Record(
            started=_started(directory, config, run),
            metrics={name: _series(content) for name, content in metrics.items() if content["steps"]},
            artifacts=[{"name": name, "path": name} for name in run["artifacts"]],
            heartbeat=_time(run["heartbeat"] or run["start_time"]),
        )
        if run["status"] != "RUNNING":
            stop = run.get("stop_time") or run["heartbeat"]
            record.ended = {"status": run["status"], "result": run.get("result"), "time": _time(stop)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"{directory} holds no readable record of a run ({error!r}).") from error
    return record


def _started(directory: Path, config: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    repositories = run["experiment"].get("repositories") or [{}]
    path = directory / "versions.json"
    digest = hashlib.sha256(f"{run['start_time']} {config['name']} {config['seed']}".encode()).hexdigest()
    return {
        "uid": digest[:8],
        "id": directory.name,
        "name": config["name"],
        "config": config,
        "time": _time(run["start_time"]),
        "host": run["host"],
        "command": run["meta"].get("command"),
        "experiment": run["experiment"],
        "git": {key: repositories[0].get(key) for key in ("commit", "dirty")},
        "versions": json.loads(path.read_text()) if path.exists() else {},
    }


def _series(content: dict[str, list[Any]]) -> Series:
    steps, values, times = (content[key] for key in ("steps", "values", "timestamps"))
    if not len(steps) == len(values) == len(times):
        raise ValueError("a metric's lists differ in length")
    if not all(isinstance(number, int | float) for number in (*steps, *values)):
        raise ValueError("a metric holds what is no number")
    return Series(steps, values, [round(_time(text), 3) for text in times])  # as exact as a journal's


def _iso(time: float) -> str:
    """Return Sacred's form of a time: ISO, in UTC, without a zone."""
    return datetime.fromtimestamp(time, UTC).replace(tzinfo=None).isoformat()


def _time(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
