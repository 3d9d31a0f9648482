"""One seed per run, from which every random stream is derived.

Streams are derived by spawning, not by counting on from the seed, so that runs with neighbouring seeds, and
neighbouring environments within a run, share nothing.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import numpy as np


def spawn(seed: int, name: str, n: int) -> list[int]:
    """Return ``n`` independent seeds in ``[0, 2**31)`` for the stream called ``name``.

    The i-th seed depends on ``seed``, ``name`` and ``i`` only: asking for more of them leaves the first ones
    unchanged.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"a seed must not be negative, got {seed}")
    key = crc32(name.encode())
    words = (np.random.SeedSequence(seed, spawn_key=(key, i)).generate_state(1) for i in range(n))
    return [int(word[0]) >> 1 for word in words]


def seed_global_generators(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, each with its own stream of ``seed``.

    Torch's where it is loaded: most environments' processes do without its 200 MB.
    """
    random.seed(spawn(seed, "python", 1)[0])
    np.random.seed(spawn(seed, "numpy", 1)[0])
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(spawn(seed, "torch", 1)[0])


class GlobalGenerators:
    """The state of what :func:`seed_global_generators` seeds, that of torch on the GPU in use included."""

    def state_dict(self) -> dict[str, Any]:
        import torch

        numpy_state: Any = np.random.get_state(legacy=False)
        words = torch.from_numpy(numpy_state["state"]["key"].copy())
        return {
            "python": random.getstate(),
            "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": words}},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        import torch

        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        inner = state["numpy"]["state"]
        np.random.set_state({**state["numpy"], "state": {**inner, "key": inner["key"].numpy()}})
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Let the global generators start from ``seed``, and go on afterwards as if nothing had been drawn."""
    before = GlobalGenerators().state_dict()
    seed_global_generators(seed)
    try:
        yield
    finally:
        GlobalGenerators().load_state_dict(before)


def draw_seed() -> int:
    """Return a fresh seed from the operating system's entropy, for a run that was given none."""
    return random.SystemRandom().randrange(2**31)
