"""A study: what is planned, what is run, what is made of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import compare
from checkpoints import CheckpointStore
from jobs import Job
from main import configuration
from records.journal import Journal
from utils.config import run_folder
from utils.constraints import ConfigError

COMPARE = Path(compare.__file__)
FORAGING = "lbforaging:Foraging-5x5-2p-1f-v3"
TINY = [
    "test_interval=100", "test_nepisode=2", "final_test_nepisode=0", "batch_size=2", "buffer_size=8",
    "hidden_dim=8", "runner=episode", "env_args.time_limit=10", "learner_log_interval=50", "cpu_threads=1",
    "log_interval=50",
]  # fmt: skip


def plan(*words: str) -> list[Job]:
    return compare.plan(compare.parser().parse_intermixed_args(words))


def tiny(results: Path, algs: str = "qmix,iql", seeds: int = 1, steps: int = 100, *options: str) -> list[str]:
    """The words of a study that is over at once."""
    return [
        f"--algs={algs}", f"--maps={FORAGING}", "--env-config=gymma", f"--seeds={seeds}", f"--steps={steps}",
        f"--out={results / 'study'}", *options, "with", f"local_results_path={results}", *TINY,
    ]  # fmt: skip


def test_every_combination_is_planned_seed_by_seed(tmp_path: Path) -> None:
    jobs = plan(*tiny(tmp_path, seeds=2))
    assert [(job.alg, job.seed) for job in jobs] == [("qmix", 0), ("iql", 0), ("qmix", 1), ("iql", 1)]
    job = jobs[-1]
    assert (job.config["seed"], job.config["t_max"]) == (1, 100)
    assert job.config["env_args"]["key"] == FORAGING
    assert configuration(list(job.words))[0] == job.config


def test_runs_that_share_the_machine_share_its_threads() -> None:
    cores = os.cpu_count() or 1
    (job,) = plan("--algs=qmix", "--maps=3m", "--seeds=1", f"--jobs={2 * cores}")
    assert job.config["cpu_threads"] == 1
    (job,) = plan("--algs=qmix", "--maps=3m", "--seeds=1", "--jobs=1")
    assert job.config["cpu_threads"] == cores


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--algs=qmxi"], ["algorithm 'qmxi'", "did you mean qmix?"]),
        (["--algs=qmix,,iql"], ["--algs", "'qmix,,iql' is no list of names"]),
        (["--maps=3mm"], ["3mm", "did you mean 3m"]),
        (["--env-config=smx"], ["environment 'smx'"]),
        (["--seeds=0"], ["--seeds", "whole number from 1 on"]),
        (["--steps=many"], ["--steps", "'many'"]),
        (["--jobs=-1"], ["--jobs", "whole number from 0 on"]),
        (["with", "hiden_dim=3"], ["did you mean hidden_dim"]),
        (["vdn"], ["'with' is missing before 'vdn'", "commas", ",vdn"]),
        (["with", "seed=3"], ["'seed=3' is decided by the study", "--seeds"]),
        (["with", "env_args.map_name=8m"], ["'env_args.map_name=8m' is decided by the study", "--maps"]),
        (["--algs=gawm_small,qmix", "with", "wm_width=64"], ["qmix on 3m: There is no key 'wm_width'"]),
        (["with", "learner=qlearner"], ["learner", "q_learner"]),
        (["lr=1"], ["'with' is missing"]),
        (["--out=/dev/null/x"], ["/dev/null/x", "--out"]),
    ],
)
def test_bad_input_is_answered_with_one_sentence(words: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan("--algs=qmix", "--maps=3m", *words)
    assert all(word in str(caught.value) for word in expected), caught.value
    assert "\n" not in str(caught.value)


def test_a_study_names_what_failed_compares_the_rest_and_repeats_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = compare.parser().parse_intermixed_args(tiny(tmp_path, "qmix", 2))
    good, bad = compare.plan(given)
    broken = Job(bad.alg, bad.map, bad.seed, (*bad.words, "no_such_key=1"), bad.config)
    assert compare.study(given, [good, broken], "the command") == 1
    missing = f"- qmix on {FORAGING}, seed 1 is missing (exit code 2: error: There is no key 'no_such_key'"
    assert missing in capfd.readouterr().err
    text = (tmp_path / "study" / "table.md").read_text()
    assert text.startswith("    the command\n")
    assert missing in text
    written = pd.read_csv(tmp_path / "study" / "table.csv")
    assert written[["alg", "seeds"]].values.tolist() == [["qmix", 1]]
    assert written["updates"][0] > 0
    assert {"curves.csv", "curves.png"} <= {path.name for path in (tmp_path / "study").iterdir()}

    assert compare.study(given, [good, bad], "the command") == 0  # only what is missing is trained
    assert "1 of 2 runs are missing" in capfd.readouterr().err
    longer = compare.parser().parse_intermixed_args(tiny(tmp_path, "qmix", 2, 150))
    assert compare.study(longer, compare.plan(longer), "the command") == 0  # what is too short goes on
    runs = sorted(path.name for path in (tmp_path / "sacred" / "qmix").glob("*/*") if path.name.isdigit())
    assert runs == ["1", "2"]


def test_two_algorithms_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def composed(words: list[str]) -> tuple[dict[str, object], object]:
        return {**configuration([word.replace("=vdn", "=qmix") for word in words])[0]}, None

    monkeypatch.setattr(compare, "configuration", composed)
    with pytest.raises(ConfigError, match="qmix and vdn are both named 'qmix'"):
        plan("--algs=iql,qmix,vdn", "--maps=3m")


def test_a_run_that_can_not_go_on_is_started_anew(tmp_path: Path) -> None:
    def saved(name: str) -> str | None:
        return torch.save({}, f"{name}/agent.th")

    (job,) = plan(*tiny(tmp_path, "iql"))
    for number in (1, 2, 3):
        directory = run_folder(job.config) / str(number)
        directory.mkdir(parents=True)
        Journal.create(directory, id=str(number), name="iql", config=job.config).close()
    assert job.command()[-1] == f"resume={directory}"  # from step 0
    store = CheckpointStore(directory / "checkpoints")
    store.save(50, saved, {}, {})  # the learner could not tell its state
    other = directory.with_name("2")
    assert job.command()[-1] == f"resume={other}"
    damaged = CheckpointStore(other / "checkpoints").save(50, saved, {"learner": {}}, {})
    (damaged.path / "learner.pt").write_bytes(b"")
    assert job.command()[-1] == f"resume={directory.with_name('1')}"
    CheckpointStore(directory.with_name("1") / "checkpoints").save(50, saved, {}, {})
    assert job.command()[-1] == job.words[-1]


def test_without_runs_nothing_is_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = compare.parser().parse_intermixed_args([*tiny(tmp_path, "qmix"), "--jobs=0"])
    assert compare.study(given, compare.plan(given), "the command") == 1
    assert "No run is finished, so nothing is compared; --jobs 1 or more trains" in capfd.readouterr().err
    assert not (tmp_path / "study").exists()


def write_run(folder: Path, job: Job, values: list[float], **losses: float) -> Path:
    """A run that was tested every 100 steps, the last time a little late, and went on after that."""
    directory = folder / "sacred" / job.alg / job.map / str(job.seed + 1)
    directory.mkdir(parents=True)
    journal = Journal.create(directory, id=str(job.seed + 1), name=job.alg, config=job.config, command=[])
    for index, value in enumerate(values):
        journal.metric("test_battle_won_mean", 100 * index + (5 if index == 2 else 0), value)
    for name, value in losses.items():
        journal.metric(name, 100, value)
        journal.metric(name, 300, 2 * value)
    journal.ended("COMPLETED", {"t_env": 300})
    journal.close()
    return directory


def test_the_table_holds_what_the_runs_reached_by_then(tmp_path: Path) -> None:
    def job(alg: str, seed: int) -> Job:
        task = {"env": "smax", "env_args": {"map_name": "3m"}}
        return Job(
            alg, "3m", seed, (), {"name": alg, "seed": seed, "local_results_path": str(tmp_path), **task}
        )

    done = {
        job("gawm", 0): write_run(tmp_path, job("gawm", 0), [0.0, 0.5, 0.6, 0.1], wm_updates=40, wm_loss=3.0),
        job("gawm", 1): write_run(tmp_path, job("gawm", 1), [0.0, 0.7, 0.8, 0.1], wm_updates=42, wm_loss=2.0),
        job("qmix", 0): write_run(tmp_path, job("qmix", 0), [0.0, 0.1, 0.2, 0.9], updates=7),
    }
    text, notices = compare.compare(done, 200, tmp_path)
    written = pd.read_csv(tmp_path / "table.csv").set_index("alg")
    gawm, qmix = written.loc["gawm"], written.loc["qmix"]
    between = 0.1 * 100 / 105  # the tests are at 100 and 205 steps
    reached = 0.6 + between  # on average
    assert (gawm["mean"], gawm["iqm"], gawm["median"]) == pytest.approx((reached, reached, reached))
    assert gawm["std"] == pytest.approx(0.2 / 2**0.5)
    assert gawm["low"] < reached < gawm["high"]
    areas = [(0.25 + 0.5 + between / 2) / 2, (0.35 + 0.7 + between / 2) / 2]
    assert gawm["area"] == pytest.approx(sum(areas) / 2)
    assert (gawm["updates"], qmix["updates"], gawm["seeds"]) == (82, 14, 2)
    assert qmix["mean"] == pytest.approx(0.1 + between)
    assert pd.isna(qmix["std"])
    assert text.startswith("test win rate at 200 environment steps\n\n| map | alg |")
    assert "| 3m | qmix | 1 | 0.195 | 0.195 | - | - |" in text
    assert notices == ["qmix on 3m lacks seed 1, which others have."]
    assert (tmp_path / "losses.png").exists()
    assert pd.read_csv(tmp_path / "curves.csv").groupby("run")["t_env"].max().tolist() == [205] * 3


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_runs_end_in_order_with_their_study(tmp_path: Path, how: signal.Signals) -> None:
    words = tiny(tmp_path, "qmix", 1, 1000000)
    process = subprocess.Popen([sys.executable, str(COMPARE), *words], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "study" / "logs"
    try:
        wait_for(lambda: any("steps/s" in file.read_text() for file in log.glob("*.log")), "no run got going")
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    (record,) = (tmp_path / "sacred" / "qmix").glob("*/1")
    wait_for(lambda: status_of(record) != "RUNNING", "the run outlives its study")
    assert status_of(record) == "INTERRUPTED"
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "Interrupted; the same command goes on."


def status_of(record: Path) -> str:
    return str(json.loads((record / "run.json").read_text())["status"])


def wait_for(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)
