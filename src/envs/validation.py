"""Answers within a second whether an environment can be made, without making it."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from envs import sc2_folders, sc2_preflight
from envs.smax_scenarios import SCENARIOS
from utils.constraints import hint, unknown

SMACLITE_INSTALL = "pip install 'smaclite @ git+https://github.com/uoe-agents/smaclite.git'"


def validate(env_name: str, env_args: Mapping[str, Any], n_envs: int = 1) -> None:
    """Checks an environment's name and arguments, and what ``n_envs`` of them need of the machine.

    Raises:
        ValueError: one sentence that says what is wrong and, for a misspelt name, what comes near.
    """
    checks: dict[str, Callable[[Mapping[str, Any]], None]] = {
        "smax": _validate_smax,
        "gymma": _validate_gymma,
        "sc2": partial(_validate_sc2, "sc2", n_envs),
        "sc2v2": partial(_validate_sc2, "sc2v2", n_envs),
        "smaclite": _validate_smaclite,
    }
    from envs import REGISTRY

    if env_name in checks:
        checks[env_name](env_args)
    elif env_name not in REGISTRY:
        raise unknown("environment", env_name, sorted({*REGISTRY, *checks}))


def _require(holds: bool, key: str, value: Any, what: str) -> None:
    if not holds:
        raise ValueError(f"env_args.{key} must be {what}, not {value!r}.")


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _validate_smax(env_args: Mapping[str, Any]) -> None:
    if env_args["map_name"] not in SCENARIOS:
        raise unknown("SMAX map", env_args["map_name"], sorted(SCENARIOS))
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
        except (ImportError, TypeError, ValueError) as error:  # the latter two of a name like ".a"
            raise ValueError(
                f"The module '{module}' of env_args.key={key} cannot be imported: {error}."
            ) from None
    if name not in gymnasium.registry:
        near = hint(name, sorted(gymnasium.registry))
        with_module = "" if module else "; put its module in front, like lbforaging:Foraging-8x8-2p-3f-v3"
        raise ValueError(f"There is no gymnasium id {name!r}{near}{with_module}.")
    return name


def _validate_sc2(env: str, n_envs: int, env_args: Mapping[str, Any]) -> None:
    for key in ("launch_timeout", "step_timeout"):
        _require(_is_positive_int(env_args[key]), key, env_args[key], "a positive whole number of seconds")
    sc2_preflight.require(env, env_args, n_envs)
    sc2_preflight.use_python_protobuf()
    atexit.register(sc2_folders.sweep)  # for processes that are killed and cannot tidy up themselves


def _validate_smaclite(env_args: Mapping[str, Any]) -> None:
    limit = env_args["time_limit"]
    _require(_is_positive_int(limit), "time_limit", limit, "a positive whole number")
    maps = smaclite_maps()
    if env_args["map_name"] not in maps:
        raise unknown("SMAClite map", env_args["map_name"], maps)


def smaclite_maps() -> list[str]:
    """The names of SMAClite's maps, read from its files without importing it.

    Raises:
        ValueError: it is not installed.
    """
    spec = importlib.util.find_spec("smaclite")
    folders = [
        Path(folder, "env", "maps", "smaclite_maps")
        for folder in (spec and spec.submodule_search_locations) or ()
    ]
    names = [file.stem for folder in folders for file in folder.glob("*.json")]
    if not names:
        raise ValueError(f"SMAClite is not installed: {SMACLITE_INSTALL}.")
    capitals = {"mmm": "MMM", "mmm2": "MMM2"}  # how SMAClite registers them
    return sorted(capitals.get(name, name) for name in names if not name.startswith("example"))
