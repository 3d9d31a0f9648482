"""What runs in an environment's process."""

from __future__ import annotations

import ctypes
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple

from envs.episodes import Episodes, info_of

PR_SET_PDEATHSIG = 1  # prctl: the signal to get when the parent ends


class Failure(NamedTuple):
    """An exception in the worker, as sent to the parent."""

    message: str
    traceback: str


def serve(connection: Connection, pickled_factory: bytes, seed: int) -> None:
    """Makes the environment, sends its sizes, then answers commands: "reset", "step", "close".

    Ends with the parent: it is killed with it where the system can do that, and otherwise notices that the
    other end of the pipe is gone. Interrupts from the keyboard are the parent's business.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        env = pickle.loads(pickled_factory)(seed)
        episodes = Episodes(env, seed)
        connection.send(info_of(env))
        while True:
            command, actions = connection.recv()
            if command == "close":
                break
            connection.send(episodes.reset() if command == "reset" else episodes.step(actions))
        episodes.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send(Failure(f"{type(error).__name__}: {error}", traceback.format_exc()))
