"""Steps environments with a controller and hands out complete episodes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from components.episode_buffer import Device, EpisodeBatch, Preprocess, Scheme
from envs import BATCHED_REGISTRY, make_batched
from envs.batched_env import BatchedEnv, idle
from runners.acting import WindowActor, make_actor
from runners.play import Play, Watch
from runners.recording import EpisodeStatistics, Recorder
from utils.clocks import Every
from utils.seeding import own_generators, spawn
from utils.typed_args import read

MAX_TEST_SLOTS = 128  # test episodes that a batched simulator plays side by side


@dataclass(frozen=True)
class RunnerConfig:
    """What a runner needs of the run's arguments."""

    runner: str
    """episode (one environment in this process), parallel (processes) or vector (one batched simulator)."""
    batch_size_run: int
    """Slots, and episodes that a call returns; an episode runner has 1."""
    test_nepisode: int
    """Episodes of a test."""
    runner_log_interval: int
    """Environment steps between records of training episodes."""
    worker_max_restarts: int
    """Episodes in a row that a slot may lose."""
    common_reward: bool
    """One reward for the team, not one per agent."""
    seed: int
    """Seed of the run."""
    device: str
    """Where the controller's network is."""


class Runner:
    """Plays training episodes, and tests on environments of their own.

    With a controller that can restart single slots (``mac.reset_hidden``), slots never wait: whichever ends
    an episode starts the next one, :meth:`run` returns as soon as ``batch_size`` episodes are complete, and
    the running ones go on in the next call. Other controllers, such as those written for EPyMARL, play
    ``batch_size`` episodes that start together.
    """

    def __init__(self, args: Any, logger: Any):
        self.args, self.logger = args, logger
        self.config = read(RunnerConfig, args)
        self.batch_size = 1 if self.config.runner == "episode" else self.config.batch_size_run
        self.env = make_batched(args, spawn(self.config.seed, "env", self.batch_size))
        self.t_env = 0  # training steps taken, in all slots together
        self._test_env: BatchedEnv | None = None
        self._log_clock = Every(self.config.runner_log_interval)  # of training episodes
        self._restarts_before = 0  # workers replaced before this run was resumed

    def get_env_info(self) -> dict[str, int]:
        """Sizes of the environment, under EPyMARL's names."""
        return self.env.info.as_dict()

    def setup(self, scheme: Scheme, groups: dict[str, int], preprocess: Preprocess, mac: Any) -> None:
        """Takes over the controller and the layout of episodes, as in EPyMARL."""
        self.mac = mac

        def new_batch(batch_size: int, length: int, device: Device = "cpu") -> EpisodeBatch:
            return EpisodeBatch(scheme, groups, batch_size, length, preprocess=preprocess, device=device)

        self._new_batch = new_batch
        self._length = self.env.info.episode_limit + 1  # the arrival after the last step is stored too
        self._recorder = Recorder(new_batch, self.batch_size, self._length)
        self._play = self._make_play(self.env, mac, "", self._recorder)

    def _make_play(self, env: BatchedEnv, mac: Any, prefix: str, recorder: Recorder | None = None) -> Play:
        # The copy shares the networks and has a recurrent state of its own: neither tests nor a learner that
        # steps the controller through a batch disturb running episodes.
        own = copy.copy(mac)
        actor = make_actor(own, partial(self._new_batch, device=self.config.device), env.n_envs, self._length)
        reward_size = 1 if self.config.common_reward else env.info.n_agents
        statistics = EpisodeStatistics(prefix, env.n_envs, reward_size)
        return Play(env, actor, statistics, self.config.worker_max_restarts, recorder)

    @torch.no_grad()
    def run(self, test_mode: bool = False, meanwhile: Callable[[], object] = idle) -> EpisodeBatch:
        """The next ``batch_size`` training episodes, in the order in which they ended, on the CPU.

        ``meanwhile`` is called at each of their steps, while the environments take it.

        With ``test_mode``, plays and logs exactly ``test_nepisode`` episodes instead and returns a batch of
        none: test episodes are not kept.
        """
        if test_mode:
            self._test()
            return self._new_batch(0, self._length)
        everyone = torch.ones(self.batch_size, dtype=torch.bool)
        self._play.meanwhile = meanwhile
        if isinstance(self._play.actor, WindowActor):
            while len(self._recorder) < self.batch_size:
                self.t_env += self._play.step(everyone, self.t_env).steps(everyone)
        else:
            self.t_env += self._play.one_episode_each(everyone, self.t_env)
        self._log()
        return self._recorder.take(self.batch_size)

    def _log(self) -> None:
        if not self._log_clock.due(self.t_env):
            return
        self._play.statistics.log(self.logger, self.t_env)
        selector = getattr(self.mac, "action_selector", None)
        if selector is not None and hasattr(selector, "epsilon"):
            self.logger.log_stat("epsilon", selector.epsilon, self.t_env)
        restarts = self._restarts_before + self.env.worker_restarts
        counts = {
            "worker_restarts": restarts,
            "lost_episodes": self._play.lost_episodes,
            **self._play.lost_as,
        }
        for name, count in counts.items():
            if count:
                self.logger.log_stat(name, count, self.t_env)

    def _test(self) -> None:
        """The same seeds at each test, and no trace in training's environments and random numbers."""
        n_slots = self._test_slots(self.config.test_nepisode)
        if self._test_env is None:
            self._test_env = make_batched(self.args, spawn(self.config.seed, "test_env", n_slots))
        play = self._make_play(self._test_env, self.mac, "test_")
        self._play_all(play, self.config.test_nepisode, "test_exploration", test_mode=True)
        play.statistics.log(self.logger, self.t_env)
        for name, count in play.lost_as.items():
            self.logger.log_stat(f"test_{name}", count, self.t_env)

    @torch.no_grad()
    def play_episodes(
        self, n: int, stream: str, prefix: str = "", watch: Watch | None = None
    ) -> EpisodeStatistics:
        """Plays ``n`` test episodes in environments made for them and returns their statistics.

        Those of the tests before are closed first: there are never more than training's and as many again.

        Args:
            n: episodes.
            stream: name of the random stream that their seeds are spawned from.
            prefix: of the names under which the statistics would be logged.
            watch: is shown the environments and the slots that play, (B,) bool, before each step of the
                episodes that are played first, one per slot.
        """
        self._close_test_env()
        env = make_batched(self.args, spawn(self.config.seed, f"{stream}_env", self._test_slots(n)))
        try:
            play = self._make_play(env, self.mac, prefix)
            play.watch = watch
            self._play_all(play, n, f"{stream}_exploration", test_mode=True)
        finally:
            env.close()
        return play.statistics

    @torch.no_grad()
    def record_episodes(self, n: int, stream: str, mac: Any) -> EpisodeBatch:
        """Lets ``mac`` play ``n`` episodes, exploring as in training, in environments made for them whose
        seeds are spawned from ``stream``, and returns the episodes."""
        env = make_batched(self.args, spawn(self.config.seed, f"{stream}_env", self._test_slots(n)))
        try:
            recorder = Recorder(self._new_batch, env.n_envs, self._length)
            play = self._make_play(env, mac, "", recorder)
            self._play_all(play, n, f"{stream}_exploration", test_mode=False)
        finally:
            env.close()
        return recorder.take(n)

    def _test_slots(self, n: int) -> int:
        """Slots in which ``n`` test episodes are played: training's, or more of a batched simulator."""
        batched = self.config.runner == "vector" and self.args.env in BATCHED_REGISTRY
        return min(MAX_TEST_SLOTS if batched else self.batch_size, n)

    def _play_all(self, play: Play, n: int, stream: str, test_mode: bool) -> None:
        with own_generators(spawn(self.config.seed, stream, 1)[0]):  # environments may draw from them, too
            for first in range(0, n, play.env.n_envs):
                active = torch.arange(first, first + play.env.n_envs) < n
                play.one_episode_each(active, self.t_env, test_mode)
                play.watch = None

    def close_env(self) -> None:
        """Frees what the environments hold."""
        self.env.close()
        self._close_test_env()

    def _close_test_env(self) -> None:
        if self._test_env is not None:
            self._test_env.close()
            self._test_env = None

    def state_dict(self) -> dict[str, Any]:
        """Counters, statistics, running and waiting episodes, recurrent state, environments."""
        return {
            "t_env": self.t_env,
            "log_clock": self._log_clock.state_dict(),
            "restarts": self._restarts_before + self.env.worker_restarts,
            "recorder": self._recorder.state_dict(),
            "play": self._play.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`, after :meth:`setup`. Where the environments could not be saved,
        running episodes are given up and new ones start, from fresh seeds."""
        self.t_env = state["t_env"]
        self._log_clock.load_state_dict(state["log_clock"])
        self._recorder.load_state_dict(state["recorder"])
        if not self._play.load_state_dict(state["play"]):
            self.env.close()
            seeds = spawn(self.config.seed, f"env from step {self.t_env}", self.batch_size)
            self.env = self._play.env = make_batched(self.args, seeds)
        self._restarts_before = state["restarts"] - self.env.worker_restarts
