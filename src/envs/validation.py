"""Answers within a second whether an environment can be made, without making it."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from envs.smax_scenarios import SCENARIOS

SC2_HELP = (
    "install StarCraft II 4.10 (https://github.com/Blizzard/s2client-proto#downloads) with the SMAC maps "
    "(https://github.com/oxwhirl/smac/releases), set SC2PATH to its folder and install the official package "
    "by pip install 'smac @ git+https://github.com/oxwhirl/smac.git' (smac on PyPI is another project), or "
    "use --env-config=smax, which needs none of it"
)


def validate(env_name: str, env_args: Mapping[str, Any]) -> None:
    """Checks an environment's name and arguments.

    Raises:
        ValueError: one sentence that says what is wrong and, for a misspelt name, what comes near.
    """
    checks = {"smax": _validate_smax, "gymma": _validate_gymma, "sc2": _validate_sc2}
    from envs import REGISTRY

    if env_name in checks:
        checks[env_name](env_args)
    elif env_name not in REGISTRY:
        raise ValueError(_unknown("environment", env_name, {*REGISTRY, *checks}))


def _unknown(kind: str, name: Any, known: Iterable[str]) -> str:
    known = sorted(known)
    near = get_close_matches(str(name), known, n=5, cutoff=0.5) or known[:20]
    return f"Unknown {kind} '{name}': did you mean {' or '.join(near)}?"


def _require(holds: bool, key: str, value: Any, what: str) -> None:
    if not holds:
        raise ValueError(f"env_args.{key} must be {what}, not {value!r}.")


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _validate_smax(env_args: Mapping[str, Any]) -> None:
    if env_args["map_name"] not in SCENARIOS:
        raise ValueError(_unknown("SMAX map", env_args["map_name"], SCENARIOS))
    for key in ("see_enemy_actions", "walls_cause_death"):
        _require(isinstance(env_args.get(key, True), bool), key, env_args.get(key), "True or False")
    scale = env_args.get("reward_scale", 1)
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    _require(number and scale > 0, "reward_scale", scale, "a positive number")
    steps, mode = env_args.get("max_steps", 1), env_args.get("attack_mode", "closest")
    _require(_is_positive_int(steps), "max_steps", steps, "a positive whole number")
    _require(mode in ("closest", "random"), "attack_mode", mode, "'closest' or 'random'")


def _validate_gymma(env_args: Mapping[str, Any]) -> None:
    key, time_limit = env_args.get("key"), env_args.get("time_limit")
    _require(isinstance(key, str), "key", key, "a gymnasium id, such as 'lbforaging:Foraging-8x8-2p-3f-v3'")
    _require(_is_positive_int(time_limit), "time_limit", time_limit, "a positive whole number")
    find_gymnasium_id(str(key))


def find_gymnasium_id(key: str) -> str:
    """Imports the module of "module:id" and returns the id without it, which gymnasium then knows.

    Raises:
        ValueError: there is no such module or no such id.
    """
    import gymnasium

    module, _, name = key.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"The module '{module}' of env_args.key={key} cannot be imported: {error}."
            ) from None
    if name not in gymnasium.registry:
        raise ValueError(_unknown("gymnasium id", name, gymnasium.registry))
    return name


def _validate_sc2(env_args: Mapping[str, Any]) -> None:
    missing = []
    if not _official_smac_installed():
        missing.append("the official smac package is not installed")
    path = os.environ.get("SC2PATH")
    if not path:
        missing.append("SC2PATH is not set")
    elif not Path(path).is_dir():
        missing.append(f"SC2PATH={path} is no folder")
    if missing:
        raise ValueError(f"--env-config=sc2 needs StarCraft II, but {' and '.join(missing)}: {SC2_HELP}.")
    raise ValueError(
        "StarCraft II is there, but this version has no wrapper for it yet; use --env-config=smax meanwhile."
    )


def _official_smac_installed() -> bool:
    """Told from the PyPI project of the same name by its folder, without importing either."""
    spec = importlib.util.find_spec("smac")
    folders = spec.submodule_search_locations or [] if spec else []
    return any((Path(folder) / "env" / "starcraft2").is_dir() for folder in folders)
