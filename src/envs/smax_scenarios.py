"""The battles of SMAX by name. Plain data: importable without JAX, so that a wrong name is told at once."""

from __future__ import annotations

from dataclasses import dataclass

UNIT_TYPES = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")  # the simulator's order


@dataclass(frozen=True)
class Scenario:
    """Who fights whom."""

    allies: tuple[str, ...]
    enemies: tuple[str, ...]
    smacv2: bool = False  # unit types (the same for both sides) and positions are drawn anew for each battle


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
    "5m_vs_6m": Scenario(_units(marine=5), _units(marine=6)),
    "10m_vs_11m": Scenario(_units(marine=10), _units(marine=11)),
    "27m_vs_30m": Scenario(_units(marine=27), _units(marine=30)),
    "3s5z_vs_3s6z": Scenario(_units(stalker=3, zealot=5), _units(stalker=3, zealot=6)),
    "3s_vs_3z": Scenario(_units(stalker=3), _units(zealot=3)),
    "3s_vs_4z": Scenario(_units(stalker=3), _units(zealot=4)),
    "3s_vs_5z": Scenario(_units(stalker=3), _units(zealot=5)),
    "6h_vs_8z": Scenario(_units(hydralisk=6), _units(zealot=8)),
    "smacv2_5_units": _smacv2(5),
    "smacv2_10_units": _smacv2(10),
    "smacv2_20_units": _smacv2(20),
}
