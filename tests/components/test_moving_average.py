"""The weights that imagine are the average of those that learn."""

import torch
from torch import nn

from components.moving_average import MovingAverage


def test_it_is_the_average_written_out() -> None:
    torch.manual_seed(0)
    source, average = nn.Linear(3, 2), nn.Linear(3, 2)
    moving = MovingAverage(average, source, decay=0.9)
    expected = [p.detach().clone() for p in average.parameters()]
    for n in range(100):
        with torch.no_grad():
            for p in source.parameters():
                p.add_(torch.randn_like(p))
        moving.update()
        kept = min(0.9, (1 + n) / (10 + n))
        expected = [kept * e + (1 - kept) * p for e, p in zip(expected, source.parameters(), strict=True)]
    for ours, reference in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, reference)


def test_without_decay_it_is_the_source() -> None:
    source, average = nn.Linear(3, 2), nn.Linear(3, 2)
    MovingAverage(average, source, decay=0.0).update()
    for ours, theirs in zip(average.parameters(), source.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_resumed_one_goes_on() -> None:
    source, average, again = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)
    moving = MovingAverage(average, source, decay=0.99)
    for _ in range(5):
        moving.update()
    again.load_state_dict(average.state_dict())
    resumed = MovingAverage(again, source, decay=0.99)
    resumed.load_state_dict(moving.state_dict())
    with torch.no_grad():
        source.weight.add_(1.0)
    moving.update()
    resumed.update()
    assert torch.equal(average.weight, again.weight)
