"""The command line on SMAC, with the stand-in in the place of StarCraft II."""

import os
import random
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from sc2_stand_in.needs import needs_smac

SMALL = ["hidden_dim=16", "cpu_threads=1", "seed=3", "test_nepisode=2", "final_test_nepisode=2"]
SHORT = [*SMALL, "t_max=600", "test_interval=300", "log_interval=200", "runner_log_interval=100"]
SMALL_MODEL = [
    "wm_width=32", "wm_latent_groups=4", "wm_latent_classes=4", "wm_fusion_layers=1", "wm_fusion_heads=2",
    "wm_head_layers=1", "wm_batch_size=4", "wm_sequence_length=8", "wm_steps_per_update=10",
    "critic_width=16", "policy_steps_per_round=50", "imagination_starts=16", "imagination_episodes=4",
    "imagination_horizon=3",
]  # fmt: skip
SELDOM = ["wm_steps_per_update=20", "policy_steps_per_round=200"]  # 600 updates and 60 rounds take an hour
PARALLEL = ["runner=parallel", "batch_size_run=4"]
RUN_TIMEOUT = 1800  # seconds; a run takes half a minute of processor time, GAWM in its full size some
START_TIMEOUT = 900  # seconds until all games have started
SOAK_SECONDS = float(os.environ.get("SC2_SOAK_SECONDS", "300"))
pytestmark = needs_smac


@pytest.fixture
def smac(command_line, stand_in, tmp_path):
    """The command line on a machine with the stand-in; afterwards no games and folders are left."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command_line.environ |= {"SC2PATH": str(stand_in), "TMPDIR": str(temporary)}
    yield command_line
    assert _games(stand_in) == []
    assert [path for path in temporary.glob("marl-sc2-*/*") if path.suffix != ".lock"] == []


def _games(stand_in: Path) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-f", f"dataDir {stand_in}"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def _record(command_line, alg: str, map_name: str) -> Path:
    (record,) = (command_line.results / "sacred" / alg / map_name).glob("[0-9]*")
    return record


@pytest.mark.parametrize(
    ("alg", "map_name", "settings"),
    [
        ("gawm", "8m", SMALL_MODEL),
        pytest.param("gawm", "8m", SELDOM, marks=pytest.mark.slow, id="gawm in its full size"),
        ("mappo", "3m", [*PARALLEL, "steps_per_update=100"]),
        ("qmix", "3m", [*PARALLEL, "batch_size=4"]),
    ],
)
def test_a_run_trains_tests_resumes_and_leaves_a_record_that_names_the_stand_in(
    smac, load, alg, map_name, settings
):
    words = [f"env_args.map_name={map_name}", *SHORT, *settings]
    first = smac.run(smac.words(alg, "sc2", *words, "t_max=300"), timeout=RUN_TIMEOUT)
    assert first.returncode == 0, first.stderr
    done = smac.run(smac.words(alg, "sc2", *words, "resume=True"), timeout=RUN_TIMEOUT)
    assert done.returncode == 0, done.stderr
    record = _record(smac, alg, map_name)
    versions, metrics, run = (load(record / name) for name in ("versions.json", "metrics.json", "run.json"))
    assert versions["game_version"] == "stand-in"
    assert len(versions["map_sha256"]) == 64
    assert run["status"] == "COMPLETED"
    tests = metrics["test_battle_won_mean"]["steps"]
    assert tests[0] == 0
    assert 600 <= tests[-1] < 1000
    assert tests == sorted(set(tests))
    assert {"return_mean", "battle_won_mean", "ep_length_mean", "sc2_memory_mb_mean"} <= set(metrics)
    assert metrics["sc2_memory_mb_mean"]["values"][-1] > 1


def test_check_lists_everything_and_finds_it_there(smac):
    done = smac.run(["check", "sc2", "with", "env_args.map_name=8m"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stand-in (build 75689)" in done.stdout
    done = smac.run(["check", "sc2", "with", "env_args.map_name=MMM"])
    assert done.returncode == 2
    assert re.search(r"missing +map's file: .*--maps-only", done.stdout)


def test_a_game_that_never_starts_ends_the_run_with_one_sentence(smac):
    smac.environ["SC2_STAND_IN_FAULT"] = "refuse"
    settings = [*SMALL, "runner=episode", "env_args.launch_timeout=5"]
    done = smac.train("qmix", "sc2", *settings)
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith("error: StarCraft II did not start within 5 s")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_sixteen_games_of_which_some_die_and_some_hang_all_the_time(smac, load, stand_in, tmp_path):
    settings = [
        *SHORT, "runner=parallel", "batch_size_run=16", "batch_size=4", "env_args.step_timeout=10",
        "t_max=10000000", "runner_log_interval=16", "test_nepisode=1", "test_interval=1000",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as log:
        process = smac.start(smac.words("qmix", "sc2", *settings), errors=log)
        try:
            faults = _disturb(process, stand_in, SOAK_SECONDS)
            time.sleep(60)  # the last faults are noticed and counted
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
        log.seek(0)
        said = log.read()
    metrics = load(_record(smac, "qmix", "3m") / "metrics.json")
    lost = said.count("StarCraft II failed in a battle")
    counted = [metrics[name]["values"] for name in ("sc2_restarts", "test_sc2_restarts") if name in metrics]
    print(f"{faults} faults, {lost} episodes lost in battle, counted {counted[0][-1]}")
    assert "Traceback" not in said
    assert faults > SOAK_SECONDS / 10
    assert lost >= faults / 2
    assert counted[0][-1] + sum(sum(values) for values in counted[1:]) == lost
    assert len(metrics["return_mean"]["steps"]) > 1
    assert metrics["loss"]["steps"][-1] > 0  # it has been learning


def _disturb(process: subprocess.Popen, stand_in: Path, seconds: float) -> int:
    """Kill one game and hang another every few seconds; returns how many faults that were."""
    begin = time.monotonic() + START_TIMEOUT
    while len(_games(stand_in)) < 16 and time.monotonic() < begin:
        time.sleep(1)
    chance, faults, end = random.Random(1), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "training has ended"
        time.sleep(4)
        games = _games(stand_in)
        if len(games) >= 16:
            for pid, number in zip(chance.sample(games, 2), (signal.SIGKILL, signal.SIGSTOP), strict=True):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:  # it has just been replaced
                    continue
                faults += 1
    return faults
