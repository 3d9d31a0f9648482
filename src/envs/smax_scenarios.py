"""The battles of SMAX by name. Plain data: importable without JAX, so that a wrong name is told at once.

docs/maps.md tells where units and battles differ from StarCraft II.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A kind of unit. Lengths are in the map's unit (a map is 32 wide and high), times in seconds.

    The simulator knows neither shields nor armour nor bonus damage: ``health`` and ``damage`` stand for all.
    """

    shorthand: str
    speed: float  # 0: stands where it is, and can't be pushed
    damage: float  # of one attack
    range: float  # between centres
    sight: float
    radius: float
    health: float
    cooldown: float  # between two attacks


UNITS = {
    # The simulator's own, in its order.
    "marine": Unit("m", 3.15, 9, 5, 9, 0.375, 45, 0.61),
    "marauder": Unit("M", 2.25, 10, 6, 10, 0.5625, 125, 1.07),
    "stalker": Unit("s", 4.13, 13, 6, 10, 0.625, 160, 1.87),
    "zealot": Unit("Z", 3.15, 8, 2, 9, 0.5, 150, 0.86),
    "zergling": Unit("z", 4.13, 5, 2, 8, 0.375, 35, 0.5),
    "hydralisk": Unit("h", 3.15, 12, 5, 9, 0.625, 80, 0.59),
    # Ours, after StarCraft II.
    "colossus": Unit("c", 3.15, 20, 7, 10, 1.0, 350, 1.07),
    "spine_crawler": Unit("S", 0, 25, 7, 11, 1.125, 244, 1.32),
}
SIMULATOR_UNITS = tuple(UNITS)[:6]


@dataclass(frozen=True)
class Choke:
    """A valley from west to east with a neck in the middle of the map.

    Units are soft: a swarm squeezes through any gap. So the neck also limits how many are in it at a time.
    """

    length: float  # of the neck
    width: float  # of the neck, and
    opening: float  # how much the valley grows on either side per unit of way beyond it
    at_once: int  # living units in the neck; the others wait at its ends


@dataclass(frozen=True)
class Scenario:
    """Who fights whom."""

    allies: tuple[str, ...]
    enemies: tuple[str, ...]
    smacv2: bool = False  # unit types (the same for both sides) and positions are drawn anew for each battle
    choke: Choke | None = None

    @property
    def unit_types(self) -> tuple[str, ...]:
        """The kinds of units that observations tell apart: the simulator's, and what else takes part."""
        return tuple(name for name in UNITS if name in (*SIMULATOR_UNITS, *self.allies, *self.enemies))


def _units(**counts: int) -> tuple[str, ...]:
    return tuple(unit for unit, count in counts.items() for _ in range(count))


def _mirrored(**counts: int) -> Scenario:
    return Scenario(_units(**counts), _units(**counts))


def _smacv2(n_units: int) -> Scenario:
    return Scenario(_units(marine=n_units), _units(marine=n_units), smacv2=True)


SCENARIOS: dict[str, Scenario] = {
    "3m": _mirrored(marine=3),
    "8m": _mirrored(marine=8),
    "25m": _mirrored(marine=25),
    "2s3z": _mirrored(stalker=2, zealot=3),
    "3s5z": _mirrored(stalker=3, zealot=5),
    "1c3s5z": _mirrored(colossus=1, stalker=3, zealot=5),
    "5m_vs_6m": Scenario(_units(marine=5), _units(marine=6)),
    "10m_vs_11m": Scenario(_units(marine=10), _units(marine=11)),
    "27m_vs_30m": Scenario(_units(marine=27), _units(marine=30)),
    "3s5z_vs_3s6z": Scenario(_units(stalker=3, zealot=5), _units(stalker=3, zealot=6)),
    "2s_vs_1sc": Scenario(_units(stalker=2), _units(spine_crawler=1)),
    "3s_vs_3z": Scenario(_units(stalker=3), _units(zealot=3)),
    "3s_vs_4z": Scenario(_units(stalker=3), _units(zealot=4)),
    "3s_vs_5z": Scenario(_units(stalker=3), _units(zealot=5)),
    "6h_vs_8z": Scenario(_units(hydralisk=6), _units(zealot=8)),
    "corridor": Scenario(_units(zealot=6), _units(zergling=24), choke=Choke(6.0, 1.0, 1.0, 3)),
    "smacv2_5_units": _smacv2(5),
    "smacv2_10_units": _smacv2(10),
    "smacv2_20_units": _smacv2(20),
}
