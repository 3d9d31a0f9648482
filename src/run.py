"""Builds the parts of a run from their registries and hands them to the training loop."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from checkpoints import Checkpoint, CheckpointError, CheckpointStore
from components.episode_buffer import EpisodeBatch, OnPolicyBuffer, ReplayBuffer
from components.transforms import OneHot
from controllers import REGISTRY as CONTROLLERS
from learners import REGISTRY as LEARNERS
from records.journal import Journal
from runners import REGISTRY as RUNNERS
from training import Parts, Training
from utils import combinations, memory
from utils.allocator import keep_freed_memory
from utils.config import map_name
from utils.constraints import ConfigError
from utils.logging import Logger
from utils.products import use_faster_library
from utils.progress import Progress
from utils.registered import check_names
from utils.seeding import GlobalGenerators, seed_global_generators, spawn
from utils.typed_args import Arguments

CHECKPOINTS = "checkpoints"  # folder of a run directory
OF_THE_RECORD = {"label", "local_results_path", "require_mongo", "resume"}  # keys that no part has to know


def newest_checkpoint(directory: Path, console_logger: logging.Logger) -> Checkpoint | None:
    """Return the newest undamaged checkpoint of the run in ``directory``; None if it made none.

    Raises:
        ConfigError: the run can't be resumed.
        CheckpointError: all its checkpoints are damaged.
    """
    checkpoint = CheckpointStore(directory / CHECKPOINTS).newest()
    if checkpoint is None:
        console_logger.info("%s has no checkpoint yet: it starts again from step 0", directory)
    elif not checkpoint.is_complete:
        raise ConfigError(f"{directory} can't be resumed: its parts could not tell their state.")
    else:
        console_logger.info("Going on from step %d of %s", checkpoint.step, directory)
    return checkpoint


class Session:
    """The parts of one run, built and, after a ``checkpoint``, where they were; nothing is written yet.

    A context manager: at its end the environments are closed. If nothing reads what has been ``changed`` of
    the configuration, a warning says so.

    Raises:
        ConfigError: a part can't be built as ``config`` says.
        CheckpointError: the checkpoint can't be read.
    """

    def __init__(
        self,
        config: dict[str, Any],
        console_logger: logging.Logger,
        checkpoint: Checkpoint | None = None,
        changed: Iterable[str] = (),
    ) -> None:
        self.args = arguments(config, console_logger)
        self.changed = changed
        self.title = f"{self.args.name} on {map_name(config)}, seed {self.args.seed}"
        self.logger = Logger(console_logger)
        self.checkpoint = checkpoint
        seed_global_generators(self.args.seed)
        with refusals():
            self.runner = RUNNERS[self.args.runner](args=self.args, logger=self.logger)
        try:
            with refusals():
                self.parts = build(self.args, self.logger, self.runner)
            self._report()
            if checkpoint is not None:
                _restore(self.parts, checkpoint)
        except BaseException:
            self.runner.close_env()
            raise
        self._generators = GlobalGenerators().state_dict()  # Sacred seeds them as it opens the record

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.runner.close_env()
        self.logger.finish()

    def train(self, journal: Journal, directory: Path) -> dict[str, Any]:
        """Train and return the result.

        Metrics go to ``journal``, checkpoints and event files to ``directory``.
        """
        self.logger.setup_journal(journal)
        if self.args.use_tensorboard:
            self.logger.setup_tb(str(directory / "tensorboard"), after=self.runner.t_env)
        GlobalGenerators().load_state_dict(self._generators)
        store = CheckpointStore(directory / CHECKPOINTS, self.args.checkpoint_keep)
        with Progress(self.args.t_max, self.logger.console_logger, self.runner.t_env) as progress:
            training = Training(self.parts, self.args, self.logger, progress, store, journal)
            self._warn_of_what_is_not_read()
            if self.checkpoint is not None:
                store.go_on_from(self.checkpoint)
                training.load_state_dict(self.checkpoint.load("training"))
            training.run()
        return training.result(self.title)

    def _warn_of_what_is_not_read(self) -> None:
        if not {self.args.learner, self.args.mac} <= combinations.OURS:
            return  # those written for EPyMARL read keys as they go
        groups = {path.partition(".")[0] for path in self.changed}
        unread = self.args.unread(sorted(groups - OF_THE_RECORD))
        if unread:
            self.logger.console_logger.warning(
                "No part of this run has read %s: setting it has no effect here", " and ".join(unread)
            )

    def _report(self) -> None:
        """Say what the buffers take, and whether the run can be resumed."""
        buffers = {"episodes": self.parts.buffer, **getattr(self.parts.learner, "buffers", {})}
        sizes = {name: buffer.nbytes for name, buffer in buffers.items() if hasattr(buffer, "nbytes")}
        taken = ", ".join(f"{name} {memory.text(size)}" for name, size in sizes.items())
        left = f"{memory.text(memory.available())} are left"
        if self.args.use_cuda:
            left += f", {memory.text(memory.available(self.args.device))} on the GPU"
        log = self.logger.console_logger
        log.info("Memory of the buffers: %s; %s", taken or "no more than fresh episodes need", left)
        unsaveable = self.parts.unsaveable()
        if unsaveable:
            log.warning(
                "This run can't be resumed, only evaluated: its %s has no state_dict and load_state_dict",
                " and ".join(unsaveable),
            )


def _restore(parts: Parts, checkpoint: Checkpoint) -> None:
    """Put all parts where they were at the ``checkpoint``."""
    for name, part in parts.stateful().items():
        state = checkpoint.load(name)
        try:
            part.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise misfit(checkpoint, f"its {name}", error) from error


def misfit(checkpoint: Checkpoint, what: str, error: Exception) -> CheckpointError:
    """Return the error that ``what`` is in an undamaged ``checkpoint`` can't be put where it belongs."""
    lines = str(error).splitlines()
    reason = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    return CheckpointError(
        f"{checkpoint.path} is whole, but {what} can't be restored ({reason}); was it written by another"
        " version of this program, or its record changed?"
    )


class SavedPolicy(NamedTuple):
    """The policy of a run, ready to play."""

    checkpoint: Checkpoint
    args: Arguments
    runner: Any
    mac: Any


@contextmanager
def saved_policy(
    directory: Path, which: str, config: dict[str, Any], console_logger: logging.Logger
) -> Iterator[SavedPolicy]:
    """Build what playing takes around the policy of a run; environments are closed at the end.

    Args:
        directory: of the run.
        which: its checkpoint: best, last or a step.
        config: the configuration in the run's record.
        console_logger: for messages.

    Raises:
        ConfigError: the configuration can't be run here.
        CheckpointError: there is no such checkpoint, it is damaged, or doesn't fit the configuration.
    """
    checkpoint = CheckpointStore(directory / CHECKPOINTS).find(which)
    check_names(config)
    args = arguments(config, console_logger)
    with refusals():
        runner = RUNNERS[args.runner](args=args, logger=Logger(console_logger))
    try:
        with refusals():
            _, mac = build_acting(args, runner)
        try:
            mac.load_models(str(checkpoint.policy))
        except (KeyError, OSError, RuntimeError) as error:
            raise misfit(checkpoint, "its policy", error) from error
        if args.use_cuda:
            mac.cuda()
        runner.t_env = checkpoint.step
        yield SavedPolicy(checkpoint, args, runner, mac)
    finally:
        runner.close_env()


@contextmanager
def refusals() -> Iterator[None]:
    """Make what a part objects to in its arguments, as it is built, an error of the request."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


def arguments(config: dict[str, Any], console_logger: logging.Logger) -> Arguments:
    """Return ``config`` as the namespace that parts are given, with the device they are to use."""
    args = Arguments(**config)
    args.device = _device(args.use_cuda, console_logger)
    args.use_cuda = args.device == "cuda"
    if args.cpu_threads:
        torch.set_num_threads(args.cpu_threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 in recurrent layers, too
    if not args.use_cuda:
        use_faster_library()
    keep_freed_memory()
    return args


def _device(use_cuda: bool, console_logger: logging.Logger) -> str:
    if use_cuda and not torch.cuda.is_available():
        console_logger.info("There is no CUDA device: the CPU is used")
        return "cpu"
    return "cuda" if use_cuda else "cpu"


class Layout(NamedTuple):
    """How episodes are stored: the arguments of :class:`EpisodeBatch` of these names."""

    scheme: dict[str, dict[str, Any]]
    groups: dict[str, int]
    preprocess: dict[str, Any]

    def complete_scheme(self) -> dict[str, dict[str, Any]]:
        """The scheme with the fields that the batch adds."""
        return EpisodeBatch(self.scheme, self.groups, 0, 1, preprocess=self.preprocess).scheme


def build(args: Arguments, logger: Logger, runner: Any) -> Parts:
    """Build the parts around ``runner``, adding the environment's sizes to ``args``."""
    layout, mac = build_acting(args, runner)
    buffer = _make_buffer(args, layout)
    learner = LEARNERS[args.learner](mac, layout.complete_scheme(), logger, args)
    if args.use_cuda:
        learner.cuda()
    return Parts(runner, buffer, mac, learner)


def build_acting(args: Arguments, runner: Any) -> tuple[Layout, Any]:
    """Build the controller and make ``runner`` ask it: all that playing takes."""
    env_info = runner.get_env_info()
    for key in ("n_agents", "n_actions", "state_shape", "obs_shape", "episode_limit"):
        setattr(args, key, env_info[key])
    preprocess = {"actions": ("actions_onehot", [OneHot(out_dim=args.n_actions)])}
    layout = Layout(make_scheme(args), {"agents": args.n_agents}, preprocess)
    mac = CONTROLLERS[args.mac](layout.complete_scheme(), layout.groups, args)
    layout.scheme.update(getattr(mac, "noted_fields", {}))
    runner.setup(**layout._asdict(), mac=mac)
    return layout, mac


def make_scheme(args: Arguments) -> dict[str, dict[str, Any]]:
    """Return the fields of an episode, per step."""
    return {
        "state": {"vshape": args.state_shape},
        "obs": {"vshape": args.obs_shape, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (args.n_actions,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,) if args.common_reward else (args.n_agents,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }


def _make_buffer(args: Arguments, layout: Layout) -> ReplayBuffer | OnPolicyBuffer:
    length = args.episode_limit + 1  # the arrival at the end of a full episode is stored too
    device = "cpu" if args.buffer_cpu_only else args.device
    scheme, groups, preprocess = layout
    if args.buffer == "on_policy":
        return OnPolicyBuffer(scheme, groups, length, preprocess=preprocess, device=device)
    seed = spawn(args.seed, "buffer", 1)[0]
    return ReplayBuffer(
        scheme, groups, args.buffer_size, length, preprocess=preprocess, device=device, seed=seed
    )
