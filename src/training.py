"""The loop of a run: collect episodes, store them, make the updates that are due, test, log, save."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from checkpoints import CheckpointError, CheckpointStore
from components.episode_buffer import EpisodeBatch, OnPolicyBuffer, ReplayBuffer
from records.journal import Journal
from runners.acting import restarts_single_slots
from utils import interrupts
from utils.clocks import Every, Ratio
from utils.logging import Logger
from utils.progress import Progress
from utils.seeding import GlobalGenerators
from utils.typed_args import read


@dataclass(frozen=True)
class TrainingConfig:
    """What the loop needs of the run's arguments, in environment steps unless something else is said."""

    t_max: int  # to train for
    steps_per_update: float  # between calls of the learner
    test_interval: int
    log_interval: int
    checkpoint_interval: int
    checkpoint_minutes: float  # minutes between checkpoints, if these are sooner over
    final_test_nepisode: int  # episodes of the final tests; 0: none
    device: str  # where learning takes place
    learn_while_stepping: bool = False  # make due updates while the next episodes are collected


@dataclass
class Parts:
    """What a run is made of; the configuration names the classes of ``runner``, ``mac`` and ``learner``."""

    runner: Any
    buffer: ReplayBuffer | OnPolicyBuffer
    mac: Any
    learner: Any

    def stateful(self) -> dict[str, Any]:
        """The parts that a checkpoint holds a file of; together they hold all networks."""
        return {"runner": self.runner, "buffer": self.buffer, "learner": self.learner}

    def unsaveable(self) -> list[str]:
        """Names of the parts that can't tell their state, such as a learner written for EPyMARL: a run of
        theirs can't be resumed."""
        return [name for name, part in self.stateful().items() if not hasattr(part, "load_state_dict")]

    @property
    def can_halt(self) -> bool:
        """Whether the learner makes its updates one by one, and what it has not made can be made later."""
        return isinstance(self.buffer, OnPolicyBuffer) and hasattr(self.learner, "updates_due")

    def reason_not_to_overlap(self) -> str | None:
        """Why updates can't be made between the steps of running episodes, None where they can."""
        if not restarts_single_slots(self.mac):
            return "the controller may keep the state of running episodes where learning changes it"
        if isinstance(self.buffer, OnPolicyBuffer) and not self.can_halt:
            return "the learner makes all its updates in one call"
        return None


class Training:
    """Drives ``parts`` until ``t_max``; metrics go to ``logger``, policies and states to ``checkpoints``.

    ``journal`` is where the logger's metrics go: a checkpoint notes how many of them it knows of.
    """

    def __init__(
        self,
        parts: Parts,
        args: Any,
        logger: Logger,
        progress: Progress,
        checkpoints: CheckpointStore,
        journal: Journal,
    ) -> None:
        self.parts = parts
        self.config = config = read(TrainingConfig, args)
        if isinstance(parts.buffer, ReplayBuffer):  # of fresh episodes all are taken
            self.batch_size: int = args.batch_size
        self.logger = logger
        self.progress = progress
        self.checkpoints = checkpoints
        self.journal = journal
        self.updates = Ratio(config.steps_per_update)
        self.tests = Every(config.test_interval)
        self.logs = Every(config.log_interval, first=config.log_interval)
        self.saves = Every(config.checkpoint_interval, first=config.checkpoint_interval)
        self.saved_at = time.monotonic()
        self.learns_while_stepping = config.learn_while_stepping
        if config.learn_while_stepping and (reason := parts.reason_not_to_overlap()):
            self.learns_while_stepping = False
            logger.console_logger.info("learn_while_stepping has no effect: %s", reason)
        self.episode = 0
        self.halted_at: int | None = None  # environment steps at which updates were due that are not all made
        self.best: float | None = None
        self.final: dict[str, float] = {}

    @property
    def t_env(self) -> int:
        """Environment steps taken."""
        return self.parts.runner.t_env

    def run(self) -> None:
        """Train until ``t_max``, with a test before and after.

        An interrupt waits until what is under way is done and saved: episodes, or an update.
        """
        while self.t_env < self.config.t_max or self.halted_at is not None:
            with interrupts.held():
                if self.halted_at is not None:
                    self._make(self.parts.learner.updates_due(self.halted_at), self.halted_at)
                else:
                    self._at_intervals()
                    self._advance()
                self.progress.update(self.t_env)
                if self._save_is_due() or interrupts.requested():
                    self._save()
            interrupts.check()
        self._finish()

    def _advance(self) -> None:
        """Collect episodes and learn: from them at once, or from those before while these are collected.

        In the second case an update is made at each step of the environments, from the moment that they have
        their actions, and what is left over behind the last one. So what is learnt does not depend on how
        long anything takes, and between two calls nothing is under way, unless an interrupt halted the
        updates. What becomes due at ``t_max`` is left to a run that goes on from there.
        """
        if self.learns_while_stepping:
            updates, due_at = self._updates(), self.t_env
            episodes = self.parts.runner.run(meanwhile=partial(_make_one, updates))
            self._make(updates, due_at)
            self._store(episodes)
        else:
            self._store(self.parts.runner.run())
            self._make(self._updates(), self.t_env)

    def _make(self, updates: Iterator[None], due_at: int) -> None:
        """Make all ``updates``, or, once an interrupt waits, leave those that can be made later."""
        self.halted_at = None
        for _ in updates:
            if interrupts.requested() and self.parts.can_halt:
                self.halted_at = due_at
                return

    def _store(self, episodes: EpisodeBatch) -> None:
        self.parts.buffer.insert_episode_batch(episodes)
        self.episode += episodes.batch_size

    def _updates(self) -> Iterator[None]:
        """The updates that are due now, each of which is made when it is asked for.

        Those that come due before there is data are dropped.
        """
        due, t_env, episode = self.updates.due(self.t_env), self.t_env, self.episode
        buffer = self.parts.buffer
        take: Callable[[], EpisodeBatch]
        if isinstance(buffer, OnPolicyBuffer):
            times, take = min(due, 1), buffer.take
        else:
            times = due if buffer.can_sample(self.batch_size) else 0
            take = partial(buffer.sample, self.batch_size)
        return (part for _ in range(times) for part in self._train(take(), t_env, episode))

    def _train(self, batch: EpisodeBatch, t_env: int, episode: int) -> Iterator[None]:
        learner = self.parts.learner
        filled = batch[:, : int(batch.max_t_filled())].to(self.config.device)
        if self.parts.can_halt:
            learner.store(filled)
            yield from learner.updates_due(t_env)
        else:
            learner.train(filled, t_env, episode)
            yield

    def _at_intervals(self) -> None:
        if self.tests.due(self.t_env):
            self._test()
        if self.logs.due(self.t_env):
            self._log()

    def _finish(self) -> None:
        """The last test, and the final ones. The state is saved first: a run that goes on from here, since it
        was killed or ``t_max`` was raised, makes them in its turn."""
        if self.checkpoints.current != self.t_env:
            with interrupts.held():
                self._save()
            interrupts.check()
        self._test()
        self._log()
        if self.config.final_test_nepisode:
            self._final_tests()

    def _test(self) -> None:
        self.parts.runner.run(test_mode=True)
        what, value = self._score("test_")
        self.progress.tested(what, value)
        if self.best is None or value >= self.best:  # of equals, the one that has learnt for longer
            self.best = value
            self._save_best(what)

    def _score(self, prefix: str) -> tuple[str, float]:
        """Return the name and value of a test's win rate, or of its return where nothing is won."""
        win_rate = self.logger.last(f"{prefix}battle_won_mean")
        if win_rate is not None:
            return "win rate", win_rate
        value = self.logger.last(f"{prefix}return_mean")
        if value is None:
            raise RuntimeError(
                f"the runner's test logged neither {prefix}battle_won_mean nor {prefix}return_mean"
            )
        return "return", value

    def _final_tests(self) -> None:
        """Test the last policy and the best one on the same battles, which no test before has seen."""
        self._final_test("last", self.t_env)
        best = self.checkpoints.best
        if best is not None:
            self.parts.mac.load_models(str(best.policy))
            self._final_test("best", best.step)

    def _final_test(self, which: str, step: int) -> None:
        prefix = f"final_{which}_"
        played = self.parts.runner.play_episodes(self.config.final_test_nepisode, "final_test", prefix)
        played.log(self.logger, step)
        _, self.final[which] = self._score(prefix)

    def _log(self) -> None:
        self.logger.log_stat("episode", self.episode, self.t_env)
        self.logger.print_recent_stats()
        self.progress.log()  # last, where a study looks for how far a run is

    def _save_is_due(self) -> bool:
        waited = time.monotonic() - self.saved_at
        return self.saves.due(self.t_env) or waited > 60 * self.config.checkpoint_minutes

    def _save(self) -> None:
        """Save all that is needed to go on from here, if the parts can tell it; else the policy alone."""
        states = {}
        if not self.parts.unsaveable():
            states = {name: part.state_dict() for name, part in self.parts.stateful().items()}
            states["training"] = self.state_dict()
        self.journal.flush()
        notes = {"journal_metrics": self.journal.metrics_written}
        save_policy = self.parts.mac.save_models
        self._attempt(lambda: self.checkpoints.save(self.t_env, save_policy, states, notes))
        self.saved_at = time.monotonic()

    def _save_best(self, what: str) -> None:
        save_policy, notes = self.parts.mac.save_models, {f"test {what}": self.best}
        self._attempt(lambda: self.checkpoints.save_best(self.t_env, save_policy, notes))

    def _attempt(self, save: Any) -> None:
        """A checkpoint that can't be written is no reason to give up what was learnt."""
        try:
            save()
        except CheckpointError as error:
            self.logger.console_logger.warning("%s; training goes on, the earlier ones remain", error)

    def state_dict(self) -> dict[str, Any]:
        """Counters, clocks, pending statistics, exploration and the global generators."""
        selector: Any = getattr(self.parts.mac, "action_selector", None)
        return {
            **{name: getattr(self, name).state_dict() for name in self._clocks},
            "logger": self.logger.state_dict(),
            "action_selector": selector.state_dict() if hasattr(selector, "state_dict") else {},
            "generators": GlobalGenerators().state_dict(),
            "episode": self.episode,
            "halted_at": self.halted_at,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken, once parts and ``checkpoints`` have done so."""
        for name in self._clocks:
            getattr(self, name).load_state_dict(state[name])
        self.logger.load_state_dict(state["logger"])
        if state["action_selector"]:
            self.parts.mac.action_selector.load_state_dict(state["action_selector"])
        GlobalGenerators().load_state_dict(state["generators"])
        self.episode, self.halted_at = state["episode"], state["halted_at"]
        # A best policy that is lost, or could not be saved, is none that the next ones would have to beat.
        self.best = None if self.checkpoints.best is None else state["best"]

    _clocks = ("updates", "tests", "logs", "saves")

    def result(self, title: str) -> dict[str, Any]:
        """Return the outcome of the run, with a ``summary`` in one line that starts with ``title``."""
        what, last = self._score("test_")
        summary = f"{title}: {self.t_env} steps, test {what} last {last:.3g}, best {self.best:.3g}"
        if self.final:
            tested = ", ".join(f"{which} {value:.3g}" for which, value in self.final.items())
            summary += f", in {self.config.final_test_nepisode} final episodes {tested}"
        final = {f"final_{which}": value for which, value in self.final.items()}
        return {"summary": summary, "t_env": self.t_env, "last": last, "best": self.best, **final}


def _make_one(updates: Iterator[None]) -> None:
    """Make the next update, if there is one. Episodes are collected without gradients, updates need them."""
    with torch.enable_grad():
        next(updates, None)
