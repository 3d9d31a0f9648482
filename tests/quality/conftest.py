"""Recorded play made up for tests."""

import pytest
import torch

from quality.held_out import HeldOut

N_AGENTS, OBS, STATE, N_ACTIONS, LENGTHS = 2, 3, 4, 5, (9, 6, 9, 8)


@pytest.fixture
def data():
    """Four episodes that end in a terminal; each observation starts with the episode's number."""
    generator = torch.Generator().manual_seed(0)
    time = max(LENGTHS)
    filled = torch.arange(time) < torch.tensor(LENGTHS)[:, None]
    last = filled & ~torch.nn.functional.pad(filled[:, 1:], (0, 1))

    def noise(*shape):
        values = torch.randn(len(LENGTHS), time, *shape, generator=generator)
        return values * filled.view(*filled.shape, *[1] * len(shape))

    obs = noise(N_AGENTS, OBS)
    obs[..., 0] = (torch.arange(len(LENGTHS)) + 1.0)[:, None, None] * filled[..., None]
    actions = torch.randint(N_ACTIONS, (len(LENGTHS), time, N_AGENTS), generator=generator)
    return HeldOut(obs, noise(STATE), actions, noise(), 1.0 - last.float(), filled)
