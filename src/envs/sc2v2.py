"""SMACv2 on StarCraft II: battles whose units and starting positions are drawn anew each time.

:func:`envs.sc2_preflight.use_python_protobuf` must have been called before this module is imported.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from envs.sc2 import Guard, SC2Env
from envs.sc2v2_scenarios import scenario_args
from utils.seeding import spawn


class SC2v2Env(SC2Env):
    """As :class:`SC2Env`, on one of SMACv2's scenarios: map_name is a race and the numbers of units, such as
    "terran_5_vs_5". The seed decides the drawn teams and positions, too."""

    name = "sc2v2"

    def __init__(self, seed: int, map_name: str, **settings: Any):
        super().__init__(seed, **{"map_name": map_name, **settings, **scenario_args(map_name)})

    def _make(self, seed: int) -> Any:
        if "smac" in sys.modules:
            raise RuntimeError("SMAC and SMACv2 cannot be used in one process: start another one for SMACv2.")
        from smacv2.env import StarCraftCapabilityEnvWrapper
        from smacv2.env.starcraft2.starcraft2 import StarCraft2Env

        args = {**self._args, "seed": seed % 2**32}
        scenario = StarCraftCapabilityEnvWrapper(**args)
        scenario.env = type("GuardedStarCraft2Env", (Guard, StarCraft2Env), {})(**args)
        scenario.env.step_timeout, scenario.env.expected = self._step_timeout, self._expected
        _seed_distributions(scenario, seed)
        return scenario


def _seed_distributions(scenario: Any, seed: int) -> None:
    """Replace the unseeded generators with which the package draws teams and positions."""
    drawn = list(scenario.env_key_to_distribution_map.values())
    for distribution in list(drawn):
        drawn += [part for part in vars(distribution).values() if hasattr(part, "generate")]
    for distribution, own in zip(drawn, spawn(seed, "smacv2", len(drawn)), strict=True):
        if hasattr(distribution, "rng"):
            distribution.rng = np.random.default_rng(own)
