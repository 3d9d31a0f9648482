"""One seed per run, from which every random stream is derived.

Streams are derived by spawning, not by counting on from the seed, so that runs with neighbouring seeds, and
neighbouring environments within a run, share nothing.
"""

import random
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
    """Seed the global generators of Python, numpy and torch, each with its own stream of ``seed``."""
    import torch  # here, so that deriving seeds alone stays free of torch

    random.seed(spawn(seed, "python", 1)[0])
    np.random.seed(spawn(seed, "numpy", 1)[0])
    torch.manual_seed(spawn(seed, "torch", 1)[0])


def draw_seed() -> int:
    """Return a fresh seed from the operating system's entropy, for a run that was given none."""
    return random.SystemRandom().randrange(2**31)
