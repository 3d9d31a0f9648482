"""The GRU against torch's own."""

import pytest
import torch
from torch import nn

from modules.gru import GRU, _Unrolled

N, INPUTS, WIDTH = 7, 5, 12


def make(steps: int) -> tuple[GRU, nn.GRU, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    ours, theirs = GRU(INPUTS, WIDTH), nn.GRU(INPUTS, WIDTH)
    theirs.load_state_dict(ours.state_dict())
    x, hidden = 2 * torch.randn(steps, N, INPUTS), torch.randn(N, WIDTH)
    return ours, theirs, x.requires_grad_(), hidden.requires_grad_()


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_states_and_all_gradients_are_those_of_torchs(steps: int) -> None:
    ours, theirs, x, hidden = make(steps)
    weights = torch.randn(steps, N, WIDTH)

    def gradients(states: torch.Tensor, gru: nn.GRU) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((states * weights).sum(), [x, hidden, *gru.parameters()])

    states, expected = ours(x, hidden), theirs(x, hidden.unsqueeze(0))[0]
    torch.testing.assert_close(states, expected)
    for gradient, of_torch in zip(gradients(states, ours), gradients(expected, theirs), strict=True):
        torch.testing.assert_close(gradient, of_torch, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_small_changes() -> None:
    ours, _, x, hidden = make(6)
    weights = list(ours.double().parameters())
    steps = x.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(
        _Unrolled.apply, (steps, hidden.detach().double().requires_grad_(), *weights)
    )


def test_whatever_is_large_saturates_and_stays_finite() -> None:
    ours, theirs, x, hidden = make(9)
    states = ours(1e4 * x, hidden)
    torch.testing.assert_close(states, theirs(1e4 * x, hidden.unsqueeze(0))[0])
    states.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_without_gradients_the_states_are_the_same() -> None:
    ours, _, x, hidden = make(9)
    with torch.no_grad():
        plain = ours(x, hidden)
    assert torch.equal(ours(x, hidden), plain)
