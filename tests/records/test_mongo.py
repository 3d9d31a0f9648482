"""Every point arrives in MongoDB exactly once, whatever happens to the server or the run."""

import json
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pymongo import MongoClient

from records import sacred_files, sync
from records.folder import run_directories
from records.journal import FILE, Journal, Series, read_journal
from records.mongo import BehindError, connect, digest, send, series
from records.mongo_store import MongoStore
from records.observer import JournalObserver
from records.replicator import PATIENCE, MongoReplicator
from utils.constraints import ConfigError

ROOT = Path(__file__).resolve().parents[2]
POINTS, INTERVAL = 50, 0.06
LOADED = 0.5  # seconds that a process may have to wait for a busy machine while it logs
CONFIG = {"name": "qmix", "seed": 3, "env": "smax", "env_args": {"map_name": "3m"}}


class Trainer:
    """The trainer subprocess, writing below ``root`` and copying to ``uri``."""

    def __init__(self, root: Path, uri: str, *resumed: str) -> None:
        words = [str(Path(__file__).with_name("trainer.py")), str(root), uri, str(POINTS), str(INTERVAL)]
        environ = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        python = [sys.executable, "-W", "ignore:pkg_resources is deprecated"]  # Sacred's import of it
        self.process = subprocess.Popen([*python, *words, *resumed], env=environ, **pipes)
        self.directory = Path(self.process.stdout.readline().split()[1])

    def wait_for_points(self, n: int) -> None:
        while read_journal(self.directory).points < n:
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> tuple[float, str]:
        """Return the seconds that training spent in logging and what was said on stderr."""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return float(out.split()[1]), err


def _synced(uri: str, root: Path) -> None:
    """Send the rest, and compare what every reader would see."""
    database = connect(uri)
    directories = run_directories(root)
    assert list(sync.sync(database, directories)) == []
    assert list(sync.verify(database, directories)) == []
    for directory in directories:
        record = read_journal(directory)
        stored = list(database.metrics.find({"run_id": record.uid}))
        assert {d["name"]: d["steps"] for d in stored} == {n: s.steps for n, s in record.metrics.items()}


def _complete(trainer: Trainer) -> None:
    record = read_journal(trainer.directory)
    steps = sorted(step for points in record.metrics.values() for step in points.steps)
    assert steps == list(range(POINTS))
    assert record.status == "COMPLETED"


def _training_time() -> float:
    return POINTS * INTERVAL


def absent_at_start(server, start):
    server.kill()
    trainer = start()
    trainer.wait_for_points(30)
    server.start()
    return trainer


def under_way(start):
    trainer = start()
    trainer.wait_for_points(10)
    return trainer


def killed_for_good(server, start):
    trainer = under_way(start)
    server.kill()
    return trainer


def gone_for_a_while(server, start):
    trainer = under_way(start)
    server.kill()
    time.sleep(2.5)
    server.start()
    return trainer


def hung(server, start):
    trainer = under_way(start)
    server.tell("hang")
    return trainer


def refusing(server, start):
    trainer = under_way(start)
    server.tell("refuse")
    trainer.wait_for_points(35)
    server.tell("normal")
    return trainer


def reply_lost_after_the_write(server, start):
    trainer = under_way(start)
    server.tell("drop_after 1")
    return trainer


def request_lost_before_the_write(server, start):
    trainer = under_way(start)
    server.tell("drop_before 2")
    return trainer


def slow(server, start):
    server.tell("delay 0.1")
    return start()


FAULTS = [
    absent_at_start, killed_for_good, gone_for_a_while, hung, refusing, reply_lost_after_the_write,
    request_lost_before_the_write, slow,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_server_loses_and_doubles_nothing(mongo_server, tmp_path, fault):
    root = tmp_path / "runs"
    trainer = fault(mongo_server, lambda: Trainer(root, mongo_server.uri))
    took, err = trainer.finish()
    _complete(trainer)
    assert took < 0.05 * _training_time() + LOADED
    assert "Traceback" not in err
    if fault in (killed_for_good, hung):
        assert f"sync {trainer.directory}" in err
        mongo_server.kill()
        mongo_server.start()
    _synced(mongo_server.uri, root)


def test_without_a_fault_all_is_there_when_the_run_ends(mongo_server, tmp_path):
    trainer = Trainer(tmp_path / "runs", mongo_server.uri)
    _, err = trainer.finish()
    assert err == ""
    assert list(sync.verify(connect(mongo_server.uri), [trainer.directory])) == []
    (run,) = connect(mongo_server.uri).runs.find()
    assert (run["status"], run["config"]["large"]) == ("COMPLETED", str(2**70))


def test_a_killed_run_that_is_resumed_is_stored_once(mongo_server, tmp_path):
    root = tmp_path / "runs"
    trainer = Trainer(root, mongo_server.uri)
    trainer.wait_for_points(25)
    database = connect(mongo_server.uri)
    while sum(found["n"] for found in database.metrics.find()) < 20:
        time.sleep(0.05)
    trainer.kill()
    resumed = Trainer(root, mongo_server.uri, str(trainer.directory), "11")
    assert resumed.directory == trainer.directory
    resumed.finish()
    _complete(resumed)
    assert list(sync.verify(database, [trainer.directory])) == []
    _synced(mongo_server.uri, root)


@pytest.mark.slow
def test_a_server_hung_for_a_minute_is_waited_for_by_nobody(mongo_server, tmp_path):
    trainer = hung(mongo_server, lambda: Trainer(tmp_path / "runs", mongo_server.uri))
    begin = time.monotonic()
    took, _ = trainer.finish()
    assert took < 0.05 * _training_time() + LOADED
    assert time.monotonic() - begin < _training_time() + 10
    time.sleep(60)
    mongo_server.tell("normal")
    _synced(mongo_server.uri, tmp_path / "runs")


def _journal(directory: Path, points: int) -> Journal:
    directory.mkdir(parents=True)
    journal = Journal.create(directory, id=directory.name, name="qmix", config=CONFIG)
    for step in range(points):
        journal.metric("loss", step, math.nan if step == 2 else step / 3)
    return journal


def test_values_are_exact(mongo_uri, tmp_path):
    _journal(tmp_path / "1", 5).close()
    record = read_journal(tmp_path / "1")
    database = connect(mongo_uri)
    send(database, record, tmp_path / "1")
    stored = series(database.metrics.find_one({"run_id": record.uid}))
    assert digest(stored) == digest(record.metrics["loss"])
    assert stored.times == record.metrics["loss"].times


def test_sending_in_parts_of_any_size_stores_each_point_once(mongo_uri, tmp_path):
    journal = _journal(tmp_path / "1", 3)
    database = connect(mongo_uri)
    early = send(database, read_journal(tmp_path / "1"), tmp_path / "1")
    for step in range(3, 9):
        journal.metric("loss", step, float(step))
    points = read_journal(tmp_path / "1").metrics["loss"]
    early.push("loss", 3, Series(points.steps[3:6], points.values[3:6], points.times[3:6]))
    send(database, read_journal(tmp_path / "1"), tmp_path / "1")  # another writer overtakes
    early.push("loss", 6, Series(points.steps[6:], points.values[6:], points.times[6:]))
    early.push("loss", 0, points)
    assert list(sync.verify(database, [tmp_path / "1"])) == []


def test_several_resumes_cut_what_was_dropped(mongo_uri, tmp_path):
    database, directory = connect(mongo_uri), tmp_path / "1"
    _journal(directory, 10).close()
    send(database, read_journal(directory), directory)
    for keep, value in ((7, 70.0), (3, 30.0), (4, 40.0)):
        journal = Journal.resume(directory, keep)
        for step in range(keep, keep + 3):
            journal.metric("loss", step, value)
        journal.metric("other", keep, value)
        journal.close()
        if keep != 3:  # nobody saw this one
            send(database, read_journal(directory), directory)
            assert list(sync.verify(database, [directory])) == []
    stored = database.metrics.find_one({"run_id": read_journal(directory).uid, "name": "loss"})
    assert stored["steps"] == [0, 1, 2, 3, 4, 5, 6]


def test_what_a_resume_renews_is_renewed_in_the_database(mongo_uri, tmp_path):
    database, directory = connect(mongo_uri), tmp_path / "1"
    _journal(directory, 2).close()
    send(database, read_journal(directory), directory)
    config = read_journal(directory).config
    now = {"git": {"commit": "fedcba", "dirty": True}, "versions": {"torch": "3"}, "command": ["again"]}
    Journal.resume(directory, 2, config=config, host={"hostname": "there"}, **now).close()
    assert any("host and meta and record differ" in line for line in sync.verify(database, [directory]))
    send(database, read_journal(directory), directory)
    assert list(sync.verify(database, [directory])) == []
    uid = read_journal(directory).uid
    (run,) = (run for run in MongoStore(mongo_uri).runs() if run.run == uid)
    assert (run.commit, run.dirty, run.details["host"]) == ("fedcba", True, "there")
    assert run.commits == (*read_journal(directory).earlier_commits, "fedcba")


def test_a_copy_that_a_resume_overtakes_is_told_so(mongo_uri, tmp_path):
    database, directory = connect(mongo_uri), tmp_path / "1"
    journal = _journal(directory, 5)
    early = send(database, read_journal(directory), directory)
    journal.metric("loss", 5, 5.0)
    points = read_journal(directory).metrics["loss"]
    journal.close()
    Journal.resume(directory, 5).close()
    send(database, read_journal(directory), directory)
    with pytest.raises(BehindError, match="resumed"):
        early.push("loss", 5, Series(points.steps[5:], points.values[5:], points.times[5:]))


def test_a_copy_that_fails_is_named_at_the_end(mongo_uri, tmp_path, monkeypatch, caplog):
    def fail(self):
        raise ValueError("no event of a journal")

    monkeypatch.setattr("records.replicator._Copy.step", fail)
    monkeypatch.setattr("threading.excepthook", lambda details: None)
    observer = JournalObserver(tmp_path, ["trainer"], {})
    observer.dir = tmp_path / "1"
    _journal(observer.dir, 3).close()
    copy = MongoReplicator(observer, connect(mongo_uri), mongo_uri)
    copy.started_event()
    copy.join()
    assert "MongoDB lacks a part of this run's record" in caplog.text


def _copying(directory: Path, uri: str) -> MongoReplicator:
    observer = JournalObserver(directory.parent, ["trainer"], {})
    observer.dir = directory
    copy = MongoReplicator(observer, connect(uri), uri)
    copy.started_event()
    return copy


def test_a_run_whose_end_was_not_recorded_is_not_waited_for(mongo_uri, tmp_path, caplog):
    _journal(tmp_path / "1", 3).close()  # the disk was full when it ended
    copy = _copying(tmp_path / "1", mongo_uri)
    began = time.monotonic()
    copy.join()
    assert time.monotonic() - began < PATIENCE + 2
    assert "MongoDB lacks a part of this run's record" in caplog.text


def test_the_end_waits_as_long_as_the_copy_goes_on(mongo_server, tmp_path, caplog):
    journal = _journal(tmp_path / "1", 1)
    for i in range(25):
        journal.metric(f"final_{i}", 1, float(i))
    journal.ended("COMPLETED")
    journal.close()
    mongo_server.tell("delay 0.1")
    copy = _copying(tmp_path / "1", mongo_server.uri)
    began = time.monotonic()
    copy.join()
    assert time.monotonic() - began > PATIENCE
    assert not caplog.text
    mongo_server.tell("normal")
    assert list(sync.verify(connect(mongo_server.uri), [tmp_path / "1"])) == []


def test_who_read_a_record_earlier_does_not_overwrite_its_end(mongo_uri, tmp_path):
    database, directory = connect(mongo_uri), tmp_path / "1"
    journal = _journal(directory, 3)
    running = read_journal(directory)
    journal.ended("COMPLETED", {"t_env": 3})
    completed = read_journal(directory)
    journal.close()

    def status() -> str:
        return database.runs.find_one({"_id": running.uid})["status"]

    send(database, completed, directory)
    send(database, running, directory)
    assert status() == "COMPLETED"
    Journal.resume(directory, 3).close()
    send(database, read_journal(directory), directory)
    assert status() == "RUNNING"
    with suppress(BehindError):
        send(database, completed, directory)
    assert status() == "RUNNING"


def test_the_times_of_sacreds_own_files_are_as_exact_as_the_databases(mongo_uri, tmp_path):
    _journal(tmp_path / "1", 3).close()
    sacred_files.write(tmp_path / "1", read_journal(tmp_path / "1"))
    metrics = json.loads((tmp_path / "1" / "metrics.json").read_text())
    metrics["loss"]["timestamps"] = [f"2026-11-02T03:04:05.{123900 + i}" for i in range(3)]
    (tmp_path / "1" / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "1" / FILE).unlink()
    assert list(sync.sync(connect(mongo_uri), [tmp_path / "1"])) == []
    assert list(sync.verify(connect(mongo_uri), [tmp_path / "1"])) == []


def test_verify_names_each_difference(mongo_uri, tmp_path):
    database = connect(mongo_uri)
    for name in "123":
        _journal(tmp_path / name, 4).close()
    directories = run_directories(tmp_path)
    assert directories == [tmp_path / name for name in "123"]
    one, two, _ = (read_journal(directory) for directory in directories)
    list(sync.sync(database, directories[:2]))
    database.metrics.update_one({"run_id": one.uid}, {"$set": {"values": [0.0, 1.0, 2.0, 3.0]}})
    database.metrics.delete_one({"run_id": two.uid})
    lines = list(sync.verify(database, directories))
    assert [str(directory) in line for directory, line in zip(directories, lines, strict=True)] == [True] * 3
    assert "4 points of loss differ" in lines[0]
    assert "loss has 4 points, in the database 0" in lines[1]
    assert "doesn't have this run" in lines[2]


def test_files_are_stored_once(mongo_uri, tmp_path):
    import gridfs

    journal = _journal(tmp_path / "1", 1)
    (tmp_path / "1" / "note.txt").write_text("first")
    journal.artifact("note.txt", "note.txt")
    journal.artifact("gone.txt", "gone.txt")
    database = connect(mongo_uri)
    for content in ("first", "first", "second"):
        (tmp_path / "1" / "note.txt").write_text(content)
        record = read_journal(tmp_path / "1")
        send(database, record, tmp_path / "1")
    (link,) = database.runs.find_one({"_id": record.uid})["artifacts"]
    assert gridfs.GridFS(database).get(link["file_id"]).read() == b"second"
    assert any("lacks the artifact gone.txt" in line for line in sync.verify(database, [tmp_path / "1"]))


def test_incense_reads_the_records(mongo_uri, tmp_path):
    incense = pytest.importorskip("incense", reason="incense is not installed")
    journal = _journal(tmp_path / "1", 3)
    (tmp_path / "1" / "note.txt").write_text("hello")
    journal.artifact("note.txt", "note.txt")
    journal.ended("COMPLETED", {"best": 0.5})
    record = read_journal(tmp_path / "1")
    database = connect(mongo_uri)
    send(database, record, tmp_path / "1")
    address, _, name = mongo_uri.rpartition("/")
    loader = incense.ExperimentLoader(mongo_uri=address, db_name=name)
    experiment = loader.find_by_id(record.uid)
    assert (experiment.status, experiment.config.seed, experiment.result.best) == ("COMPLETED", 3, 0.5)
    loss = experiment.metrics["loss"]
    assert list(loss.index) == [0, 1, 2]
    assert (loss[1], math.isnan(loss[2])) == (1 / 3, True)
    assert experiment.artifacts["note.txt"].file.read() == b"hello"
    assert record.uid in [found.id for found in loader.find_by_config_key("env_args.map_name", "3m")]


@pytest.mark.parametrize(
    "uri", ["localhost", "mongodb://", "mongodb://host:port/x", "mongodb://a:b@c:d@e/x", ""]
)
def test_a_wrong_address_is_one_sentence_without_credentials(uri):
    with pytest.raises(ConfigError, match="must have the form mongodb://"):
        connect(uri)


def test_hung_connections_of_the_test_server_do_not_answer(mongo_server):
    mongo_server.tell("hang")
    client = MongoClient(mongo_server.uri, serverSelectionTimeoutMS=300, connectTimeoutMS=300)
    with pytest.raises(Exception, match="timed out"):
        client.admin.command("ping")
