"""Which run a command with ``resume`` goes on with, told from the records alone."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from records.journal import FILE, DamagedRecord, Record, lock, read_journal
from utils.config import flatten, may_change, run_folder
from utils.constraints import ConfigError


def record_of(directory: Path) -> Record:
    """Return the record in ``directory``.

    Raises:
        ConfigError: it is no run directory, or its record can't be read.
    """
    if not (directory / FILE).exists():
        raise ConfigError(
            f"There is no run in {directory.absolute()}; name a run directory, like results/sacred/mappo/3m/1"
            " (`results.py list` and `show` tell where runs are)."
        )
    try:
        return read_journal(directory)
    except DamagedRecord as error:
        raise ConfigError(str(error)) from error


def choose(config: dict[str, Any]) -> Path:
    """Return the directory of the run that ``config["resume"]`` asks for, locked for this process.

    Raises:
        ConfigError: there is none, it is finished or still running, or it has another configuration.
    """
    wanted = config["resume"]
    if wanted is True:
        return _newest_unfinished(config)
    directory = Path(str(wanted)).absolute()
    record = record_of(directory)
    objection = _difference(config, record, directory) or _finished(config, record, directory)
    if objection is not None:
        raise ConfigError(objection)
    if not lock(directory):
        raise ConfigError(f"{directory} is still running.")
    return directory


def matching(config: dict[str, Any]) -> tuple[list[Path], list[Path]]:
    """Return the directories of this configuration's runs, the newest first: those that took all its steps,
    and those that may go on."""
    finished: list[Path] = []
    unfinished: list[Path] = []
    for directory, record in _records(config):
        if _difference(config, record, directory) is None:
            (finished if _finished(config, record, directory) else unfinished).append(directory)
    return finished, unfinished


def _records(config: dict[str, Any]) -> Iterator[tuple[Path, Record]]:
    """Yield the runs of this algorithm on this task, the newest first."""
    folder = run_folder(config)
    runs = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    for directory in sorted(runs, key=lambda path: int(path.name), reverse=True):
        with suppress(DamagedRecord):  # it was killed before it began
            yield directory, read_journal(directory)


def _newest_unfinished(config: dict[str, Any]) -> Path:
    alike, others = [], []  # why runs of this configuration, and others, can't go on
    for directory, record in _records(config):
        if difference := _difference(config, record, directory):
            others.append(difference)
        elif finished := _finished(config, record, directory):
            alike.append(finished)
        elif lock(directory):
            return directory
        else:
            alike.append(f"{directory} is still running.")
    newest = "".join(f" {objection}" for objection in [*alike, *others][:1])
    raise ConfigError(
        f"There is no unfinished run of this configuration in {run_folder(config)}; "
        f"leave resume=True out to start one.{newest}"
    )


def _difference(config: dict[str, Any], record: Record, directory: Path) -> str | None:
    then, now = flatten(record.config), flatten(config)
    free = may_change() | ({"seed"} if config["seed"] is None else set())
    keys = [key for key in sorted(then.keys() | now.keys()) if key not in free]
    differing = [
        f"{key} ({then.get(key)!r} then, {now.get(key)!r} now)"
        for key in keys
        if then.get(key) != now.get(key)
    ]
    if not differing:
        return None
    return f"{directory} was started with another configuration, which differs in {', '.join(differing)}."


def _finished(config: dict[str, Any], record: Record, directory: Path) -> str | None:
    if record.status != "COMPLETED" or record.ended is None:
        return None
    steps = (record.ended.get("result") or {}).get("t_env", 0)
    if steps < config["t_max"]:
        return None
    return f"{directory} is finished: it took {steps} steps. Raise t_max to train on."
