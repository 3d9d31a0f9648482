"""The GAWM learner as a whole: clocks, start states, resuming, divergence."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.episode_buffer import EpisodeBatch
from components.transforms import OneHot
from controllers.basic_controller import BasicMAC
from learners.gawm_learner import GAWMLearner
from utils.guards import TrainingDiverged

N_AGENTS, OBS, ACTIONS, LIMIT = 2, 3, 4, 8

ARGS: dict[str, Any] = {
    "n_agents": N_AGENTS,
    "n_actions": ACTIONS,
    "obs_shape": OBS,
    "seed": 1,
    "batch_size_run": 1,
    "episode_limit": LIMIT,
    "device": "cpu",
    "agent": "rnn",
    "agent_output_type": "pi_logits",
    "action_selector": "soft_policies",
    "test_greedy": True,
    "obs_agent_id": True,
    "obs_last_action": False,
    "hidden_dim": 8,
    "use_rnn": True,
    "learner_log_interval": 1,
    "replay_capacity": 200,
    "reward_trend_sigma": 1.0,
    "reward_trend_border": "preserve",
    "pseudo_rounds": 2,
    "start_training_steps": 20,
    "wm_steps_per_update": 5,
    "wm_batch_size": 3,
    "wm_sequence_length": 6,
    "wm_lr": 1e-3,
    "wm_grad_norm_clip": 100.0,
    "policy_steps_per_round": 10,
    "imagination_episodes": 4,
    "imagination_starts": 6,
    "imagination_newest": 100,
    "imagination_horizon": 3,
    "wm_width": 16,
    "wm_latent_groups": 4,
    "wm_latent_classes": 4,
    "wm_uniform_mix": 0.01,
    "wm_fusion_layers": 1,
    "wm_fusion_heads": 2,
    "wm_head_layers": 1,
    "wm_obs_fusion": True,
    "wm_kl_prior": 0.8,
    "wm_kl_posterior": 0.2,
    "wm_obs_scale": 10.0,
    "wm_reward_scale": 1.0,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "epochs": 1,
    "minibatches": 2,
    "eps_clip": 0.2,
    "entropy_coef": 0.01,
    "entropy_target": 0.5,
    "entropy_target_final": 0.1,
    "lr": 1e-3,
    "lr_final": 1e-3,
    "policy_anneal_time": 100,
    "critic_lr": 1e-3,
    "grad_norm_clip": 10.0,
    "critic_width": 16,
    "critic_real_scale": 1.0,
}
SCHEME = {
    "obs": {"vshape": OBS, "group": "agents"},
    "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
    "avail_actions": {"vshape": (ACTIONS,), "group": "agents", "dtype": torch.int},
    "reward": {"vshape": (1,)},
    "terminated": {"vshape": (1,), "dtype": torch.uint8},
}
GROUPS = {"agents": N_AGENTS}
ONE_HOT = {"actions": ("actions_onehot", [OneHot(out_dim=ACTIONS)])}


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.stats: dict[str, list[float]] = {}

    def log_stat(self, key: str, value: Any, t: int) -> None:
        self.stats.setdefault(key, []).append(float(value))


def make_learner(**changes: Any) -> GAWMLearner:
    torch.manual_seed(0)
    args = SimpleNamespace(**{**ARGS, **changes})
    batch = EpisodeBatch(SCHEME, GROUPS, 1, LIMIT + 1, preprocess=ONE_HOT)
    return GAWMLearner(BasicMAC(batch.scheme, GROUPS, args), batch.scheme, Log(), args)


def random_episodes(lengths: list[int], seed: int) -> EpisodeBatch:
    generator = torch.Generator().manual_seed(seed)
    batch = EpisodeBatch(SCHEME, GROUPS, len(lengths), LIMIT + 1, preprocess=ONE_HOT)
    for row, length in enumerate(lengths):
        arrivals = {
            "obs": torch.randn(length + 1, N_AGENTS, OBS, generator=generator),
            "avail_actions": torch.ones(length + 1, N_AGENTS, ACTIONS),
        }
        steps = {
            "actions": torch.randint(ACTIONS, (length, N_AGENTS, 1), generator=generator),
            "reward": torch.rand(length, 1, generator=generator),
            "terminated": (torch.arange(length) == length - 1).long().unsqueeze(-1),
        }
        batch.update(arrivals, row, slice(0, length + 1))
        batch.update(steps, row, slice(0, length))
    return batch


def feed(learner: GAWMLearner, calls: int, per_call: int, start: int = 0) -> int:
    """Hand over ``calls`` batches of ``per_call`` episodes of 8 steps each; returns the environment step."""
    t_env = start
    for call in range(calls):
        t_env += 8 * per_call
        learner.train(random_episodes([8] * per_call, seed=t_env), t_env, call)
    return t_env


@pytest.mark.parametrize("per_call", [1, 2, 5])
def test_updates_follow_environment_steps_not_environments(per_call: int) -> None:
    learner = make_learner()
    t_env = feed(learner, 10 // per_call, per_call)
    assert t_env == 80
    assert learner.wm_clock.updates == 80 // 5
    assert learner.policy_clock.updates == 80 // 10
    assert learner.logger.stats["wm_updates"][-1] == 16


def test_nothing_is_learnt_before_there_is_enough() -> None:
    learner = make_learner(start_training_steps=30)
    feed(learner, 3, 1)
    assert not learner.logger.stats
    feed(learner, 1, 1, start=24)
    assert learner.logger.stats["policy_rounds"][-1] == 3


def test_the_policys_memory_at_a_start_is_what_acting_left_there() -> None:
    learner = make_learner()
    learner.trajectories.insert_episode_batch(random_episodes([8, 3, 5], seed=1))
    data, mask = learner.trajectories.sample_episodes(4)
    memory = learner._actor_memory(data)
    for row in range(4):
        learner.mac.init_hidden(1)
        for t in range(int(mask[row].sum())):
            acting = learner.mac.hidden_states.reshape(N_AGENTS, -1)
            assert torch.allclose(memory[row, t], acting, atol=1e-6)
            inputs = learner.mac.agent_inputs(data.obs[row, t])
            _, learner.mac.hidden_states = learner.mac.agent(inputs, learner.mac.hidden_states)


def test_imagination_never_starts_where_an_episode_has_ended() -> None:
    learner = make_learner(imagination_starts=300)
    episodes = random_episodes([1, 4, 8], seed=2)
    for row, length in enumerate([1, 4, 8]):
        episodes["obs"][row, length] = 7.0  # only final observations are 7
    learner.trajectories.insert_episode_batch(episodes)
    start, _ = learner._draw_reality()
    assert start.obs.shape == (300, N_AGENTS, OBS)
    assert not (start.obs == 7.0).any()


def test_a_restored_learner_goes_on_bit_equal() -> None:
    learner, twin = make_learner(), make_learner()
    t_env = feed(learner, 6, 1)
    saved, rng = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    twin.load_state_dict(saved)
    feed(learner, 3, 1, start=t_env)
    torch.set_rng_state(rng)
    feed(twin, 3, 1, start=t_env)
    for mine, its in (
        (learner.mac.agent, twin.mac.agent),
        (learner.world_model, twin.world_model),
        (learner.behaviour.critic, twin.behaviour.critic),
    ):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, its.state_dict()[name]), name


def test_saved_models_act_alike(tmp_path: Any) -> None:
    learner, twin = make_learner(), make_learner(seed=5)
    feed(learner, 5, 1)
    learner.save_models(str(tmp_path))
    twin.load_models(str(tmp_path))
    obs = torch.randn(3, 4, N_AGENTS, OBS)
    mine, _ = learner.mac.run_agent(learner.mac.agent_inputs(obs))
    its, _ = twin.mac.run_agent(twin.mac.agent_inputs(obs))
    assert torch.equal(mine, its)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    learner = make_learner()
    episodes = random_episodes([8, 8, 8], seed=3)
    episodes["obs"][:, 2] = torch.nan
    with pytest.raises(TrainingDiverged, match="wm_"):
        learner.train(episodes, 40, 0)
