"""Behaviour learning: returns against a slow reference, and a policy that never touches the latent."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.imagination import (
    Moment,
    act,
    decode,
    imagine,
    masked_log_softmax,
)
from components.pseudo_buffer import Imagined, ImaginedSizes, PseudoBuffer
from controllers.basic_controller import BasicMAC
from learners.imagined_ppo import ImaginedPPO, ImaginedPPOConfig, RealPlay
from modules.world_models.latents import CompactState
from modules.world_models.world_model import (
    LatentState,
    Sight,
    WorldModel,
    WorldModelConfig,
)
from utils.compute import ComputeConfig
from utils.rl_utils import sample_categorical

N, N_AGENTS, OBS, ACTIONS, HORIZON = 7, 3, 5, 4, 6


def make_mac() -> BasicMAC:
    args = SimpleNamespace(
        n_agents=N_AGENTS,
        n_actions=ACTIONS,
        agent="rnn",
        agent_output_type="pi_logits",
        action_selector="soft_policies",
        test_greedy=True,
        obs_agent_id=True,
        obs_last_action=False,
        hidden_dim=8,
        use_rnn=True,
    )
    return BasicMAC({"obs": {"vshape": OBS}}, {"agents": N_AGENTS}, args)


def make_model() -> WorldModel:
    return WorldModel(N_AGENTS, OBS, ACTIONS, WorldModelConfig(16, 4, 5, 0.01, 1, 2, 1, True))


def make_ppo(mac: BasicMAC, model: WorldModel, **changes: Any) -> ImaginedPPO:
    values: dict[str, Any] = {
        "gamma": 0.95,
        "gae_lambda": 0.9,
        "epochs": 2,
        "minibatches": 2,
        "eps_clip": 0.2,
        "entropy_coef": 0.01,
        "entropy_decay": 1.0,
        "entropy_target": 0.5,
        "entropy_target_final": 0.1,
        "lr": 1e-3,
        "lr_final": 1e-4,
        "policy_anneal_time": 1000,
        "critic_lr": 1e-3,
        "optim_eps": 1e-5,
        "grad_norm_clip": 10.0,
        "critic_width": 16,
        "critic_real_scale": 1.0,
    }
    return ImaginedPPO(mac, model, ImaginedPPOConfig(**{**values, **changes}), ComputeConfig())


def make_states(*shape: int) -> CompactState:
    """Of all but the last agent, who is dead."""
    latents = make_model().latents
    picked = torch.randint(latents.classes, (*shape, N_AGENTS, latents.groups), dtype=torch.int16)
    picked[..., -1, :] = -1
    return CompactState(torch.randn(*shape, N_AGENTS, make_model().width), picked, latents)


def make_real() -> RealPlay:
    """Two episodes: three steps up to a terminal, five up to a time limit."""
    continues = torch.ones(2, 6)
    continues[0, 3] = 0
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    return RealPlay(make_states(2, 6), torch.randn(2, 6), continues, mask)


def make_start(model: WorldModel) -> Moment:
    avail = torch.rand(N, N_AGENTS, ACTIONS) < 0.6
    avail[..., 0] = True
    latents = model.latents
    drawn = latents.draw(torch.zeros(N, N_AGENTS, latents.size), torch.ones(N, N_AGENTS))
    return Moment(
        LatentState(torch.randn(N, N_AGENTS, model.width), *drawn),
        torch.randn(N, N_AGENTS, OBS),
        avail,
        torch.randn(N, N_AGENTS, 8),
    )


def test_an_imagined_rollouts_returns_equal_a_slow_reference() -> None:
    """With lambda 1 they are the discounted predicted rewards plus the discounted last value."""
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    torch.nn.init.normal_(model.reward_head[-1].weight)  # type: ignore[arg-type]
    ppo = make_ppo(mac, model, gae_lambda=1.0)
    torch.nn.init.normal_(ppo.critic.value_head[-1].weight)  # type: ignore[arg-type]
    data = imagine(model, mac, make_start(model), HORIZON)
    returns, _, reached = ppo._targets(data)
    for n in range(N):
        for start in range(HORIZON):
            total, discount = 0.0, 1.0
            for k in range(start, HORIZON):
                z = model.latents.one_hot(data.picked[n, k + 1]).float()
                predicted = model.predict(LatentState(data.h[n, k + 1], z))
                total += discount * model.reward_code.mean(predicted.reward_logits).mean().item()
                discount *= 0.95 * torch.sigmoid(predicted.continue_logits).mean().item()
            total += discount * ppo.critic.value(ppo._states(data).at((n, -1))).item()
            assert returns[n, start].item() == pytest.approx(total, rel=1e-3, abs=1e-3)
    assert torch.all(reached[:, 0] == 1)
    assert torch.allclose(reached[:, 3], data.continues[:, :3].prod(dim=1))


def test_real_returns_stop_at_a_terminal_and_are_bootstrapped_at_a_time_limit() -> None:
    torch.manual_seed(0)
    ppo = make_ppo(make_mac(), make_model(), gae_lambda=1.0)
    torch.nn.init.normal_(ppo.critic.value_head[-1].weight)  # type: ignore[arg-type]
    real = make_real()
    states, returns = ppo._real_targets(real)
    last_value = ppo.critic.value(real.state.at((1, 5))).item()
    expected = []
    for row, (steps, end) in enumerate([(3, 0.0), (5, last_value)]):
        for k in range(steps):
            rewards = [0.95 ** (t - k) * real.reward[row, t + 1].item() for t in range(k, steps)]
            expected.append(sum(rewards) + 0.95 ** (steps - k) * end)
    assert returns.tolist() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(states.h, torch.cat([real.state.h[0, :3], real.state.h[1, :5]]))
    assert torch.equal(states.picked, torch.cat([real.state.picked[0, :3], real.state.picked[1, :5]]))


def test_imagination_starts_in_reality_and_only_takes_available_actions() -> None:
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    start = make_start(model)
    data = imagine(model, mac, start, HORIZON)
    assert torch.equal(data.obs[:, 0], start.obs)
    assert torch.equal(data.avail_actions[:, 0], start.avail_actions)
    states = CompactState(data.h, data.picked, model.latents)
    assert torch.equal(states.features[:, 0], start.state.features)
    assert data.avail_actions.any(dim=-1).all()
    assert data.avail_actions.gather(-1, data.actions.unsqueeze(-1)).all()


def test_the_policy_replayed_over_an_imagined_trajectory_gives_its_log_probabilities() -> None:
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    data = imagine(model, mac, make_start(model), HORIZON)
    logits, _ = mac.run_agent(mac.agent_inputs(data.obs), data.actor_hidden)
    log_policy = masked_log_softmax(logits, data.avail_actions)
    replayed = log_policy.gather(-1, data.actions.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(replayed, data.log_probs, atol=1e-5)


def test_the_policy_sees_observations_only() -> None:
    """Other latents under the same observations: what it does and how it is trained do not change at all."""
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    moment, decisions = make_start(model), []
    for state in (moment.state, make_start(model).state):
        torch.manual_seed(1)
        decisions.append(act(mac, moment._replace(state=state)))
    assert all(torch.equal(one, other) for one, other in zip(*decisions, strict=True))
    data = imagine(model, mac, make_start(model), HORIZON)
    ppo = make_ppo(mac, model)
    before = {name: value.clone() for name, value in mac.agent.state_dict().items()}
    advantages, weight = torch.randn(N, HORIZON), torch.ones(N, HORIZON)
    stepped = []
    for h, picked in ((data.h, data.picked), (torch.randn_like(data.h), data.picked.roll(1, 0))):
        mac.agent.load_state_dict(before)
        ppo = make_ppo(mac, model)
        traced = data._replace(h=h.requires_grad_(), picked=picked)
        ppo._actor_step(traced, advantages, weight)
        assert h.grad is None
        stepped.append({name: value.clone() for name, value in mac.agent.state_dict().items()})
    for name in before:
        assert torch.equal(stepped[0][name], stepped[1][name])
        assert not torch.equal(stepped[0][name], before[name])


def test_behaviour_learning_changes_neither_world_model_nor_gets_the_critic_into_the_policy() -> None:
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    ppo = make_ppo(mac, model)
    model_before = [parameter.clone() for parameter in model.parameters()]
    agent_before = [parameter.clone() for parameter in mac.parameters()]
    data = imagine(model, mac, make_start(model), HORIZON)
    assert not any(field.requires_grad for field in data)
    real = make_real()
    acted = ppo._states(data).at((slice(None), slice(-1)))
    ppo._critic_step(acted, torch.randn(N, HORIZON), torch.ones(N, HORIZON), *ppo._real_targets(real))
    assert all(torch.equal(a, b) for a, b in zip(agent_before, mac.parameters(), strict=True))
    ppo.update(data, real, t_env=0)
    assert all(torch.equal(a, b) for a, b in zip(model_before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_forced_steps_teach_the_policy_nothing() -> None:
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    data = imagine(model, mac, make_start(model), HORIZON)
    forced = torch.zeros_like(data.avail_actions)
    forced[..., 2] = True
    before = [parameter.clone() for parameter in mac.parameters()]
    make_ppo(mac, model)._actor_step(
        data._replace(avail_actions=forced, actions=torch.full_like(data.actions, 2)),
        torch.randn(N, HORIZON),
        torch.ones(N, HORIZON),
    )
    assert all(torch.equal(a, b) for a, b in zip(before, mac.parameters(), strict=True))


def test_ppo_learns_which_action_pays() -> None:
    torch.manual_seed(0)
    mac = make_mac()
    ppo = make_ppo(mac, make_model(), lr=1e-2, epochs=4, entropy_target=0.1)
    for _ in range(30):
        obs = torch.randn(64, HORIZON, N_AGENTS, OBS)
        avail = torch.ones(64, HORIZON, N_AGENTS, ACTIONS, dtype=torch.bool)
        hidden = torch.zeros(64, N_AGENTS, 8)
        with torch.no_grad():
            logits, _ = mac.run_agent(mac.agent_inputs(obs), hidden)
        log_policy = masked_log_softmax(logits, avail)
        actions = sample_categorical(log_policy.exp())
        log_probs = log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        reward = (actions == 1).float().mean(dim=-1)
        h, picked, *_ = make_states(64, HORIZON + 1)
        continues = torch.zeros(64, HORIZON)
        data = Imagined(obs, avail, actions, log_probs, hidden, 0 * h, picked, reward, continues)
        data = data._replace(continues=torch.ones_like(continues))
        ppo.update(data, make_real(), t_env=0)
    assert log_policy.exp()[..., 1].mean().item() > 0.8


def test_returns_that_the_critic_cannot_tell_apart_are_warned_of_once(caplog) -> None:
    model, mac = make_model(), make_mac()
    ppo = make_ppo(mac, model)
    data = imagine(model, mac, make_start(model), HORIZON)
    real = make_real()
    ppo.update(data, real, t_env=0)
    assert not caplog.records
    for _ in range(2):
        ppo.update(data, real._replace(reward=500 * torch.ones_like(real.reward)), t_env=0)
    assert [record.getMessage().split(" all ")[0] for record in caplog.records] == ["Returns beyond 402"]


def test_the_learning_rate_falls_linearly() -> None:
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    ppo = make_ppo(mac, model)
    data = imagine(model, mac, make_start(model), HORIZON)
    ppo.update(data, make_real(), t_env=500)
    assert ppo.actor_optimiser.param_groups[0]["lr"] == pytest.approx(5.5e-4)


def test_the_entropy_bonus_follows_the_target() -> None:
    ppo = make_ppo(make_mac(), make_model())

    def bonus_after(share: float, t_env: int) -> float:
        ppo.entropy_coef = 0.05
        ppo._move_entropy_coef(share, t_env)
        return ppo.entropy_coef

    assert bonus_after(share=0.9, t_env=0) < 0.05  # the target falls from 0.5 to 0.1 over 1000 steps
    assert bonus_after(share=0.29, t_env=500) == pytest.approx(0.05 * math.exp(3 * 0.01))
    assert bonus_after(share=0.09, t_env=5000) > 0.05
    for _ in range(100):
        ppo._move_entropy_coef(share=0.0, t_env=0)
    assert ppo.entropy_coef == 0.1


def test_without_a_target_the_entropy_bonus_decays() -> None:
    model, mac = make_model(), make_mac()
    ppo = make_ppo(mac, model, entropy_target=None, entropy_coef=0.001, entropy_decay=0.9)
    data = imagine(model, mac, make_start(model), HORIZON)
    statistics = ppo.update(data, make_real(), t_env=0)
    assert statistics["entropy_coef"].item() == pytest.approx(0.001 * 0.9**4)  # 2 epochs of 2 minibatches


def test_the_entropy_bonus_counts_nats_without_a_target_and_shares_of_the_uniform_with_one() -> None:
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    data = imagine(model, mac, make_start(model), HORIZON)
    data = data._replace(avail_actions=torch.ones_like(data.avail_actions))
    acted = data._replace(h=data.h[:, :-1], picked=data.picked[:, :-1])
    before = {name: value.clone() for name, value in mac.agent.state_dict().items()}
    norms = []
    for target in (None, 0.5):
        mac.agent.load_state_dict(before)
        ppo = make_ppo(mac, model, entropy_target=target)
        nothing, everywhere = torch.zeros(N, HORIZON), torch.ones(N, HORIZON)
        norms.append(ppo._actor_step(acted, nothing, everywhere)["agent_grad_norm"])
    assert norms[0] > 0
    assert norms[0] / norms[1] == pytest.approx(math.log(ACTIONS), rel=1e-4)


def test_the_dead_see_nothing_and_somebody_can_always_act() -> None:
    torch.manual_seed(0)
    sight = Sight(torch.ones(2, N_AGENTS, OBS), torch.full((2, N_AGENTS, ACTIONS), -50.0))
    sight.avail_logits[..., 3] = -40.0
    obs, avail = decode(sight, torch.tensor([[True, False, True]]).expand(2, -1))
    assert torch.all(obs[:, 1] == 0)
    assert torch.all(obs[:, [0, 2]] == 1)
    assert torch.equal(avail.nonzero()[:, 2], torch.full((2 * N_AGENTS,), 3))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
def test_unavailable_actions_are_never_drawn(scale: float) -> None:
    torch.manual_seed(0)
    logits = scale * torch.randn(5000, ACTIONS)
    avail = torch.rand(5000, ACTIONS) < 0.4
    avail[~avail.any(dim=-1), 2] = True
    drawn = sample_categorical(masked_log_softmax(logits, avail).exp())
    assert avail.gather(-1, drawn.unsqueeze(-1)).all()


def test_the_pseudo_buffer_keeps_the_last_rounds() -> None:
    torch.manual_seed(0)
    model, mac = make_model(), make_mac()
    rounds = [imagine(model, mac, make_start(model), HORIZON) for _ in range(3)]
    sizes = ImaginedSizes(
        len(rounds[0].obs),
        HORIZON,
        N_AGENTS,
        OBS,
        ACTIONS,
        hidden_size=rounds[0].actor_hidden.shape[-1],
        width=model.width,
        groups=model.latents.groups,
    )
    buffer, twin = PseudoBuffer(2, sizes), PseudoBuffer(2, sizes)
    buffer.insert(rounds[0])
    assert torch.equal(buffer.all().obs, rounds[0].obs)
    buffer.insert(rounds[1])
    twin.load_state_dict(buffer.state_dict())
    for b in (buffer, twin):
        b.insert(rounds[2])
        assert torch.equal(b.all().actions, torch.cat([rounds[2].actions, rounds[1].actions]))
