"""Agent networks: what they can tell apart, and what they remember."""

from types import SimpleNamespace

import pytest
import torch

from modules.agents import FourierRNNAgent, RNNAgent


def make_agent(agent_class: type[RNNAgent], inputs: int = 2, **changes) -> RNNAgent:
    torch.manual_seed(0)
    args = {"hidden_dim": 32, "n_actions": 1, "use_rnn": True, "fourier_octaves": 4}
    return agent_class(inputs, SimpleNamespace(**{**args, **changes}))


def error_of_stripes(agent: RNNAgent) -> float:
    """Mean squared error after learning which of sixteen stripes an input between -1 and 1 lies in."""
    inputs = torch.rand(512, 1, 2) * 2 - 1
    target = (inputs[..., :1] * 8).floor() % 2
    optimiser = torch.optim.Adam(agent.parameters(), lr=3e-3)
    for _ in range(300):
        outputs, _ = agent.unroll(inputs, torch.zeros(512, 32))
        loss = (outputs - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


@pytest.mark.parametrize("use_rnn", [True, False])
def test_sines_of_its_inputs_let_a_network_tell_small_differences(use_rnn):
    fourier, plain = (
        error_of_stripes(make_agent(kind, use_rnn=use_rnn)) for kind in (FourierRNNAgent, RNNAgent)
    )
    assert fourier < 0.08 < 0.2 < plain  # a guess of one half has an error of .25


@pytest.mark.parametrize("agent_class", [RNNAgent, FourierRNNAgent])
def test_the_recurrent_state_alone_carries_the_past(agent_class):
    agent = make_agent(agent_class)
    inputs = torch.rand(5, 4, 2)
    whole, hiddens = agent.unroll(inputs, torch.zeros(5, 32))
    rest, _ = agent.unroll(inputs[:, 2:], hiddens[:, 1])
    torch.testing.assert_close(rest, whole[:, 2:])
    forgetful, _ = agent.unroll(inputs[:, 2:], torch.zeros(5, 32))
    assert (forgetful - whole[:, 2:]).abs().max() > 1e-3


@pytest.mark.parametrize("agent_class", [RNNAgent, FourierRNNAgent])
def test_what_rounds_products_leaves_the_recurrent_state_alone(agent_class):
    """Else a policy would be trained on another one's actions: it acts by steps and learns from sequences."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    agent = make_agent(agent_class).to(device)
    inputs, hidden = torch.rand(5, 4, 2, device=device), torch.zeros(5, 32, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        _, hiddens = agent.unroll(inputs, hidden)
        for t in range(4):
            _, hidden = agent(inputs[:, t], hidden)
            assert hidden.dtype == torch.float32
            torch.testing.assert_close(hidden, hiddens[:, t])
