"""A rough battle: units that walk and shoot on an open square, the enemy attacking whoever is nearest.

Units, numbers and ranges resemble SMAC's maps; nothing else about it is StarCraft II's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

SIZE = 32  # length of the map's sides
BORDER = 2  # width of its edge, on which nobody walks
RESPAWN_LOOPS = (
    1,
    1,
    1,
    3,
)  # game loops from the death of the last unit to new ones; sometimes it takes long
ALLY, ENEMY = 1, 2


@dataclass(frozen=True)
class Kind:
    """A kind of unit; speeds per game loop, cooldowns in game loops."""

    enemy_id: int  # StarCraft II's number of it; allies get numbers of the map's own
    health: float
    shield: float
    damage: float
    cooldown: float
    reach: float
    speed: float
    radius: float


KINDS = {
    "colossus": Kind(4, 200, 150, 20, 24, 7, 0.20, 1.0),
    "stalker": Kind(74, 80, 80, 13, 30, 6, 0.18, 0.625),
    "zealot": Kind(73, 100, 50, 16, 19, 0.1, 0.14, 0.5),
    "marine": Kind(48, 45, 0, 6, 14, 5, 0.14, 0.375),
    "zergling": Kind(105, 35, 0, 5, 11, 0.1, 0.18, 0.375),
    "spine_crawler": Kind(98, 300, 0, 25, 41, 7, 0.0, 1.125),
    "marauder": Kind(51, 125, 0, 10, 24, 6, 0.14, 0.5625),
    "medivac": Kind(54, 150, 0, 0, 1, 4, 0.16, 0.75),
    "baneling": Kind(9, 30, 0, 20, 14, 0.2, 0.16, 0.375),
    "hydralisk": Kind(107, 80, 0, 12, 13, 5, 0.14, 0.625),
}

# Allies, in the order of their numbers, and enemies of each map.
MAPS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "3m": ({"marine": 3}, {"marine": 3}),
    "8m": ({"marine": 8}, {"marine": 8}),
    "2s3z": ({"stalker": 2, "zealot": 3}, {"stalker": 2, "zealot": 3}),
    "1c3s5z": (
        {"colossus": 1, "stalker": 3, "zealot": 5},
        {"colossus": 1, "stalker": 3, "zealot": 5},
    ),
    "3s_vs_3z": ({"stalker": 3}, {"zealot": 3}),
    "3s_vs_4z": ({"stalker": 3}, {"zealot": 4}),
    "3s_vs_5z": ({"stalker": 3}, {"zealot": 5}),
    "2s_vs_1sc": ({"stalker": 2}, {"spine_crawler": 1}),
    "corridor": ({"zealot": 6}, {"zergling": 24}),
    "32x32_flat": ({}, {}),  # SMACv2 creates the units itself
}
FIRST_ALLY_ID = 1970  # numbers of the maps' own units
# The order in which SMACv2's map numbers them.
OWN_UNITS = (
    "baneling", "colossus", "hydralisk", "marauder", "marine", "medivac", "stalker", "zealot", "zergling",
)  # fmt: skip
ENEMY_STRENGTH = {level: 0.25 + 0.1 * level for level in range(1, 11)}  # factor on damage, by difficulty


@dataclass
class Unit:
    """One unit on the map."""

    tag: int
    owner: int
    kind: Kind
    type_id: int
    x: float
    y: float
    health: float
    shield: float
    cooldown: float = 0.0
    goal: tuple[float, float] | None = None  # where it is told to walk
    target: int | None = None  # tag of whom it is told to attack


class Battle:
    """All battles that one game plays on ``map_name``, decided by the seed, the difficulty and the orders."""

    def __init__(self, map_name: str, difficulty: int, seed: int | None):
        if map_name not in MAPS:
            raise ValueError(f"the stand-in has no map {map_name}; it has {', '.join(MAPS)}")
        self._teams = MAPS[map_name]
        self._strength = ENEMY_STRENGTH[difficulty]
        self._random = random.Random(seed)
        self._next_tag = 1 << 32
        self.game_loop = 0
        self._respawn_in = 0
        self.units: dict[int, Unit] = {}
        self._place_all()

    def _place_all(self) -> None:
        for owner, team in ((ALLY, self._teams[0]), (ENEMY, self._teams[1])):
            names = [name for name, count in team.items() for _ in range(count)]
            for i, name in enumerate(names):
                self._place(owner, name, list(team).index(name), i, len(names))

    def _place(self, owner: int, name: str, index: int, i: int, count: int) -> None:
        column, row = divmod(i, 8)
        x = 9.0 - column if owner == ALLY else 23.0 + column
        y = SIZE / 2 + 1.2 * (row - (min(count, 8) - 1) / 2) + self._random.uniform(-0.2, 0.2)
        self._add(owner, name, FIRST_ALLY_ID + index if owner == ALLY else KINDS[name].enemy_id, x, y)

    def _add(self, owner: int, name: str, type_id: int, x: float, y: float) -> None:
        kind = KINDS[name]
        self._next_tag += 1
        self.units[self._next_tag] = Unit(
            self._next_tag, owner, kind, type_id, x, y, kind.health, kind.shield
        )

    def create(self, owner: int, type_id: int, x: float, y: float) -> None:
        """Create a unit of SMACv2's."""
        enemies = {kind.enemy_id: name for name, kind in KINDS.items()}
        name = enemies[type_id] if owner == ENEMY else OWN_UNITS[type_id - FIRST_ALLY_ID]
        self._add(owner, name, type_id, x, y)

    def team(self, owner: int) -> Iterator[Unit]:
        """The living units of a player."""
        return (unit for unit in self.units.values() if unit.owner == owner)

    def move(self, tag: int, x: float, y: float) -> None:
        """Order a unit to walk to a point."""
        if tag in self.units:
            self.units[tag].goal, self.units[tag].target = (x, y), None

    def attack(self, tag: int, target: int) -> None:
        """Order a unit to attack another one, which it follows."""
        if tag in self.units:
            self.units[tag].goal, self.units[tag].target = None, target

    def stop(self, tag: int) -> None:
        """Order a unit to do nothing."""
        if tag in self.units:
            self.units[tag].goal = self.units[tag].target = None

    def kill(self, tags: list[int]) -> None:
        """Remove units."""
        for tag in tags:
            self.units.pop(tag, None)
        if not self.units:
            self._respawn_in = self._random.choice(RESPAWN_LOOPS)

    def step(self, loops: int) -> None:
        """Let time pass. When no unit is left, the map places new ones after a moment."""
        for _ in range(loops):
            self.game_loop += 1
            if self.units:
                self._fight()
            else:
                self._respawn_in -= 1
                if self._respawn_in <= 0:
                    self._place_all()

    def _fight(self) -> None:
        foes = list(self.team(ALLY))
        for unit in self.team(ENEMY):
            if foes and unit.target not in self.units:
                unit.target = min(foes, key=lambda foe: _distance(unit, foe)).tag
        hits: list[tuple[Unit, float]] = []
        for unit in self.units.values():
            unit.cooldown = max(0.0, unit.cooldown - 1)
            target = self.units.get(unit.target) if unit.target is not None else None
            if target is not None:
                self._engage(unit, target, hits)
            elif unit.goal is not None:
                self._walk(unit, *unit.goal)
        for target, damage in hits:
            absorbed = min(target.shield, damage)
            target.shield -= absorbed
            target.health -= damage - absorbed
        self.kill([unit.tag for unit in self.units.values() if unit.health <= 0])

    def _engage(self, unit: Unit, target: Unit, hits: list[tuple[Unit, float]]) -> None:
        reach = unit.kind.reach + unit.kind.radius + target.kind.radius
        if _distance(unit, target) > reach:
            self._walk(unit, target.x, target.y)
        elif unit.cooldown == 0:
            strength = self._strength if unit.owner == ENEMY else 1.0
            hits.append((target, unit.kind.damage * strength))
            unit.cooldown = unit.kind.cooldown + self._random.choice((-1, 0, 1))

    def _walk(self, unit: Unit, x: float, y: float) -> None:
        way = math.hypot(x - unit.x, y - unit.y)
        if way > 0:
            share = min(1.0, unit.kind.speed / way)
            low, high = BORDER, SIZE - BORDER
            unit.x = min(max(unit.x + share * (x - unit.x), low), high)
            unit.y = min(max(unit.y + share * (y - unit.y), low), high)


def _distance(one: Unit, other: Unit) -> float:
    return math.hypot(one.x - other.x, one.y - other.y)
