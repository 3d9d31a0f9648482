"""The interface of a single environment, the same as EPyMARL's."""

from __future__ import annotations

from typing import Any

import numpy as np

Info = dict[str, Any]


class EpisodeLost(RuntimeError):
    """The episode in progress cannot be continued: discard it. The environment can be reset."""

    counter: str | None = None
    """Name of the metric that counts losses of this kind, where there is one."""


class SimulatorError(RuntimeError):
    """The simulator behind an environment cannot be used. Its text is one sentence, without its full stop."""


class MultiAgentEnv:
    """One environment with ``n_agents`` agents that act together, for at most ``episode_limit`` steps.

    ``step`` tells the task's own end (``terminated``) from a time limit (``truncated``). The reward is a
    number, or one number per agent where the environment was made with ``common_reward=False``.
    """

    n_agents: int
    episode_limit: int

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Info]:
        """Starts an episode and returns (observations, info); a seed restarts the random stream."""
        raise NotImplementedError

    def step(self, actions: Any) -> tuple[Any, Any, bool, bool, Info]:
        """Takes one action per agent; returns (observations, reward, terminated, truncated, info)."""
        raise NotImplementedError

    def get_obs(self) -> Any:
        """Observations of all agents, (n_agents, obs_size)."""
        raise NotImplementedError

    def get_obs_agent(self, agent_id: int) -> Any:
        """Observation of one agent, (obs_size,)."""
        raise NotImplementedError

    def get_obs_size(self) -> int:
        """Length of an observation."""
        raise NotImplementedError

    def get_state(self) -> Any:
        """Global state, (state_size,)."""
        raise NotImplementedError

    def get_state_size(self) -> int:
        """Length of the state."""
        raise NotImplementedError

    def get_avail_actions(self) -> Any:
        """Which actions may be taken now, (n_agents, n_actions), 1 or 0."""
        raise NotImplementedError

    def get_avail_agent_actions(self, agent_id: int) -> Any:
        """Which actions one agent may take now, (n_actions,), 1 or 0."""
        raise NotImplementedError

    def get_total_actions(self) -> int:
        """How many actions an agent can ever have."""
        raise NotImplementedError

    def get_env_info(self) -> dict[str, int]:
        """Sizes: state_shape, obs_shape, n_actions, n_agents, episode_limit."""
        return {
            "state_shape": self.get_state_size(),
            "obs_shape": self.get_obs_size(),
            "n_actions": self.get_total_actions(),
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def get_stats(self) -> dict[str, Any]:
        """Statistics over the environment's lifetime."""
        return {}

    def render(self) -> np.ndarray | None:
        """Shows the environment, where it can."""
        raise NotImplementedError

    def seed(self, seed: int | None = None) -> None:
        """Restarts the random stream from the next reset on."""
        raise NotImplementedError

    def save_replay(self) -> None:
        """Saves a replay, where the environment can."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on identically (tensors, numbers, texts, and lists and
        dictionaries of them); empty where the simulator does not allow it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict` that is not empty."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees what the environment holds."""
