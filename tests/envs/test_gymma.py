"""Gymnasium environments: time limits, padding, rewards."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.gymma import GymmaEnv

LBF = "lbforaging:Foraging-8x8-2p-3f-v3"


class Uneven(gymnasium.Env):
    """Two agents with different spaces; agent rewards 1 and 3; ends with action 2 of the second agent, or by
    its own clock, which it reports as an end of the task."""

    def __init__(self, max_steps=4, start=0):
        self.observation_space = spaces.Tuple([spaces.Box(-1, 1, (2, 2)), spaces.Discrete(3)])
        self.action_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3, start=start)])
        self._max_steps = max_steps

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        self._random = float(self.np_random.random())
        return self._look(), {}

    def step(self, actions):
        self._t += 1
        assert self.action_space.contains(actions)
        return self._look(), [1.0, 3.0], actions[1] == 2 or self._t >= self._max_steps, False, {"t": self._t}

    def _look(self):
        return np.full((2, 2), self._random, np.float32), self._t % 3


@pytest.fixture(autouse=True)
def _uneven():
    gymnasium.register("Uneven-v0", entry_point=Uneven, kwargs={"max_steps": 4})
    yield
    del gymnasium.registry["Uneven-v0"]


def play(env, actions):
    """Steps until the end; returns (steps, last step's result)."""
    env.reset()
    for n in range(1, 1000):
        result = env.step(actions)
        if result[2] or result[3]:
            return n, result
    raise AssertionError("the episode does not end")


@pytest.mark.parametrize(("time_limit", "limit"), [(3, 3), (4, 4), (100, 4)])
def test_the_smaller_limit_truncates_and_nothing_else_does(time_limit, limit):
    env = GymmaEnv("Uneven-v0", time_limit, seed=0)
    assert env.episode_limit == limit
    steps, (_, _, terminated, truncated, _) = play(env, [0, 0])
    assert (steps, terminated, truncated) == (limit, False, True)


def test_a_registered_limit_and_a_given_one_hold_too():
    gymnasium.registry["Uneven-v0"].max_episode_steps = 2
    assert GymmaEnv("Uneven-v0", 100, seed=0).episode_limit == 2
    gymnasium.registry["Uneven-v0"].max_episode_steps = None
    assert GymmaEnv("Uneven-v0", 100, seed=0, kwargs={"max_steps": 7}).episode_limit == 7


def test_the_end_of_the_task_is_no_time_limit_even_at_the_last_step():
    env = GymmaEnv("Uneven-v0", 1, seed=0)
    steps, (_, _, terminated, truncated, _) = play(env, [0, 2])
    assert (steps, terminated, truncated) == (1, True, False)


def test_spaces_are_flattened_and_padded():
    env = GymmaEnv("Uneven-v0", 10, seed=0)
    obs, _ = env.reset()
    assert obs.shape == (2, 4)
    assert obs[1].tolist() == [1, 0, 0, 0]
    assert env.get_avail_actions().tolist() == [[1, 1, 0], [1, 1, 1]]
    assert env.get_state().shape == (env.get_state_size(),) == (8,)
    assert env.get_env_info() == {
        "state_shape": 8, "obs_shape": 4, "n_actions": 3, "n_agents": 2, "episode_limit": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 4.0), ({"reward_scalarisation": "mean"}, 2.0), ({"common_reward": False}, [1.0, 3.0])],
)
def test_rewards(options, expected):
    env = GymmaEnv("Uneven-v0", 10, seed=0, **options)
    env.reset()
    np.testing.assert_array_equal(env.step([0, 0])[1], expected)


def test_the_seed_decides_all_episodes():
    def first_values(seed, explicit):
        env = GymmaEnv("Uneven-v0", 10, seed=seed if not explicit else 999)
        return [env.reset(seed=seed if explicit and i == 0 else None)[0][0, 0] for i in range(3)]

    assert first_values(5, False) == first_values(5, True) != first_values(6, False)
    assert len(set(first_values(5, False))) == 3


def test_an_environment_of_one_agent_is_refused():
    with pytest.raises(ValueError, match="CartPole-v1"):
        GymmaEnv("CartPole-v1", 10, seed=0)


def test_lbforaging_tells_its_clock_from_its_end():
    env = GymmaEnv(LBF, 50, seed=0)
    assert env.get_env_info()["n_actions"] == 6
    steps, (_, _, terminated, truncated, _) = play(env, [0, 0])
    assert (steps, terminated, truncated) == (50, False, True)


def test_further_arguments_reach_the_environment() -> None:
    narrow = GymmaEnv(LBF, time_limit=10, seed=0, kwargs={"sight": 1})
    assert narrow._env.unwrapped.sight == 1
    with pytest.raises(ValueError, match="env_args.kwargs"):
        GymmaEnv(LBF, time_limit=10, seed=0, kwargs={"sihgt": 1})


def test_actions_are_numbered_as_the_environment_does():
    env = GymmaEnv("Uneven-v0", 10, seed=0, kwargs={"start": -1})
    env.reset()
    assert [env.step([1, action])[2] for action in range(3)] == [False, False, False]
    shifted = GymmaEnv("Uneven-v0", 10, seed=0, kwargs={"start": 1})
    shifted.reset()
    assert shifted.step([0, 1])[2]  # the environment's action 2
