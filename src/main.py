"""The command line: composes and checks the configuration, opens the run's record with Sacred, trains.

    python src/main.py --config=ALG --env-config=ENV [--mongo=URI] with key=value ...
    python src/main.py --config=ALG --env-config=ENV with key=value ... resume=True
    python src/main.py with resume=DIRECTORY
    python src/main.py evaluate=DIRECTORY [checkpoint=best|last|STEP] [episodes=1000] [render=gif]
    python src/main.py check ENV [with key=value ...]
    python src/main.py record_dataset=DIRECTORY [checkpoint=best|last|STEP] [episodes=128] [dataset=FILE]
    python src/main.py evaluate_world_model=DIRECTORY [checkpoint=last|STEP] [horizon=15] [dataset=FILE]

Exit codes: 0 done, 1 an error of the program or the machine, 2 a request that can't be run, 3 training
diverged, 130 interrupted.
"""

import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NoReturn, TextIO

import envs
import evaluation
import resume
from envs.multiagentenv import SimulatorError
from quality import command as quality
from utils import combinations, interrupts
from utils.command_line import writable
from utils.config import change, compose, parse_command_line, run_folder
from utils.constraints import ConfigError
from utils.registered import check_names
from utils.seeding import draw_seed
from utils.threads import limit_threads

ROOT = Path(__file__).resolve().parents[1]
ANY_ALG = "qmix"  # where a configuration is needed and the algorithm has no part in it
INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended
STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def main(argv: list[str]) -> int:
    """Run the command line ``argv`` and return the exit code."""
    interrupts.install()
    try:
        if argv[:1] == ["check"]:
            return check(argv[1:])
        if evaluation.is_asked_for(argv):
            return evaluate(evaluation.parse(argv))
        if quality.is_asked_for(argv):
            return measure_quality(quality.parse(argv))
        config, resumed = configuration(argv)
        limit_threads(config["cpu_threads"])
        return train(config, resumed, argv)
    except ConfigError as error:
        return fail(error, 2)
    except KeyboardInterrupt:
        _tell("Interrupted; nothing was recorded.", sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        return fail(f"{error.filename or 'The results'} can't be written: {error.strerror}.", 1)


def fail(message: object, code: int) -> int:
    """Print ``message`` as one sentence and return the exit code."""
    _tell(f"error: {str(message).removesuffix('.')}.", sys.stderr)
    return code


def _tell(text: str, stream: TextIO) -> None:
    """Print ``text``; a reader that went away and a terminal that was closed are no failures."""
    with suppress(OSError):
        print(text, file=stream, flush=True)


def check(argv: list[str]) -> int:
    """Print what ``ENV with key=value ...`` needs and whether it is there; 0 if all of it is."""
    if not argv or argv[0] not in envs.CHECKED:
        raise ConfigError(f"check needs the name of an environment: {', '.join(envs.CHECKED)}.")
    if options := [word for word in argv if word.startswith("-")]:
        raise ConfigError(f"check takes no {options[0]!r}; the form is: main.py check ENV with key=value.")
    config = compose(parse_command_line([f"--config={ANY_ALG}", f"--env-config={argv[0]}", *argv[1:]]))
    found = envs.checks(config["env"], config["env_args"], _n_envs(config))
    said: set[str] = set()
    for look in found:
        what = "see above" if look.failure in said else look.failure or look.found
        print(f"{'missing' if look.failure else 'ok':8}{look.title + ':':18} {what}")
        said |= {look.failure} - {""}
    return 2 if said else 0


def configuration(argv: list[str]) -> tuple[dict[str, Any], Path | None]:
    """Return the configuration that ``argv`` asks for, complete and checked, without starting anything, and
    the directory of the run that is to go on, if one is."""
    request = parse_command_line(argv)
    if request.alg is None:
        directory = dict(request.assignments)["resume"]
        config = change(resume.record_of(Path(directory)).config, request.assignments)
    else:
        config = compose(request)
    _only_environment(config, dict(request.assignments))
    check_names(config)
    combinations.check(config)
    _validate_environment(config)
    folder = ROOT / config["local_results_path"]
    config["local_results_path"] = str(writable(folder, "set local_results_path to another folder"))
    resumed = None
    if config["resume"]:
        resumed = resume.choose(config)
        config["seed"] = resume.record_of(resumed).config["seed"]
    if config["seed"] is None:
        config["seed"] = draw_seed()
    return config, resumed


def _only_environment(config: dict[str, Any], assigned: Mapping[str, str]) -> None:
    """Let ``runner=episode`` have its one environment, whatever an algorithm's file says of others."""
    if config["runner"] != "episode":
        return
    if "batch_size_run" in assigned and config["batch_size_run"] != 1:
        raise ConfigError("runner=episode plays in one environment, so batch_size_run must be 1.")
    config["batch_size_run"] = 1


def _n_envs(config: dict[str, Any]) -> int:
    """How many environments run side by side: as many for tests as for training."""
    return 2 if config["runner"] == "episode" else 2 * config["batch_size_run"]


def _validate_environment(config: dict[str, Any]) -> None:
    try:
        envs.validate(config["env"], config["env_args"], _n_envs(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def evaluate(request: evaluation.Request) -> int:
    """Play a saved policy, print how it did and return the exit code."""
    return _of_run(request.directory, partial(evaluation.evaluate, request), plays=True)


def measure_quality(request: quality.Request) -> int:
    """Record held-out play or measure a world model on it, print the outcome and return the exit code."""
    plays = request.command == quality.RECORD
    return _of_run(request.directory, partial(quality.carry_out, request), plays)


def _of_run(directory: Path, work: Callable[[dict[str, Any], logging.Logger], str], plays: bool) -> int:
    """Do ``work`` on a recorded run, given its configuration, print what came of it and return the exit code.

    Where it ``plays``, the run's environment is looked at first.
    """
    config = resume.record_of(directory).config
    if plays:
        _validate_environment(config)
    limit_threads(config["cpu_threads"])
    from checkpoints import CheckpointError
    from utils.logging import get_console_logger

    try:
        _tell(work(config, get_console_logger()), sys.stdout)
    except CheckpointError as error:
        return fail(error, 2)
    except SimulatorError as error:
        return fail(error, 1)
    return 0


def train(config: dict[str, Any], resumed: Path | None, argv: list[str]) -> int:
    """Train, with a record in a folder of its own, and return the exit code."""
    request = parse_command_line(argv)
    mongo = _mongo(config, request.mongo)
    from checkpoints import CheckpointError
    from run import Session, newest_checkpoint  # here, when nearly all of the request is known to be good
    from utils.guards import TrainingDiverged
    from utils.logging import get_console_logger

    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # Sacred's import of it
    log = get_console_logger()
    observer: Any = None
    try:
        checkpoint = None if resumed is None else newest_checkpoint(resumed, log)
        with Session(config, log, checkpoint, dict(request.assignments)) as session:
            keep = 0 if checkpoint is None else checkpoint.notes["journal_metrics"]
            versions = _versions(config, session.args.use_cuda)
            observer = _observer(config, argv, versions, resumed, keep)
            result = _record(session, config, _observers(observer, mongo), log)
    except CheckpointError as error:
        return fail(error, 2)
    except SimulatorError as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        directory = getattr(observer, "dir", None)
        if directory is None:  # the record was not opened yet
            raise
        _tell(f"Interrupted; the record so far is in {directory}", sys.stderr)
        return INTERRUPTED
    except TrainingDiverged as stop:
        _tell(
            f"Training stopped: {stop.term} became NaN or infinite at environment step {stop.step}; "
            f"the record up to there is in {observer.dir}",
            sys.stderr,
        )
        return 3
    _tell(f"{result['summary']}; the record is in {observer.dir}", sys.stdout)
    return 0


def _observer(
    config: dict[str, Any], argv: list[str], versions: dict[str, str], resumed: Path | None, keep: int
) -> Any:
    from records.observer import JournalObserver

    command = [re.sub(r"(//)[^/]*@", r"\1***@", word) for word in argv]  # without MongoDB's credentials
    return JournalObserver(run_folder(config), command, versions, resumed, keep)


def _observers(journal: Any, mongo: tuple[Any, str] | None) -> list[Any]:
    """The journal's observer and, where the record is to be copied to a database, the one that does it."""
    if mongo is None:
        return [journal]
    from records.replicator import MongoReplicator

    return [journal, MongoReplicator(journal, *mongo)]


def _record(
    session: Any, config: dict[str, Any], observers: list[Any], log: logging.Logger
) -> dict[str, Any]:
    """Open the record, whose journal the first observer keeps, train and return the result."""
    observer = observers[0]
    from sacred import SETTINGS, Experiment

    from records.journal import HEARTBEAT

    SETTINGS.CAPTURE_MODE = "no"
    SETTINGS.HOST_INFO.INCLUDE_GPU_INFO = False  # it fails on some kinds of GPU; ours is among the versions
    SETTINGS.CONFIG.READ_ONLY_CONFIG = False
    SETTINGS.DEFAULT_BEAT_INTERVAL = HEARTBEAT
    experiment: Any = Experiment(config["name"], base_dir=str(ROOT), save_git_info=_has_commit())
    experiment.logger = _quiet(log.getChild("sacred"))
    experiment.add_config(config)
    experiment.observers.extend(observers)

    @experiment.main
    def _train_recorded() -> dict[str, Any]:
        log.info("The record is in %s", observer.dir)
        return session.train(observer.journal, observer.dir)

    return experiment.run().result


def _mongo(config: dict[str, Any], uri: str | None) -> tuple[Any, str] | None:
    """Return the MongoDB database at ``uri`` and its address, if the record is to be copied to one.

    Raises:
        ConfigError: the address is none, or ``require_mongo`` is set and the database can't be used.
    """
    if uri is None:
        if config["require_mongo"]:
            raise ConfigError(
                "require_mongo=True needs an address: --mongo=URI, or MONGO_URI in the environment."
            )
        return None
    from records.mongo import check, connect

    database = connect(uri)
    if config["require_mongo"]:
        check(database, uri)
    return database, uri


def _quiet(logger: logging.Logger) -> logging.Logger:
    logger.setLevel(logging.CRITICAL)  # how a run ends is told by the functions of this file
    return logger


def _has_commit() -> bool:
    """Tell whether there is a git commit to record: Sacred fails where git or the repository is missing."""
    if shutil.which("git") is None:
        return False
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", "HEAD"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _versions(config: dict[str, Any], on_gpu: bool) -> dict[str, str]:
    """Return the versions of Python, of the simulator where it has one, and of all installed packages; and
    what GPU is used."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name()} if on_gpu else {}
    packages = {package.name: package.version for package in distributions()}
    simulator = envs.versions(config["env"], config["env_args"])
    return {"python": sys.version.split()[0], **gpu, **simulator, **dict(sorted(packages.items()))}


def _exit(code: int) -> NoReturn:
    """End the process with ``code``.

    What an interrupt broke off may still be computed by a native thread, on which Python's teardown aborts
    now and then: after an interrupt, when everything has been closed, the teardown is skipped.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more, and Python would complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code == INTERRUPTED:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
