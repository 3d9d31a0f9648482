"""The GRU against torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from modules.gru import GRU
from torch_alone import assert_close_on_scale

INPUTS, WIDTH = 5, 12
SHRINKING = [7, 7, 5, 2, 2, 1]  # sequences at each step, when some end sooner
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=12)


def make(
    sizes: list[int], inputs: int = INPUTS, width: int = WIDTH
) -> tuple[GRU, nn.GRU, Tensor, Tensor]:
    torch.manual_seed(0)
    ours, theirs = GRU(inputs, width), nn.GRU(inputs, width)
    theirs.load_state_dict(ours.state_dict())
    x, hidden = 2 * torch.randn(sum(sizes), inputs), torch.randn(sizes[0], width)
    return ours, theirs, x.requires_grad_(), hidden.requires_grad_()


def by_torch(gru: nn.GRU, x: Tensor, hidden: Tensor, sizes: list[int]) -> Tensor:
    return gru(PackedSequence(x, torch.tensor(sizes)), hidden.unsqueeze(0))[0].data


def check(sizes: list[int], inputs: int = INPUTS, width: int = WIDTH) -> None:
    ours, theirs, x, hidden = make(sizes, inputs, width)
    weights = torch.randn(len(x), width)

    def gradients(states: Tensor, gru: nn.GRU) -> tuple[Tensor, ...]:
        return torch.autograd.grad((states * weights).sum(), [x, hidden, *gru.parameters()])

    states, expected = ours(x, hidden, sizes), by_torch(theirs, x, hidden, sizes)
    torch.testing.assert_close(states, expected)
    for gradient, of_torch in zip(gradients(states, ours), gradients(expected, theirs), strict=True):
        assert_close_on_scale(gradient, of_torch, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_states_and_all_gradients_are_those_of_torchs(steps: int) -> None:
    check([7] * steps)


@given(lengths)
@settings(max_examples=25, deadline=None)
def test_sequences_may_be_of_any_lengths(each: list[int]) -> None:
    check([sum(length > step for length in each) for step in range(max(each))])


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_inputs_and_states_may_be_of_any_width(inputs: int, width: int, rows: int) -> None:
    check([rows, rows, (rows + 1) // 2], inputs, width)


def test_whatever_is_large_saturates_and_stays_finite() -> None:
    ours, theirs, x, hidden = make(SHRINKING)
    states = ours(1e4 * x, hidden, SHRINKING)
    torch.testing.assert_close(states, by_torch(theirs, 1e4 * x, hidden, SHRINKING))
    states.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_without_gradients_the_states_are_the_same() -> None:
    ours, _, x, hidden = make(SHRINKING)
    with torch.no_grad():
        plain = ours(x, hidden, SHRINKING)
    assert torch.equal(ours(x, hidden, SHRINKING), plain)
