"""Any multi-agent gymnasium environment, such as those of ``lbforaging`` and ``rware``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from envs.gymnasium_env import GymnasiumEnv
from envs.multiagentenv import Info
from envs.validation import find_gymnasium_id

# Arguments by which environments limit their episodes themselves. Reaching such a limit is often reported as
# the task's end, so it is moved out of reach, and the time limit of this wrapper takes its place.
OWN_LIMITS = ("max_episode_steps", "max_steps", "max_cycles")


class GymmaEnv(GymnasiumEnv):
    """A gymnasium environment whose action and observation spaces are tuples with an entry per agent.

    Observations are flattened and, where agents' spaces differ, padded with zeros; actions that an agent does
    not have are never available to it. The state is all observations in a row.

    Args:
        key: gymnasium id, "module:id" to import the module that registers it first.
        time_limit: most steps of an episode; the environment's own limit holds where it is smaller.
        seed: of the environment's random stream.
        common_reward: one reward for the team; False for one per agent.
        reward_scalarisation: how agents' rewards become the team's, "sum" or "mean".
        kwargs: further arguments of the environment.

    Raises:
        ValueError: there is no such environment, or it has not several agents with discrete actions.
    """

    def __init__(
        self,
        key: str,
        time_limit: int,
        seed: int,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
        kwargs: Mapping[str, Any] | None = None,
    ):
        spec = gymnasium.spec(find_gymnasium_id(key))
        spec, self.episode_limit = _limited_spec(spec, time_limit, kwargs or {})
        try:
            env = gymnasium.make(spec, disable_env_checker=True)
        except TypeError as error:
            raise ValueError(f"{key} does not take env_args.kwargs={dict(kwargs or {})}: {error}") from error
        self._env = TimeLimit(env, max_episode_steps=self.episode_limit)
        self._spaces, action_spaces = _spaces_per_agent(key, self._env)
        self.n_agents = len(action_spaces)
        self._obs_size = max(spaces.flatdim(space) for space in self._spaces)
        self._n_actions = max(int(space.n) for space in action_spaces)
        self._first_actions = np.array([space.start for space in action_spaces])
        self._avail = np.array(
            [[int(action < int(space.n)) for action in range(self._n_actions)] for space in action_spaces]
        )
        self._common_reward = common_reward
        self._mean = {"sum": False, "mean": True}[reward_scalarisation]
        self._seed = seed

    def step(self, actions: Any) -> tuple[np.ndarray, Any, bool, bool, Info]:
        numbered = self._first_actions + np.asarray(actions)
        obs, rewards, terminated, truncated, info = self._env.step(tuple(numbered.tolist()))
        self._obs = self._stacked(obs)
        terminated = bool(np.all(terminated))
        return self._obs, self._reward(rewards), terminated, bool(np.all(truncated)) and not terminated, info

    def _reward(self, rewards: Any) -> Any:
        if self._common_reward:
            return float(np.mean(rewards) if self._mean else np.sum(rewards))
        return np.broadcast_to(np.asarray(rewards, dtype=np.float32), self.n_agents)

    def _stacked(self, obs: Sequence[Any]) -> np.ndarray:
        padded = np.zeros((self.n_agents, self._obs_size), dtype=np.float32)
        for row, space, agent_obs in zip(padded, self._spaces, obs, strict=True):
            flat = spaces.flatten(space, agent_obs)
            row[: len(flat)] = flat
        return padded

    def get_obs_size(self) -> int:
        return self._obs_size

    def get_state(self) -> np.ndarray:
        return self._obs.reshape(-1)

    def get_state_size(self) -> int:
        return self.n_agents * self._obs_size

    def get_avail_actions(self) -> np.ndarray:
        return self._avail

    def get_total_actions(self) -> int:
        return self._n_actions

    def render(self) -> Any:
        return self._env.render()


def _limited_spec(spec: EnvSpec, time_limit: int, kwargs: Mapping[str, Any]) -> tuple[EnvSpec, int]:
    """The spec with ``kwargs`` and without a reachable limit of its own, and the limit to apply instead."""
    spec = copy.deepcopy(spec)
    spec.kwargs.update(kwargs)
    own = [key for key in OWN_LIMITS if isinstance(spec.kwargs.get(key), int)]
    limits = [time_limit, spec.max_episode_steps, *(spec.kwargs[key] for key in own)]
    limit = min(steps for steps in limits if steps is not None)
    spec.kwargs.update(dict.fromkeys(own, limit + 1))
    spec.max_episode_steps = None
    return spec, limit


def _spaces_per_agent(key: str, env: gymnasium.Env) -> tuple[list[spaces.Space], list[spaces.Discrete]]:
    def is_tuple_of(space: spaces.Space, kind: type) -> bool:
        return isinstance(space, spaces.Tuple) and all(isinstance(part, kind) for part in space)

    if not is_tuple_of(env.action_space, spaces.Discrete) or not is_tuple_of(
        env.observation_space, spaces.Space
    ):
        raise ValueError(
            f"env_args.key={key} cannot be used: its action and observation spaces must be tuples with an "
            "entry per agent, and the actions discrete."
        )
    return list(env.observation_space), list(env.action_space)  # type: ignore[call-overload]
