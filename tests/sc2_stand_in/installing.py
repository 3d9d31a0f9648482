"""Makes a folder that PySC2 takes for an installation of the game."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

BUILD = 75689  # the folder's name says 4.10, which SMAC's results are for
GAME_VERSION = "stand-in"
FAULT_VARIABLE = "SC2_STAND_IN_FAULT"
GAME = Path(__file__).with_name("game.py")


def install(folder: Path, maps: Iterable[str]) -> Path:
    """Put the stand-in and files in place of ``maps`` into ``folder``, and return it.

    The maps' files hold no maps: who plays on them is known by the files' names.
    """
    binary = folder / "Versions" / f"Base{BUILD}" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{GAME}" "$@"\n')
    binary.chmod(0o755)
    (folder / ".build.info").write_text(
        f"Branch!STRING:0|Active!DEC:1|Version!STRING:0\nxx|1|{GAME_VERSION}\n"
    )
    map_folder = folder / "Maps" / "SMAC_Maps"
    map_folder.mkdir(parents=True)
    for name in maps:
        (map_folder / f"{name}.SC2Map").write_text(f"stand-in for {name}\n")
    return folder
