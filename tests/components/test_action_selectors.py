"""Actions are drawn as asked, and never an unavailable one."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from components.action_selectors import REGISTRY
from components.epsilon_schedules import DecayThenFlatSchedule

ARGS = SimpleNamespace(
    epsilon_start=1.0, epsilon_finish=0.1, epsilon_anneal_time=100, evaluation_epsilon=0.0, test_greedy=True
)


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("test_mode", [False, True])
def test_unavailable_actions_are_never_taken(name, test_mode):
    torch.manual_seed(0)
    avail = (torch.rand(500, 3, 6) < 0.4).int()
    avail[..., 5] = 1
    scores = torch.where(avail > 0, 1e-30, 1.0)  # what may be done looks worst
    actions = REGISTRY[name](ARGS).select_action(scores, avail, t_env=50, test_mode=test_mode)
    assert actions.shape == (500, 3)
    assert actions.dtype == torch.int64
    assert (avail.gather(2, actions.unsqueeze(2)) == 1).all()


def test_epsilon_is_the_share_of_random_actions():
    torch.manual_seed(0)
    selector = REGISTRY["epsilon_greedy"](ARGS)
    q_values = torch.tensor([5.0, 1.0, 2.0, 9.0]).expand(20000, 1, 4)
    avail = torch.tensor([1, 1, 1, 0]).expand(20000, 1, 4)
    counts = selector.select_action(q_values, avail, t_env=50).flatten().bincount(minlength=4) / 20000
    epsilon = 0.55
    expected = torch.tensor([1 - epsilon + epsilon / 3, epsilon / 3, epsilon / 3, 0.0])
    torch.testing.assert_close(counts, expected, atol=0.015, rtol=0)
    assert selector.epsilon == pytest.approx(epsilon)
    assert (selector.select_action(q_values, avail, t_env=50, test_mode=True) == 0).all()
    assert selector.epsilon == pytest.approx(epsilon)  # a test doesn't disturb what training reports


def test_a_policy_is_sampled_in_training_and_taken_greedily_in_tests():
    torch.manual_seed(0)
    pi = torch.tensor([0.5, 0.3, 0.2]).expand(20000, 1, 3)
    avail = torch.tensor([1, 1, 1]).expand(20000, 1, 3)
    selector = REGISTRY["soft_policies"](ARGS)
    counts = selector.select_action(pi, avail, t_env=0).flatten().bincount(minlength=3) / 20000
    torch.testing.assert_close(counts, pi[0, 0], atol=0.015, rtol=0)
    assert (selector.select_action(pi, avail, t_env=0, test_mode=True) == 0).all()
    sampling = REGISTRY["soft_policies"](SimpleNamespace(test_greedy=False))
    assert sampling.select_action(pi, avail, t_env=0, test_mode=True).unique().tolist() == [0, 1, 2]


def test_selector_state_roundtrip():
    selector, other = REGISTRY["epsilon_greedy"](ARGS), REGISTRY["epsilon_greedy"](ARGS)
    selector.select_action(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), t_env=80)
    other.load_state_dict(selector.state_dict())
    assert other.epsilon == selector.epsilon != ARGS.epsilon_start


@pytest.mark.parametrize("decay", ["linear", "exp"])
def test_schedules_fall_and_then_stay(decay):
    schedule = DecayThenFlatSchedule(1.0, 0.05, 200, decay=decay)
    values = [schedule.eval(t) for t in range(0, 400, 10)]
    assert values[0] == 1.0
    assert all(a > b for a, b in pairwise(values[:21]))
    assert set(values[20:]) == {0.05}


def test_a_schedule_of_no_length_is_constant_and_an_unknown_decay_is_refused():
    assert DecayThenFlatSchedule(1.0, 0.1, 0, decay="linear").eval(0) == 0.1
    with pytest.raises(ValueError, match="unknown decay 'cubic'"):
        DecayThenFlatSchedule(1.0, 0.1, 10, decay="cubic")
