"""What runs in an environment's process."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from envs.episodes import Episodes, info_of
from utils.processes import end_with_parent
from utils.seeding import seed_global_generators


class Failure(NamedTuple):
    """An exception in the worker, as sent to the parent."""

    message: str
    traceback: str
    refused: bool = False  # the environment objected to its arguments when it was to be made


def serve(connection: Connection, pickled_factory: bytes, seed: int) -> None:
    """Makes the environment, sends its sizes, then answers commands until "close".

    Ends with the parent: it is killed with it where the system can do that, and otherwise notices that the
    other end of the pipe is gone. Interrupts, which may reach the whole process group, are its business.
    """
    for interrupt in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(interrupt, signal.SIG_IGN)
    end_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it ended before it could be watched
        return
    try:
        try:
            env = pickle.loads(pickled_factory)(seed)
        except ValueError as error:
            connection.send(Failure(str(error), traceback.format_exc(), refused=True))
            return
        episodes = Episodes(env, seed)
        connection.send(info_of(env))
        while True:
            command, content = connection.recv()
            if command == "close":
                break
            connection.send(_answer(episodes, command, content))
        episodes.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send(Failure(f"{type(error).__name__}: {error}", traceback.format_exc()))


def _answer(episodes: Episodes, command: str, content: Any) -> Any:
    match command:
        case "step":
            return episodes.step(content)
        case "reset":
            seed_global_generators(content)  # simulators such as SMACv2 draw from them
            return episodes.reset(content)
        case "state_dict":
            return packed(episodes.state_dict())
        case "load_state_dict":
            episodes.load_state_dict(unpacked(content))
            return episodes.look()
    raise ValueError(f"an environment's process knows no command {command!r}")


def packed(state: dict[str, Any]) -> bytes:
    """A state as it goes through a pipe, which would share its tensors' memory between the processes.

    By torch's own format, as pickle can't read tensors of every type; no bytes if the state is empty, so that
    environments that have none need no torch.
    """
    if not state:
        return b""
    import torch

    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def unpacked(content: bytes) -> dict[str, Any]:
    """What was :func:`packed`."""
    if not content:
        return {}
    import torch

    state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return state
