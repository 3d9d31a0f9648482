"""The loop of views, actions and steps over the slots of one batched environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.batched_env import BatchedEnv, View, idle
from envs.multiagentenv import SimulatorError
from runners.acting import Actor
from runners.recording import EpisodeStatistics, Recorder

Watch = Callable[[BatchedEnv, Tensor], None]


class Played(NamedTuple):
    """What became of one step of the active slots, each (B,) bool."""

    ended: Tensor  # its episode is complete
    lost: Tensor  # its episode broke off and counts for nothing; neither was the step taken

    def steps(self, active: Tensor) -> int:
        """Environment steps taken in the ``active`` slots."""
        return int((active & ~self.lost).sum())


class Play:
    """An environment, who acts in it, and who takes notes. Starts from the environment's first episodes.

    A slot that loses more than ``most_lost`` episodes in a row will not complete another one.
    """

    def __init__(
        self,
        env: BatchedEnv,
        actor: Actor,
        statistics: EpisodeStatistics,
        most_lost: int,
        recorder: Recorder | None = None,
    ):
        self.env, self.actor, self.statistics, self.recorder = env, actor, statistics, recorder
        self.watch: Watch | None = None  # is shown the environment and the active slots before each step
        self.meanwhile: Callable[[], object] = idle  # is called while the environment takes a step
        self.lost_episodes = self.lost_steps = 0
        self._most_lost = most_lost
        self._lost_in_a_row = torch.zeros(env.n_envs, dtype=torch.long)  # of each slot
        self.lost_as: Counter[str] = Counter()  # lost episodes by the metrics that count their kinds
        self._view: View | None = None  # what to act on next; None before the first episodes

    def step(self, active: Tensor, t_env: int, test_mode: bool = False) -> Played:
        """Steps the ``active`` slots (B,) bool once.

        Raises:
            SimulatorError: a slot keeps losing its episodes.
        """
        if self._view is None:
            self._view = self.env.reset()
            self.actor.start()
        if self.watch is not None:
            self.watch(self.env, active)
        view = self._view
        actions = self.actor.act(view, active, t_env, test_mode)
        step = self.env.step(actions, active, self.meanwhile)
        self._view = step.view
        lost = torch.zeros_like(active) if step.lost is None else step.lost & active
        if lost.any():
            self._give_up(lost)
            self.lost_as.update(step.lost_as)
        taken = active & ~lost
        if self.recorder is not None:
            self.recorder.add(view, {"actions": actions.unsqueeze(-1), **self.actor.notes}, step, taken)
        self.statistics.add(step, taken)
        ended = (step.terminated | step.truncated) & taken
        if (ended | lost).any():
            self.actor.restart(ended | lost)
            self._count_losses(ended, lost)
        return Played(ended, lost)

    def _count_losses(self, ended: Tensor, lost: Tensor) -> None:
        self._lost_in_a_row = (self._lost_in_a_row + lost.long()).masked_fill(ended, 0)
        most = int(self._lost_in_a_row.max())
        if most > self._most_lost:
            raise SimulatorError(
                f"An environment lost {most} episodes in a row without completing one in between"
                f" (worker_max_restarts={self._most_lost})"
            )

    def _give_up(self, slots: Tensor) -> None:
        """Forgets the running episodes in ``slots`` (B,) bool."""
        self.lost_episodes += int(slots.sum())
        self.statistics.drop(slots)
        if self.recorder is not None:
            self.lost_steps += self.recorder.drop(slots)

    def one_episode_each(self, active: Tensor, t_env: int, test_mode: bool = False) -> int:
        """One episode in each ``active`` slot, all starting together; returns the steps taken in total.

        Slots that lose their episode play another one together, after the others.
        """
        taken = 0
        while active.any():
            self.actor.start()
            playing, again = active, torch.zeros_like(active)
            while playing.any():
                played = self.step(playing, t_env + taken, test_mode)
                taken += played.steps(playing)
                playing = playing & ~played.ended & ~played.lost
                again |= played.lost
            active = again
        return taken

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on; without the environment's part where that cannot be saved."""
        return {
            "env": {} if self._view is None else self.env.state_dict(),
            "view": None if self._view is None else tuple(self._view),
            "actor": self.actor.state_dict(),
            "statistics": self.statistics.state_dict(),
            "lost": (self.lost_episodes, self.lost_steps),
            "lost_as": dict(self.lost_as),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Goes on from a :meth:`state_dict`.

        Returns:
            False where the environment's part is missing: running episodes are given up then, and the
            environment's first episodes follow.
        """
        self.statistics.load_state_dict(state["statistics"])
        self.lost_episodes, self.lost_steps = state["lost"]
        self.lost_as = Counter(state["lost_as"])
        if state["env"]:
            self.env.load_state_dict(state["env"])
            self.actor.load_state_dict(state["actor"])
            self._view = View(*state["view"])
            return True
        self._view = None
        self._give_up(torch.ones(self.env.n_envs, dtype=torch.bool))
        return False
