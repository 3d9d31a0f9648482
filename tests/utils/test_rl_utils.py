"""Returns of padded episodes against a plain loop over each episode."""

import pytest
import torch

from utils.rl_utils import (
    clipped_surrogate,
    delayed,
    lambda_returns,
    log_softmax,
    masked_mean,
    softmax,
    standardised,
    step_mask,
)

GAMMA = 0.9


def slow_returns(rewards, terminated, length, next_values, lam):
    """TD(lambda) as it is defined, for one episode: (1 - lam) * the sum of lam^(n-1) * n-step return."""
    returns = []
    for t in range(length):
        n_steps = []
        for n in range(1, length - t + 1):
            end = t + n - 1
            value = sum(GAMMA ** (k - t) * rewards[k] for k in range(t, end + 1))
            n_steps.append(value + GAMMA**n * (1 - terminated[end]) * next_values[end])
        total = lam ** (len(n_steps) - 1) * n_steps[-1]
        total += (1 - lam) * sum(lam**i * value for i, value in enumerate(n_steps[:-1]))
        returns.append(total)
    return returns


def episodes():
    """Two that end in a terminal, one that is cut off; filled includes each arrival."""
    torch.manual_seed(0)
    lengths, size = [6, 3, 4], 6
    filled = torch.zeros(3, size + 1, 1, dtype=torch.long)
    terminated = torch.zeros(3, size, 1)
    for i, length in enumerate(lengths):
        filled[i, : length + 1] = 1
        terminated[i, length - 1] = float(i != 2)
    return lengths, filled, terminated, torch.randn(3, size, 1), torch.randn(3, size, 2)


@pytest.mark.parametrize("lam", [0.0, 0.6, 0.95, 1.0])
def test_lambda_returns_are_the_mixture_of_n_step_returns(lam):
    lengths, filled, terminated, rewards, next_values = episodes()
    fast = lambda_returns(rewards, terminated, step_mask(filled), next_values, GAMMA, lam)
    assert fast.shape == (3, 6, 2)
    for i, length in enumerate(lengths):
        for k in range(2):
            slow = slow_returns(rewards[i, :, 0], terminated[i, :, 0], length, next_values[i, :, k], lam)
            torch.testing.assert_close(fast[i, :length, k], torch.stack(slow))
        assert (fast[i, length:] == 0).all()


def test_a_time_limit_is_bootstrapped_and_a_terminal_is_not():
    lengths, filled, terminated, rewards, next_values = episodes()
    mask = step_mask(filled)
    before = lambda_returns(rewards, terminated, mask, next_values, GAMMA, 0.95)
    for i, length in enumerate(lengths):
        raised = next_values.clone()
        raised[i, length - 1] += 1.0
        after = lambda_returns(rewards, terminated, mask, raised, GAMMA, 0.95)
        gain = GAMMA if i == 2 else 0.0
        torch.testing.assert_close(after[i, length - 1] - before[i, length - 1], torch.full((2,), gain))


def test_values_in_padding_change_nothing():
    _, filled, terminated, rewards, next_values = episodes()
    mask = step_mask(filled)
    returns = lambda_returns(rewards, terminated, mask, next_values, GAMMA, 0.95)
    noisy = torch.where(mask > 0, next_values, 1e6)
    torch.testing.assert_close(
        returns, lambda_returns(torch.where(mask > 0, rewards, 1e6), terminated, mask, noisy, GAMMA, 0.95)
    )


def test_an_arrival_is_no_step():
    filled = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).unsqueeze(2)
    assert step_mask(filled).squeeze(2).tolist() == [[1, 1, 0], [1, 1, 1]]


def test_masked_statistics_ignore_masked_entries():
    values = torch.tensor([[1.0, 3.0, 99.0], [5.0, 7.0, -99.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    assert masked_mean(values, mask) == 4.0
    scaled = standardised(values, mask)[:, :2]
    assert abs(scaled.mean().item()) < 1e-6
    assert scaled.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("outcomes", [1, 8, 15, 16, 30])
@pytest.mark.parametrize(("ours", "theirs"), [(log_softmax, torch.log_softmax), (softmax, torch.softmax)])
def test_softmax_and_its_logarithm_are_torchs_with_their_gradients(ours, theirs, outcomes):
    torch.manual_seed(0)
    logits = (10 * torch.randn(4, 3, outcomes)).requires_grad_()
    weights = torch.randn(4, 3, outcomes)
    results = [ours(logits), theirs(logits, dim=-1)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad((x * weights).sum(), logits)[0] for x in results))


def test_what_is_delayed_comes_a_step_later():
    values = torch.arange(1.0, 7.0).view(1, 3, 2)
    assert delayed(values).tolist() == [[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]]
    first = torch.tensor([[7.0, 8.0]])
    assert delayed(values, first).tolist() == [[[7.0, 8.0], [1.0, 2.0], [3.0, 4.0]]]


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [(1.1, 1.0, 1.0), (1.3, 1.0, 0.0), (0.7, 1.0, 1.0), (1.3, -1.0, -1.0), (0.7, -1.0, 0.0)],
)
def test_a_ratio_is_moved_no_further_than_the_clip(ratio, advantage, slope):
    ratio = torch.tensor(ratio, requires_grad=True)
    objective = clipped_surrogate(ratio, torch.tensor(advantage), 0.2)
    assert objective.item() <= ratio.item() * advantage + 1e-6
    (gradient,) = torch.autograd.grad(objective, ratio)
    assert gradient.item() == slope
