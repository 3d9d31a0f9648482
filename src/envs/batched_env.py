"""The interface of many environments stepped together, which is all that runners know of environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class EnvInfo:
    """Sizes of an environment, under EPyMARL's names."""

    n_agents: int
    n_actions: int
    obs_shape: int  # length of one agent's observation
    state_shape: int  # length of the global state
    episode_limit: int  # most steps an episode can have

    def as_dict(self) -> dict[str, int]:
        """EPyMARL's ``env_info``."""
        return asdict(self)


class View(NamedTuple):
    """What agents act on. CPU tensors that belong to the environment: never write into them."""

    obs: Tensor  # (B, n_agents, obs_size) float32
    state: Tensor  # (B, state_size) float32
    avail_actions: Tensor  # (B, n_agents, n_actions) int32, 1 where an action may be taken


class BatchedStep(NamedTuple):
    """What one joint step of all slots led to. Entries of slots that were not active mean nothing."""

    reward: Tensor  # (B, 1) float32, or (B, n_agents) where rewards are individual
    terminated: Tensor  # (B,) bool: the task itself ended (won, lost), never a time limit
    truncated: Tensor  # (B,) bool: the time limit ended the episode, and nothing else did
    arrived: View  # where the step led to, before any reset: values are bootstrapped from it
    view: View  # what to act on next: as arrived, or the first view of the next episode where one ended
    info: dict[str, Tensor]  # (B,) float32 statistics of the episode, valid where it ended
    lost: Tensor | None = None  # (B,) bool: the episode broke off and counts for nothing, this step included;
    #                             view is the first of the next one. None where that cannot happen
    lost_as: tuple[str, ...] = ()  # names of metrics, one for each of these losses that one counts


def idle() -> None:
    """Does nothing."""


class BatchedEnv(ABC):
    """``n_envs`` slots, each with its own seed, that play one episode after the other.

    What happens in a slot depends on its seed and on the actions taken there, not on the other slots.
    """

    n_envs: int
    info: EnvInfo

    @abstractmethod
    def reset(self) -> View:
        """First view of each slot's first episode, the same at each call: all starts anew from the seeds."""

    @abstractmethod
    def step(
        self, actions: Tensor, active: Tensor | None = None, meanwhile: Callable[[], object] = idle
    ) -> BatchedStep:
        """Steps the ``active`` slots (B,) bool (None: all) and starts the next episode where one ended.

        ``actions`` is (B, n_agents) of any integer type. Slots that are not active stay as they are.
        ``meanwhile`` is called once, while the slots take their step if something else than the calling
        thread computes it, and has no part in what comes of it.
        """

    @property
    def worker_restarts(self) -> int:
        """Processes replaced because they failed."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on identically; empty where that is impossible."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`.

        Raises:
            ValueError: the environment cannot be restored.
        """
        if state:
            raise ValueError(f"{type(self).__name__} cannot be restored to the middle of an episode.")

    def close(self) -> None:  # noqa: B027, most have nothing to free
        """Frees what the environments hold, such as processes."""
