"""Draws battles of SMAX."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIZE = 384  # pixels of a side
BAR = 3  # pixels: height of a health bar
GROUND, ALLY, ENEMY, SHOT, HEALTH = "#1d2021", "#458588", "#cc241d", "#fabd2f", "#98971a"


class Units(NamedTuple):
    """All units of a battle at one moment, allies first."""

    positions: np.ndarray  # (U, 2) in the map's units, from its lower left corner
    health: np.ndarray  # (U,) share that is left, 0 for the dead
    radius: np.ndarray  # (U,) in the map's units
    shooting: np.ndarray  # (U,) bool: has just attacked
    letters: list[str]  # (U,) first letter of the type
    n_allies: int


def draw(units: Units, map_size: tuple[float, float]) -> Image.Image:
    """A picture of the living units: allies blue, enemies red, bright rims where they have just attacked."""
    picture = Image.new("RGB", (SIZE, SIZE), GROUND)
    canvas = ImageDraw.Draw(picture)
    scale = SIZE / np.array(map_size)
    for i in np.flatnonzero(units.health > 0):
        x, y = units.positions[i] * scale
        y = SIZE - y
        r = max(5.0, float(units.radius[i] * scale[0]))
        rim = SHOT if units.shooting[i] else GROUND
        canvas.ellipse(
            (x - r, y - r, x + r, y + r), fill=ALLY if i < units.n_allies else ENEMY, outline=rim, width=2
        )
        canvas.text((x, y), units.letters[int(i)], fill="white", anchor="mm")
        left, top = x - r, y - r - 2 * BAR
        canvas.rectangle((left, top, left + 2 * r, top + BAR), fill="black")
        canvas.rectangle((left, top, left + 2 * r * float(units.health[i]), top + BAR), fill=HEALTH)
    return picture
