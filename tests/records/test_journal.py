"""The journal: every point exactly once, whatever ends the run."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.journal import DEAD_AFTER, FILE, DamagedRecord, Journal, read_journal

SRC = Path(__file__).resolve().parents[2] / "src"
CONFIG = {"name": "qmix", "seed": 3, "env": "smax", "env_args": {"map_name": "3m"}}


def _write(directory: Path, points: int, start: int = 0) -> Journal:
    journal = Journal.create(directory, id="1", config=CONFIG)
    for step in range(start, start + points):
        journal.metric("loss" if step % 2 else "return_mean", step, step / 3)
    return journal


def test_what_is_written_is_read(tmp_path):
    journal = _write(tmp_path, 5)
    journal.artifact("versions.json", "versions.json")
    journal.ended("COMPLETED", {"best": 1.0})
    record = read_journal(tmp_path)
    assert (record.config, record.status, record.points) == (CONFIG, "COMPLETED", 5)
    assert (record.uid.isalpha(), len(record.uid)) == (True, 8)
    assert record.metrics["loss"].steps == [1, 3]
    assert record.metrics["return_mean"].values == [0.0, 2 / 3, 4 / 3]
    assert [artifact["name"] for artifact in record.artifacts] == ["versions.json"]
    assert record.ended["result"] == {"best": 1.0}
    assert journal.metrics_written == 5


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50))
def test_floats_are_exact(tmp_path_factory, values):
    directory = tmp_path_factory.mktemp("run")
    journal = Journal.create(directory, config=CONFIG)
    for step, value in enumerate(values):
        journal.metric("loss", step, value)
    journal.close()
    series = read_journal(directory).metrics.get("loss")
    read = series.values if series else []
    assert [value.hex() for value in read] == [value.hex() for value in values]


@given(st.integers(min_value=0, max_value=10_000))
def test_a_journal_torn_anywhere_loses_its_last_line_only(tmp_path_factory, cut):
    directory = tmp_path_factory.mktemp("run")
    _write(directory, 20).close()
    path = directory / FILE
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    torn = whole[: first + cut % (len(whole) - first + 1)]
    path.write_bytes(torn)
    assert read_journal(directory).points == torn.count(b"\n") - 1


@given(st.binary(max_size=200), st.integers(min_value=1, max_value=20))
def test_damage_in_the_middle_hides_nothing_else(tmp_path_factory, noise, after):
    directory = tmp_path_factory.mktemp("run")
    _write(directory, 20).close()
    lines = (directory / FILE).read_bytes().splitlines(keepends=True)
    lines.insert(after, noise.replace(b"\n", b" ") + b"\n")
    (directory / FILE).write_bytes(b"".join(lines))
    record = read_journal(directory)
    assert (record.points, record.damaged) == (20, 1)


@pytest.mark.parametrize(
    "line", ['{"event": "metric", "name": "loss"}', '{"time": 1}', '{"event": "metric", "step": "1"}', "[]"]
)
def test_events_that_lack_something_are_counted(tmp_path, line):
    _write(tmp_path, 3).close()
    with (tmp_path / FILE).open("a") as file:
        file.write(line + "\n")
    record = read_journal(tmp_path)
    assert (record.points, record.damaged) == (3, 1)


def test_a_journal_without_its_beginning_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(DamagedRecord, match="holds no readable journal"):
        read_journal(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(DamagedRecord, match="first line is lost"):
        read_journal(tmp_path)


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
    _write(tmp_path, 10).close()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"event": "metric", "na')  # the writer was killed here
    journal = Journal.resume(tmp_path, keep=7)
    assert journal.metrics_written == 7
    for step in (7, 8):
        journal.metric("other", step, -1.0)
    record = read_journal(tmp_path)
    assert (record.points, record.damaged, journal.metrics_written) == (9, 0, 9)
    assert record.metrics["return_mean"].steps == [0, 2, 4, 6]
    assert record.metrics["loss"].steps == [1, 3, 5]
    assert record.metrics["other"].steps == [7, 8]
    assert record.kept == [{"return_mean": 4, "loss": 3}]

    Journal.resume(tmp_path, keep=1).close()
    record = read_journal(tmp_path)
    assert {name: series.steps for name, series in record.metrics.items()} == {"return_mean": [0]}


def test_a_resumed_run_lives_again(tmp_path):
    journal = _write(tmp_path, 2)
    journal.ended("INTERRUPTED")
    journal.close()
    assert read_journal(tmp_path).status == "INTERRUPTED"
    Journal.resume(tmp_path, keep=2).close()
    assert read_journal(tmp_path).status == "RUNNING"


def test_more_points_than_there_are_cannot_be_kept(tmp_path):
    _write(tmp_path, 2).close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(DamagedRecord, match="after 3 points: its journal holds only 2"):
        Journal.resume(tmp_path, keep=3)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_run_whose_heartbeat_stopped_has_died(tmp_path):
    journal = _write(tmp_path, 1)
    past = time.time() - 2 * DEAD_AFTER
    os.utime(tmp_path / FILE, (past, past))
    assert read_journal(tmp_path).status == "DIED"
    journal.heartbeat()
    assert read_journal(tmp_path).status == "RUNNING"


def test_threads_write_whole_lines(tmp_path):
    journal = Journal.create(tmp_path, config=CONFIG)

    def write(name: str) -> None:
        for step in range(200):
            journal.metric(name, step, math.pi)

    threads = [threading.Thread(target=write, args=(f"metric{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = read_journal(tmp_path)
    assert (record.points, record.damaged, journal.metrics_written) == (800, 0, 800)
    assert all(series.steps == list(range(200)) for series in record.metrics.values())


WRITER = """
import sys
from pathlib import Path
from records.journal import Journal
journal = Journal.create(Path(sys.argv[1]), config={"name": "x"})
for step in range(10_000_000):
    journal.metric("loss", step, step / 7)
    print(step, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_had_logged(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(SRC)}, stdout=subprocess.PIPE
    ) as process:
        lines = [process.stdout.readline() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
    logged = [int(line) for line in lines if line.endswith(b"\n")]
    steps = read_journal(tmp_path).metrics["loss"].steps
    assert steps == list(range(len(steps)))
    assert len(steps) - len(logged) in (0, 1)  # the last one may have been written and not yet printed


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    journal = _write(tmp_path, 3)
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(file, data[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        journal.metric("loss", 3, 1.0)
    monkeypatch.setattr(os, "write", write)
    journal.metric("loss", 5, 1.0)
    record = read_journal(tmp_path)
    assert (record.points, record.damaged, journal.metrics_written) == (4, 0, 4)
    assert all(json.loads(line) for line in (tmp_path / FILE).read_text().splitlines())
