"""Environments in processes of their own, one each, stepped side by side."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess as Process
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from torch import Tensor

from envs import worker
from envs.batched_env import BatchedEnv, BatchedStep, EnvInfo, View, idle
from envs.episodes import RawStep, RawView, lost_step
from envs.multiagentenv import MultiAgentEnv, SimulatorError
from envs.single_env import stack_steps, stack_views
from utils.seeding import spawn

CLOSE_TIMEOUT = 5.0  # seconds for a worker to end by itself

log = logging.getLogger("marl.envs")


class EnvWorkerError(SimulatorError):
    """An environment's process failed, ended or does not answer. Its message is one sentence."""


class EnvRefused(EnvWorkerError, ValueError):
    """The environment objected to its arguments. Its message is what it said."""


class SubprocessEnv(BatchedEnv):
    """One process per seed, each with the environment that ``factory(seed)`` makes there.

    Processes are spawned, not forked, since forking a process with running threads (JAX, torch) may hang.
    They end with this process, however it ends. One that fails, ends or hangs later on is replaced by another
    with a fresh seed, and the episode it played is lost (``BatchedStep.lost``).

    Args:
        factory: makes an environment from a seed.
        seeds: one per slot.
        timeout: seconds to wait for an answer; the first ones wait for a simulator to start or to compile.
        max_restarts: how often a slot's process is replaced without an episode ending there in between.

    Raises:
        EnvRefused: the environment objected to its arguments.
        EnvWorkerError: a worker could not be started, or failed more often than that.
    """

    def __init__(
        self,
        factory: Callable[[int], MultiAgentEnv],
        seeds: Sequence[int],
        timeout: float = 300.0,
        max_restarts: int = 5,
    ):
        self.n_envs, self._seeds = len(seeds), list(seeds)
        self._timeout, self._max_restarts = timeout, max_restarts
        self._pickled = cloudpickle.dumps(factory)
        self._restarts = [0] * self.n_envs  # of each slot, ever
        self._in_a_row = [0] * self.n_envs  # of each slot, since its last complete episode
        self._views: list[RawView] = []
        self._workers: list[_Worker] = []
        try:
            for i, seed in enumerate(seeds):
                self._workers.append(_Worker(i, self._pickled, seed))
            infos = [EnvInfo(**worker.receive(timeout)) for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.info = infos[0]

    @property
    def worker_restarts(self) -> int:
        return sum(self._restarts)

    def reset(self) -> View:
        deadline = self._ask(range(self.n_envs), "reset", self._seeds)
        self._views = [self._view(i, deadline) for i in range(self.n_envs)]
        return stack_views(self._views)

    def step(
        self, actions: Tensor, active: Tensor | None = None, meanwhile: Callable[[], object] = idle
    ) -> BatchedStep:
        slots = range(self.n_envs) if active is None else active.nonzero().flatten().tolist()
        deadline = self._ask(slots, "step", actions.cpu().numpy())
        meanwhile()
        steps = {i: self._step(i, deadline) for i in slots}
        for i, step in steps.items():
            self._views[i] = step.view
        some = next(iter(steps.values()))
        return stack_steps([steps.get(i) or self._idle(i, some) for i in range(self.n_envs)])

    def _idle(self, i: int, like: RawStep) -> RawStep:
        return RawStep(np.zeros_like(like.reward), False, False, self._views[i], self._views[i], {})

    def _ask(self, slots: Sequence[int], command: str, content: Any = None) -> float:
        """Sends each slot the command with its entry of ``content``; returns when answers are due."""
        for i in slots:
            self._workers[i].send(command, None if content is None else content[i])
        return time.monotonic() + self._timeout

    def _view(self, i: int, deadline: float) -> RawView:
        try:
            return self._workers[i].receive(deadline - time.monotonic())
        except EnvWorkerError as error:
            return self._replace(i, error)

    def _step(self, i: int, deadline: float) -> RawStep:
        try:
            step: RawStep = self._workers[i].receive(deadline - time.monotonic())
        except EnvWorkerError as error:
            return lost_step(self._replace(i, error))
        if step.terminated or step.truncated:
            self._in_a_row[i] = 0
        return step

    def _replace(self, i: int, error: EnvWorkerError) -> RawView:
        """Starts another worker in the place of one that failed; returns its first view.

        It gets a fresh seed, so that it does not play the same episodes again.
        """
        while self._in_a_row[i] < self._max_restarts:
            self._in_a_row[i] += 1
            self._restarts[i] += 1
            log.warning("%s: its episode is thrown away and a new worker takes its place", error)
            self._workers[i].kill()
            try:
                seed = spawn(self._seeds[i], "worker restart", self._restarts[i])[-1]
                self._workers[i] = worker = _Worker(i, self._pickled, seed)
                worker.receive(self._timeout)  # its sizes, known already
                worker.send("reset", seed)
                view: RawView = worker.receive(self._timeout)
                return view
            except EnvWorkerError as another:
                error = another
        raise EnvWorkerError(
            f"{error}; it had been replaced {self._max_restarts} times in a row without a complete episode"
        ) from error

    def state_dict(self) -> dict[str, Any]:
        """Empty, too, where a worker fails to tell: the next step replaces it."""
        deadline = self._ask(range(self.n_envs), "state_dict")
        slots = []
        for slot in self._workers:
            try:
                slots.append(worker.unpacked(slot.receive(deadline - time.monotonic())))
            except EnvWorkerError:
                slot.kill()
                slots.append({})
        return {"slots": slots, "restarts": self._restarts} if all(slots) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        packed = [worker.packed(slot) for slot in state["slots"]]
        deadline = self._ask(range(self.n_envs), "load_state_dict", packed)
        self._views = [worker.receive(deadline - time.monotonic()) for worker in self._workers]
        self._restarts = list(state["restarts"])

    def close(self) -> None:
        """Ends the processes: asks, then kills."""
        for slot in self._workers:
            slot.send("close")
        processes = [slot.process for slot in self._workers]
        for force in (None, Process.kill):
            deadline = time.monotonic() + CLOSE_TIMEOUT
            for process in processes:
                if force is not None and process.is_alive():
                    force(process)
                process.join(max(0.0, deadline - time.monotonic()))
        for slot in self._workers:
            slot.connection.close()
        self._workers = []


class _Worker:
    """One environment's process and this end of the pipe to it."""

    def __init__(self, number: int, pickled_factory: bytes, seed: int):
        self._number = number
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=worker.serve, args=(theirs, pickled_factory, seed), daemon=True, name=f"env-{number}"
        )
        # The worker inherits the blocked signal, so that Ctrl-C while it starts reaches this process alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()

    def send(self, command: str, content: Any = None) -> None:
        """Sends a command; whether the worker is there to get it, the answer tells."""
        with contextlib.suppress(OSError):
            self.connection.send((command, content))

    def receive(self, timeout: float) -> Any:
        """The next answer.

        Raises:
            EnvWorkerError: none within ``timeout`` seconds, or the worker failed.
        """
        try:
            if not self.connection.poll(max(0.0, timeout)):
                raise EnvWorkerError(f"Environment worker {self._number} does not answer")
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(CLOSE_TIMEOUT)
            code = self.process.exitcode
            raise EnvWorkerError(
                f"Environment worker {self._number} ended unexpectedly (exit code {code})"
            ) from None
        if isinstance(answer, worker.Failure):
            error = (
                EnvRefused(answer.message)
                if answer.refused
                else EnvWorkerError(f"Environment worker {self._number} failed with {answer.message}")
            )
            error.add_note(answer.traceback)
            raise error
        return answer

    def kill(self) -> None:
        """Ends the process whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()
