"""QMIX, VDN and independent Q-learning against slow references."""

import copy

import pytest
import torch

from controllers.basic_controller import BasicMAC
from learners.q_learner import QLearner
from utils.guards import TrainingDiverged
from utils.rl_utils import masked_mean, step_mask


def make_learner(args, batch, logger) -> QLearner:
    torch.manual_seed(0)
    return QLearner(BasicMAC(batch.scheme, batch.groups, args), batch.scheme, logger, args)


def mix(mixer, qs, state) -> torch.Tensor:
    return mixer(qs.view(1, 1, -1), state.view(1, 1, -1)).view(-1)


def slow_loss(learner, batch, args) -> float:
    """Mean squared error over the real steps, one episode and one step at a time."""
    errors = []
    for b in range(batch.batch_size):
        length = int(batch["filled"][b].sum()) - 1
        episode = batch[b, : length + 1]
        with torch.no_grad():
            online, target = learner.mac.unroll(episode)[0], learner.target_mac.unroll(episode)[0]
        best = []
        for t in range(length + 1):
            judge = (online if args.double_q else target)[t].clone()
            judge[episode["avail_actions"][0, t] == 0] = -float("inf")
            best.append(target[t].gather(1, judge.argmax(1, keepdim=True)).squeeze(1))
        state = episode["state"][0]
        following = None
        for t in reversed(range(length)):
            value = mix(learner.target_mixer, best[t + 1], state[t + 1])
            following = value if following is None else following
            onwards = (1 - args.td_lambda) * value + args.td_lambda * following
            alive = 1 - float(episode["terminated"][0, t, 0])
            following = episode["reward"][0, t] + args.gamma * alive * onwards
            taken = online[t].gather(1, episode["actions"][0, t]).squeeze(1)
            errors.append((mix(learner.mixer, taken, state[t]) - following) ** 2)
    return torch.stack(errors).mean().item()


@pytest.mark.parametrize("mixer", ["qmix", "vdn", None])
@pytest.mark.parametrize(("double_q", "td_lambda"), [(True, 0.6), (False, 0.0)])
def test_the_loss_equals_a_slow_reference(make_args, make_batch, logger, mixer, double_q, td_lambda):
    args = make_args(mixer=mixer, double_q=double_q, td_lambda=td_lambda)
    batch = make_batch([8, 3, 5], cut_off=(2,))
    learner = make_learner(args, batch, logger)
    with torch.no_grad():
        for parameter in learner.target_mac.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = slow_loss(learner, batch, args)
    learner.train(batch, 0, 0)
    assert logger.stats["loss"] == pytest.approx(expected, rel=1e-4)


def test_individual_rewards_belong_to_their_agents(make_args, make_batch, logger):
    args = make_args(mixer=None, common_reward=False)
    batch = make_batch([4, 6], rewards=3)
    learner = make_learner(args, batch, logger)
    expected = slow_loss(learner, batch, args)
    learner.train(batch, 0, 0)
    assert logger.stats["loss"] == pytest.approx(expected, rel=1e-4)


def test_rewards_are_scaled_and_nothing_is_taken_off(make_args, make_batch, logger):
    batch = make_batch([8, 3, 5])
    losses = []
    for scale in (1.0, 1000.0):
        batch["reward"][:] *= scale
        learner = make_learner(make_args(standardise_rewards=True), batch, logger)
        learner.train(batch, 0, 0)
        losses.append(logger.stats["loss"])
    real = step_mask(batch["filled"])
    batch["reward"][:, :-1] /= masked_mean(batch["reward"][:, :-1].square(), real).sqrt()
    args = make_args()
    expected = slow_loss(make_learner(args, batch, logger), batch, args)
    assert losses == pytest.approx([expected, expected], rel=1e-3)


def test_padding_changes_nothing(make_args, make_batch, logger):
    parameters = []
    for size in (9, 14):
        batch = make_batch([8, 3], size=size)
        learner = make_learner(make_args(), batch, logger)
        learner.train(batch, 0, 0)
        parameters.append(torch.cat([p.detach().flatten() for p in learner.params]))
    torch.testing.assert_close(*parameters)


def test_targets_are_copied_every_so_many_updates(make_args, make_batch, logger):
    batch = make_batch([5, 5])
    learner = make_learner(make_args(target_update_interval_or_tau=2), batch, logger)
    start = copy.deepcopy(learner.target_mac.agent.state_dict())
    learner.train(batch, 0, 0)
    assert torch.equal(learner.target_mac.agent.fc1.weight, start["fc1.weight"])
    learner.train(batch, 1, 0)
    assert torch.equal(learner.target_mac.agent.fc1.weight, learner.mac.agent.fc1.weight)
    for target, online in zip(learner.target_mixer.parameters(), learner.mixer.parameters(), strict=True):
        assert torch.equal(target, online)


def test_targets_follow_slowly_with_tau(make_args, make_batch, logger):
    batch = make_batch([5, 5])
    learner = make_learner(make_args(target_update_interval_or_tau=0.1), batch, logger)
    before = learner.target_mac.agent.fc1.weight.clone()
    learner.train(batch, 0, 0)
    expected = 0.9 * before + 0.1 * learner.mac.agent.fc1.weight
    torch.testing.assert_close(learner.target_mac.agent.fc1.weight, expected)


def test_a_restored_learner_continues_bit_equal(make_args, make_batch, logger):
    batch = make_batch([8, 3, 5])
    args = make_args(standardise_rewards=True, target_update_interval_or_tau=3)
    learner = make_learner(args, batch, logger)
    for t in range(2):
        learner.train(batch, t, 0)
    state = copy.deepcopy(learner.state_dict())
    other = make_learner(args, batch, logger)
    other.load_state_dict(state)
    for t in range(2, 5):
        learner.train(batch, t, 0)
        other.train(batch, t, 0)
    assert_equal_states(learner.state_dict(), other.state_dict())


def assert_equal_states(state, other) -> None:
    if isinstance(state, torch.Tensor):
        assert torch.equal(state, other)
    elif isinstance(state, dict):
        assert state.keys() == other.keys()
        for key in state:
            assert_equal_states(state[key], other[key])
    elif isinstance(state, list | tuple):
        for left, right in zip(state, other, strict=True):
            assert_equal_states(left, right)
    else:
        assert state == other


def test_saved_models_are_read_back(make_args, make_batch, logger, tmp_path):
    batch = make_batch([8, 3])
    learner, other = (make_learner(make_args(), batch, logger) for _ in range(2))
    learner.train(batch, 0, 0)
    learner.save_models(str(tmp_path))
    other.load_models(str(tmp_path))
    assert_equal_states(learner.state_dict(), other.state_dict())


def test_a_loss_that_is_not_finite_stops_training_before_it_spreads(make_args, make_batch, logger):
    batch = make_batch([4, 4])
    learner = make_learner(make_args(), batch, logger)
    batch["reward"][0, 1] = float("nan")
    with pytest.raises(TrainingDiverged, match="loss is not finite at environment step 70"):
        learner.train(batch, 70, 0)
    assert all(torch.isfinite(parameter).all() for parameter in learner.params)


def test_a_mixer_needs_a_common_reward(make_args, make_batch, logger):
    with pytest.raises(ValueError, match="mixer 'vdn' mixes into a common reward"):
        make_learner(make_args(mixer="vdn", common_reward=False), make_batch([3]), logger)


def test_values_of_a_fixed_batch_are_learnt(make_args, make_batch, logger):
    batch = make_batch([6, 4, 5])
    learner = make_learner(make_args(lr=1e-2, gamma=0.0), batch, logger)
    losses = []
    for t in range(60):
        learner.train(batch, t, 0)
        losses.append(logger.stats["loss"])
    assert losses[-1] < 0.2 * losses[0]
