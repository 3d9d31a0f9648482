"""MAMBA's loss against a slow reference: every term written out, one step of one agent at a time."""

import math

import pytest
import torch

from components.trajectory_buffer import Trajectories
from modules.world_models.losses import WorldModelLossConfig, world_model_loss
from modules.world_models.world_model import LatentState, WorldModel, WorldModelConfig
from utils.config import Request, compose

N_AGENTS, OBS, ACTIONS, GROUPS, CLASSES = 3, 5, 4, 2, 3
B, T = 2, 5
CONFIG = WorldModelLossConfig(wm_kl_prior=0.8, wm_kl_posterior=0.2, wm_obs_scale=0.7, wm_reward_scale=1.3)


def make_model() -> WorldModel:
    torch.manual_seed(0)
    sizes = WorldModelConfig(16, GROUPS, CLASSES, 0.0, 1, 2, 1, False, "smooth_l1", True)
    model = WorldModel(N_AGENTS, OBS, ACTIONS, sizes)
    torch.nn.init.normal_(model.reward_head[-1].weight)  # type: ignore[arg-type]
    return model


def make_windows() -> Trajectories:
    """Agent 1 of window 0 dies at step 2; an episode begins at step 3 of window 1."""
    torch.manual_seed(1)
    obs = 2 * torch.randn(B, T, N_AGENTS, OBS)
    obs[0, 2:, 1] = 0
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[1, 3] = True
    reward = 2 * torch.randn(B, T)
    return Trajectories(
        obs=obs,
        avail_actions=torch.rand(B, T, N_AGENTS, ACTIONS) < 0.7,
        actions=torch.randint(ACTIONS, (B, T, N_AGENTS)),
        reward=reward,
        trend=reward,  # raw: nothing is smoothed
        continues=(torch.rand(B, T) < 0.7).float(),
        is_first=is_first,
        is_last=torch.zeros(B, T, dtype=torch.bool),
    )


def smooth_l1(predicted: float, target: float) -> float:
    distance = abs(predicted - target)
    return 0.5 * distance**2 if distance < 1 else distance - 0.5


def surprise(log_odds: float, happened: bool) -> float:
    """Minus the log-probability of what happened."""
    probability = 1 / (1 + math.exp(-log_odds))
    return -math.log(probability if happened else 1 - probability)


def kl(p: list[list[float]], q: list[list[float]]) -> float:
    """Of groups of categoricals."""
    pairs = [pair for group in zip(p, q, strict=True) for pair in zip(*group, strict=True)]
    return sum(a * math.log(a / b) for a, b in pairs)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def reference(model: WorldModel, data: Trajectories) -> dict[str, float]:
    torch.manual_seed(2)
    states, posteriors = model.observe(data.obs, data.actions, data.is_first)
    found: dict[str, list[float]] = {}
    for b in range(B):
        for t in range(T):
            for i in range(N_AGENTS):
                features = LatentState(states.h[b, t, i], states.z[b, t, i]).features
                obs, alive = data.obs[b, t, i].tolist(), bool(data.obs[b, t, i].any())
                begins = t == 0 or bool(data.is_first[b, t])
                h = states.h[b, t, i]
                if not begins:
                    odds = torch.log_softmax(model.action_head(features), dim=-1)  # type: ignore[misc]
                    before = int(data.actions[b, t - 1, i])
                    found.setdefault("wm_action_loss", []).append(-odds[before].item())
                if alive:
                    found.setdefault("wm_kl", []).append(
                        kl(posteriors[b, t, i].tolist(), model.latents.probs(model.prior_logits(h)).tolist())
                    )
                    decoded = model.obs_head(features).tolist()
                    errors = [smooth_l1(x, y) for x, y in zip(decoded, obs, strict=True)]
                    found.setdefault("wm_obs_loss", []).append(sum(errors))
                avail = model.avail_head(features).tolist()
                may = [surprise(x, bool(y)) for x, y in zip(avail, data.avail_actions[b, t, i], strict=True)]
                found.setdefault("wm_avail_loss", []).append(sum(may))
                if begins:
                    continue
                found.setdefault("wm_alive_loss", []).append(surprise(model.alive_head(h).item(), alive))
                reward = model.reward_head(h).item()
                found.setdefault("wm_reward_loss", []).append(smooth_l1(reward, data.reward[b, t].item()))
                goes_on = model.continue_head(h).item()
                found.setdefault("wm_continue_loss", []).append(surprise(goes_on, bool(data.continues[b, t])))
    return {name: mean(values) for name, values in found.items()}


def test_every_term_equals_the_reference_and_so_does_their_sum() -> None:
    model, data = make_model(), make_windows()
    expected = reference(model, data)
    torch.manual_seed(2)
    loss = world_model_loss(model, data, CONFIG)
    terms = {name: value.item() for name, value in loss.terms.items()}
    total = terms.pop("wm_loss")
    assert terms == pytest.approx(expected, rel=1e-4)
    weighted = {"wm_obs_loss": 0.7, "wm_reward_loss": 1.3}
    assert total == pytest.approx(
        sum(weighted.get(name, 1) * term for name, term in expected.items()), rel=1e-4
    )
    assert loss.total.item() == pytest.approx(total)


def test_the_kl_moves_the_prior_by_its_larger_and_the_posterior_by_its_smaller_weight() -> None:
    model, data = make_model(), make_windows()

    def gradients(kl_prior: float, kl_posterior: float) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        config = WorldModelLossConfig(kl_prior, kl_posterior, 0.0, 0.0)
        torch.manual_seed(2)
        world_model_loss(model, data, config).total.backward()
        first, second = model.prior_head[-1].weight.grad, model.posterior_head[-1].weight.grad
        assert first is not None
        assert second is not None
        return first.clone(), second.clone()

    both, towards_posterior = gradients(0.8, 0.2), gradients(0.8, 0.0)
    assert torch.allclose(both[0], towards_posterior[0])
    assert not torch.allclose(both[1], towards_posterior[1])
    assert torch.allclose(gradients(0.4, 0.2)[0], 0.5 * both[0], atol=1e-6)


@pytest.mark.parametrize("alg", ["mamba", "mag"])
def test_the_configured_kl_is_the_published_one_which_averages_over_the_latents(alg: str) -> None:
    config = compose(Request(alg, "smax", ()))
    groups = config["wm_latent_groups"]
    assert config["wm_kl_prior"] * groups == pytest.approx(0.8)
    assert config["wm_kl_posterior"] * groups == pytest.approx(0.2)


def test_per_agent_losses_add_up_to_the_terms() -> None:
    model, data = make_model(), make_windows()
    torch.manual_seed(2)
    loss = world_model_loss(model, data, CONFIG)
    steps, with_past, living = B * T * N_AGENTS, (B * (T - 1) - 1) * N_AGENTS, B * T * N_AGENTS - 3
    terms = loss.terms
    expected = (
        with_past * (terms["wm_action_loss"] + terms["wm_alive_loss"])
        + with_past * (1.3 * terms["wm_reward_loss"] + terms["wm_continue_loss"])
        + living * (terms["wm_kl"] + 0.7 * terms["wm_obs_loss"])
        + steps * terms["wm_avail_loss"]
    )
    assert loss.per_agent.shape == (B, T, N_AGENTS)
    assert loss.per_agent.sum().item() == pytest.approx(expected.item(), rel=1e-4)
    assert not loss.per_agent.requires_grad
