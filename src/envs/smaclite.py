"""SMAClite: SMAC's battles in Python, without StarCraft II."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from envs.gymnasium_env import GymnasiumEnv
from envs.multiagentenv import Info


class SMACliteEnv(GymnasiumEnv):
    """One SMAClite environment; the team's reward is scaled as in SMAC, so that a won battle returns 20.

    Args:
        seed: of the environment's random stream.
        map_name: SMAClite's map, such as "2s3z".
        time_limit: most steps of a battle.
        common_reward: must be True, SMAClite rewards the team.
        reward_scalarisation: without meaning, as there is one reward.
    """

    def __init__(
        self,
        seed: int,
        map_name: str,
        time_limit: int,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
    ):
        import smaclite  # noqa: F401, registers its maps

        if not common_reward:
            raise ValueError("SMAClite rewards the team as a whole, so common_reward must be True.")
        env = gymnasium.make(f"smaclite/{map_name}-v0", disable_env_checker=True, seed=seed)
        self._battle = cast(Any, env.unwrapped)
        self._env = TimeLimit(env, max_episode_steps=time_limit)
        self._seed = seed
        self.n_agents, self.episode_limit = self._battle.n_agents, time_limit

    def step(self, actions: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        obs, reward, terminated, truncated, info = self._env.step([int(action) for action in actions])
        self._obs = self._stacked(obs)
        return self._obs, float(reward), bool(terminated), bool(truncated) and not terminated, info

    def _stacked(self, obs: Any) -> np.ndarray:
        return np.array(obs, dtype=np.float32)

    def get_obs_size(self) -> int:
        return int(self._battle.obs_size)

    def get_state(self) -> np.ndarray:
        return np.asarray(self._battle.get_state(), dtype=np.float32)

    def get_state_size(self) -> int:
        return int(self._battle.state_size)

    def get_avail_actions(self) -> np.ndarray:
        return np.array(self._battle.get_avail_actions(), dtype=np.int64)

    def get_total_actions(self) -> int:
        return int(self._battle.n_actions)
