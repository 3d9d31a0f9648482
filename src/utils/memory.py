"""How much memory there is: buffers ask before they allocate, so that a run too large is refused at once."""

from pathlib import Path

import psutil
import torch
from rich.filesize import decimal

CGROUP = Path("/sys/fs/cgroup")  # where a container finds its own limits
LIMITS = (  # limit, usage, statistics: cgroups of version 2, then 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def require(what: str, nbytes: int, device: torch.device | str, keys: str) -> None:
    """Refuse what does not fit.

    Args:
        what: what wants the memory.
        nbytes: how much.
        device: where.
        keys: the configuration's keys that make it smaller.

    Raises:
        ValueError: less memory than that is free.
    """
    free = available(device)
    if nbytes > free:
        raise ValueError(
            f"The {what} would take {text(nbytes)} of memory, but {text(free)} are free: lower {keys}."
        )


def available(device: torch.device | str = "cpu") -> int:
    """Bytes that can be allocated: on a GPU, or here within the limits of a container."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([int(psutil.virtual_memory().available), *_left_in_container()])


def _left_in_container() -> list[int]:
    left = []
    for limit, usage, statistics in LIMITS:
        try:
            most = (CGROUP / limit).read_text().strip()
            if most == "max":
                continue
            numbers = dict(line.split() for line in (CGROUP / statistics).read_text().splitlines())
            cache = int(numbers.get("inactive_file", 0))  # of files, given up when memory is needed
            left.append(int(most) - int((CGROUP / usage).read_text()) + cache)
        except (OSError, ValueError):
            continue  # no such limit here
    return left


def text(nbytes: int) -> str:
    """A size as people read it, such as ``1.50 GB``."""
    return decimal(nbytes, precision=2)
