"""SMAClite behind our interface."""

import numpy as np

import envs
from sc2_stand_in.needs import needs_smaclite

pytestmark = needs_smaclite
REWARDS = {"common_reward": True, "reward_scalarisation": "sum"}


def _episode(seed, time_limit=150):
    """Plays one battle; returns what was seen and the last step's result."""
    env = envs.REGISTRY["smaclite"](seed=seed, map_name="2s3z", time_limit=time_limit, **REWARDS)
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=seed)[0]]
    assert env.get_obs().shape == (env.n_agents, env.get_obs_size())
    assert env.get_state().shape == (env.get_state_size(),)
    ended = False
    while not ended:
        chosen = [rng.choice(np.flatnonzero(row)) for row in env.get_avail_actions()]
        result = env.step(np.array(chosen))
        seen.append(result[0])
        ended = result[2] or result[3]
    env.close()
    return np.array(seen), result


def test_a_battle_is_fought_to_its_end_and_the_seed_decides_it():
    seen, (_, reward, terminated, truncated, info) = _episode(seed=1)
    assert terminated
    assert not truncated
    assert np.isfinite(reward)
    assert not info["battle_won"]  # random play
    np.testing.assert_array_equal(seen, _episode(seed=1)[0])


def test_the_time_limit_is_no_end_of_the_task():
    seen, (_, _, terminated, truncated, _) = _episode(seed=1, time_limit=5)
    assert len(seen) == 6
    assert (terminated, truncated) == (False, True)
