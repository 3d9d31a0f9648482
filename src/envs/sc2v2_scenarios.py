"""SMACv2's scenarios: three races, five numbers of units; the settings are those of SMACv2's paper."""

from __future__ import annotations

import copy
from typing import Any

NUMBERS = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")
TEAMS: dict[str, dict[str, Any]] = {
    "protoss": {"unit_types": ["stalker", "zealot", "colossus"], "weights": [0.45, 0.45, 0.1]},
    "terran": {
        "unit_types": ["marine", "marauder", "medivac"],
        "weights": [0.45, 0.45, 0.1],
        "exception_unit_types": ["medivac"],  # no team is made of these alone
    },
    "zerg": {
        "unit_types": ["zergling", "baneling", "hydralisk"],
        "weights": [0.45, 0.1, 0.45],
        "exception_unit_types": ["baneling"],
    },
}
SCENARIOS = tuple(f"{race}_{numbers}" for race in TEAMS for numbers in NUMBERS)
MAP_FILE = "32x32_flat"  # on which all of them are played


def scenario_args(name: str) -> dict[str, Any]:
    """Arguments of SMACv2's environment for the scenario ``name``."""
    race, allies, _, enemies = name.split("_")
    team = copy.deepcopy(TEAMS[race])
    return {
        "map_name": f"10gen_{race}",
        "capability_config": {
            "n_units": int(allies),
            "n_enemies": int(enemies),
            "team_gen": {"dist_type": "weighted_teams", "observe": True, **team},
            "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
        },
    }
