"""The observer in real Sacred experiments, and the files it makes for scripts that know Sacred's folders."""

import errno
import json
import math
import threading
import time
from pathlib import Path

import pytest
from sacred import SETTINGS, Experiment

from records import sacred_files
from records.journal import DamagedRecord, read_journal
from records.observer import JournalObserver

CONFIG = {"name": "qmix", "seed": 3, "env": "smax", "env_args": {"map_name": "3m"}}


@pytest.fixture(autouse=True)
def _beat(monkeypatch):
    monkeypatch.setitem(SETTINGS, "DEFAULT_BEAT_INTERVAL", 0.05)
    monkeypatch.setitem(SETTINGS, "CAPTURE_MODE", "no")


def _run(root: Path, body, simulator: str = "", **resumed) -> JournalObserver:
    versions = {"python": "3.11", **({"simulator": simulator} if simulator else {})}
    observer = JournalObserver(root, ["--config=qmix"], versions, **resumed)
    experiment = Experiment("qmix", save_git_info=False)
    experiment.add_config(CONFIG)
    experiment.observers.append(observer)
    experiment.main(lambda _run: body(_run, observer))
    experiment.run()
    return observer


def test_a_run_leaves_sacreds_files(tmp_path):
    def body(run, observer):
        observer.journal.metric("loss", 10, math.nan)
        observer.journal.metric("loss", 20, 0.1)
        return {"best": 1.0}

    observer = _run(tmp_path, body)
    assert observer.dir == tmp_path / "1"
    run, config, metrics, versions = (
        json.loads((observer.dir / f"{name}.json").read_text())
        for name in ("run", "config", "metrics", "versions")
    )
    assert config == CONFIG
    assert (run["status"], run["result"], run["artifacts"]) == ("COMPLETED", {"best": 1.0}, ["versions.json"])
    assert run["experiment"]["name"] == "qmix"
    assert run["meta"]["command"] == ["--config=qmix"]
    assert versions == {"python": "3.11"}
    assert metrics["loss"]["steps"] == [10, 20]
    assert math.isnan(metrics["loss"]["values"][0])
    assert metrics["loss"]["values"][1] == 0.1
    assert read_journal(observer.dir).started["versions"] == {"python": "3.11"}


def test_what_is_logged_through_sacred_is_recorded_within_a_heartbeat(tmp_path):
    def body(run, observer):
        run.log_scalar("loss", 0.5, 7)
        deadline = time.monotonic() + 5
        while not read_journal(observer.dir).points and time.monotonic() < deadline:
            time.sleep(0.02)
        assert read_journal(observer.dir).metrics["loss"].steps == [7]
        run.log_scalar("loss", 0.25, 8)

    observer = _run(tmp_path, body)
    assert read_journal(observer.dir).metrics["loss"].values == [0.5, 0.25]


def test_a_heartbeat_that_fails_once_is_not_the_last(tmp_path, monkeypatch):
    beats = []

    def beat(self):
        beats.append(time.monotonic())
        if len(beats) == 1:
            raise OSError(errno.ESTALE, "stale file handle")

    monkeypatch.setattr("records.journal.Journal.heartbeat", beat)
    _run(tmp_path, lambda run, observer: time.sleep(0.5))
    assert len(beats) > 2


def test_a_failure_is_recorded_with_its_reason(tmp_path):
    def body(run, observer):
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        _run(tmp_path, body)
    record = read_journal(tmp_path / "1")
    assert (record.status, record.ended["error"]) == ("FAILED", "ValueError: no such thing")
    assert json.loads((tmp_path / "1" / "run.json").read_text())["fail_trace"][-1].startswith("ValueError")


def test_runs_started_at_once_get_directories_of_their_own(tmp_path):
    gate = threading.Barrier(8)
    observers = [JournalObserver(tmp_path, [], {}) for _ in range(8)]

    def start(observer: JournalObserver) -> None:
        gate.wait()
        observer.started_event({"name": "qmix"}, "main", {}, None, CONFIG, {}, None)

    threads = [threading.Thread(target=start, args=(observer,)) for observer in observers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(observer.dir.name for observer in observers) == [str(i) for i in range(1, 9)]
    assert len({read_journal(observer.dir).uid for observer in observers}) == 8


def test_a_resumed_run_continues_its_record(tmp_path):
    first = _run(
        tmp_path, lambda run, observer: [observer.journal.metric("loss", t, t / 2) for t in range(10)]
    )
    uid = read_journal(first.dir).uid

    def body(run, observer):
        observer.journal.metric("loss", 6, 9.0)

    second = _run(tmp_path, body, resumed=first.dir, keep=6)
    record = read_journal(second.dir)
    assert (second.dir, record.uid) == (first.dir, uid)
    assert record.metrics["loss"].steps == [0, 1, 2, 3, 4, 5, 6]
    assert json.loads((second.dir / "metrics.json").read_text())["loss"]["values"][-1] == 9.0


def test_what_a_resume_changes_is_part_of_the_record(tmp_path, monkeypatch):
    first = _run(tmp_path, lambda run, observer: None)
    monkeypatch.setitem(CONFIG, "t_max", 2000)
    monkeypatch.setitem(CONFIG, "resume", str(first.dir))
    _run(tmp_path, lambda run, observer: None, simulator="2", resumed=first.dir, keep=0)
    record = read_journal(first.dir)
    assert (record.config["t_max"], record.config["resume"]) == (2000, None)
    assert record.started["versions"]["simulator"] == "2"
    assert json.loads((first.dir / "versions.json").read_text())["simulator"] == "2"
    assert json.loads((first.dir / "config.json").read_text())["t_max"] == 2000


def test_an_artifact_from_elsewhere_is_copied(tmp_path):
    def body(run, observer):
        path = tmp_path / "note.txt"
        path.write_text("hello")
        run.add_artifact(str(path))
        inside = observer.dir / "plots" / "a.txt"
        inside.parent.mkdir()
        inside.write_text("curve")
        run.add_artifact(str(inside))

    directory = _run(tmp_path / "runs", body).dir
    artifacts = {artifact["name"]: artifact["path"] for artifact in read_journal(directory).artifacts}
    assert artifacts == {"versions.json": "versions.json", "note.txt": "note.txt", "a.txt": "plots/a.txt"}
    assert (directory / "note.txt").read_text() == "hello"


def test_a_folder_without_a_journal_is_read_from_sacreds_files(tmp_path):
    observer = _run(tmp_path, lambda run, observer: observer.journal.metric("loss", 10, 0.1))
    journal = read_journal(observer.dir)
    old = sacred_files.read(observer.dir)
    assert old.metrics == journal.metrics
    assert (old.status, old.config) == ("COMPLETED", CONFIG)
    assert old.started["time"] == pytest.approx(journal.started["time"], abs=1e-5)
    (observer.dir / "metrics.json").write_text("{")
    with pytest.raises(DamagedRecord, match="holds no readable record"):
        sacred_files.read(observer.dir)


def epymarl_style(directory: Path, metric: str) -> dict[str, list[float]]:
    """What plot scripts written for EPyMARL's folders do, down to the keys they expect."""
    curves: dict[str, list[float]] = {}
    for path in sorted(directory.glob("**/metrics.json")):
        with path.open() as file:
            metrics = json.load(file)
        with (path.parent / "config.json").open() as file:
            config = json.load(file)
        if metric not in metrics:
            continue
        steps, values = metrics[metric]["steps"], metrics[metric]["values"]
        assert len(steps) == len(values) == len(metrics[metric]["timestamps"])
        curves[f"{config['name']}_{config['env_args']['map_name']}_seed{config['seed']}"] = values
    return curves


def test_scripts_written_for_epymarl_read_the_folders(tmp_path):
    for _ in range(2):
        _run(tmp_path, lambda run, observer: observer.journal.metric("test_return_mean", 10, 0.5))
    assert epymarl_style(tmp_path, "test_return_mean") == {"qmix_3m_seed3": [0.5]}
    assert len(list(tmp_path.glob("*/metrics.json"))) == 2
