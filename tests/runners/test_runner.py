"""The runner on a toy environment: nothing lost, nothing twice, nothing mixed up."""

import copy
import itertools
import os
import random
import signal
import sys
import threading
import time
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import envs
from envs.batched_env import BatchedStep, View
from envs.multiagentenv import EpisodeLost, SimulatorError
from envs.subprocess_env import SubprocessEnv
from runners import runner as runner_module
from runners.recording import EpisodeStatistics


def episodes_of(batch):
    """Each episode of a batch as a dictionary of its filled part."""
    for b in range(batch.batch_size):
        n = int(batch["filled"][b].sum())
        assert batch["filled"][b, :n].all()
        yield {key: value[b, :n] for key, value in batch.data.transition_data.items()}


def batch_fields(batch):
    return batch.data.transition_data.values()


def origin(episode):
    """(seed of the slot, number of the episode) as the observations say."""
    return tuple(episode["state"][0, :2].int().tolist())


def check_episode(episode, toy):
    """One toy episode, complete from its first to its last step. Returns its length."""
    length = len(episode["filled"]) - 1
    seed, number = origin(episode)
    steps = torch.arange(length + 1)
    assert torch.equal(episode["state"].long(), torch.stack([torch.full_like(steps, seed),
                       torch.full_like(steps, number), steps], dim=1))  # fmt: skip
    assert episode["obs"][:, 0, 2].tolist() == steps.tolist()
    assert episode["avail_actions"].eq(1).all()
    actions = episode["actions"][:length].squeeze(-1)
    assert actions.tolist() == toy.expected_actions(episode["obs"][:length])
    assert episode["actions_onehot"][:length].argmax(-1).equal(actions)
    assert episode["actions_onehot"][length].sum() == 0
    expected = (1000 * (steps[:length] + 1)).view(-1, 1) + 10 * torch.arange(2) + actions
    rewards = episode["reward"][:length]
    assert torch.equal(rewards.expand(-1, 2).sum(1) if rewards.shape[1] == 2 else rewards.squeeze(1),
                       expected.sum(1).float())  # fmt: skip
    assert episode["terminated"][:-2].sum() == 0
    if not episode["terminated"][-2]:
        assert length == toy.LIMIT
    return length


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n_slots=st.integers(1, 6), seed=st.integers(0, 10**6), calls=st.integers(1, 12))
def test_rolling_collection_loses_and_repeats_no_step(make_runner, toy, n_slots, seed, calls):
    runner = make_runner(toy.RestartableMac(), batch_size_run=n_slots, seed=seed)
    handed_out, steps = [], 0

    def check(batch):
        nonlocal steps
        for episode in episodes_of(batch):
            steps += check_episode(episode, toy)
            handed_out.append(origin(episode))

    for _ in range(calls):
        batch = runner.run()
        assert batch.batch_size == n_slots
        check(batch)
    check(runner._recorder.take(len(runner._recorder)) if len(runner._recorder) else batch[:0])
    steps += int(runner._recorder._t.sum())
    assert steps == runner.t_env == runner.env.steps
    for slot in {s for s, _ in handed_out}:
        numbers = [number for s, number in handed_out if s == slot]
        assert numbers == list(range(len(numbers)))


def test_slots_never_wait(make_runner, toy):
    runner = make_runner(toy.RestartableMac(), batch_size_run=4)
    for _ in range(10):
        runner.run()
    assert runner.t_env % 4 == 0
    assert max(e.env.episode for e in runner.env.slots) > min(e.env.episode for e in runner.env.slots)


@pytest.mark.parametrize("mac", ["RestartableMac", "EpymarlMac"])
def test_something_can_be_done_at_each_step(make_runner, toy, mac):
    runner = make_runner(getattr(toy, mac)(), batch_size_run=3)
    plain = make_runner(getattr(toy, mac)(), batch_size_run=3)
    done_at = []
    for _ in range(4):
        batch = runner.run(meanwhile=lambda: done_at.append(runner.env.steps))
        assert all(
            torch.equal(a, b) for a, b in zip(batch_fields(batch), batch_fields(plain.run()), strict=True)
        )
    assert done_at[0] == 0
    assert all(
        1 <= later - earlier <= 3 for earlier, later in itertools.pairwise([*done_at, runner.env.steps])
    )


def test_a_controller_of_epymarl_plays_episodes_that_start_together(make_runner, toy):
    mac = toy.EpymarlMac()
    runner = make_runner(mac, batch_size_run=3)
    steps = 0
    for call in range(4):
        episodes = list(episodes_of(runner.run()))
        lengths = {origin(episode)[0]: check_episode(episode, toy) for episode in episodes}
        assert {origin(episode)[1] for episode in episodes} == {call}
        lengths = [lengths[slot.env.origin] for slot in runner.env.slots]
        assert [t for t, _, _ in mac.calls] == list(range(max(lengths)))
        for t, playing, filled in mac.calls:
            assert playing == [i for i, length in enumerate(lengths) if t < length]
            assert filled == [min(t + 1, length) for length in lengths]
        steps += sum(lengths)
        assert runner.t_env == runner.env.steps == steps


def test_a_controller_that_is_never_told_which_slots_play(make_runner, toy):
    class Plain(toy.EpymarlMac):
        def select_actions(self, ep_batch, t_ep, t_env=0, test_mode=False):
            return super().select_actions(ep_batch, t_ep, t_env, range(3), test_mode)[:]

    runner = make_runner(Plain(), batch_size_run=3)
    for episode in episodes_of(runner.run()):
        check_episode(episode, toy)


def test_only_a_batched_simulator_plays_more_tests_side_by_side_than_training(make_runner, toy, monkeypatch):
    made = []
    for registry in ({}, {"toy": None}):
        monkeypatch.setattr(runner_module, "BATCHED_REGISTRY", registry)
        runner = make_runner(toy.RestartableMac(), batch_size_run=3, test_nepisode=20)
        runner.run(test_mode=True)
        made.append(runner._test_env.n_envs)
    assert made == [3, 20]


def test_both_ways_play_the_same_episodes(make_runner, toy):
    def played(mac):
        runner = make_runner(mac, batch_size_run=3)
        episodes = [episode for _ in range(6) for episode in episodes_of(runner.run())]
        return {origin(e): e for e in episodes}

    rolling, together = played(toy.RestartableMac()), played(toy.EpymarlMac())
    common = set(rolling) & set(together)
    assert len(common) > 10
    for key in common:
        for field, value in rolling[key].items():
            assert torch.equal(value, together[key][field])


def test_what_a_controller_notes_of_a_decision_is_recorded_with_it(make_runner, toy):
    class Noting(toy.RestartableMac):
        @property
        def noted_fields(self):
            return {"sums": {"vshape": (1,), "group": "agents"}}

        def select_actions(self, batch, t_ep, t_env, bs=slice(None), test_mode=False):
            self.notes = {"sums": batch["obs"][:, t_ep].sum(-1, keepdim=True), "not in the scheme": None}
            return super().select_actions(batch, t_ep, t_env, bs, test_mode)

    runner = make_runner(Noting())
    for _ in range(5):
        for episode in episodes_of(runner.run()):
            check_episode(episode, toy)
            assert torch.equal(episode["sums"][:-1], episode["obs"][:-1].sum(-1, keepdim=True))


def test_a_test_plays_its_number_of_episodes_and_logs_them(make_runner, toy):
    runner = make_runner(toy.RestartableMac(), runner="episode", test_nepisode=7)
    runner.run(test_mode=True)
    first = {key: value for key, value, _ in runner.logger.stats}
    env = runner._test_env
    episodes = [env._episodes.env.episode, runner.t_env]
    assert episodes == [7, 0]  # seven were played, and the eighth is ready
    assert set(first) == {
        f"test_{k}" for k in ("return_mean", "return_std", "ep_length_mean", "battle_won_mean")
    }
    runner.run()
    runner.run(test_mode=True)
    for key, value in first.items():
        assert runner.logger.last(key) == value


@pytest.mark.parametrize("mac", ["RestartableMac", "EpymarlMac"])
def test_tests_leave_no_trace_in_training(make_runner, toy, mac):
    def train(with_tests):
        torch.manual_seed(0)
        runner = make_runner(getattr(toy, mac)(noise=True))
        batches = []
        for _ in range(5):
            if with_tests:
                assert runner.run(test_mode=True).batch_size == 0
            batches.append(runner.run())
        return batches, runner.t_env

    (plain, t_env), (disturbed, t_env_2) = train(False), train(True)
    assert t_env == t_env_2
    for a, b in zip(plain, disturbed, strict=True):
        assert_same_batch(a, b)


def test_so_do_environments_that_draw_from_global_generators(make_runner, toy, monkeypatch):
    class Drawing(toy.Env):
        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            self.length = random.randint(1, toy.LIMIT) + np.random.randint(4)
            return self.get_obs(), {}

    monkeypatch.setitem(envs.REGISTRY, "toy", Drawing)

    def train(with_tests):
        random.seed(0)
        np.random.seed(0)
        runner = make_runner(toy.RestartableMac(), runner="episode")
        lengths = []
        for _ in range(8):
            if with_tests:
                runner.run(test_mode=True)
            lengths.append(runner.run().max_t_filled().item())
        return lengths, [value for key, value, _ in runner.logger.stats if key == "test_ep_length_mean"]

    (plain, _), (disturbed, tested) = train(False), train(True)
    assert plain == disturbed
    assert len(set(plain)) > 2
    assert len(tested) == 8
    assert len(set(tested)) == 1


def test_a_statistic_that_few_episodes_have_is_zero_of_the_others():
    statistics = EpisodeStatistics("", n_slots=1, reward_size=1)
    view, yes = View(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1, 1)), torch.tensor([True])
    for timed_out in (False, False, True, False):
        info = {"timed_out": torch.ones(1)} if timed_out else {}
        statistics.add(BatchedStep(torch.ones(1, 1), yes, ~yes, view, view, info), yes)
    assert statistics.per_episode()["timed_out"].tolist() == [0, 0, 1, 0]
    logged = {}
    statistics.log(SimpleNamespace(log_stat=lambda key, value, t: logged.update({key: value})), 0)
    assert logged["timed_out_mean"] == 0.25


def test_statistics_are_means_over_the_ended_episodes(make_runner, toy):
    runner = make_runner(toy.RestartableMac(), runner="episode", runner_log_interval=10**9)
    episode = next(episodes_of(runner.run()))
    assert runner.logger.last("return_mean") == episode["reward"].sum().item()
    assert runner.logger.last("return_std") == 0
    episodes = [next(episodes_of(runner.run())) for _ in range(4)]
    runner._play.statistics.log(runner.logger, 7)
    returns = [e["reward"].sum().item() for e in episodes]
    assert runner.logger.stats[-1][2] == 7
    assert runner.logger.last("return_mean") == pytest.approx(np.mean(returns))
    assert runner.logger.last("return_std") == pytest.approx(np.std(returns))
    assert runner.logger.last("ep_length_mean") == np.mean([len(e["filled"]) - 1 for e in episodes])
    assert runner.logger.last("battle_won_mean") == np.mean([e["terminated"].sum() for e in episodes])


def test_individual_rewards(make_runner, toy):
    mac = toy.RestartableMac()
    runner = make_runner(mac, common_reward=False)
    for episode in episodes_of(runner.run()):
        assert episode["reward"].shape[1] == 2
        check_episode(episode, toy)
    for key in ("agent_0_return_mean", "agent_1_return_std", "total_return_mean"):
        assert runner.logger.last(key) >= 0
    assert runner.logger.last("return_mean") == runner.logger.last("total_return_mean")


def test_epsilon_is_logged_if_there_is_one(make_runner, toy):
    mac = toy.RestartableMac()
    mac.action_selector = type("Selector", (), {"epsilon": 0.25})()
    runner = make_runner(mac)
    runner.run()
    assert runner.logger.last("epsilon") == 0.25


def assert_same_batch(a, b):
    assert a.scheme.keys() == b.scheme.keys()
    for key, value in a.data.transition_data.items():
        assert torch.equal(value, b[key]), key


def test_without_a_saved_environment_a_restored_runner_starts_new_episodes(make_runner, toy):
    runner, other = make_runner(toy.RestartableMac()), make_runner(toy.RestartableMac())
    for _ in range(3):
        runner.run()
    waiting = len(runner._recorder)
    other.load_state_dict(copy.deepcopy(runner.state_dict()))
    assert other.t_env == runner.t_env
    assert len(other._recorder) == waiting
    for _ in range(3):
        for episode in episodes_of(other.run()):
            check_episode(episode, toy)


TIMEOUT = 3.0  # seconds after which a worker counts as hung


@pytest.mark.parametrize("mac", ["RestartableMac", "EpymarlMac"])
def test_an_environment_that_loses_every_episode_ends_the_run(make_runner, toy, monkeypatch, mac):
    def lose(self, actions):
        raise EpisodeLost("the connection broke")

    runner = make_runner(getattr(toy, mac)())
    monkeypatch.setattr(toy.Env, "step", lose)
    with pytest.raises(SimulatorError, match="lost 4 episodes in a row .*worker_max_restarts=3"):
        runner.run()


def test_episodes_lost_now_and_then_do_not_end_the_run(make_runner, toy, monkeypatch):
    step, calls = toy.Env.step, itertools.count()

    def lose_some(self, actions):
        if next(calls) % 20 == 0:
            raise EpisodeLost("the connection broke")
        return step(self, actions)

    runner = make_runner(toy.RestartableMac())
    monkeypatch.setattr(toy.Env, "step", lose_some)
    for _ in range(20):
        assert runner.run().batch_size == 3
    assert runner._play.lost_episodes > 3


def test_the_first_episodes_alone_are_watched(make_runner, toy, monkeypatch):
    monkeypatch.setattr(runner_module, "MAX_TEST_SLOTS", 2)
    seen = []
    runner = make_runner(toy.RestartableMac())
    runner.play_episodes(6, "evaluation", watch=lambda env, active: seen.append(active.tolist()))
    assert seen[0] == [True, True]
    assert len(seen) <= toy.LIMIT


def test_final_tests_do_not_keep_the_environments_of_earlier_ones(make_runner, toy, monkeypatch):
    runner = make_runner(toy.RestartableMac())
    runner.run(test_mode=True)
    closed = []
    monkeypatch.setattr(runner._test_env, "close", lambda: closed.append(True))
    runner.play_episodes(2, "final_test")
    assert closed == [True]
    runner.run(test_mode=True)  # which makes its own anew


class Tormentor(threading.Thread):
    """Kills or stops one of the environment's workers every now and then, once the last one is replaced."""

    def __init__(self, runner, rng):
        super().__init__(daemon=True)
        self.runner, self.rng, self.over, self.blows = runner, rng, threading.Event(), 0
        self.pids, self.struck_at = set(), 0

    def run(self):
        while not self.over.wait(self.rng.uniform(0.01, 0.5)):
            if self.runner.t_env < self.struck_at + 20:
                continue
            self.struck_at = self.runner.t_env
            workers = self.runner.env._workers
            worker = self.rng.choice(workers)
            self.pids |= {w.process.pid for w in workers}
            try:
                os.kill(worker.process.pid, self.rng.choice([signal.SIGKILL, signal.SIGSTOP]))
            except ProcessLookupError:
                continue
            self.blows += 1


def torment(make_runner, toy, monkeypatch, mac, seconds):
    cloudpickle.register_pickle_by_value(sys.modules[toy.Env.__module__])

    def make_batched(args, seeds):
        env = SubprocessEnv(toy.Env, seeds, timeout=120.0, max_restarts=1000)
        env._timeout = TIMEOUT
        return env

    with monkeypatch.context() as patch:
        patch.setattr(SubprocessEnv, "_replace", patient(SubprocessEnv._replace))
        patch.setattr(runner_module, "make_batched", make_batched)
        runner = make_runner(mac, worker_max_restarts=1000)
        tormentor = Tormentor(runner, random.Random(1))
        tormentor.start()
        handed_out, steps, end = [], 0, time.monotonic() + seconds
        while time.monotonic() < end or tormentor.blows < 3:
            batch = runner.run()
            assert batch.batch_size == 3
            for episode in episodes_of(batch):
                steps += check_episode(episode, toy)
                handed_out.append(origin(episode))
        tormentor.over.set()
        tormentor.join()
        waiting = runner._recorder.take(len(runner._recorder)) if len(runner._recorder) else batch[:0]
        steps += sum(check_episode(episode, toy) for episode in episodes_of(waiting))
        steps += int(runner._recorder._t.sum()) + runner._play.lost_steps
        restarts = runner.env.worker_restarts
        pids = tormentor.pids | {worker.process.pid for worker in runner.env._workers}
        runner.close_env()
    assert steps == runner.t_env
    assert len(set(handed_out)) == len(handed_out)
    assert 0 < runner._play.lost_episodes <= restarts  # a worker may fail as it starts, too
    assert runner.logger.last("worker_restarts") >= 1
    assert not any(alive(pid) for pid in pids)


def patient(replace):
    """Gives a worker that starts all the time it needs on a busy machine."""

    def replace_patiently(self, i, error):
        self._timeout = 120.0
        try:
            return replace(self, i, error)
        finally:
            self._timeout = TIMEOUT

    return replace_patiently


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("mac", ["RestartableMac", "EpymarlMac"])
def test_no_step_is_lost_or_counted_twice_when_workers_fail(make_runner, toy, monkeypatch, mac):
    torment(make_runner, toy, monkeypatch, getattr(toy, mac)(), seconds=3)


@pytest.mark.slow
def test_ten_minutes_of_failing_workers(make_runner, toy, monkeypatch):
    torment(make_runner, toy, monkeypatch, toy.RestartableMac(), seconds=600)
