import random

import numpy as np
import pytest
import torch

from utils.seeding import draw_seed, own_generators, seed_global_generators, spawn


def test_same_arguments_give_the_same_seeds():
    assert spawn(7, "env", 5) == spawn(7, "env", 5)


def test_known_values_do_not_change_between_versions():
    assert spawn(0, "env", 2) == [1375471110, 818642040]


def test_more_seeds_leave_the_first_ones_unchanged():
    assert spawn(3, "env", 20)[:4] == spawn(3, "env", 4)


def test_streams_and_neighbouring_seeds_share_nothing():
    seen = [s for seed in range(20) for name in ("env", "test_env", "network") for s in spawn(seed, name, 16)]
    assert len(set(seen)) == len(seen)
    assert all(0 <= s < 2**31 for s in seen)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="negative"):
        spawn(-1, "env", 1)


def _draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_global_generators_follow_the_seed():
    seed_global_generators(1)
    first = _draws()
    seed_global_generators(2)
    other = _draws()
    seed_global_generators(1)
    assert _draws() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_own_generators_leave_no_trace():
    seed_global_generators(1)
    with own_generators(2):
        inside = _draws()
    after = _draws()
    seed_global_generators(1)
    assert _draws() == after
    seed_global_generators(2)
    assert _draws() == inside


def test_drawn_seeds_differ_whatever_the_global_generator_holds():
    random.seed(0)
    first = draw_seed()
    random.seed(0)
    assert draw_seed() != first
