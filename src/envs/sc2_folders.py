"""Temporary folders of games, named by the process that owns them, so that a dead one's can be told."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def games_root() -> Path:
    """Where this user's games keep their temporary files."""
    root = Path(tempfile.gettempdir(), f"marl-sc2-{os.getuid()}")
    root.mkdir(mode=0o700, exist_ok=True)
    return root


def own_folder() -> Path:
    """Where the games of this process keep theirs."""
    folder = games_root() / str(os.getpid())
    folder.mkdir(exist_ok=True)
    return folder


def remove_own_folder() -> None:
    """Remove this process's folder unless a game still uses it."""
    with contextlib.suppress(OSError):
        (games_root() / str(os.getpid())).rmdir()


def sweep() -> None:
    """Remove what processes that were killed have left."""
    for folder in games_root().iterdir():
        if folder.name.isdigit() and not _is_alive(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone, or its number now another user's
        return False
    return True
