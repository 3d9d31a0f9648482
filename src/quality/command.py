"""The command lines about world-model quality. Importing this takes no time.

python src/main.py record_dataset=DIRECTORY [checkpoint=best|last|STEP] [episodes=128] [dataset=FILE]
python src/main.py evaluate_world_model=DIRECTORY [checkpoint=last|STEP] [horizon=15] [dataset=FILE]
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.command_line import COPY_RUN, read_count, read_words, writable
from utils.config import map_name, run_folder
from utils.constraints import ConfigError

RECORD, MEASURE = "record_dataset", "evaluate_world_model"
RESULT = "world_model_quality"  # name of the files in the run directory
INDICES = ("gpe", "gci")
FORMS = {
    RECORD: f"main.py {RECORD}=DIRECTORY [checkpoint=best|last|STEP] [episodes=128] [dataset=FILE]",
    MEASURE: f"main.py {MEASURE}=DIRECTORY [checkpoint=last|STEP] [horizon=15] [dataset=FILE]",
}


@dataclass(frozen=True)
class Request:
    """What is to be recorded or measured."""

    command: str
    """``RECORD`` or ``MEASURE``."""
    directory: Path
    """Of the run."""
    checkpoint: str
    """last, a step or, of a policy, best."""
    number: int
    """Of episodes to record, or of steps to predict."""
    dataset: Path | None
    """To record to, or to measure on; None for the map's own."""


def is_asked_for(argv: list[str]) -> bool:
    """Whether the command line ``argv`` asks for one of these commands."""
    return any(word.startswith((f"{RECORD}=", f"{MEASURE}=")) for word in argv)


def parse(argv: list[str]) -> Request:
    """Read the words of either command.

    Raises:
        ConfigError: they have another form.
    """
    command = RECORD if any(word.startswith(f"{RECORD}=") for word in argv) else MEASURE
    number = "episodes" if command == RECORD else "horizon"
    values = read_words(argv, [command, "checkpoint", number, "dataset"], FORMS[command])
    count = read_count(values, number, 128 if command == RECORD else 15)
    if command == RECORD and count % 4:
        raise ConfigError(
            f"episodes must be a multiple of 4, not {count}: half are random, and half predicted."
        )
    dataset = Path(values["dataset"]).absolute() if "dataset" in values else None
    if dataset is not None and dataset.suffix != ".npz":
        raise ConfigError(f"dataset must name a file that ends in .npz, not {values['dataset']}.")
    return Request(
        command=command,
        directory=Path(values[command]).absolute(),
        checkpoint=values.get("checkpoint", "best" if command == RECORD else "last"),
        number=count,
        dataset=dataset,
    )


def carry_out(request: Request, config: dict[str, Any], log: logging.Logger) -> str:
    """Do what is asked for the run whose configuration is ``config`` and return the outcome in one line.

    Raises:
        ConfigError: this run, or these data, can't be used, or nothing can be written there.
        CheckpointError: there is no such checkpoint, or it is damaged.
        OSError: the results can't be written.
    """
    path = request.dataset or dataset_path(request.directory, config)
    if request.command == RECORD:
        from quality.recording import record

        if path.exists():
            raise ConfigError(
                f"{path} is there already, and all models are measured on the same play; delete it first."
            )
        writable(path.parent, "name another file with dataset=FILE")
        return record(request.directory, request.checkpoint, request.number, config, path, log)
    from quality.measuring import evaluate

    writable(request.directory, COPY_RUN)
    return evaluate(request.directory, request.checkpoint, request.number, config, path)


def dataset_path(run: Path, config: dict[str, Any]) -> Path:
    """Where the held-out play of a run's map is kept: among the results that the run lies in, or was trained
    in if it has been taken out of such."""
    results = Path(config["local_results_path"])
    within = run_folder(config).relative_to(results).parts
    if run.parts[-len(within) - 1 : -1] == within:
        results = run.parents[len(within)]
    return Path(results, "datasets", config["env"], f"{map_name(config)}.npz")
