"""What all environments behind gymnasium's interface share."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.multiagentenv import Info, MultiAgentEnv


class GymnasiumEnv(MultiAgentEnv):
    """Seeding, starting, and the observations that were seen last.

    A derived class sets ``_env`` and, for the first reset, ``_seed``.
    """

    _env: gymnasium.Env
    _seed: int | None
    _obs: np.ndarray

    def seed(self, seed: int | None = None) -> None:
        self._seed = seed

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        obs, info = self._env.reset(seed=self._seed if seed is None else seed, options=options)
        self._seed = None  # from here on the stream goes on by itself
        self._obs = self._stacked(obs)
        return self._obs, info

    def _stacked(self, obs: Any) -> np.ndarray:
        """The agents' observations as (n_agents, obs_size) float32."""
        raise NotImplementedError

    def get_obs(self) -> np.ndarray:
        return self._obs

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        return self._obs[agent_id]

    def get_avail_agent_actions(self, agent_id: int) -> np.ndarray:
        return self.get_avail_actions()[agent_id]

    def close(self) -> None:
        self._env.close()
