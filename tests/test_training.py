"""The training loop, with counting stand-ins for runner, buffer and learner."""

import logging
import os
import shutil
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from checkpoints import CheckpointStore
from components.episode_buffer import EpisodeBatch, OnPolicyBuffer, ReplayBuffer
from envs.batched_env import idle
from run import make_scheme
from training import Parts, Training
from utils import interrupts
from utils.logging import Logger
from utils.progress import Progress

LENGTH = 10
SIZES = {"n_agents": 2, "n_actions": 3, "state_shape": 4, "obs_shape": 5, "common_reward": True}


class CountingRunner:
    """Returns ``n`` episodes of ten steps per call and logs a test's result."""

    def __init__(self, n: int, scheme: dict, logger: Logger) -> None:
        self.n, self.scheme, self.logger, self.t_env = n, scheme, logger, 0
        self.stepping = False  # the environments are
        self.events: list[str] = []  # what was done in which order
        self.tests: list[int] = []
        self.final_tests: list[tuple[int, str]] = []

    def play_episodes(self, n: int, stream: str, prefix: str) -> SimpleNamespace:
        self.final_tests.append((n, prefix))
        return SimpleNamespace(log=lambda logger, t: logger.log_stat(f"{prefix}return_mean", 1.5, t))

    def state_dict(self) -> dict:
        return {"t_env": self.t_env}

    def load_state_dict(self, state: dict) -> None:
        self.t_env = state["t_env"]

    @torch.no_grad()
    def run(self, test_mode: bool = False, meanwhile=idle) -> EpisodeBatch | None:
        if test_mode:
            self.tests.append(self.t_env)
            self.logger.log_stat("test_return_mean", self.t_env % 70, self.t_env)
            return None
        batch = EpisodeBatch(self.scheme, {"agents": 2}, self.n, LENGTH + 1)
        batch.update({"reward": torch.ones(self.n, LENGTH, 1)}, ts=slice(0, LENGTH))
        for _ in range(LENGTH):
            self.events.append("step")
            self.stepping = True
            meanwhile()
            self.stepping = False
        self.t_env += LENGTH * self.n
        return batch


class CountingLearner:
    def __init__(self, runner: CountingRunner) -> None:
        self.runner = runner
        self.calls: list[tuple[int, int, int]] = []
        self.meanwhile = 0  # of these, while the environments stepped

    def train(self, batch: EpisodeBatch, t_env: int, episode_num: int) -> None:
        assert batch.max_seq_length == LENGTH
        assert torch.is_grad_enabled()
        self.calls.append((t_env, batch.batch_size, episode_num))
        self.runner.events.append("update")
        self.meanwhile += self.runner.stepping

    def state_dict(self) -> dict:
        return {"calls": self.calls, "events": self.runner.events}

    def load_state_dict(self, state: dict) -> None:
        self.calls, self.runner.events = list(state["calls"]), list(state["events"])


class HaltingLearner(CountingLearner):
    """Makes three updates of each batch, one by one."""

    def __init__(self, runner: CountingRunner) -> None:
        super().__init__(runner)
        self.left = 0

    def store(self, batch: EpisodeBatch) -> None:
        assert self.left == 0
        self.size, self.left = batch.batch_size, 3

    def updates_due(self, t_env: int):
        while self.left:
            self.left -= 1
            self.calls.append((t_env, self.size, self.left))
            self.runner.events.append("update")
            self.meanwhile += self.runner.stepping
            yield

    def state_dict(self) -> dict:
        return {**super().state_dict(), "left": self.left, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.left, self.size = state["left"], state["size"]


class SavedMac:
    """A controller of ours whose policy is the step that it was saved at."""

    reset_hidden = None

    def __init__(self, runner: CountingRunner) -> None:
        self.runner, self.loaded = runner, None

    def save_models(self, path: str) -> None:
        torch.save(self.runner.t_env, f"{path}/agent.th")

    def load_models(self, path: str) -> None:
        self.loaded = torch.load(f"{path}/agent.th")


class CountingJournal:
    metrics_written = 17

    def flush(self) -> None:
        pass


def _train(
    tmp_path, n: int = 1, buffer: str = "replay", prepare=None, learner=CountingLearner, **changes
) -> SimpleNamespace:
    settings = {
        "t_max": 400, "steps_per_update": 25.0, "test_interval": 100, "log_interval": 100, "batch_size": 4,
        "checkpoint_interval": 10**9, "checkpoint_minutes": 10**9, "final_test_nepisode": 0, "device": "cpu",
        "learn_while_stepping": False,
    }  # fmt: skip
    args = SimpleNamespace(**SIZES, **settings | changes)
    logger = Logger(logging.getLogger("test"))
    runner = CountingRunner(n, make_scheme(args), logger)
    learner = learner(runner)
    shape = (make_scheme(args), {"agents": 2})
    replay = ReplayBuffer(*shape, 8, LENGTH + 1)
    episodes = OnPolicyBuffer(*shape, LENGTH + 1) if buffer == "on_policy" else replay
    progress = Progress(args.t_max, logging.getLogger("test"))
    parts = Parts(runner, episodes, SavedMac(runner), learner)
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    training = Training(parts, args, logger, progress, store, CountingJournal())
    if prepare is not None:
        prepare(training)
    training.run()
    return SimpleNamespace(runner=runner, learner=learner, training=training, store=store)


def _restore(training: Training, checkpoint) -> None:
    """As a resumed run does it."""
    for name, part in training.parts.stateful().items():
        part.load_state_dict(checkpoint.load(name))
    training.checkpoints.go_on_from(checkpoint)
    training.load_state_dict(checkpoint.load("training"))


@pytest.mark.parametrize("n", [2, 4, 8])
def test_updates_follow_environment_steps_not_environments(tmp_path, n):
    calls = _train(tmp_path, n).learner.calls
    assert len(calls) == 400 // 25
    assert all(size == 4 for _, size, _ in calls)


def test_updates_due_before_there_is_a_batch_are_dropped(tmp_path):
    calls = _train(tmp_path, 1).learner.calls  # one was due at 30, four episodes are there at 40
    assert [t for t, _, _ in calls] == [50, *(10 * -(-t // 10) for t in range(75, 401, 25))]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_fresh_episodes_are_used_once_each(tmp_path, n):
    calls = _train(tmp_path, n, "on_policy", steps_per_update=80).learner.calls
    assert [t for t, _, _ in calls] == [80, 160, 240, 320, 400]
    assert all(size == 8 for _, size, _ in calls)
    assert [episode for _, _, episode in calls] == [8, 16, 24, 32, 40]


def test_several_updates_per_step(tmp_path):
    assert len(_train(tmp_path, 4, steps_per_update=0.5).learner.calls) == 800


@pytest.mark.parametrize(("buffer", "n"), [("replay", 2), ("replay", 8), ("on_policy", 2)])
def test_the_same_updates_are_made_while_the_next_episodes_are_collected(tmp_path, buffer, n):
    kind = {"learner": HaltingLearner if buffer == "on_policy" else CountingLearner}
    plain = _train(tmp_path / "plain", n, buffer, **kind).learner
    overlapping = _train(tmp_path / "overlapping", n, buffer, learn_while_stepping=True, **kind).learner
    assert overlapping.calls == [call for call in plain.calls if call[0] < 400]  # no episodes follow the last
    assert overlapping.meanwhile == len(overlapping.calls) > plain.meanwhile == 0


def test_where_updates_would_disturb_running_episodes_they_are_made_between_them(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    assert _train(tmp_path / "policy", 2, "on_policy", learn_while_stepping=True).learner.meanwhile == 0
    assert "learn_while_stepping has no effect: the learner makes all its updates in one call" in caplog.text
    monkeypatch.delattr(SavedMac, "reset_hidden")
    assert _train(tmp_path / "epymarl", 2, learn_while_stepping=True).learner.meanwhile == 0
    assert "no effect: the controller may keep the state" in caplog.text


def test_updates_that_steps_leave_no_time_for_are_made_before_the_next_are_due(tmp_path):
    several = _train(tmp_path, 4, steps_per_update=0.5, learn_while_stepping=True).learner
    assert len(several.calls) == 720
    assert several.meanwhile == 9 * LENGTH


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("interrupted_after", [1, 4, 6, 11])
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_halts_updates_and_a_resumed_run_makes_those_that_were_left(
    tmp_path, monkeypatch, overlapping, interrupted_after
):
    class Interrupted(HaltingLearner):
        def updates_due(self, t_env: int):
            for _ in super().updates_due(t_env):
                if len(self.calls) == interrupted_after:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield

    def restore(training: Training) -> None:
        _restore(training, training.checkpoints.newest())
        nonlocal made
        made = len(training.parts.learner.calls)

    made = 0
    run = partial(_train, n=2, buffer="on_policy", learn_while_stepping=overlapping, steps_per_update=80)
    whole = run(tmp_path / "whole", learner=HaltingLearner)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", learner=Interrupted)
    monkeypatch.setattr(interrupts, "_requested", False)
    resumed = run(tmp_path / "killed", learner=HaltingLearner, prepare=restore)
    assert interrupted_after <= made <= interrupted_after + (3 if overlapping else 0)
    assert resumed.learner.calls == whole.learner.calls
    assert resumed.runner.events == whole.runner.events
    assert resumed.runner.t_env == whole.runner.t_env


def test_first_test_is_at_the_start_and_last_at_the_end(tmp_path):
    assert _train(tmp_path, 3).runner.tests == [0, 120, 210, 300, 420]


def test_result_holds_last_and_best_test(tmp_path):
    result = _train(tmp_path, 3).training.result("qmix on 3m, seed 0")
    summary = "qmix on 3m, seed 0: 420 steps, test return last 0, best 50"
    assert result == {"summary": summary, "t_env": 420, "last": 0, "best": 50}


def test_checkpoints_are_made_at_their_interval_and_at_the_end(tmp_path):
    steps = []

    def note(training: Training) -> None:
        save = training.checkpoints.save
        training.checkpoints.save = lambda step, *rest: (steps.append(step), save(step, *rest))

    store = _train(tmp_path, 3, checkpoint_interval=100, prepare=note).store
    assert steps == [120, 210, 300, 420]
    assert sorted(store.steps()) == [300, 420]
    assert store.newest().notes == {"journal_metrics": 17, "best": "best-120"}


def test_the_best_policy_of_equals_is_the_latest(tmp_path):
    store = _train(tmp_path, 1, test_interval=10, t_max=200).store  # a test gives t_env % 70
    assert torch.load(store.find("best").policy / "agent.th") == 200  # 60 % 70 == 130 % 70 == 200 % 70


def test_final_tests_play_the_last_and_the_best_policy(tmp_path):
    done = _train(tmp_path, 3, final_test_nepisode=9)
    assert done.runner.final_tests == [(9, "final_last_"), (9, "final_best_")]
    assert done.training.parts.mac.loaded == 120
    assert done.training.result("x")["final_best"] == 1.5


@pytest.mark.parametrize(
    ("buffer", "n", "meanwhile"), [("replay", 3, False), ("on_policy", 2, False), ("replay", 3, True)]
)
def test_training_goes_on_where_a_checkpoint_was_made(tmp_path, buffer, n, meanwhile):
    settings = {
        "buffer": buffer, "n": n, "checkpoint_interval": 90, "steps_per_update": 35,
        "learn_while_stepping": meanwhile,
    }  # fmt: skip
    whole = _train(tmp_path / "whole", **settings)
    first = _train(tmp_path / "first", t_max=200, **settings)
    checkpoint = first.store.newest()

    def resume(training: Training) -> None:
        _restore(training, checkpoint)

    shutil.copytree(first.store.folder, tmp_path / "second" / first.store.folder.name)
    second = _train(tmp_path / "second", prepare=resume, **settings)
    assert second.learner.calls == whole.learner.calls
    assert second.runner.events == whole.runner.events
    assert second.runner.tests == [t for t in whole.runner.tests if t >= checkpoint.step]
    assert second.training.best == whole.training.best


def test_a_best_policy_that_is_lost_need_not_be_beaten(tmp_path):
    first = _train(tmp_path, 3, t_max=200)
    checkpoint = first.store.newest()
    assert first.training.best == 50
    (first.store.find("best").policy / "agent.th").write_bytes(b"")

    def resume(training: Training) -> None:
        training.parts.runner.load_state_dict(checkpoint.load("runner"))
        training.checkpoints.go_on_from(checkpoint)
        training.load_state_dict(checkpoint.load("training"))

    second = _train(tmp_path, 3, prepare=resume)
    assert 0 < second.training.best < 50
    assert second.store.best.step > checkpoint.step


def test_a_learner_that_cannot_tell_its_state_is_saved_as_a_policy_alone(tmp_path, monkeypatch):
    monkeypatch.delattr(CountingLearner, "load_state_dict")
    done = _train(tmp_path, 1)
    assert done.training.parts.unsaveable() == ["learner"]
    assert not done.store.newest().is_complete


def test_a_checkpoint_that_cannot_be_written_does_not_end_training(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file in the way")
    assert len(_train(tmp_path, 1).learner.calls) > 0
    assert "training goes on" in caplog.text


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_checkpoint_is_written_waits_for_it(tmp_path, number):
    stores = []

    def interrupt(training: Training) -> None:
        save_policy = training.parts.mac.save_models
        stores.append(training.checkpoints)

        def save(path: str) -> None:
            if training.t_env == 210 and "best" not in path:
                os.kill(os.getpid(), number)
            save_policy(path)

        training.parts.mac.save_models = save

    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, 3, checkpoint_interval=100, prepare=interrupt)
    assert stores[0].newest().step == 210
