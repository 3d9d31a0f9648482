"""Runs in folders: their journals, or Sacred's files of runs without one, behind an index; and CSV files.

The index is a file of its own in each folder, ``.index.sqlite``. It holds what the records say, keyed by the
size and time of the files it was read from, and is rebuilt where it is missing, old or damaged.

A CSV file holds curves that are kept without their records, such as those in benchmarks/results: columns
alg, map, seed, t_env and the metric's name; run and seconds where known.
"""

import csv
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np

from records import sacred_files
from records.journal import FILE, DamagedRecord, Record, Series, read_journal
from records.store import KEPT, Run, order, run_of, summary
from utils.constraints import ConfigError

INDEX = ".index.sqlite"
VERSION = 4  # of the index's content; another one is rebuilt
SCHEMA = """
CREATE TABLE IF NOT EXISTS run (path TEXT PRIMARY KEY, stamp TEXT, summary TEXT, problem TEXT);
CREATE TABLE IF NOT EXISTS points (path TEXT, metric TEXT, data BLOB, PRIMARY KEY (path, metric));
"""
CSV_COLUMNS = {"alg", "map", "seed", "t_env"}
CSV_OPTIONAL = {"run", "seconds"}


def read_record(directory: Path) -> Record:
    """Return the record of a run directory: its journal, or Sacred's files where it has none.

    Raises:
        DamagedRecord: it can't be read.
    """
    return read_journal(directory) if (directory / FILE).exists() else sacred_files.read(directory)


def run_directories(root: Path) -> list[Path]:
    """Return the run directories in and below ``root``, in the order of their names and numbers."""
    found = []
    for folder, below, files in os.walk(root):
        if FILE in files or "run.json" in files:
            found.append(Path(folder))
            below.clear()
    return sorted(found, key=lambda path: (str(path.parent), len(path.name), path.name))


class FolderStore:
    """The runs in and below ``paths``, which are folders, run directories and CSV files.

    Raises:
        ConfigError: one of them doesn't exist.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.problems: list[str] = []
        self._indices: dict[str, tuple[Path, str]] = {}  # where a run's points are, by run
        self._kept: dict[str, dict[str, Series]] = {}  # curves of CSV files, by run and metric
        self._paths = list(paths)
        self.where = ", ".join(map(str, self._paths))
        for path in self._paths:
            if not path.exists():
                raise ConfigError(f"There is no {path}; name a folder with run directories or a CSV file.")

    def runs(self) -> list[Run]:
        self.problems.clear()
        self._kept.clear()
        runs: dict[str, Run] = {}
        for path in self._paths:
            files = [path] if path.suffix == ".csv" else sorted(path.glob("*.csv"))
            for file in files:
                runs |= {run.run: run for run in self._read_csv(file)}
        for path in self._paths:
            if path.is_dir() and run_directories(path):  # a folder of CSV files gets no index
                runs |= {run.run: run for run in self._read_folder(path)}
        return sorted(runs.values(), key=order)

    def curves(self, runs: Sequence[Run], metric: str, times: bool = True) -> dict[str, Series]:
        curves = {}
        by_root: dict[Path, dict[str, str]] = defaultdict(dict)
        for run in runs:
            if run.run in self._kept:
                if metric in self._kept[run.run]:
                    curves[run.run] = self._kept[run.run][metric]
            else:
                root, path = self._indices[run.run]
                by_root[root][path] = run.run
        for root, paths in by_root.items():
            with closing(_open(root)) as index:
                _refresh(index, root)  # an index in memory is empty again
                query = "SELECT path, data FROM points WHERE metric = ?"
                for path, data in index.execute(query, (metric,)):
                    if path in paths:
                        curves[paths[path]] = _unpack(data)
        return curves

    def _read_folder(self, root: Path) -> list[Run]:
        try:
            rows = _rows(root)
        except sqlite3.DatabaseError:  # the index is damaged
            (root / INDEX).unlink(missing_ok=True)
            rows = _rows(root)
        runs = []
        for path, text, problem, heartbeat in rows:
            if problem:
                self.problems.append(problem)
            else:
                run = run_of(json.loads(text), heartbeat, str(root / path))
                runs.append(run)
                self._indices[run.run] = root, path
                self._kept.pop(run.run, None)  # the record itself says more than a copy of a curve
        return runs

    def _read_csv(self, path: Path) -> Iterator[Run]:
        try:
            metric, curves = _csv_curves(path)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            self.problems.append(f"{path} holds no curves ({error}).")
            return
        for (alg, task, seed, run), points in curves.items():
            config = {"name": alg, "seed": seed, "env": task, "env_args": {"map_name": task}}
            uid = run or sha256(f"{path.name} {alg} {task} {seed}".encode()).hexdigest()[:8]
            kept = self._kept.setdefault(uid, {})
            kept[metric] = points
            record = Record({"uid": uid, "id": "csv", "config": config, "time": 0.0}, kept)
            record.ended = {"status": KEPT, "time": points.times[-1]}
            yield run_of(summary(record), 0.0, str(path))


def _rows(root: Path) -> list[tuple[str, str, str, float]]:
    """Return path, summary, problem and heartbeat of each run."""
    with closing(_open(root)) as index:
        heartbeats = _refresh(index, root)
        rows = index.execute("SELECT path, summary, problem FROM run ORDER BY path").fetchall()
    return [(*row, heartbeats[row[0]]) for row in rows]


def _open(root: Path) -> sqlite3.Connection:
    """Return the index of ``root``; one in memory where the folder can't be written to."""
    path = root / INDEX
    index = sqlite3.connect(path if os.access(root, os.W_OK) else ":memory:", timeout=10)
    (version,) = index.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        index.close()
        path.unlink()
        return _open(root)
    index.executescript(f"{SCHEMA} PRAGMA user_version = {VERSION};")
    return index


def _refresh(index: sqlite3.Connection, root: Path) -> dict[str, float]:
    """Bring the index up to date and return the heartbeat of each run, by its path below ``root``."""
    known = dict(index.execute("SELECT path, stamp FROM run"))
    heartbeats = {}
    with index:
        for directory in run_directories(root):
            path = str(directory.relative_to(root))
            stamp, heartbeats[path] = _stamp(directory)
            if known.pop(path, None) != stamp:
                _store(index, directory, path, stamp)
        for path in known:
            _forget(index, path)
    return heartbeats


def _stamp(directory: Path) -> tuple[str, float]:
    """Return what changes whenever the record does, and the time of the last change."""
    files = [FILE] if (directory / FILE).exists() else ["config.json", "run.json", "metrics.json"]
    stats = [(directory / name).stat() for name in files if (directory / name).exists()]
    stamp = " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)
    return stamp, max(stat.st_mtime for stat in stats)


def _store(index: sqlite3.Connection, directory: Path, path: str, stamp: str) -> None:
    _forget(index, path)
    try:
        record = read_record(directory)
        found = summary(record)
        run_of(found, 0.0, "")  # a record of another kind must not hide the others when all are read
        text = json.dumps(found)
    except (DamagedRecord, KeyError, TypeError) as error:
        problem = (
            str(error) if isinstance(error, DamagedRecord) else f"{directory} lacks {error} in its record."
        )
        index.execute("INSERT INTO run VALUES (?, ?, NULL, ?)", (path, stamp, problem))
        return
    index.execute("INSERT INTO run VALUES (?, ?, ?, NULL)", (path, stamp, text))
    rows = [(path, metric, _pack(points)) for metric, points in record.metrics.items()]
    index.executemany("INSERT INTO points VALUES (?, ?, ?)", rows)


def _forget(index: sqlite3.Connection, path: str) -> None:
    index.execute("DELETE FROM run WHERE path = ?", (path,))
    index.execute("DELETE FROM points WHERE path = ?", (path,))


def _pack(points: Series) -> bytes:
    return np.array([points.steps, points.values, points.times], dtype=np.float64).tobytes()


def _unpack(data: bytes) -> Series:
    steps, values, times = np.frombuffer(data).reshape(3, -1)
    return Series(steps.astype(np.int64).tolist(), values.tolist(), times.tolist())


def _csv_curves(path: Path) -> tuple[str, dict[tuple[str, str, int, str], Series]]:
    """Return the metric of a CSV file and its curves by algorithm, map, seed and run ("" if not named)."""
    curves: dict[tuple[str, str, int, str], Series] = defaultdict(Series)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        metrics = set(reader.fieldnames or ()) - CSV_COLUMNS - CSV_OPTIONAL
        if not set(reader.fieldnames or ()) >= CSV_COLUMNS or len(metrics) != 1:
            raise ValueError(f"its columns are not {', '.join(sorted(CSV_COLUMNS))} and one metric")
        (metric,) = metrics
        for row in reader:
            key = row["alg"], row["map"], int(row["seed"]), row.get("run") or ""
            value, seconds = (float(row.get(name) or "nan") for name in (metric, "seconds"))
            curves[key].append(int(row["t_env"]), value, seconds)
    if not curves:
        raise ValueError("it has no rows")
    return metric, dict(curves)
