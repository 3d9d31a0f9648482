"""Environments in processes of their own, one each, stepped side by side."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.process import BaseProcess as Process
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from torch import Tensor

from envs import worker
from envs.batched_env import BatchedEnv, BatchedStep, EnvInfo, View
from envs.episodes import RawStep, RawView
from envs.multiagentenv import MultiAgentEnv
from envs.single_env import stack_steps, stack_views

RECEIVE_TIMEOUT = 300.0  # seconds; the first answers wait for a simulator to start or to compile
CLOSE_TIMEOUT = 5.0  # seconds for a worker to end by itself


class EnvWorkerError(RuntimeError):
    """An environment's process failed, ended or does not answer. Its message is one sentence."""


class SubprocessEnv(BatchedEnv):
    """One process per seed, each with the environment that ``factory(seed)`` makes there.

    Processes are spawned, not forked, since forking a process with running threads (JAX, torch) may hang.
    They end with this process, however it ends.

    Raises:
        EnvWorkerError: from any method, when a worker fails or does not answer within ``timeout`` seconds.
    """

    def __init__(
        self,
        factory: Callable[[int], MultiAgentEnv],
        seeds: Sequence[int],
        timeout: float = RECEIVE_TIMEOUT,
    ):
        self.n_envs, self._timeout = len(seeds), timeout
        context = multiprocessing.get_context("spawn")
        pickled = cloudpickle.dumps(factory)
        self._connections, self._processes = [], []
        # Workers inherit the blocked signal, so that Ctrl-C while they start reaches this process alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for i, seed in enumerate(seeds):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=worker.serve, args=(theirs, pickled, seed), daemon=True, name=f"env-{i}"
                )
                process.start()
                theirs.close()
                self._connections.append(ours)
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._views: list[RawView] = []
        try:
            self.info = EnvInfo(**self._receive_all(range(self.n_envs))[0])
        except BaseException:
            self.close()
            raise

    def reset(self) -> View:
        slots = range(self.n_envs)
        for i in slots:
            self._send(i, "reset")
        self._views = self._receive_all(slots)
        return stack_views(self._views)

    def step(self, actions: Tensor, active: Tensor | None = None) -> BatchedStep:
        slots = range(self.n_envs) if active is None else active.nonzero().flatten().tolist()
        chosen = actions.cpu().numpy()
        for i in slots:
            self._send(i, "step", chosen[i])
        steps = dict(zip(slots, self._receive_all(slots), strict=True))
        for i, step in steps.items():
            self._views[i] = step.view
        some = next(iter(steps.values()))
        return stack_steps([steps.get(i) or self._idle(i, some) for i in range(self.n_envs)])

    def _idle(self, i: int, like: RawStep) -> RawStep:
        return RawStep(np.zeros_like(like.reward), False, False, self._views[i], self._views[i], {})

    def _send(self, i: int, command: str, actions: np.ndarray | None = None) -> None:
        try:
            self._connections[i].send((command, actions))
        except OSError:
            self._receive(i)  # says why the worker is gone
            raise

    def _receive_all(self, slots: Iterable[int]) -> list[Any]:
        return [self._receive(i) for i in slots]

    def _receive(self, i: int) -> Any:
        try:
            if not self._connections[i].poll(self._timeout):
                raise EnvWorkerError(f"Environment worker {i} has not answered for {self._timeout:g} s.")
            answer = self._connections[i].recv()
        except (EOFError, OSError):
            self._processes[i].join(CLOSE_TIMEOUT)
            code = self._processes[i].exitcode
            raise EnvWorkerError(f"Environment worker {i} ended unexpectedly (exit code {code}).") from None
        if isinstance(answer, worker.Failure):
            error = EnvWorkerError(f"Environment worker {i} failed with {answer.message}")
            error.add_note(answer.traceback)
            raise error
        return answer

    def close(self) -> None:
        """Ends the processes: asks, then terminates, then kills."""
        for connection in self._connections:
            try:
                connection.send(("close", None))
            except OSError:  # it is gone already
                continue
        for force in (None, Process.terminate, Process.kill):
            deadline = time.monotonic() + CLOSE_TIMEOUT
            for process in self._processes:
                if force is not None and process.is_alive():
                    force(process)
                process.join(max(0.0, deadline - time.monotonic()))
        for connection in self._connections:
            connection.close()
        self._connections, self._processes = [], []
