"""Measures the world model of a run on held-out play: GPE and GCI as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from checkpoints import Checkpoint, CheckpointStore
from modules.world_models.world_model import WorldModel, WorldModelConfig
from quality.command import FORMS, INDICES, RECORD, RESULT
from quality.held_out import HeldOut, load
from quality.indices import MEAN, measure
from quality.open_loop import Measured
from run import CHECKPOINTS, misfit
from utils.config import TASK
from utils.constraints import ConfigError
from utils.typed_args import read

COLOURS = {"obs": "C0", "reward": "C1", "continue": "C2", "state": "C3"}


def evaluate(directory: Path, which: str, horizon: int, config: dict[str, Any], path: Path) -> str:
    """Measure, save the results in the run directory and return them in one line.

    Args:
        directory: of the run.
        which: its checkpoint: last or a step.
        horizon: steps to predict.
        config: the configuration in the run's record.
        path: of the held-out play.

    Raises:
        ConfigError: the run trained no world model, or the data are of another map or unfit.
        CheckpointError: there is no such checkpoint, or it is damaged.
        OSError: the results can't be written.
    """
    checkpoint = CheckpointStore(directory / CHECKPOINTS).find(which)
    weights = _weights(checkpoint, config)
    if not path.exists():
        raise ConfigError(f"There is no held-out play in {path} yet; make it once with: {FORMS[RECORD]}.")
    try:
        data, about = load(path)
        _check_same_task(config, about, path)
        model = _model(config, data, about["n_actions"])
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise misfit(checkpoint, "its world model", error) from error
        torch.manual_seed(0)  # the latents that are drawn
        indices = measure(Measured(model), data, horizon)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    run = {"run": str(directory), "alg": config["name"], "seed": config["seed"], "step": checkpoint.step}
    result = {**run, **indices, "dataset": {"file": str(path), **about}}
    target = directory / f"{RESULT}.json"
    target.write_text(json.dumps(result, indent=1))
    draw(result, target.with_suffix(".png"))
    return f"{config['name']}, step {checkpoint.step}: {_words(result)}; saved in {target} and .png"


def _check_same_task(config: dict[str, Any], about: Mapping[str, Any], path: Path) -> None:
    for key in TASK:
        if config[key] != about[key]:
            raise ConfigError(f"{path} was recorded with {key} {about[key]}, but the run has {config[key]}.")


def _weights(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Any]:
    """The weights of the world model in a checkpoint.

    Raises:
        ConfigError: there is none in it.
        CheckpointError: it can't be read.
    """
    if not checkpoint.is_complete:
        raise ConfigError(
            f"{checkpoint.path} holds a policy alone; choose checkpoint=last or one of the steps."
        )
    state = checkpoint.load("learner")
    if "world_model" not in state:
        raise ConfigError(f"{checkpoint.path} holds no world model: {config['name']} learns without one.")
    weights: dict[str, Any] = state["world_model"]
    return weights


def _model(config: dict[str, Any], data: HeldOut, n_actions: int) -> WorldModel:
    """A world model as the run's, of first weights, frozen."""
    n_agents, obs_size = data.obs.shape[2:]
    sizes = read(WorldModelConfig, SimpleNamespace(**config))
    return WorldModel(n_agents, obs_size, n_actions, sizes).requires_grad_(False)


def _words(result: Mapping[str, Any]) -> str:
    means = {name: result[name]["mean"] for name in INDICES}
    return ", ".join(
        f"{name.upper()} {mean['value']:.3f} (95 % interval {mean['low']:.3f} to {mean['high']:.3f})"
        for name, mean in means.items()
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw GPE, GCI and their parts over the horizon into the picture ``path``."""
    import matplotlib.pyplot as plt  # it takes its time

    from records import plots

    figure, panels = plt.subplots(1, 2, figsize=(10.4, 3.8), layout="constrained")
    for panel, name in zip(panels, INDICES, strict=True):
        for part, curve in result[name]["parts"].items():
            panel.plot(result["horizons"], curve["per_horizon"]["value"], color=COLOURS[part], label=part)
        whole = result[name]["per_horizon"]
        panel.plot(result["horizons"], whole["value"], color="black", lw=2, label="mean")
        panel.fill_between(result["horizons"], whole["low"], whole["high"], color="black", alpha=0.15, lw=0)
        if name == "gpe":
            reference = result[MEAN]["per_horizon"]["value"]
            panel.plot(result["horizons"], reference, color="0.5", ls="--", label="predicting the mean")
        panel.set(title=plots.LABELS[name], xlabel=plots.X_LABELS["horizon"], ylim=(0, None))
        panel.set_ylabel("standard deviations")
        panel.xaxis.get_major_locator().set_params(integer=True)
        plots.tidy(panel)
    plots.save(figure, path)
