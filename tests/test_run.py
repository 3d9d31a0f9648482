"""The training loop, with counting stand-ins for runner, buffer and learner."""

import logging
from types import SimpleNamespace

import pytest
import torch

from components.episode_buffer import EpisodeBatch, OnPolicyBuffer, ReplayBuffer
from run import Parts, Training, make_scheme
from utils.logging import Logger
from utils.progress import Progress

LENGTH = 10
SIZES = {"n_agents": 2, "n_actions": 3, "state_shape": 4, "obs_shape": 5, "common_reward": True}


class CountingRunner:
    """Returns ``n`` episodes of ten steps per call and logs a test's result."""

    def __init__(self, n: int, scheme: dict, logger: Logger) -> None:
        self.n, self.scheme, self.logger, self.t_env = n, scheme, logger, 0
        self.tests: list[int] = []

    def run(self, test_mode: bool = False) -> EpisodeBatch | None:
        if test_mode:
            self.tests.append(self.t_env)
            self.logger.log_stat("test_return_mean", self.t_env % 70, self.t_env)
            return None
        batch = EpisodeBatch(self.scheme, {"agents": 2}, self.n, LENGTH + 1)
        batch.update({"reward": torch.ones(self.n, LENGTH, 1)}, ts=slice(0, LENGTH))
        self.t_env += LENGTH * self.n
        return batch


class CountingLearner:
    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []

    def train(self, batch: EpisodeBatch, t_env: int, episode_num: int) -> None:
        assert batch.max_seq_length == LENGTH
        self.calls.append((t_env, batch.batch_size, episode_num))

    def save_models(self, path: str) -> None:
        torch.save(len(self.calls), f"{path}/calls.pt")


def _train(tmp_path, n: int = 1, buffer: str = "replay", **changes) -> SimpleNamespace:
    settings = {
        "t_max": 400, "steps_per_update": 25.0, "test_interval": 100, "log_interval": 100, "batch_size": 4,
        "save_model": False, "save_model_interval": 200, "device": "cpu",
    }  # fmt: skip
    args = SimpleNamespace(**SIZES, **settings | changes)
    logger = Logger(logging.getLogger("test"))
    runner, learner = CountingRunner(n, make_scheme(args), logger), CountingLearner()
    shape = (make_scheme(args), {"agents": 2})
    replay = ReplayBuffer(*shape, 8, LENGTH + 1)
    episodes = OnPolicyBuffer(*shape, LENGTH + 1) if buffer == "on_policy" else replay
    progress = Progress(args.t_max, logging.getLogger("test"))
    training = Training(Parts(runner, episodes, None, learner), args, logger, progress, tmp_path)
    training.run()
    return SimpleNamespace(runner=runner, learner=learner, training=training)


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


def test_first_test_is_at_the_start_and_last_at_the_end(tmp_path):
    assert _train(tmp_path, 3).runner.tests == [0, 120, 210, 300, 420]


def test_result_holds_last_and_best_test(tmp_path):
    result = _train(tmp_path, 3).training.result("qmix on 3m, seed 0")
    summary = "qmix on 3m, seed 0: 420 steps, test return last 0, best 50"
    assert result == {"summary": summary, "t_env": 420, "last": 0, "best": 50}


def test_models_are_saved_at_their_interval_and_at_the_end(tmp_path):
    _train(tmp_path, 3, save_model=True)
    assert sorted(int(path.name) for path in (tmp_path / "models").iterdir()) == [210, 420]
