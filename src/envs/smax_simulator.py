"""The simulator of ``jaxmarl`` as our scenarios need it: their units, and the ground they fight on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from typing import Any

import jax.numpy as jnp
from jax import Array

from envs.smax_scenarios import UNITS, Choke, Scenario


@contextmanager
def _unopened(*packages: str) -> Iterator[None]:
    """Modules of these packages can be imported without what the packages themselves import."""
    closed = []
    for name in packages:
        if name not in sys.modules and (spec := find_spec(name)):
            sys.modules[name] = module_from_spec(spec)
            closed.append(name)
    yield
    for name in closed:  # whoever wants the whole package gets it
        del sys.modules[name]


# The package itself imports some twenty other environments, which takes seconds, and one of which replaces
# sys.stdout for good.
with _unopened("jaxmarl", "jaxmarl.environments"):
    from jaxmarl.environments.smax import HeuristicEnemySMAX, smax_env
    from jaxmarl.environments.smax import heuristic_enemy as heuristic_enemy


def make_simulator(scenario: Scenario, attack_mode: str, **options: Any) -> HeuristicEnemySMAX:
    """The simulator of a scenario, its enemies played by the heuristic policy of ``jaxmarl``.

    ``options`` are those of the simulator's constructor. Where a scenario needs nothing of ours, this is just
    what ``jaxmarl`` makes.
    """
    options |= _tables(scenario)
    simulator = HeuristicEnemySMAX(attack_mode=attack_mode, **options)
    if scenario.choke or any(UNITS[unit].speed == 0 for unit in scenario.unit_types):
        simulator._env = Ground(scenario.choke, **options)
    return simulator


def _tables(scenario: Scenario) -> dict[str, Any]:
    """The simulator's arguments for a scenario: who takes part, and the tables of all kinds of units."""
    kinds = [UNITS[name] for name in scenario.unit_types]
    types = [scenario.unit_types.index(unit) for unit in scenario.allies + scenario.enemies]

    def table(quantity: str) -> Array:
        return jnp.array([getattr(kind, quantity) for kind in kinds], dtype=jnp.float32)

    return {
        "scenario": smax_env.Scenario(
            jnp.array(types, dtype=jnp.uint8),
            len(scenario.allies),
            len(scenario.enemies),
            scenario.smacv2,
            scenario.smacv2,
        ),
        "unit_type_names": list(scenario.unit_types),
        "unit_type_shorthands": [kind.shorthand for kind in kinds],
        "unit_type_velocities": table("speed"),
        "unit_type_attacks": table("damage"),
        "unit_type_attack_ranges": table("range"),
        "unit_type_sight_ranges": table("sight"),
        "unit_type_radiuses": table("radius"),
        "unit_type_health": table("health"),
        "unit_type_weapon_cooldowns": table("cooldown"),
    }


class Ground(smax_env.SMAX):
    """The simulator's battlefield with what it lacks: units that nothing moves, and a choke point."""

    def __init__(self, choke: Choke | None, **arguments: Any):
        super().__init__(**arguments)
        self.choke = choke

    def _push_units_away(self, state: Any, firmness: float = 1.0) -> Any:
        """Corrects positions after every small step of time, and at the start."""
        positions = super()._push_units_away(state, firmness).unit_positions
        immobile = self.unit_type_velocities[state.unit_types] == 0
        positions = jnp.where(immobile[:, None], state.unit_positions, positions)
        if self.choke is not None:
            positions = self._within_valley(
                self._in_line(positions, state.unit_alive, self.choke), self.choke
            )
        return state.replace(unit_positions=positions)

    def _in_line(self, positions: Array, alive: Array, choke: Choke) -> Array:
        """Lets the living units (n, 2) that have come farthest stay in the neck, as many as fit, and puts the
        others back to its end on their side."""
        centre, half = self.map_width / 2, choke.length / 2
        x = positions[:, 0]
        depth = jnp.where(alive, half - jnp.abs(x - centre), -1.0)
        order = jnp.argsort(jnp.argsort(-depth))
        end = centre + jnp.where(x < centre, -half, half)
        return positions.at[:, 0].set(jnp.where((depth > 0) & (order >= choke.at_once), end, x))

    def _within_valley(self, positions: Array, choke: Choke) -> Array:
        """Moves units (n, 2) out of the rocks, north or south: who walks against them slides along."""
        beyond = jnp.abs(positions[:, 0] - self.map_width / 2) - choke.length / 2
        half = choke.width / 2 + choke.opening * jnp.maximum(beyond, 0.0)
        north_south = jnp.clip(positions[:, 1], self.map_height / 2 - half, self.map_height / 2 + half)
        return positions.at[:, 1].set(north_south)
