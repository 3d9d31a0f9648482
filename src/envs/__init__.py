"""Environments by name. Importing this and :func:`validate` need neither JAX nor torch and take no time.

To add an environment, write a :class:`~envs.multiagentenv.MultiAgentEnv`, give its factory a line in
``REGISTRY`` and its arguments a file in ``src/config/envs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from envs.validation import validate

if TYPE_CHECKING:
    from envs.batched_env import BatchedEnv
    from envs.multiagentenv import MultiAgentEnv

__all__ = ["BATCHED_REGISTRY", "REGISTRY", "make_batched", "make_single", "validate"]


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


# Single environments, as in EPyMARL: factory(seed=, common_reward=, reward_scalarisation=, **env_args).
REGISTRY: dict[str, Callable[..., MultiAgentEnv]] = {"smax": _smax, "gymma": _gymma}

# Simulators that step many episodes in one call: factory(seeds, common_reward=, ..., **env_args).
BATCHED_REGISTRY: dict[str, Callable[..., BatchedEnv]] = {"smax": _smax_batched}


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
