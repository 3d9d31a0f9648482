"""One environment in this process as a batch of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.batched_env import BatchedEnv, BatchedStep, EnvInfo, View, idle
from envs.episodes import Episodes, RawStep, RawView, info_of
from envs.multiagentenv import MultiAgentEnv


class SingleEnv(BatchedEnv):
    """A batch whose only slot is ``env``, with the random stream of ``seed``."""

    n_envs = 1

    def __init__(self, env: MultiAgentEnv, seed: int):
        self.info = EnvInfo(**info_of(env))
        self._episodes = Episodes(env, seed)

    def reset(self) -> View:
        return stack_views([self._episodes.reset()])

    def step(
        self, actions: Tensor, active: Tensor | None = None, meanwhile: Callable[[], object] = idle
    ) -> BatchedStep:
        meanwhile()
        return stack_steps([self._episodes.step(actions[0].cpu().numpy())])

    def state_dict(self) -> dict[str, Any]:
        return self._episodes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._episodes.load_state_dict(state)

    def close(self) -> None:
        self._episodes.close()


def stack_views(views: Sequence[RawView]) -> View:
    """One environment's view per slot."""
    return View(*(torch.from_numpy(np.stack(parts)) for parts in zip(*views, strict=True)))


def stack_steps(steps: Sequence[RawStep]) -> BatchedStep:
    """One environment's step per slot. Statistics that a slot does not report are 0 there."""
    terminated = torch.tensor([step.terminated for step in steps])
    truncated = torch.tensor([step.truncated for step in steps])
    arrived = stack_views([step.arrived for step in steps])
    lost = torch.tensor([step.lost for step in steps])
    ended = bool((terminated | truncated | lost).any())
    rewards = np.broadcast_arrays(*(step.reward for step in steps))  # a lost step's has one entry only
    return BatchedStep(
        reward=torch.from_numpy(np.stack(rewards)),
        terminated=terminated,
        truncated=truncated,
        arrived=arrived,
        view=stack_views([step.view for step in steps]) if ended else arrived,
        info={
            key: torch.tensor([step.info.get(key, 0.0) for step in steps])
            for key in sorted({key for step in steps for key in step.info})
        },
        lost=lost,
        lost_as=tuple(step.lost_as for step in steps if step.lost_as is not None),
    )
