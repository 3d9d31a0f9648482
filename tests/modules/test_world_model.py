"""The world model: who sees whom, what restarts, and its losses against plain references."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from components.trajectory_buffer import Trajectories
from modules.world_models.latents import CategoricalLatents
from modules.world_models.losses import WorldModelLossConfig, world_model_loss
from modules.world_models.symlog import TwoHot
from modules.world_models.world_model import WorldModel, WorldModelConfig

N_AGENTS, OBS, ACTIONS = 3, 5, 4
LOSS = WorldModelLossConfig(wm_kl_prior=0.8, wm_kl_posterior=0.2, wm_obs_scale=1.0, wm_reward_scale=1.0)


def make_model(obs_fusion: bool = True, temperature: float = 1.0) -> WorldModel:
    torch.manual_seed(0)
    config = WorldModelConfig(
        wm_width=16,
        wm_latent_groups=4,
        wm_latent_classes=5,
        wm_uniform_mix=0.01,
        wm_fusion_layers=1,
        wm_fusion_heads=2,
        wm_head_layers=1,
        wm_obs_fusion=obs_fusion,
        imagination_temperature=temperature,
    )
    return WorldModel(N_AGENTS, OBS, ACTIONS, config)


def windows(batch: int = 2, time: int = 6) -> Trajectories:
    generator = torch.Generator().manual_seed(1)
    is_first = torch.zeros(batch, time, dtype=torch.bool)
    is_first[:, 3] = True
    return Trajectories(
        obs=torch.randn(batch, time, N_AGENTS, OBS, generator=generator),
        avail_actions=torch.rand(batch, time, N_AGENTS, ACTIONS, generator=generator) < 0.7,
        actions=torch.randint(ACTIONS, (batch, time, N_AGENTS), generator=generator),
        reward=torch.randn(batch, time, generator=generator),
        trend=torch.randn(batch, time, generator=generator),
        continues=(torch.rand(batch, time, generator=generator) < 0.9).float(),
        is_first=is_first,
        is_last=torch.zeros(batch, time, dtype=torch.bool),
    )


def influence_on_posterior(model: WorldModel, of_agent: int, on_agent: int) -> float:
    """Size of the gradient of one agent's posterior at t = 0 in another agent's observation at t = 0."""
    data = windows()
    obs = data.obs.clone().requires_grad_()
    _, posterior = model.observe(obs, data.actions, data.is_first)
    weights = torch.randn(posterior[:, 0, on_agent].shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((posterior[:, 0, on_agent] * weights).sum(), obs)
    return gradient[:, 0, of_agent].abs().sum().item()


@pytest.mark.parametrize("of_agent", range(N_AGENTS))
@pytest.mark.parametrize("on_agent", range(N_AGENTS))
def test_posterior_depends_on_every_agents_observation_only_with_fusion(of_agent: int, on_agent: int) -> None:
    assert influence_on_posterior(make_model(obs_fusion=True), of_agent, on_agent) > 0
    alone = influence_on_posterior(make_model(obs_fusion=False), of_agent, on_agent)
    assert (alone > 0) == (of_agent == on_agent)


def test_without_fusion_the_model_is_as_large() -> None:
    def shapes(model: WorldModel) -> list[torch.Size]:
        return [parameter.shape for parameter in model.parameters()]

    assert shapes(make_model(obs_fusion=True)) == shapes(make_model(obs_fusion=False))


def test_actions_of_all_agents_reach_every_next_state() -> None:
    model, data = make_model(), windows()
    torch.manual_seed(3)
    state, _ = model.observe(data.obs, data.actions, data.is_first)
    other = data.actions.clone()
    other[:, 1, 0] = (other[:, 1, 0] + 1) % ACTIONS
    torch.manual_seed(3)
    changed, _ = model.observe(data.obs, other, data.is_first)
    assert torch.equal(state.h[:, :2], changed.h[:, :2])
    assert ((state.h[:, 2] - changed.h[:, 2]).abs().sum(dim=-1) > 0).all()


def test_an_episodes_start_forgets_what_came_before() -> None:
    model, data = make_model(), windows()
    state, _ = model.observe(data.obs, data.actions, data.is_first)
    assert torch.all(state.h[:, 0] == 0)
    assert torch.all(state.h[:, 3] == 0)
    assert torch.all(state.h[:, 4].abs().sum(dim=-1) > 0)


def test_the_scan_is_the_imagined_recurrence_on_posterior_latents() -> None:
    model, data = make_model(), windows()
    state, _ = model.observe(data.obs, data.actions, data.is_first)
    now = type(state)(state.h[:, 0], state.z[:, 0])
    torch.nn.init.constant_(model.alive_head[-1].bias, 50.0)  # type: ignore[arg-type]
    ahead = model.imagine(now, data.actions[:, 0])
    assert torch.allclose(ahead.h, state.h[:, 1], atol=1e-6)
    one_hot = ahead.z.detach().view(2, N_AGENTS, 5, 4).mT  # straight-through leaves rounding errors
    assert torch.allclose(one_hot.sort(dim=-1).values, torch.tensor([0.0, 0, 0, 0, 1]), atol=1e-5)


def test_the_dead_have_no_latent_in_reality_and_in_imagination() -> None:
    model, data = make_model(), windows()
    data.obs[:, 2:, 1] = 0
    state, _ = model.observe(data.obs, data.actions, data.is_first)
    assert torch.equal(state.living, (data.obs != 0).any(dim=-1))
    torch.nn.init.constant_(model.alive_head[-1].bias, 50.0)  # type: ignore[arg-type]
    assert model.foresee(state.h[:, 1]).living.all()
    torch.nn.init.constant_(model.alive_head[-1].bias, -50.0)  # type: ignore[arg-type]
    assert not model.foresee(state.h[:, 1]).living.any()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_imagination_draws_from_the_prior_at_its_temperature(temperature: float) -> None:
    model = make_model(temperature=temperature)
    torch.nn.init.normal_(model.prior_head[-1].weight)  # type: ignore[arg-type]
    h = torch.randn(1, N_AGENTS, model.width)
    living = torch.ones(20000, N_AGENTS, dtype=torch.bool)
    drawn = model.foresee(h.expand(20000, -1, -1), living).z.view(20000, N_AGENTS, 5, 4).mean(dim=0)
    prior = model.prior_logits(h).view(N_AGENTS, 5, 4).softmax(dim=-2) ** (1 / temperature)
    torch.testing.assert_close(drawn, prior / prior.sum(dim=-2, keepdim=True), atol=0.02, rtol=0)


def test_what_comes_of_an_action_is_foretold_before_a_latent_is_drawn() -> None:
    model, data = make_model(), windows()
    state, _ = model.observe(data.obs, data.actions, data.is_first)
    other = type(state)(state.h, torch.zeros_like(state.z))
    here, there = model.predict(state), model.predict(other)
    for head in ("alive_logits", "reward_logits", "continue_logits"):
        assert torch.equal(getattr(here, head), getattr(there, head))
    assert not torch.allclose(here.sight.obs, there.sight.obs)


def test_gradients_reach_every_part() -> None:
    model = make_model()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(2):  # the reward head starts at zero and passes no gradient back at first
        optimiser.zero_grad()
        world_model_loss(model, windows(), LOSS).total.backward()
        optimiser.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_dead_are_not_reconstructed_but_their_masks_are_learnt() -> None:
    model, data = make_model(), windows()
    data.obs[:, :, 1] = 0
    torch.manual_seed(0)
    terms = world_model_loss(model, data, LOSS).terms
    torch.manual_seed(0)
    state, _ = model.observe(data.obs, data.actions, data.is_first)
    predicted = model.predict(state)
    living = [0, 2]
    target = data.obs[:, :, living].flatten(0, 2)
    error = (predicted.sight.obs[:, :, living].flatten(0, 2) - target).square().mean(dim=0)
    standardised = error / (target.var(dim=0, correction=0) + 0.01)
    assert terms["wm_obs_loss"].item() == pytest.approx(0.5 * standardised.sum().item(), rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_kl_and_sampling_agree_with_torch_distributions(share: float) -> None:
    latents = CategoricalLatents(groups=3, classes=4, uniform_mix=0.05)
    torch.manual_seed(0)
    logits = [torch.randn(7, 12).requires_grad_() for _ in range(2)]
    posterior, prior = (latents.probs(x) for x in logits)
    reference = kl_divergence(Categorical(posterior.mT), Categorical(prior.mT)).sum(dim=-1)
    to_posterior, to_prior = torch.autograd.grad(reference.sum(), logits)
    kl = latents.balanced_kl(latents.probs(logits[0]), logits[1], share)
    assert torch.allclose(kl, reference, atol=1e-5)
    gradients = torch.autograd.grad(kl.sum(), logits)
    assert torch.allclose(gradients[0], (1 - share) * to_posterior, atol=1e-5)
    assert torch.allclose(gradients[1], share * to_prior, atol=1e-5)
    posterior = posterior.detach()
    assert posterior.min() >= 0.05 / 4 - 1e-7
    draws = latents.sample(posterior.expand(20000, -1, -1, -1), torch.rand(20000, 7, 3))
    assert torch.allclose(draws.view(20000, 7, 4, 3).mean(dim=0), posterior, atol=0.02)


def test_kl_of_probabilities_that_are_zero_is_finite() -> None:
    latents = CategoricalLatents(groups=2, classes=3, uniform_mix=0.0)
    logits = torch.tensor([[0.0, 0.0, -200.0, 0.0, 0.0, 0.0]]).requires_grad_()
    posterior = latents.probs(logits)
    kl = latents.balanced_kl(posterior, logits.roll(2), 0.8)
    (gradient,) = torch.autograd.grad(kl, logits)
    assert posterior.min() == 0
    assert 10 < kl.item() < 100
    assert gradient.isfinite().all()


def test_sampling_passes_gradients_straight_through() -> None:
    latents = CategoricalLatents(groups=2, classes=3, uniform_mix=0.0)
    probs = torch.full((1, 3, 2), 1 / 3, requires_grad=True)
    sample = latents.sample(probs, torch.rand(1, 2))
    weights = torch.arange(6.0)
    (sample * weights).sum().backward()
    assert probs.grad is not None
    assert torch.equal(probs.grad.flatten(), weights)
    extremes = latents.sample(probs.detach(), torch.tensor([[0.0, 1.0 - 2**-24]]))
    assert extremes.view(3, 2).argmax(dim=0).tolist() == [0, 2]


def test_two_hot_means_and_minimises_at_the_target() -> None:
    two_hot = TwoHot()
    target = torch.tensor([-7.0, -0.3, 0.0, 0.4, 1.0, 10.0, 20.0])
    logits = torch.zeros(7, len(two_hot.bins), requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(400):
        optimiser.zero_grad()
        two_hot.loss(logits, target).sum().backward()
        optimiser.step()
    assert torch.allclose(two_hot.mean(logits.detach()), target, rtol=0.02, atol=0.02)
    assert two_hot.mean(torch.zeros(1, len(two_hot.bins))).abs().item() < 1e-3
