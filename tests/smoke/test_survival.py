"""Runs that are killed go on as if nothing had happened: the real command line, kill -9, and resume=True."""

import json
import random
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import main
from checkpoints import CheckpointStore
from checkpoints.checkpoint import write
from records.journal import read_journal

SIZES = [
    "t_max=900", "test_interval=300", "test_nepisode=4", "final_test_nepisode=4", "log_interval=300",
    "runner_log_interval=50", "learner_log_interval=50", "hidden_dim=16", "batch_size_run=4", "cpu_threads=1",
    "seed=5", "checkpoint_interval=100",
]  # fmt: skip
ALGORITHMS = {
    "qmix": ["batch_size=4", "buffer_size=16", "steps_per_update=50"],
    "mappo": ["steps_per_update=100"],
    "gawm_small": [
        "start_training_steps=50", "wm_steps_per_update=50", "wm_batch_size=4", "wm_sequence_length=8",
        "wm_latent_groups=4", "wm_latent_classes=4", "wm_fusion_layers=1", "wm_fusion_heads=2", "wm_width=16",
        "policy_steps_per_round=100", "imagination_episodes=4", "imagination_starts=16",
        "imagination_horizon=5", "critic_width=16", "replay_capacity=600",
    ],
}  # fmt: skip
PATIENCE = 600  # seconds for a run to get to the moment at which it is killed, on a busy machine


class Survivor:
    """A run that is started, killed and resumed with one command line."""

    def __init__(self, command_line, alg, results, *more):
        self.command_line = command_line
        env = [] if "--env-config=gymma" in more else ["--env-config=smax"]
        where = f"local_results_path={results}"
        self.words = [f"--config={alg}", *env, "with", where, *SIZES, *ALGORITHMS[alg], *more]
        self.directory = results / "sacred" / alg / "3m" / "1"

    def start(self):
        resume = ["resume=True"] if (self.directory / "journal.jsonl").exists() else []
        return self.command_line.start([*self.words, *resume])

    def finish(self, process=None):
        process = process or self.start()
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert "in 4 final episodes" in out

    def kill(self, is_time):
        """Starts or resumes the run and kills it as soon as ``is_time()``; False if it ended before that."""
        process = self.start()
        deadline = time.monotonic() + PATIENCE
        while not is_time() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), err
        return process.returncode != 0

    def after_lines(self, n):
        """A moment: the journal has grown by so many lines."""
        path = self.directory / "journal.jsonl"
        before = path.read_bytes().count(b"\n") if path.exists() else 0
        return lambda: path.exists() and path.read_bytes().count(b"\n") >= before + n

    def while_saving(self, n=1):
        """A moment: for the n-th time, a checkpoint is being written."""
        folder, seen = self.directory / "checkpoints", set()

        def is_time():
            try:
                seen.update((path.name, path.stat().st_ino) for path in folder.glob(".*.new"))
            except OSError:  # it was renamed meanwhile
                return False
            return len(seen) >= n

        return is_time

    def points(self):
        metrics = read_journal(self.directory).metrics
        return {name: (series.steps, series.values) for name, series in metrics.items()}

    def weights(self):
        return list(tensors(CheckpointStore(self.directory / "checkpoints").newest().load("learner")))


def tensors(state):
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)


def assert_alike(whole, killed):
    assert killed.points() == whole.points()
    assert read_journal(killed.directory).status == "COMPLETED"
    mine, its = whole.weights(), killed.weights()
    assert len(mine) == len(its) > 4
    assert all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))


@pytest.mark.parametrize(
    ("alg", "lines", "more"),
    [
        ("qmix", 60, []),
        ("mappo", None, []),
        ("gawm_small", 150, []),
        ("gawm_small", None, ["learn_while_stepping=True"]),
    ],
)
def test_a_killed_run_goes_on_bit_equal(command_line, tmp_path, alg, lines, more):
    whole, killed = (Survivor(command_line, alg, tmp_path / name, *more) for name in ("whole", "killed"))
    undisturbed = whole.start()
    assert killed.kill(killed.while_saving(4) if lines is None else killed.after_lines(lines))
    killed.finish()
    whole.finish(undisturbed)
    assert_alike(whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_runs_killed_at_random_moments_go_on_bit_equal(command_line, tmp_path, alg):
    rng = random.Random(f"moments {alg}")
    longer = "t_max=3000"
    whole, killed = (Survivor(command_line, alg, tmp_path / name, longer) for name in ("whole", "killed"))
    undisturbed = whole.start()
    kills = 0
    for i in range(7):
        saving = i % 3 == 1
        kills += killed.kill(
            killed.while_saving(rng.randint(1, 3)) if saving else killed.after_lines(rng.randint(1, 70))
        )
    killed.finish()
    whole.finish(undisturbed)
    assert_alike(whole, killed)
    assert kills == 7


def test_a_reader_of_the_log_that_goes_away_does_not_end_the_run(command_line, tmp_path):
    run = Survivor(command_line, "qmix", tmp_path / "results")
    process = run.start()
    process.stderr.readline()
    process.stderr.close()
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 0
    assert read_journal(run.directory).status == "COMPLETED"


def test_a_full_disk_is_one_sentence(command_line):
    """A limit on the size of files stands for the disk: the checkpoints hit it first, then the journal."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    foraging = ["env_args.key=lbforaging:Foraging-8x8-2p-3f-v3", "env_args.time_limit=20", "runner=episode"]
    words = command_line.words("mappo", "gymma", *foraging, *SIZES, *ALGORITHMS["mappo"])
    words += ["batch_size_run=1", "t_max=100000"]
    process = command_line.start(words, preexec_fn=limit)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "100 can't be written" in err
    assert "training goes on, the earlier ones remain" in err
    assert err.splitlines()[-1] == "error: The results can't be written: File too large."
    assert "Traceback" not in err


def test_damage_is_told_and_nothing_else_is_lost(command_line, tmp_path):
    run = Survivor(command_line, "mappo", tmp_path / "results", "t_max=300")
    run.finish()
    before = run.points()
    store = CheckpointStore(run.directory / "checkpoints")
    newest = store.newest()
    for step in sorted(store.steps()):
        path = store.folder / str(step) / "learner.pt"
        path.write_bytes(path.read_bytes()[:-100])
    again = command_line.run(["with", f"resume={run.directory}", "t_max=1500"])
    assert again.returncode == 2
    *_, line = again.stderr.splitlines()
    assert line.startswith("error: There is no undamaged checkpoint left: ")
    assert f"{newest.path}/learner.pt is damaged" in line
    assert "Traceback" not in again.stderr
    assert run.points() == before
    best = store.find("best").policy / "agent.th"
    best.write_bytes(b"\0" + best.read_bytes()[1:])
    words = [f"evaluate={run.directory}", "episodes=4"]
    damaged = command_line.run(words)
    assert damaged.returncode == 2
    assert damaged.stderr.splitlines()[-1] == f"error: {best} is damaged."
    last = command_line.run([*words, "checkpoint=last", "render=gif"])
    assert last.returncode == 0, last.stderr
    assert f"Step {newest.step}, 4 episodes, win rate" in last.stdout
    more = command_line.run([f"evaluate={run.directory}", "episodes=5", "checkpoint=last"])
    assert more.returncode == 0, more.stderr
    files = [path.suffix for path in Path(run.directory, "evaluations").iterdir()]
    assert sorted(files) == [".gif"] * 4 + [".json"] * 2


@pytest.mark.usefixtures("interruptible")
def test_what_another_version_wrote_is_one_sentence(command_line, tmp_path, capsys):
    run = Survivor(command_line, "mappo", tmp_path / "results", "t_max=300")
    run.finish()
    newest = CheckpointStore(run.directory / "checkpoints").newest()
    parts = [Path(name).stem for name in newest.files if name.endswith(".pt")]
    states = {part: newest.load(part) for part in parts}
    del states["learner"]["training_steps"]
    save_policy = partial(shutil.copytree, newest.policy, dirs_exist_ok=True)
    write(newest.path, newest.step, save_policy, states, newest.notes)
    again = command_line.run(["with", f"resume={run.directory}", "t_max=1500"])
    assert again.returncode == 2
    expected = f"{newest.path} is whole, but its learner can't be restored (KeyError: 'training_steps')"
    assert again.stderr.splitlines()[-1].startswith(f"error: {expected}")
    assert "Traceback" not in again.stderr

    journal = run.directory / "journal.jsonl"
    first, rest = journal.read_text().split("\n", 1)
    for key, value, message in [
        ("hidden_dim", 8, "its policy can't be restored (RuntimeError: "),
        ("agent", "my_agent", "There is no agent 'my_agent'"),
    ]:
        started = json.loads(first)
        started["config"][key] = value
        journal.write_text(f"{json.dumps(started)}\n{rest}")
        assert main.main([f"evaluate={run.directory}", "episodes=4", "checkpoint=last"]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
