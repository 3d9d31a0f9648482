"""SMAClite: SMAC's battles in Python, without StarCraft II."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from envs.multiagentenv import Info, MultiAgentEnv


class SMACliteEnv(MultiAgentEnv):
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
        self._env: gymnasium.Env = TimeLimit(env, max_episode_steps=time_limit)
        self._seed: int | None = seed
        self.n_agents, self.episode_limit = self._battle.n_agents, time_limit

    def seed(self, seed: int | None = None) -> None:
        self._seed = seed

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        obs, info = self._env.reset(seed=self._seed if seed is None else seed, options=options)
        self._seed = None  # from here on the stream goes on by itself
        self._obs = np.array(obs, dtype=np.float32)
        return self._obs, info

    def step(self, actions: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        obs, reward, terminated, truncated, info = self._env.step([int(action) for action in actions])
        self._obs = np.array(obs, dtype=np.float32)
        return self._obs, float(reward), bool(terminated), bool(truncated) and not terminated, info

    def get_obs(self) -> np.ndarray:
        return self._obs

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        return self._obs[agent_id]

    def get_obs_size(self) -> int:
        return int(self._battle.obs_size)

    def get_state(self) -> np.ndarray:
        return np.asarray(self._battle.get_state(), dtype=np.float32)

    def get_state_size(self) -> int:
        return int(self._battle.state_size)

    def get_avail_actions(self) -> np.ndarray:
        return np.array(self._battle.get_avail_actions(), dtype=np.int64)

    def get_avail_agent_actions(self, agent_id: int) -> np.ndarray:
        return self.get_avail_actions()[agent_id]

    def get_total_actions(self) -> int:
        return int(self._battle.n_actions)

    def close(self) -> None:
        self._env.close()
