"""Real steps of padded episodes: nothing is lost, nothing is added, the longest come first."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.real_steps import RealSteps

lengths = st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any)


def filled(each: list[int], padding: int = 1) -> torch.Tensor:
    steps = torch.arange(max(each) + padding)
    return (steps < torch.tensor(each).unsqueeze(1)).long().unsqueeze(-1)


@given(lengths)
@settings(deadline=None)  # a process loads parts of torch with its first call
def test_they_come_step_by_step_and_longer_episodes_first(each):
    real = RealSteps(filled(each))
    numbers = torch.arange(len(each) * real.shape[1]).view(real.shape)  # episode and step
    expected = [
        numbers[episode, step].item()
        for step in range(max(each))
        for episode in sorted(range(len(each)), key=lambda e: -each[e])
        if step < each[episode]
    ]
    assert real.of(numbers).tolist() == expected
    assert real.sizes == [sum(length > step for length in each) for step in range(max(each))]
    first = real.episode[: real.sizes[0]]
    assert [each[episode] for episode in first] == sorted(filter(None, each), reverse=True)


@given(lengths)
@settings(deadline=None)  # a process loads parts of torch with its first call
def test_padded_again_they_are_where_they_were(each):
    mask = filled(each)
    real, values = RealSteps(mask), torch.rand(*mask.shape[:2], 3)
    torch.testing.assert_close(real.padded(real.of(values)), values * mask)


def test_gradients_reach_real_steps_alone():
    mask = filled([2, 4])
    values = torch.rand(*mask.shape[:2], 3, requires_grad=True)
    real = RealSteps(mask)
    real.padded(real.of(values)).sum().backward()
    torch.testing.assert_close(values.grad, mask.float().expand_as(values))
