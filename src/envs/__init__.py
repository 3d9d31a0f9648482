"""Environments by name. Importing this and :func:`validate` need neither JAX nor torch and take no time.

To add an environment, write a :class:`~envs.multiagentenv.MultiAgentEnv`, give its factory a line in
``REGISTRY`` and its arguments a file in ``src/config/envs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from envs import sc2_preflight
from envs.validation import validate

if TYPE_CHECKING:
    from envs.batched_env import BatchedEnv
    from envs.multiagentenv import MultiAgentEnv

__all__ = [
    "BATCHED_REGISTRY", "CHECKED", "REGISTRY",
    "checks", "make_batched", "make_single", "validate", "versions",
]  # fmt: skip

CHECKED = ("sc2", "sc2v2")  # environments that need more than Python packages


def _smax(seed: int, **env_args: Any) -> MultiAgentEnv:
    from envs.smax import SMAXEnv

    return SMAXEnv(seed, **_without_reward_options(env_args))


def _smax_batched(seeds: Sequence[int], **env_args: Any) -> BatchedEnv:
    from envs.smax import BatchedSMAX

    return BatchedSMAX(seeds, **_without_reward_options(env_args))


def _without_reward_options(env_args: dict[str, Any]) -> dict[str, Any]:
    """For environments whose reward is the team's anyway."""
    if not env_args["common_reward"]:
        raise ValueError("SMAX rewards the team as a whole, so common_reward must be True.")
    return {k: v for k, v in env_args.items() if k not in ("common_reward", "reward_scalarisation")}


def _gymma(**env_args: Any) -> MultiAgentEnv:
    from envs.gymma import GymmaEnv

    return GymmaEnv(**env_args)


def _sc2(**env_args: Any) -> MultiAgentEnv:
    sc2_preflight.use_python_protobuf()
    from envs.sc2 import SC2Env

    return SC2Env(**env_args)


def _sc2v2(**env_args: Any) -> MultiAgentEnv:
    sc2_preflight.use_python_protobuf()
    from envs.sc2v2 import SC2v2Env

    return SC2v2Env(**env_args)


def _smaclite(**env_args: Any) -> MultiAgentEnv:
    from envs.smaclite import SMACliteEnv

    return SMACliteEnv(**env_args)


# Single environments, as in EPyMARL: factory(seed=, common_reward=, reward_scalarisation=, **env_args).
REGISTRY: dict[str, Callable[..., MultiAgentEnv]] = {
    "smax": _smax,
    "gymma": _gymma,
    "sc2": _sc2,
    "sc2v2": _sc2v2,
    "smaclite": _smaclite,
}

# Simulators that step many episodes in one call: factory(seeds, common_reward=, ..., **env_args).
BATCHED_REGISTRY: dict[str, Callable[..., BatchedEnv]] = {"smax": _smax_batched}


def checks(env: str, env_args: dict[str, Any], games: int) -> list[sc2_preflight.Check]:
    """What ``games`` simulators of a ``CHECKED`` environment need, and whether it is there."""
    return sc2_preflight.checks(env, env_args, games)


def versions(env: str, env_args: dict[str, Any]) -> dict[str, str]:
    """Versions that a record needs of an environment's simulator, besides those of Python's packages."""
    return sc2_preflight.versions(env, env_args) if env in CHECKED else {}


def make_single(args: Any, seed: int) -> MultiAgentEnv:
    """The environment ``args.env`` with ``args.env_args``."""
    return REGISTRY[args.env](seed=seed, **_env_args(args))


def make_batched(args: Any, seeds: Sequence[int]) -> BatchedEnv:
    """One slot per seed, stepped as ``args.runner`` says: "episode" (one environment in this process),
    "parallel" (a process each) or "vector" (one batched simulator; processes where there is none)."""
    if args.runner == "vector" and args.env in BATCHED_REGISTRY:
        return BATCHED_REGISTRY[args.env](seeds, **_env_args(args))
    if args.runner == "episode":
        from envs.single_env import SingleEnv

        return SingleEnv(make_single(args, seeds[0]), seeds[0])
    from envs.subprocess_env import SubprocessEnv

    names = ("env", "env_args", "common_reward", "reward_scalarisation")
    settings = SimpleNamespace(**{name: getattr(args, name) for name in names})
    return SubprocessEnv(
        partial(make_single, settings),
        seeds,
        timeout=args.worker_timeout,
        max_restarts=args.worker_max_restarts,
    )


def _env_args(args: Any) -> dict[str, Any]:
    return {
        **args.env_args,
        "common_reward": args.common_reward,
        "reward_scalarisation": args.reward_scalarisation,
    }
