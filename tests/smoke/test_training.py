"""Short runs of the real command line: complete records, equal metrics for equal seeds, clean ends."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

REPLAY = ["batch_size=4", "buffer_size=16", "steps_per_update=50"]
ON_POLICY = ["steps_per_update=100"]
TINY = [
    "t_max=400", "test_interval=200", "test_nepisode=4", "log_interval=100", "runner_log_interval=100",
    "learner_log_interval=100", "hidden_dim=16", "batch_size_run=4", "cpu_threads=1", "seed=5",
    "final_test_nepisode=4",
]  # fmt: skip
FORAGING = ["env_args.key=lbforaging:Foraging-8x8-2p-3f-v3", "env_args.time_limit=20"]
ALONE = [*FORAGING, "runner=episode", "batch_size_run=1"]


def _records(command_line, alg: str, task: str = "lbforaging_Foraging-8x8-2p-3f-v3") -> list[Path]:
    folder = command_line.results / "sacred" / alg / task
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def _points(metrics: dict) -> dict:
    return {name: (series["steps"], series["values"]) for name, series in metrics.items()}


@pytest.mark.parametrize(
    ("alg", "settings", "loss", "unread"),
    [("qmix", REPLAY, "loss", ""), ("mappo", [*ON_POLICY, "batch_size=4"], "critic_loss", "batch_size")],
)
def test_a_run_leaves_a_complete_record_and_the_same_one_twice(
    command_line, load, alg, settings, loss, unread
):
    for _ in range(2):
        done = command_line.train(alg, "smax", *TINY, *settings)
        assert done.returncode == 0, done.stderr
    first, second = _records(command_line, alg, "3m")

    *_, line = done.stdout.splitlines()
    assert line.startswith(f"{alg} on 3m, seed 5: 4")
    assert "test win rate last" in line
    assert str(second) in line
    assert "steps/s" in done.stderr
    told = re.findall("No part of this run has read (.*): setting it has no effect", done.stderr)
    assert told == ([unread] if unread else [])

    run, config, metrics = (load(first / name) for name in ("run.json", "config.json", "metrics.json"))
    assert run["status"] == "COMPLETED"
    assert (config["seed"], config["name"], config["env_args"]["map_name"]) == (5, alg, "3m")
    assert load(first / "versions.json")["torch"].startswith("2.13.0")
    names = {"return_mean", "ep_length_mean", "battle_won_mean", "episode", loss}
    names |= {f"final_{which}_battle_won_mean" for which in ("last", "best")}
    assert names | {f"test_{name}" for name in ("return_mean", "battle_won_mean")} <= set(metrics)

    tests = metrics["test_battle_won_mean"]["steps"]
    assert tests[0] == 0
    assert tests[-1] == run["result"]["t_env"] >= 400
    assert 200 <= tests[1] < 400
    assert _points(metrics) == _points(load(second / "metrics.json"))


def test_without_a_compiler_a_run_says_so_once_and_goes_on(command_line):
    command_line.environ["CXX"] = "no-such-compiler"
    learning = ["start_training_steps=0", "wm_steps_per_update=200", "policy_steps_per_round=200"]
    done = command_line.train("gawm_small", "gymma", *FORAGING, *TINY, *learning)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("kernels can't be compiled") == 1
    assert "no-such-compiler" in done.stderr


def test_what_a_part_objects_to_is_one_sentence_and_nothing_is_written(command_line):
    done = command_line.train("gawm_small", "gymma", *ALONE, "cpu_threads=1", "replay_capacity=20")
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert line == "error: replay_capacity=20 can't hold 1 episodes of 20 steps: it must be 21 at least."
    assert "Traceback" not in done.stderr
    assert not command_line.results.exists()


def test_another_seed_gives_other_metrics_and_no_seed_draws_one(command_line, load):
    assignments = [word for word in TINY if not word.startswith("seed")]
    for _ in range(2):
        assert command_line.train("qmix", "gymma", *assignments, *ALONE, *REPLAY).returncode == 0
    one, two = _records(command_line, "qmix")
    assert load(one / "config.json")["seed"] != load(two / "config.json")["seed"]
    assert _points(load(one / "metrics.json")) != _points(load(two / "metrics.json"))


def test_event_files_and_checkpoints_lie_in_the_run_directory(command_line):
    extra = ["t_max=100", "use_tensorboard=True"]
    assert command_line.train("qmix", "gymma", *TINY, *ALONE, *REPLAY, *extra).returncode == 0
    (record,) = _records(command_line, "qmix")
    assert list((record / "tensorboard").glob("events.out.tfevents.*"))
    names = {path.name for path in (record / "checkpoints").iterdir()}
    assert {"100", "best-100"} <= names  # and the best policy of before, as long as 100 can be gone back to


def test_a_loss_that_is_no_number_stops_the_run(command_line, load):
    huge = ["lr=1e38", "grad_norm_clip=1e30", "t_max=4000"]
    done = command_line.train("qmix", "gymma", *TINY, *ALONE, *REPLAY, *huge)
    (record,) = _records(command_line, "qmix")
    assert done.returncode == 3, done.stderr
    *_, line = done.stderr.splitlines()
    assert line.startswith("Training stopped: ")
    assert "NaN or infinite at environment step" in line
    assert str(record) in line
    assert "Traceback" not in done.stderr
    assert load(record / "run.json")["status"] == "FAILED"


def _wait_for_line(process: subprocess.Popen, words: str) -> str:
    seen = ""
    for line in process.stderr:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} was never printed:\n{seen}")


def _group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("number", "env", "task", "settings"),
    [
        (signal.SIGINT, "smax", "3m", ["runner=vector"]),
        (signal.SIGINT, "gymma", "lbforaging_Foraging-8x8-2p-3f-v3", [*FORAGING, "runner=parallel"]),
        (signal.SIGTERM, "gymma", "lbforaging_Foraging-8x8-2p-3f-v3", [*FORAGING, "runner=parallel"]),
    ],
)
def test_an_interrupt_ends_the_run_cleanly(command_line, load, number, env, task, settings):
    words = command_line.words("mappo", env, *TINY, *ON_POLICY, *settings, "t_max=1000000")
    process = command_line.start(words, start_new_session=True)
    try:
        seen = _wait_for_line(process, "steps/s")
        if number == signal.SIGINT:  # what a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, rest = process.communicate(timeout=60)
        deadline = time.monotonic() + 5
        while not _group_is_gone(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert _group_is_gone(process.pid), "a child is left"
    finally:
        if not _group_is_gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    (record,) = _records(command_line, "mappo", task)
    assert process.returncode == 130, seen + rest
    assert rest.splitlines()[-1] == f"Interrupted; the record so far is in {record}"
    assert "Traceback" not in seen + rest
    assert load(record / "run.json")["status"] == "INTERRUPTED"
    saved = max(int(folder.name) for folder in (record / "checkpoints").iterdir() if folder.name.isdigit())
    assert saved >= max(load(record / "metrics.json")["return_mean"]["steps"])
