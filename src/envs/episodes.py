"""Episode after episode of one environment, in numpy alone, so that worker processes start fast."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import numpy as np

from envs.multiagentenv import EpisodeLost, MultiAgentEnv


class RawView(NamedTuple):
    """What the agents of one environment act on."""

    obs: np.ndarray  # (n_agents, obs_size) float32
    state: np.ndarray  # (state_size,) float32
    avail_actions: np.ndarray  # (n_agents, n_actions) int32


class RawStep(NamedTuple):
    """What a step of one environment led to; as ``BatchedStep``, without the batch dimension."""

    reward: np.ndarray  # (1,) or (n_agents,) float32; (1,) if lost
    terminated: bool
    truncated: bool
    arrived: RawView
    view: RawView
    info: dict[str, float]
    lost: bool = False
    lost_as: str | None = None  # the metric that counts losses of this kind


def lost_step(view: RawView, counter: str | None = None) -> RawStep:
    """What stands for the step on which an episode broke off; ``view`` is the first of the next one, and
    ``counter`` the metric that counts such losses."""
    return RawStep(np.zeros(1, dtype=np.float32), False, False, view, view, {}, lost=True, lost_as=counter)


class Episodes:
    """Plays a :class:`MultiAgentEnv` and starts the next episode by itself when one has ended."""

    def __init__(self, env: MultiAgentEnv, seed: int):
        self.env = env
        self._seed = seed

    def reset(self, seed: int | None = None) -> RawView:
        """Starts anew from the seed, by default the one given at first."""
        self.env.reset(seed=self._seed if seed is None else seed)
        return self.look()

    def step(self, actions: np.ndarray) -> RawStep:
        """Takes one action per agent, (n_agents,)."""
        try:
            _, reward, terminated, truncated, info = self.env.step(actions)
        except EpisodeLost as lost:
            self.env.reset()
            return lost_step(self.look(), lost.counter)
        if info.get("episode_limit", False):  # how environments of one flag for both ends report a time limit
            terminated, truncated = False, True
        arrived = view = self.look()
        if terminated or truncated:
            self.env.reset()
            view = self.look()
        return RawStep(
            np.array(reward, dtype=np.float32).reshape(-1),
            bool(terminated),
            bool(truncated and not terminated),
            arrived,
            view,
            {key: float(value) for key, value in info.items() if isinstance(value, numbers.Real | np.bool_)},
        )

    def look(self) -> RawView:
        """What the agents act on now. Copies, as environments may go on in the same arrays."""
        return RawView(
            np.array(self.env.get_obs(), dtype=np.float32),
            np.array(self.env.get_state(), dtype=np.float32).reshape(-1),
            np.array(self.env.get_avail_actions(), dtype=np.int32),
        )

    def state_dict(self) -> dict[str, Any]:
        """What the environment needs to go on identically; empty where it cannot tell."""
        return self.env.state_dict() if hasattr(self.env, "state_dict") else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict` that is not empty."""
        self.env.load_state_dict(state)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


def info_of(env: MultiAgentEnv) -> dict[str, Any]:
    """The five sizes that every environment has, out of its ``get_env_info()``."""
    info = env.get_env_info()
    return {
        key: int(info[key]) for key in ("n_agents", "n_actions", "obs_shape", "state_shape", "episode_limit")
    }
