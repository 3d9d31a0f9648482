"""StarCraft II processes, many side by side: own ports, own temporary folders, none left behind.

Imports PySC2; :func:`envs.sc2_preflight.use_python_protobuf` comes first.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket
from google.protobuf.message import DecodeError
from pysc2.lib import protocol, remote_controller, sc_process
from pysc2.run_configs import platforms

from envs import sc2_preflight
from envs.sc2_folders import games_root, own_folder, remove_own_folder, sweep
from utils.processes import end_with_parent

LAUNCH_SLOTS = 4  # games of this user that start at the same moment; the others wait
PORTS = range(16384, 32768)  # below those that systems hand out to outgoing connections
SLOT_POLL = 0.1  # seconds between looks for a free slot

# What PySC2 raises when the game ends, hangs, does not start or answers nonsense.
GAME_ERRORS = (
    protocol.ConnectionError,
    protocol.ProtocolError,
    remote_controller.ConnectError,
    remote_controller.RequestError,
    sc_process.SC2LaunchError,
    websocket.WebSocketException,
    DecodeError,
    OSError,
)


class Game(sc_process.StarcraftProcess):
    """A game that ends with the process that started it and leaves nothing behind."""

    _proc: subprocess.Popen[bytes] | None

    def _launch(
        self, run_config: GuardedLinux, args: Sequence[str], **kwargs: Any
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            args,
            cwd=run_config.cwd,
            env=run_config.env,
            stdout=subprocess.DEVNULL,  # it talks a lot there, where the result of the run is printed
            preexec_fn=end_with_parent,
        )

    def _shutdown(self) -> None:
        if self._proc is not None:  # it has nothing to save, and a hung one would not listen to less
            self._proc.kill()
            self._proc.wait()
            self._proc = None

    def close(self) -> None:
        super().close()
        remove_own_folder()


class GuardedLinux(platforms.Linux):
    """How PySC2 starts the game, which picks this class for its priority."""

    def __init__(self, version: str | None = None):
        super().__init__(version=version)
        self.tmp_dir = str(own_folder())

    @classmethod
    def priority(cls) -> int | None:
        usual = super().priority()
        return usual and usual + 1

    def start(self, want_rgb: bool = False, **kwargs: Any) -> Game:
        """Starts a game and returns it when it answers."""
        binary = sc2_preflight.binary(Path(self.data_dir), self.version.build_version)
        with launch_slot() as port:
            sweep()
            self.tmp_dir = str(own_folder())
            return Game(self, exec_path=str(binary), version=self.version, port=port, **kwargs)


@contextmanager
def launch_slot() -> Iterator[int]:
    """Wait until another game may start, and hold the place meanwhile.

    Yields:
        A free port. Its remainder by the number of slots is the slot's, so that no two starting games
        choose the same.
    """
    while True:
        for slot in range(LAUNCH_SLOTS):
            with (games_root() / f"slot-{slot}.lock").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield _free_port(slot)
                return
        time.sleep(SLOT_POLL)


def _free_port(slot: int) -> int:
    while True:
        port = random.SystemRandom().randrange(PORTS.start + slot, PORTS.stop, LAUNCH_SLOTS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:  # somebody else's
            continue


def memory_mb(process: sc_process.StarcraftProcess) -> float:
    """Resident memory of a game in MB (10^6 bytes); 0 for one that has ended."""
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


atexit.register(sweep)
