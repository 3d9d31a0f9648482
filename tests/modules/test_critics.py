"""Critics see what they should, at every step alike."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.episode_buffer import EpisodeBatch
from components.transforms import OneHot
from modules.critics import REGISTRY

B, T, N_AGENTS, N_ACTIONS, OBS, STATE = 2, 5, 3, 4, 6, 7


def make_batch() -> EpisodeBatch:
    torch.manual_seed(0)
    scheme = {
        "state": {"vshape": STATE},
        "obs": {"vshape": OBS, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
    }
    preprocess = {"actions": ("actions_onehot", [OneHot(N_ACTIONS)])}
    batch = EpisodeBatch(scheme, {"agents": N_AGENTS}, B, T, preprocess=preprocess)
    actions = torch.randint(N_ACTIONS, (B, T, N_AGENTS, 1))
    batch.update({"state": torch.randn(B, T, STATE), "obs": torch.randn(B, T, N_AGENTS, OBS)})
    batch.update({"actions": actions})
    return batch


def make_critic(name: str, batch: EpisodeBatch, **overrides: Any) -> Any:
    torch.manual_seed(1)
    options = {"obs_individual_obs": False, "obs_last_action": False, **overrides}
    return REGISTRY[name](batch.scheme, SimpleNamespace(n_agents=N_AGENTS, hidden_dim=8, **options))


@pytest.mark.parametrize("options", [{}, {"obs_individual_obs": True, "obs_last_action": True}])
@pytest.mark.parametrize("name", ["ac_critic", "cv_critic"])
def test_one_step_has_the_values_of_the_whole_sequence(name, options):
    batch = make_batch()
    critic = make_critic(name, batch, **options)
    values = critic(batch)
    assert values.shape == (B, T, N_AGENTS, 1)
    for t in range(T):
        torch.testing.assert_close(critic(batch, t=t), values[:, t : t + 1])


def influence(critic: Any, batch: EpisodeBatch, field: str) -> torch.Tensor:
    """How strongly each agent's value at step 2 depends on the entries of `field`."""
    data = batch[field].float().requires_grad_()
    batch.data.transition_data[field] = data
    rows = []
    for agent in range(N_AGENTS):
        (gradient,) = torch.autograd.grad(critic(batch)[:, 2, agent].sum(), data, allow_unused=True)
        rows.append(torch.zeros_like(data) if gradient is None else gradient.abs())
    return torch.stack(rows)


def test_the_decentralised_critic_sees_the_agents_own_observation_alone():
    batch = make_batch()
    critic = make_critic("ac_critic", batch)
    per_agent = influence(critic, batch, "obs").sum(dim=(1, 4))  # (value's agent, step, observation's agent)
    assert (per_agent[:, 2].diagonal() > 0).all()
    assert per_agent.sum() == pytest.approx(per_agent[:, 2].diagonal().sum().item())
    assert influence(critic, batch, "state").sum() == 0


@pytest.mark.parametrize("individual", [False, True])
@pytest.mark.parametrize("last_action", [False, True])
def test_the_centralised_critic_sees_the_state_and_what_is_asked_for(individual, last_action):
    batch = make_batch()
    options = {"obs_individual_obs": individual, "obs_last_action": last_action}
    critic = make_critic("cv_critic", batch, **options)
    assert (influence(critic, batch, "state")[:, :, 2] > 0).any()
    assert (influence(critic, batch, "obs").sum() > 0) == individual
    by_action = influence(critic, batch, "actions_onehot")
    assert (by_action.sum() > 0) == last_action
    assert by_action.sum() == by_action[:, :, 1].sum()  # the previous step's, no other


def test_agents_have_values_of_their_own():
    batch = make_batch()
    values = make_critic("cv_critic", batch)(batch)
    assert not torch.allclose(values[:, :, 0], values[:, :, 1])


@pytest.mark.parametrize("name", ["ac_critic", "cv_critic"])
def test_values_are_those_of_the_network_on_inputs_with_one_hot_numbers_appended(name):
    batch = make_batch()
    critic = make_critic(name, batch)
    inputs = critic.inputs(batch).expand(-1, -1, N_AGENTS, -1)
    numbers = torch.eye(N_AGENTS).expand(B, T, -1, -1)
    expected = critic.rest(critic.first(torch.cat([inputs, numbers], dim=-1)))
    torch.testing.assert_close(critic(batch), expected)
