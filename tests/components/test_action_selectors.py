"""Actions are drawn as asked, and never an unavailable one."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from components.action_selectors import REGISTRY
from components.epsilon_schedules import DecayThenFlatSchedule

ARGS = SimpleNamespace(
    epsilon_start=1.0, epsilon_finish=0.1, epsilon_anneal_time=100, evaluation_epsilon=0.0, test_greedy=True,
    commitment_strength=2.0, commitment_environments=1.0, commitment_share=0.5, commitment_steps=4.0,
)  # fmt: skip


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


def committed(**settings):
    return REGISTRY["committed_policies"](SimpleNamespace(**{**vars(ARGS), **settings}))


def test_agents_commit_together_for_a_while_and_each_environment_to_its_own():
    torch.manual_seed(0)
    selector = committed(commitment_strength=1e8, commitment_share=1.0)
    pi, avail = torch.full((4000, 3, 8), 1 / 8), torch.ones(4000, 3, 8)
    actions = torch.stack([selector.select_action(pi, avail, t_env=0) for _ in range(20)])
    assert (actions == actions[..., :1]).all()
    counts = actions[0, :, 0].bincount(minlength=8) / 4000
    torch.testing.assert_close(counts, torch.full((8,), 1 / 8), atol=0.02, rtol=0)
    changes = (actions[1:, :, 0] != actions[:-1, :, 0]).float().mean().item()
    assert changes == pytest.approx(1 / 4 * 7 / 8, abs=0.01)  # a new preference may be for the same


def test_a_preference_moves_probabilities_by_its_strength():
    torch.manual_seed(0)
    selector, pi = committed(commitment_steps=1e9), torch.tensor([0.6, 0.3, 0.1])
    shape = (400, 500, 3)  # 500 agents each, of whom all have one preference
    actions = selector.select_action(pi.expand(shape), torch.ones(shape), t_env=0)
    preferences = selector.state_dict()["preferences"]
    counts = torch.nn.functional.one_hot(actions, 3).float().mean(dim=1)
    expected = (pi.log() + preferences[:, 0]).softmax(dim=-1)
    torch.testing.assert_close(counts, expected, atol=0.1, rtol=0)
    indifferent = (preferences == 0).all(dim=-1).float().mean().item()
    assert indifferent == pytest.approx(0.5, abs=0.08)
    assert preferences[preferences != 0].std().item() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(("number", "committing"), [(8, 2), (5, 2), (1, 1)])
def test_only_some_environments_commit_but_at_least_one(number, committing):
    selector = committed(commitment_environments=0.25, commitment_share=1.0)
    for _ in range(20):
        selector.select_action(torch.full((number, 3, 5), 0.2), torch.ones(number, 3, 5), t_env=0)
        preferring = selector.state_dict()["preferences"].any(dim=-1).flatten()
        assert preferring.tolist() == [i < committing for i in range(number)]


def test_nobody_is_committed_in_tests():
    torch.manual_seed(0)
    pi, avail = torch.tensor([0.5, 0.3, 0.2]).expand(20000, 1, 3), torch.ones(20000, 1, 3)
    selector = committed(commitment_strength=100.0, test_greedy=False)
    actions = selector.select_action(pi, avail, t_env=0, test_mode=True).flatten()
    torch.testing.assert_close(actions.bincount(minlength=3) / 20000, pi[0, 0], atol=0.015, rtol=0)


def test_commitments_go_on_after_a_restore_and_end_with_their_environments():
    selector, other = committed(), committed()
    pi, avail = torch.rand(6, 3, 5), torch.ones(6, 3, 5)
    selector.select_action(pi, avail, t_env=0)
    other.load_state_dict(selector.state_dict())
    draws = []
    for one in (selector, other):
        torch.manual_seed(1)
        draws.append(torch.stack([one.select_action(pi, avail, t_env=0) for _ in range(10)]))
    assert torch.equal(*draws)
    assert selector.select_action(pi[:4], avail[:4], t_env=0).shape == (4, 3)


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
