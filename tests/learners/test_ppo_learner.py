"""MAPPO and IPPO against slow references."""

import copy
import math

import pytest
import torch

from controllers.basic_controller import BasicMAC
from learners import ppo_learner
from learners.ppo_learner import PPOLearner
from utils.guards import TrainingDiverged

POLICY = {"agent_output_type": "pi_logits", "action_selector": "soft_policies"}


def make_learner(args, batch, logger) -> PPOLearner:
    torch.manual_seed(0)
    mac = BasicMAC(batch.scheme, batch.groups, args)
    return PPOLearner(mac, batch.scheme, logger, args)


def parameters(learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.agent_params + learner.critic_params])


def slow_first_losses(learner, batch, args, ratio=1.0) -> tuple[float, float]:
    """Policy and critic loss before the first gradient step, one episode and one step at a time.

    All actions are `ratio` times as likely as they were when they were chosen.
    """
    advantages, entropies, targets, values = [], [], [], []
    for b in range(batch.batch_size):
        length = int(batch["filled"][b].sum()) - 1
        episode = batch[b, : length + 1]
        with torch.no_grad():
            value = learner.critic(episode)[0, :, :, 0]
            log_pi = learner.mac.unroll(episode)[0].log_softmax(-1)
        following = torch.zeros(args.n_agents)
        for t in reversed(range(length)):
            alive = 1 - float(episode["terminated"][0, t, 0])
            delta = episode["reward"][0, t] + args.gamma * alive * value[t + 1] - value[t]
            following = delta + args.gamma * args.gae_lambda * alive * following
            targets.append(following + value[t])
            values.append(value[t])
            for i in range(args.n_agents):
                if episode["avail_actions"][0, t, i].sum() > 1:
                    advantages.append(following[i])
                    entropies.append(-(log_pi[t, i].exp() * log_pi[t, i]).sum())
    advantage = torch.stack(advantages)
    advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-5)
    clipped = min(max(ratio, 1 - args.eps_clip), 1 + args.eps_clip)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    pg_loss = -surrogate.mean() - args.entropy_coef * torch.stack(entropies).mean()
    return pg_loss.item(), (torch.stack(values) - torch.stack(targets)).square().mean().item()


@pytest.mark.parametrize("critic_type", ["cv_critic", "ac_critic"])
@pytest.mark.parametrize("rewards", [1, 3])
@pytest.mark.parametrize("chunk_length", [0, 4])
def test_the_first_losses_equal_a_slow_reference(
    make_args, make_batch, logger, critic_type, rewards, chunk_length
):
    args = make_args(
        **POLICY, epochs=1, minibatches=1, normalise_values=False, critic_type=critic_type,
        common_reward=rewards == 1, chunk_length=chunk_length,
    )  # fmt: skip
    batch = make_batch([8, 3, 6], cut_off=(2,), rewards=rewards)
    learner = make_learner(args, batch, logger)
    pg_loss, critic_loss = slow_first_losses(learner, batch, args)
    learner.train(batch, 0, 0)
    assert logger.stats["pg_loss"] == pytest.approx(pg_loss, abs=1e-5)
    assert logger.stats["critic_loss"] == pytest.approx(critic_loss, rel=1e-4)


@pytest.mark.parametrize("ratio", [0.5, 1.1, 3.0])
@pytest.mark.parametrize("in_chunks", [True, False])
def test_the_old_policy_is_the_one_that_chose(make_args, make_batch, logger, monkeypatch, ratio, in_chunks):
    args = make_args(**POLICY, epochs=1, minibatches=1, normalise_values=False)
    batch = make_batch([8, 3, 6], cut_off=(2,))
    learner = make_learner(args, batch, logger)
    noted = make_batch([8, 3, 6], cut_off=(2,), more=learner.mac.noted_fields)
    with torch.no_grad():
        log_pi = learner.mac.unroll(noted).log_softmax(-1).gather(-1, noted["actions"])
    noted["log_probs"].copy_(log_pi - math.log(ratio))
    pg_loss, _ = slow_first_losses(learner, batch, args, ratio)
    if not in_chunks:  # as for a critic of EPyMARL
        monkeypatch.setattr(ppo_learner, "can_unroll", lambda mac: False)
    learner.train(noted, 0, 0)
    assert logger.stats["pg_loss"] == pytest.approx(pg_loss, abs=1e-5)


def test_chunks_as_long_as_the_episodes_are_whole_episodes(make_args, make_batch, logger):
    results = []
    for chunk_length in (0, 8):
        batch = make_batch([8, 3, 6])
        learner = make_learner(make_args(**POLICY, chunk_length=chunk_length), batch, logger)
        learner.train(batch, 0, 0)
        results.append(parameters(learner))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("normalise_values", [False, True])
def test_padding_changes_nothing(make_args, make_batch, logger, normalise_values):
    results = []
    for size in (9, 15):
        batch = make_batch([8, 3, 6], size=size)
        args = make_args(**POLICY, normalise_values=normalise_values)
        learner = make_learner(args, batch, logger)
        learner.train(batch, 0, 0)
        results.append(parameters(learner))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_steps_without_a_choice_give_the_policy_no_gradient(make_args, make_batch, logger):
    batch = make_batch([6, 6])
    batch["avail_actions"][:] = 0
    batch["avail_actions"][..., 0] = 1
    batch["actions"][:] = 0
    learner = make_learner(make_args(**POLICY), batch, logger)
    before = [p.detach().clone() for p in learner.agent_params]
    learner.train(batch, 0, 0)
    assert all(torch.equal(p, q) for p, q in zip(before, learner.agent_params, strict=True))


def test_what_a_dead_agent_does_leaves_the_policy_as_it_is(make_args, make_batch, logger):
    results = []
    for reward_of_dead in (0.0, 50.0):
        batch = make_batch([6, 6], rewards=3)
        batch["avail_actions"][:, 2:, 1] = torch.tensor([1, 0, 0, 0, 0])  # agent 1 dies at step 2
        batch["actions"][:, 2:, 1] = 0
        batch["reward"][:, 2:6, 1] = reward_of_dead
        args = make_args(**POLICY, common_reward=False, normalise_values=False, gae_lambda=0.0)
        learner = make_learner(args, batch, logger)
        critic = copy.deepcopy(learner.critic_params)
        learner.train(batch, 0, 0)
        results.append(torch.cat([p.detach().flatten() for p in learner.agent_params]))
    assert not torch.equal(critic[0], learner.critic_params[0])
    torch.testing.assert_close(*results)


def test_the_policy_learns_what_pays(make_args, make_batch, logger):
    """One-step episodes that pay for action 1 alone: its probability must grow."""
    args = make_args(**POLICY, lr=1e-2, epochs=4, chunk_length=0, obs_last_action=False, gamma=0.0)
    batch = make_batch([1] * 64)
    batch["avail_actions"][:] = 1
    learner = make_learner(args, batch, logger)
    for t in range(20):
        learner.mac.init_hidden(64)
        actions = learner.mac.select_actions(batch, 0, t)
        batch["actions"][:, 0] = actions.unsqueeze(2)
        batch["reward"][:, 0] = (actions == 1).float().mean(1, keepdim=True)
        learner.train(batch, t, 0)
    assert learner.mac.unroll(batch).softmax(-1)[:, 0, :, 1].mean() > 0.9


def test_normalised_values_are_unaffected_by_the_scale_of_rewards(make_args, make_batch, logger):
    results = []
    for scale in (1.0, 1000.0):
        batch = make_batch([8, 3, 6])
        batch["reward"][:] *= scale
        learner = make_learner(make_args(**POLICY, gae_lambda=1.0), batch, logger)
        learner.train(batch, 0, 0)  # the first update's baseline has no scale yet
        learner.train(batch, 1, 0)
        results.append(learner.value_stats.std.item())
        assert logger.stats["critic_loss"] < 5
    assert results[1] == pytest.approx(1000 * results[0], rel=1e-2)


def test_a_restored_learner_continues_bit_equal(make_args, make_batch, logger):
    batch = make_batch([8, 3, 5])
    args = make_args(**POLICY, standardise_rewards=True)
    learner = make_learner(args, batch, logger)
    learner.train(batch, 0, 0)
    other = make_learner(args, batch, logger)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for each in (learner, other):
        torch.manual_seed(7)
        each.train(batch, 1, 0)
    assert torch.equal(parameters(learner), parameters(other))
    assert torch.equal(learner.value_stats.mean, other.value_stats.mean)


def test_saved_models_are_read_back(make_args, make_batch, logger, tmp_path):
    batch = make_batch([8, 3])
    learner, other = (make_learner(make_args(**POLICY), batch, logger) for _ in range(2))
    learner.train(batch, 0, 0)
    learner.save_models(str(tmp_path))
    other.load_models(str(tmp_path))
    assert torch.equal(parameters(learner), parameters(other))


def test_a_loss_that_is_not_finite_stops_training(make_args, make_batch, logger):
    batch = make_batch([4, 4])
    batch["reward"][0, 1] = float("inf")
    with pytest.raises(TrainingDiverged, match="is not finite at environment step 70"):
        make_learner(make_args(**POLICY), batch, logger).train(batch, 70, 0)


def test_metrics_carry_epymarls_names(make_args, make_batch, logger):
    batch = make_batch([4, 4])
    make_learner(make_args(**POLICY), batch, logger).train(batch, 0, 0)
    expected = {
        "pg_loss", "critic_loss", "agent_grad_norm", "critic_grad_norm", "td_error_abs", "q_taken_mean",
        "target_mean", "pi_max", "entropy",
    }  # fmt: skip
    assert expected <= logger.stats.keys()
