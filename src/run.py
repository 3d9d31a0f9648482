"""Builds the parts of a run from their registries and drives them: collect, store, learn, test, log, save."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from components.action_selectors import REGISTRY as ACTION_SELECTORS
from components.episode_buffer import EpisodeBatch, OnPolicyBuffer, ReplayBuffer
from components.transforms import OneHot
from controllers import REGISTRY as CONTROLLERS
from learners import REGISTRY as LEARNERS
from modules.agents import REGISTRY as AGENTS
from modules.critics import REGISTRY as CRITICS
from modules.mixers import REGISTRY as MIXERS
from runners import REGISTRY as RUNNERS
from utils import interrupts
from utils.clocks import Every, Ratio
from utils.config import map_name
from utils.constraints import ConfigError, unknown
from utils.logging import Logger
from utils.memory import keep_freed_memory
from utils.progress import Progress
from utils.seeding import seed_global_generators, spawn

REGISTRIES: dict[str, Mapping[str, Any]] = {
    "runner": RUNNERS,
    "mac": CONTROLLERS,
    "learner": LEARNERS,
    "agent": AGENTS,
    "action_selector": ACTION_SELECTORS,
    "critic_type": CRITICS,
    "mixer": MIXERS,
}


def check_names(config: dict[str, Any]) -> None:
    """Raise ConfigError if a part that the configuration names is in no registry."""
    for key, registry in REGISTRIES.items():
        name = config.get(key)
        if name is not None and name not in registry:
            raise unknown(key, name, sorted(registry))


def run(
    sacred_run: Any, config: dict[str, Any], console_logger: logging.Logger, directory: Path
) -> dict[str, Any]:
    """Train as ``config`` says and return the result; models and event files go to ``directory``."""
    args = SimpleNamespace(**config)
    args.device = _device(args.use_cuda, console_logger)
    args.use_cuda = args.device == "cuda"
    args.unique_token = f"{args.name}_seed{args.seed}_{map_name(config)}_{directory.name}"
    if args.cpu_threads:
        torch.set_num_threads(args.cpu_threads)
    keep_freed_memory()
    seed_global_generators(args.seed)
    logger = Logger(console_logger)
    logger.setup_sacred(sacred_run)
    if args.use_tensorboard:
        logger.setup_tb(str(directory / "tensorboard"))
    with _refusals():
        runner = RUNNERS[args.runner](args=args, logger=logger)
    try:
        with _refusals():
            parts = build(args, logger, runner)
        with Progress(args.t_max, console_logger) as progress:
            training = Training(parts, args, logger, progress, directory)
            training.run()
    finally:
        runner.close_env()
        logger.finish()
    return training.result(f"{args.name} on {map_name(config)}, seed {args.seed}")


@contextmanager
def _refusals() -> Iterator[None]:
    """Make what a part objects to in its arguments, as it is built, an error of the request."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _device(use_cuda: bool, console_logger: logging.Logger) -> str:
    if use_cuda and not torch.cuda.is_available():
        console_logger.info("There is no CUDA device: training on the CPU")
        return "cpu"
    return "cuda" if use_cuda else "cpu"


@dataclass
class Parts:
    """What a run is made of; the configuration names the classes of ``runner``, ``mac`` and ``learner``."""

    runner: Any
    buffer: ReplayBuffer | OnPolicyBuffer
    mac: Any
    learner: Any


def build(args: SimpleNamespace, logger: Logger, runner: Any) -> Parts:
    """Build the parts around ``runner``, adding the environment's sizes to ``args``."""
    env_info = runner.get_env_info()
    for key in ("n_agents", "n_actions", "state_shape", "obs_shape", "episode_limit"):
        setattr(args, key, env_info[key])
    scheme = make_scheme(args)
    groups = {"agents": args.n_agents}
    preprocess = {"actions": ("actions_onehot", [OneHot(out_dim=args.n_actions)])}
    buffer = _make_buffer(args, scheme, groups, preprocess)
    mac = CONTROLLERS[args.mac](buffer.scheme, groups, args)
    runner.setup(scheme=scheme, groups=groups, preprocess=preprocess, mac=mac)
    learner = LEARNERS[args.learner](mac, buffer.scheme, logger, args)
    if args.use_cuda:
        learner.cuda()
    return Parts(runner, buffer, mac, learner)


def make_scheme(args: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """Return the fields of an episode, per step."""
    return {
        "state": {"vshape": args.state_shape},
        "obs": {"vshape": args.obs_shape, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (args.n_actions,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,) if args.common_reward else (args.n_agents,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }


def _make_buffer(
    args: SimpleNamespace, scheme: dict[str, Any], groups: dict[str, int], preprocess: dict[str, Any]
) -> ReplayBuffer | OnPolicyBuffer:
    length = args.episode_limit + 1  # the arrival at the end of a full episode is stored too
    device = "cpu" if args.buffer_cpu_only else args.device
    if args.buffer == "on_policy":
        return OnPolicyBuffer(scheme, groups, length, preprocess=preprocess, device=device)
    seed = spawn(args.seed, "buffer", 1)[0]
    return ReplayBuffer(
        scheme, groups, args.buffer_size, length, preprocess=preprocess, device=device, seed=seed
    )


class Training:
    """The loop: collect episodes, store them, make the updates that are due, test, log and save."""

    def __init__(
        self, parts: Parts, args: SimpleNamespace, logger: Logger, progress: Progress, directory: Path
    ) -> None:
        self.parts = parts
        self.args = args
        self.logger = logger
        self.progress = progress
        self.directory = directory
        self.updates = Ratio(args.steps_per_update)
        self.tests = Every(args.test_interval)
        self.logs = Every(args.log_interval, first=args.log_interval)
        self.saves = Every(args.save_model_interval, first=args.save_model_interval)
        self.episode = 0
        self.best: float | None = None

    @property
    def t_env(self) -> int:
        """Environment steps taken."""
        return self.parts.runner.t_env

    def run(self) -> None:
        """Train until ``t_max``, with a test before and after."""
        while self.t_env < self.args.t_max:
            self._at_intervals()
            episodes = self.parts.runner.run(test_mode=False)
            self.parts.buffer.insert_episode_batch(episodes)
            self.episode += episodes.batch_size
            self._learn()
            self.progress.update(self.t_env)
            interrupts.check()
        self._finish()

    def _learn(self) -> None:
        """Make the updates that are due; those that come due before there is data are dropped."""
        due = self.updates.due(self.t_env)
        buffer = self.parts.buffer
        if isinstance(buffer, OnPolicyBuffer):
            if due:
                self._train(buffer.take())
        elif buffer.can_sample(self.args.batch_size):
            for _ in range(due):
                self._train(buffer.sample(self.args.batch_size))

    def _train(self, batch: EpisodeBatch) -> None:
        filled = batch[:, : int(batch.max_t_filled())]
        self.parts.learner.train(filled.to(self.args.device), self.t_env, self.episode)

    def _at_intervals(self) -> None:
        if self.tests.due(self.t_env):
            self._test()
        if self.logs.due(self.t_env):
            self._log()
        if self.args.save_model and self.saves.due(self.t_env):
            self._save()

    def _finish(self) -> None:
        self._test()
        self._log()
        if self.args.save_model:
            self._save()

    def _test(self) -> None:
        self.parts.runner.run(test_mode=True)
        what, value = self._last_test()
        self.progress.tested(what, value)
        self.best = value if self.best is None else max(self.best, value)

    def _last_test(self) -> tuple[str, float]:
        """Return the name and value of the last test's win rate, or of its return where nothing is won."""
        win_rate = self.logger.last("test_battle_won_mean")
        if win_rate is not None:
            return "win rate", win_rate
        value = self.logger.last("test_return_mean")
        if value is None:
            raise RuntimeError("the runner's test logged neither test_battle_won_mean nor test_return_mean")
        return "return", value

    def _log(self) -> None:
        self.logger.log_stat("episode", self.episode, self.t_env)
        self.progress.log()
        self.logger.print_recent_stats()

    def _save(self) -> None:
        path = self.directory / "models" / str(self.t_env)
        path.mkdir(parents=True, exist_ok=True)
        self.parts.learner.save_models(str(path))

    def result(self, title: str) -> dict[str, Any]:
        """Return the outcome of the run, with a ``summary`` in one line that starts with ``title``."""
        what, last = self._last_test()
        summary = f"{title}: {self.t_env} steps, test {what} last {last:.3g}, best {self.best:.3g}"
        return {"summary": summary, "t_env": self.t_env, "last": last, "best": self.best}
