"""Mixers: monotonic in every agent's value, equal to a plain reference."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from modules.mixers import REGISTRY

N_AGENTS, STATE = 4, 6


def make(name: str, layers: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return REGISTRY[name](
        SimpleNamespace(
            n_agents=N_AGENTS,
            state_shape=STATE,
            mixing_embed_dim=8,
            hypernet_layers=layers,
            hypernet_embed=16,
        )
    )


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_total_never_falls_when_an_agents_value_rises(name):
    mixer = make(name)
    qs = (torch.randn(5, 7, N_AGENTS) * 10).requires_grad_()
    total = mixer(qs, torch.randn(5, 7, STATE))
    assert total.shape == (5, 7, 1)
    (gradient,) = torch.autograd.grad(total.sum(), qs)
    assert (gradient >= 0).all()
    assert (gradient > 0).any()


@pytest.mark.parametrize("layers", [1, 2])
def test_qmix_equals_one_state_at_a_time(layers):
    mixer = make("qmix", layers)
    qs, states = torch.randn(3, 4, N_AGENTS), torch.randn(3, 4, STATE)
    total = mixer(qs, states)
    for b in range(3):
        for t in range(4):
            weights = mixer.hyper_w_1(states[b, t]).abs().view(N_AGENTS, 8)
            hidden = F.elu(qs[b, t] @ weights + mixer.hyper_b_1(states[b, t]))
            expected = hidden @ mixer.hyper_w_final(states[b, t]).abs() + mixer.hyper_b_final(states[b, t])
            torch.testing.assert_close(total[b, t], expected)


def test_vdn_is_the_sum():
    qs = torch.randn(2, 3, N_AGENTS)
    torch.testing.assert_close(make("vdn")(qs, torch.randn(2, 3, STATE)).squeeze(2), qs.sum(2))


def test_three_hypernet_layers_are_refused():
    with pytest.raises(ValueError, match="hypernet_layers must be 1 or 2, got 3"):
        make("qmix", 3)
