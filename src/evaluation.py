"""Plays a saved policy of a run, of which nothing but its directory is needed.

python src/main.py evaluate=DIRECTORY [checkpoint=best|last|STEP] [episodes=1000] [render=gif]
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from utils.command_line import COPY_RUN, read_count, read_words, writable
from utils.constraints import ConfigError

FORM = "main.py evaluate=DIRECTORY [checkpoint=best|last|STEP] [episodes=1000] [render=gif]"
FOLDER = "evaluations"  # of a run directory
RENDERED = 4  # episodes that are drawn
MILLISECONDS = 120  # a picture of an animation is shown, the last one for a second
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Request:
    """What is to be evaluated."""

    directory: Path
    """Of the run."""
    checkpoint: str = "best"
    """best, last or the environment step of a checkpoint."""
    episodes: int = 1000
    """How many are played."""
    render: str | None = None
    """Form in which some episodes are drawn: gif, or None."""


def is_asked_for(argv: list[str]) -> bool:
    """Whether the command line ``argv`` asks for an evaluation and not for training."""
    return any(word.startswith("evaluate=") for word in argv)


def parse(argv: list[str]) -> Request:
    """Read ``evaluate=DIRECTORY key=value ...``; a ``with`` may stand between.

    Raises:
        ConfigError: it has another form.
    """
    values = read_words(argv, ["evaluate", "checkpoint", "episodes", "render"], FORM)
    episodes = read_count(values, "episodes", 1000)
    if values.get("render", "gif") != "gif":
        raise ConfigError(f"render must be gif, not {values['render']!r}.")
    directory = Path(values["evaluate"]).absolute()
    return Request(directory, values.get("checkpoint", "best"), episodes, values.get("render"))


def evaluate(request: Request, config: dict[str, Any], log: logging.Logger) -> str:
    """Play the episodes, save the results as JSON in the run directory and return them in words.

    Args:
        request: what to play.
        config: the configuration in the run's record.
        log: for messages.

    Raises:
        ConfigError: the configuration can't be run here, or the run directory can't be written to.
        CheckpointError: there is no such checkpoint, or it is damaged.
        OSError: the results can't be saved.
    """
    from run import saved_policy

    folder = writable(request.directory / FOLDER, COPY_RUN)
    if request.render and config["env"] != "smax":
        raise ConfigError(f"render={request.render} draws battles of smax, not episodes of {config['env']}.")
    camera = Camera() if request.render else None
    if camera is not None:
        config = {**config, "runner": "vector"}
    with saved_policy(request.directory, request.checkpoint, config, log) as policy:
        checkpoint = policy.checkpoint
        log.info("Playing %d episodes with the policy of step %d", request.episodes, checkpoint.step)
        played = policy.runner.play_episodes(request.episodes, "evaluation", watch=camera).per_episode()
    results = {
        "run": str(request.directory),
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        **summarise(played),
    }
    folder.mkdir(exist_ok=True)
    name = f"{checkpoint.path.name}_{request.episodes}_episodes"
    path = folder / f"{name}.json"
    path.write_text(json.dumps(results, indent=2))
    animations = [] if camera is None else camera.save(folder, name)
    drawn = f", with {len(animations)} animations" if animations else ""
    return f"{words(results)}; saved in {path}{drawn}"


class Camera:
    """Draws the first episodes, one in each of the first slots, at each of their decisions: what the last one
    led to is not drawn."""

    def __init__(self) -> None:
        self._pictures: dict[int, list[Any]] = {}
        self._over: set[int] = set()

    def __call__(self, env: Any, active: Any) -> None:
        """Take a picture of each episode that is drawn and still goes on; ``active`` is (B,) bool."""
        for slot, plays in enumerate(active[:RENDERED].tolist()):
            if not plays:
                self._over.add(slot)
            if slot not in self._over:
                self._pictures.setdefault(slot, []).append(env.picture(slot))

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write one animation per episode and return the files."""
        paths = [folder / f"{name}_battle_{slot + 1}.gif" for slot in self._pictures]
        for path, pictures in zip(paths, self._pictures.values(), strict=True):
            durations = [MILLISECONDS] * (len(pictures) - 1) + [1000]
            pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
        return paths


def summarise(played: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return number, means, deviations and, for the share of wins, the interval of episodes.

    Args:
        played: values of each episode, such as ``return`` and ``battle_won``, (episodes,) each.
    """
    results: dict[str, Any] = {"episodes": len(played["return"])}
    for name, values in played.items():
        results[f"{name}_mean"], results[f"{name}_std"] = float(values.mean()), float(values.std())
    if "battle_won" in played:
        wins = int(played["battle_won"].sum())
        results["win_rate"] = wins / results["episodes"]
        results["win_rate_interval"] = wilson(wins, results["episodes"])
    return results


def wilson(wins: int, episodes: int) -> tuple[float, float]:
    """Return Wilson's interval, at 95 % confidence, of a win rate (Wilson, JASA 22, 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    rate, weight = wins / episodes, z * z / episodes
    centre = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / episodes + weight / (4 * episodes))
    return max(0.0, centre - half), min(1.0, centre + half)


def words(results: dict[str, Any]) -> str:
    """Return the results in one line."""
    parts = [f"Step {results['step']}, {results['episodes']} episodes"]
    if "win_rate" in results:
        low, high = results["win_rate_interval"]
        parts.append(f"win rate {results['win_rate']:.3f} (95 % interval {low:.3f} to {high:.3f})")
    parts.append(f"return {results['return_mean']:.4g} ± {results['return_std']:.3g}")
    parts.append(f"length {results['ep_length_mean']:.4g} ± {results['ep_length_std']:.3g}")
    return ", ".join(parts)
