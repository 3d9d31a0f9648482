"""Running moments against those of all data at once."""

import pytest
import torch

from components.standarize_stream import RunningMeanStd


def test_moments_of_a_stream_are_those_of_all_its_rows():
    torch.manual_seed(0)
    data = torch.randn(50, 7, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, -3.0, 100.0])
    stats = RunningMeanStd(shape=(3,), epsilon=1e-8)
    for part in data.split([1, 9, 40]):
        stats.update(part)
    rows = data.view(-1, 3)
    torch.testing.assert_close(stats.mean, rows.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stats.var, rows.var(0, correction=0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(stats.denormalise(stats.normalise(data)), data, rtol=1e-4, atol=1e-3)


def test_masked_rows_do_not_count():
    torch.manual_seed(0)
    data = torch.randn(8, 5, 2)
    mask = (torch.rand(8, 5, 1) < 0.5).float()
    masked, plain = RunningMeanStd(shape=(2,)), RunningMeanStd(shape=(2,))
    masked.update(torch.where(mask > 0, data, 1e9), mask)
    plain.update(data[mask.squeeze(2) > 0])
    torch.testing.assert_close(masked.mean, plain.mean)
    torch.testing.assert_close(masked.var, plain.var)
    assert masked.count == plain.count


def test_one_scale_may_serve_all_columns():
    torch.manual_seed(0)
    data = torch.randn(20, 3)
    stats = RunningMeanStd(shape=(1,), epsilon=1e-8)
    stats.update(data, torch.ones(20, 1))
    torch.testing.assert_close(stats.mean, data.mean().view(1))
    torch.testing.assert_close(stats.var, data.var(correction=0).view(1))


def test_scaled_values_have_a_mean_square_of_one_and_keep_their_signs():
    torch.manual_seed(0)
    stats = RunningMeanStd(shape=(1,), epsilon=1e-8)
    data = 5 * torch.randn(100, 1) + 20
    scaled = stats.scale(data)
    assert scaled.square().mean().item() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(scaled * data.square().mean().sqrt(), data)


def test_values_that_never_change_are_scaled_to_one():
    stats = RunningMeanStd(shape=(1,), epsilon=1e-8)
    torch.testing.assert_close(stats.scale(torch.full((50, 1), -0.1)), -torch.ones(50, 1))


def test_state_roundtrip():
    stats, other = RunningMeanStd(shape=(2,)), RunningMeanStd(shape=(2,))
    stats.update(torch.randn(10, 2))
    other.load_state_dict(stats.state_dict())
    more = torch.randn(10, 2)
    stats.update(more)
    other.update(more)
    assert torch.equal(stats.mean, other.mean)
    assert torch.equal(stats.var, other.var)
