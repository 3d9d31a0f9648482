"""Environments in processes: the same episodes as in this process, clear errors, nobody left behind."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import torch

from envs import make_single
from envs.multiagentenv import EpisodeLost, MultiAgentEnv
from envs.single_env import SingleEnv
from envs.subprocess_env import EnvRefused, EnvWorkerError, SubprocessEnv

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

LBF = SimpleNamespace(
    env="gymma",
    env_args={"key": "lbforaging:Foraging-8x8-2p-3f-v3", "time_limit": 6},
    common_reward=True,
    reward_scalarisation="sum",
)


class Obedient(MultiAgentEnv):
    """One agent with five actions: go on, end, raise, hang, die. Its observation counts the steps."""

    n_agents, episode_limit = 1, 100

    def __init__(self, seed):
        if seed < 0:
            raise ValueError("no seed below zero")
        self.seed_, self.t = seed, 0

    def reset(self, seed=None, options=None):
        self.seed_, self.t = self.seed_ if seed is None else seed, 0
        return self.get_obs(), {}

    def step(self, actions):
        match int(actions[0]):
            case 2:
                raise KeyError("broken on command")
            case 3:
                time.sleep(600)
            case 4:
                os._exit(7)
        self.t += 1
        return self.get_obs(), 1.0, int(actions[0]) == 1, False, {"pid": os.getpid(), "name": "text"}

    def get_obs(self):
        return [[self.seed_, self.t]]

    def get_state(self):
        return [self.t]

    def get_avail_actions(self):
        return [[1] * 5]

    def get_env_info(self):
        return {
            "n_agents": 1, "n_actions": 5, "obs_shape": 2, "state_shape": 1, "episode_limit": 100, "more": "",
        }  # fmt: skip


@pytest.fixture
def env():
    env = SubprocessEnv(Obedient, [3, 4])
    env.reset()
    yield env
    env.close()


def command(*actions):
    return torch.tensor(actions).view(-1, 1)


def impatient(env, slot):
    """Waits a second for the worker in the slot, and as long as ever for the one that replaces it."""
    worker = env._workers[slot]
    receive = worker.receive
    worker.receive = lambda timeout: receive(min(timeout, 1.0))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids, seconds=20):
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def test_slots_step_reset_and_wait(env):
    assert env.reset().obs.tolist() == [[[3, 0]], [[4, 0]]]
    step = env.step(command(0, 1))
    assert step.arrived.obs.tolist() == [[[3, 1]], [[4, 1]]]
    assert step.view.obs.tolist() == [[[3, 1]], [[4, 0]]]
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([False, True], [False, False])
    assert set(step.info) == {"pid"}
    step = env.step(command(0, 0), active=torch.tensor([True, False]))
    assert step.view.obs.tolist() == [[[3, 2]], [[4, 0]]]
    assert step.reward.tolist() == [[1], [0]]


class Waiting(Obedient):
    """A step takes until somebody else has noticed that it goes on."""

    def __init__(self, folder, seed):
        super().__init__(seed)
        self.folder = folder

    def step(self, actions):
        (self.folder / f"stepping-{self.seed_}").touch()
        wait_for(self.folder / "noticed")
        return super().step(actions)


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_other_work_is_done_while_the_processes_step(tmp_path):
    def work():
        for seed in (3, 4):
            wait_for(tmp_path / f"stepping-{seed}")
        (tmp_path / "noticed").touch()

    env = SubprocessEnv(partial(Waiting, tmp_path), [3, 4])
    env.reset()
    step = env.step(command(0, 0), meanwhile=work)
    env.close()
    assert step.lost.tolist() == [False, False]
    assert step.view.obs.tolist() == [[[3, 1]], [[4, 1]]]


def test_the_same_episodes_as_in_this_process():
    seeds = [11, 12]
    here = [SingleEnv(make_single(LBF, seed), seed) for seed in seeds]
    there = SubprocessEnv(partial(make_single, LBF), seeds)
    views = [env.reset() for env in here]
    view = there.reset()
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert torch.equal(view.obs, torch.cat([v.obs for v in views]))
        actions = torch.from_numpy(rng.integers(6, size=(2, 2)))
        step = there.step(actions)
        steps = [env.step(actions[[i]]) for i, env in enumerate(here)]
        for key in ("reward", "terminated", "truncated"):
            assert torch.equal(getattr(step, key), torch.cat([getattr(s, key) for s in steps]))
        assert torch.equal(step.arrived.state, torch.cat([s.arrived.state for s in steps]))
        view, views = step.view, [s.view for s in steps]
    there.close()


class Drawing(Obedient):
    """Draws from the global generators, as some simulators do."""

    def reset(self, seed=None, options=None):
        super().reset(seed, options)
        self.t = random.randrange(10**6) + np.random.randint(10**6)
        return self.get_obs(), {}


def test_global_generators_of_the_workers_are_seeded():
    drawn = []
    for seeds in ([3, 4], [3, 4]):
        env = SubprocessEnv(Drawing, seeds)
        drawn.append(env.reset().obs)
        env.close()
    assert torch.equal(*drawn)
    assert drawn[0][0].tolist() != drawn[0][1].tolist()


def test_what_is_drawn_from_global_generators_is_the_same_after_each_reset():
    env = SubprocessEnv(Drawing, [3, 4])
    seen = []
    for _ in range(3):
        first = env.reset().obs
        seen.append(torch.cat([first, env.step(command(1, 1)).view.obs]))  # both end their first episode
    env.close()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


class Restorable(Obedient):
    """Can tell its state."""

    def state_dict(self):
        return {"t": torch.tensor([self.t], dtype=torch.uint32), "seed": self.seed_}

    def load_state_dict(self, state):
        self.t, self.seed_ = state["t"].item(), state["seed"]


def test_a_state_comes_through_the_pipe_and_a_restored_batch_repeats_no_seed():
    first, second = SubprocessEnv(Restorable, [3, 4]), SubprocessEnv(Restorable, [3, 4])
    first.reset()
    first.step(command(0, 0))
    seeds = [first.step(command(0, 4)).view.obs[1, 0, 0].item()]
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.step(command(0, 0)).view.obs, second.step(command(0, 0)).view.obs)
    assert second.worker_restarts == 1
    seeds.append(second.step(command(0, 4)).view.obs[1, 0, 0].item())
    assert len({4, *seeds}) == 3
    first.close()
    second.close()


def test_a_worker_of_an_environment_without_torch_does_not_load_it():
    env = SubprocessEnv(partial(make_single, LBF), [3])
    env.reset()
    assert env.state_dict() == {}
    maps = Path(f"/proc/{env._workers[0].process.pid}/maps").read_text()
    env.close()
    assert "numpy" in maps
    assert "libtorch" not in maps


def test_a_worker_that_cannot_start_is_told_in_one_sentence():
    with pytest.raises(EnvRefused, match="^no seed below zero"):
        SubprocessEnv(Obedient, [-1])


@pytest.mark.parametrize("command_", [2, 3, 4], ids=["raises", "hangs", "dies"])
def test_a_worker_that_fails_is_replaced_and_its_episode_lost(env, command_):
    before = [worker.process for worker in env._workers]
    env.step(command(0, 0))
    impatient(env, 1)
    step = env.step(command(0, command_))
    assert step.lost.tolist() == [False, True]
    assert (step.terminated.any(), step.truncated.any()) == (False, False)
    assert step.view.obs[0].tolist() == [[3, 2]], "the other slot goes on"
    assert step.view.obs[1, 0, 0] not in (3, 4), "the new worker has a fresh seed"
    assert step.view.obs[1, 0, 1] == 0
    assert env.worker_restarts == 1
    assert not alive(before[1].pid)
    step = env.step(command(0, 1))
    assert (step.lost.any(), step.terminated.tolist()) == (False, [False, True])
    assert env.reset().obs[:, 0].tolist() == [[3, 0], [4, 0]], "a reset starts from the first seeds again"


def test_a_worker_that_is_stopped_is_replaced(env):
    impatient(env, 0)
    os.kill(env._workers[0].process.pid, signal.SIGSTOP)
    assert env.step(command(0, 0)).lost.tolist() == [True, False]


def test_after_too_many_failures_in_a_row_the_reason_is_told():
    env = SubprocessEnv(Obedient, [3], max_restarts=2)
    env.reset()
    for action in (4, 1, 4, 4):  # the complete episode starts a new count
        env.step(command(action))
    with pytest.raises(EnvWorkerError, match=r"worker 0 ended .*\(exit code 7\).* 2 times in a row"):
        env.step(command(4))
    assert env.worker_restarts == 3
    env.close()


class Forgetful(Obedient):
    """Loses its episode on command, and says so."""

    def step(self, actions):
        if int(actions[0]) == 2:
            raise EpisodeLost("the connection broke")
        return super().step(actions)


def test_an_environment_that_loses_an_episode_starts_the_next_one():
    env = SubprocessEnv(Forgetful, [3])
    env.reset()
    step = env.step(command(2))
    assert (step.lost.tolist(), step.view.obs.tolist(), env.worker_restarts) == ([True], [[[3, 0]]], 0)
    env.close()


def test_interrupts_do_not_reach_the_workers_and_closing_ends_them(env):
    pids = [process.pid for process in [worker.process for worker in env._workers]]
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    assert env.step(command(0, 0)).reward.sum() == 2
    env.close()
    assert not any(alive(pid) for pid in pids)


PARENT = f"""
from functools import partial
from types import SimpleNamespace
from envs import make_single
from envs.subprocess_env import SubprocessEnv

if __name__ == "__main__":
    env = SubprocessEnv(partial(make_single, SimpleNamespace(**{vars(LBF)!r})), [1, 2])
    print(*[process.pid for process in [worker.process for worker in env._workers]], flush=True)
    input()
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "src"},
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    assert wait_until_gone(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_of_the_whole_group_are_left_to_the_parent(env, number):
    pid = int(env.step(command(0, 0)).info["pid"][0])
    os.kill(pid, number)
    step = env.step(command(0, 0))
    assert step.info["pid"][0] == pid
    assert env.worker_restarts == 0
