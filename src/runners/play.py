"""The loop of views, actions and steps over the slots of one batched environment."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from envs.batched_env import BatchedEnv, View
from runners.acting import Actor
from runners.recording import EpisodeStatistics, Recorder


class Play:
    """An environment, who acts in it, and who takes notes. Starts from the environment's first episodes."""

    def __init__(
        self, env: BatchedEnv, actor: Actor, statistics: EpisodeStatistics, recorder: Recorder | None = None
    ):
        self.env, self.actor, self.statistics, self.recorder = env, actor, statistics, recorder
        self._view: View | None = None  # what to act on next; None before the first episodes

    def step(self, active: Tensor, t_env: int, test_mode: bool = False) -> Tensor:
        """Steps the ``active`` slots (B,) bool once; returns the slots (B,) bool whose episode ended."""
        if self._view is None:
            self._view = self.env.reset()
            self.actor.start()
        view = self._view
        actions = self.actor.act(view, active, t_env, test_mode)
        step = self.env.step(actions, active)
        if self.recorder is not None:
            self.recorder.add(view, actions, step, active)
        self.statistics.add(step, active)
        self._view = step.view
        ended = (step.terminated | step.truncated) & active
        if ended.any():
            self.actor.restart(ended)
        return ended

    def one_episode_each(self, active: Tensor, t_env: int, test_mode: bool = False) -> int:
        """One episode in each ``active`` slot, all starting together; returns the steps taken in total."""
        self.actor.start()
        taken = 0
        while active.any():
            ended = self.step(active, t_env + taken, test_mode)
            taken += int(active.sum())
            active = active & ~ended
        return taken

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on; without the environment's part where that cannot be saved."""
        return {
            "env": self.env.state_dict(),
            "view": None if self._view is None else tuple(self._view),
            "actor": self.actor.state_dict(),
            "statistics": self.statistics.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`; with new episodes where the environment's part is missing."""
        self.statistics.load_state_dict(state["statistics"])
        if state["env"] and state["view"] is not None:
            self.env.load_state_dict(state["env"])
            self.actor.load_state_dict(state["actor"])
            self._view = View(*state["view"])
            return
        self._view = None
        self.statistics.drop_running()
        if self.recorder is not None:
            self.recorder.drop_running()
