"""The shared-network controller: stepping, unrolling, masking, restarting."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.episode_buffer import EpisodeBatch
from components.transforms import OneHot
from controllers.basic_controller import BLOCKED, BasicMAC, sequence_outputs
from modules.agents import REGISTRY as AGENTS
from modules.agents import FourierRNNAgent, RNNAgent

B, T, N_AGENTS, N_ACTIONS, OBS = 4, 6, 3, 5, 7


def make_args(**overrides: Any) -> SimpleNamespace:
    defaults = {
        "n_agents": N_AGENTS, "n_actions": N_ACTIONS, "agent": "rnn", "agent_output_type": "pi_logits",
        "action_selector": "soft_policies", "obs_agent_id": True, "obs_last_action": True, "hidden_dim": 16,
        "fourier_octaves": 3,
        "use_rnn": True, "test_greedy": True, "epsilon_start": 1.0, "epsilon_finish": 0.05,
        "epsilon_anneal_time": 100, "evaluation_epsilon": 0.0,
    }  # fmt: skip
    return SimpleNamespace(**{**defaults, **overrides})


def make_batch() -> EpisodeBatch:
    """Random episodes; the last step is padding, where nothing is available."""
    torch.manual_seed(0)
    scheme = {
        "obs": {"vshape": OBS, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (N_ACTIONS,), "group": "agents", "dtype": torch.int},
    }
    preprocess = {"actions": ("actions_onehot", [OneHot(N_ACTIONS)])}
    batch = EpisodeBatch(scheme, {"agents": N_AGENTS}, B, T, preprocess=preprocess)
    avail = (torch.rand(B, T, N_AGENTS, N_ACTIONS) < 0.5).int()
    avail[..., 2] = 1
    avail[:, -1] = 0
    actions = torch.randint(N_ACTIONS, (B, T, N_AGENTS, 1))
    batch.update({"obs": torch.randn(B, T, N_AGENTS, OBS), "avail_actions": avail, "actions": actions})
    return batch


def make_mac(mac_class: type = BasicMAC, **overrides: Any) -> Any:
    torch.manual_seed(1)
    return mac_class(make_batch().scheme, {"agents": N_AGENTS}, make_args(**overrides))


def stepped(mac: Any, batch: EpisodeBatch) -> torch.Tensor:
    mac.init_hidden(batch.batch_size)
    return torch.stack([mac.forward(batch, t) for t in range(batch.max_seq_length)], dim=1)


class SteppingAgent(RNNAgent):
    """Knows single steps only, as agents written for EPyMARL."""

    unroll = property()  # hasattr finds nothing

    def forward(self, inputs, hidden_state):
        outputs, hiddens = RNNAgent.unroll(self, inputs.unsqueeze(1), hidden_state.reshape(len(inputs), -1))
        return outputs.squeeze(1), hiddens.squeeze(1)


class SeparateAgents(torch.nn.Module):
    """A network per agent, as those of EPyMARL: the state comes as (batch, n_agents, hidden)."""

    def __init__(self, input_shape: int, args: Any) -> None:
        super().__init__()
        self.cells = torch.nn.ModuleList(torch.nn.GRUCell(input_shape, 16) for _ in range(N_AGENTS))
        self.heads = torch.nn.ModuleList(torch.nn.Linear(16, N_ACTIONS) for _ in range(N_AGENTS))

    def init_hidden(self) -> torch.Tensor:
        return torch.zeros(1, 16)

    def forward(self, inputs, hidden_state):
        own = inputs.view(-1, N_AGENTS, inputs.shape[-1])
        hiddens = [cell(own[:, i], hidden_state[:, i]) for i, cell in enumerate(self.cells)]
        outputs = [head(hidden) for head, hidden in zip(self.heads, hiddens, strict=True)]
        return torch.stack(outputs, dim=1).flatten(0, 1), torch.stack(hiddens, dim=1)


def test_unrolling_separate_agents_equals_stepping(monkeypatch):
    monkeypatch.setitem(AGENTS, "rnn", SeparateAgents)
    mac, batch = make_mac(), make_batch()
    torch.testing.assert_close(mac.unroll(batch).softmax(-1), stepped(mac, batch))


@pytest.mark.parametrize("obs_last_action", [True, False])
@pytest.mark.parametrize("use_rnn", [True, False])
@pytest.mark.parametrize("agent_class", [RNNAgent, FourierRNNAgent, SteppingAgent])
def test_unrolling_equals_stepping(monkeypatch, agent_class, use_rnn, obs_last_action):
    monkeypatch.setitem(AGENTS, "rnn", agent_class)
    mac = make_mac(use_rnn=use_rnn, obs_last_action=obs_last_action)
    assert hasattr(mac.agent, "unroll") == (agent_class is not SteppingAgent)
    batch = make_batch()
    torch.testing.assert_close(mac.unroll(batch).softmax(-1), stepped(mac, batch))
    q_mac = make_mac(agent_output_type="q", action_selector="epsilon_greedy")
    torch.testing.assert_close(q_mac.unroll(batch), stepped(q_mac, batch))


def test_unrolling_the_rest_from_a_hidden_state_equals_unrolling_all():
    mac, batch = make_mac(obs_last_action=False), make_batch()
    inputs = mac.sequence_inputs(batch)
    outputs, hiddens = mac.run_agent(inputs)
    rest, _ = mac.run_agent(inputs[:, 3:], hiddens[:, 2])
    torch.testing.assert_close(rest, outputs[:, 3:])


def test_unrolling_gives_the_gradients_of_stepping():
    mac, batch = make_mac(), make_batch()
    weights = torch.randn(B, T, N_AGENTS, N_ACTIONS)
    gradients = [
        torch.autograd.grad((outputs * weights).sum(), list(mac.parameters()))
        for outputs in (mac.unroll(batch).softmax(-1), stepped(mac, batch))
    ]
    for unrolled, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(unrolled, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("agent_class", [RNNAgent, FourierRNNAgent, SteppingAgent])
def test_unrolling_episodes_of_unlike_lengths_equals_stepping_their_steps(monkeypatch, agent_class):
    monkeypatch.setitem(AGENTS, "rnn", agent_class)
    mac, batch = make_mac(), make_batch()
    real = torch.arange(T) < torch.tensor([3, 6, 1, 5]).unsqueeze(1)
    batch["filled"][:] = real.unsqueeze(-1)
    weights = torch.randn(B, T, N_AGENTS, N_ACTIONS) * real[:, :, None, None]
    unrolled, reference = mac.unroll(batch).softmax(-1), stepped(mac, batch)
    torch.testing.assert_close(unrolled[real], reference[real])
    assert unrolled.isfinite().all()
    gradients = [
        torch.autograd.grad((outputs * weights).sum(), list(mac.parameters()))
        for outputs in (unrolled, reference)
    ]
    for of_unrolled, of_reference in zip(*gradients, strict=True):
        torch.testing.assert_close(of_unrolled, of_reference, rtol=1e-4, atol=1e-5)


class Doubling(RNNAgent):
    """Changes what comes of whole sequences."""

    def unroll(self, inputs, hidden_state):
        outputs, hiddens = super().unroll(inputs, hidden_state)
        return 2 * outputs, hiddens


def test_an_agents_own_unroll_is_the_one_that_is_asked(monkeypatch):
    settings = {"agent_output_type": "q", "action_selector": "epsilon_greedy"}
    plain, batch = make_mac(**settings), make_batch()
    monkeypatch.setitem(AGENTS, "rnn", Doubling)
    torch.testing.assert_close(make_mac(**settings).unroll(batch), 2 * plain.unroll(batch))


def test_resetting_some_episodes_restarts_those_and_no_others():
    mac, batch = make_mac(obs_last_action=False), make_batch()
    continued = stepped(mac, batch)[:, 3]
    mac.init_hidden(B)
    fresh = mac.forward(batch, 3)
    mac.init_hidden(B)
    for t in range(3):
        mac.forward(batch, t)
    restarted = torch.tensor([False, True, False, True])
    mac.reset_hidden(restarted)
    outputs = mac.forward(batch, 3)
    torch.testing.assert_close(outputs[restarted], fresh[restarted])
    torch.testing.assert_close(outputs[~restarted], continued[~restarted])


@pytest.mark.parametrize("extreme", [1e30, -1e30])
@pytest.mark.parametrize("test_mode", [False, True])
def test_unavailable_actions_are_never_sampled_at_extreme_logits(extreme, test_mode):
    mac, batch = make_mac(), make_batch()[:, :1]
    avail = batch["avail_actions"][:, 0]
    logits = torch.where(avail > 0, extreme, -extreme)
    mac.agent.forward = lambda inputs, hidden: (logits.flatten(0, 1), hidden)
    mac.init_hidden(B)
    for _ in range(200):
        actions = mac.select_actions(batch, 0, 0, test_mode=test_mode)
        assert (avail.gather(2, actions.unsqueeze(2)) == 1).all()


def test_masked_logits_have_finite_entropy_and_gradients_even_in_padding():
    mac, batch = make_mac(), make_batch()
    log_pi = mac.unroll(batch).log_softmax(-1)
    entropy = -(log_pi.exp() * log_pi).sum(-1)
    assert torch.isfinite(entropy).all()
    gradients = torch.autograd.grad(entropy.sum(), list(mac.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    blocked = (batch["avail_actions"] == 0)[:, :-1]
    assert (log_pi.exp()[:, :-1][blocked] == 0).all()


def test_available_actions_keep_their_logits_number_for_number():
    torch.manual_seed(0)
    logits = 10 ** torch.linspace(-30, 30, 120).view(10, 12) * torch.randn(10, 12)
    logits.requires_grad_()
    available = torch.rand(10, 12) < 0.6
    for mask in (available, available.int(), available.float()):
        masked = BasicMAC.masked(logits, mask)
        assert torch.equal(masked[available], logits[available])
        assert (masked[~available] == BLOCKED).all()
        (gradient,) = torch.autograd.grad(masked.sum(), logits)
        assert torch.equal(gradient, available.float())


def test_only_the_episodes_asked_for_are_answered():
    mac, batch = make_mac(agent_output_type="q", action_selector="epsilon_greedy"), make_batch()
    mac.init_hidden(B)
    everyone = mac.select_actions(batch, 0, 0, test_mode=True)
    mac.init_hidden(B)
    assert torch.equal(mac.select_actions(batch, 0, 0, bs=[2, 0], test_mode=True), everyone[[2, 0]])


class DoublingMAC(BasicMAC):
    """Derived in EPyMARL's way, by its own inputs."""

    def _build_inputs(self, batch, t):
        return 2 * super()._build_inputs(batch, t)


class SharpMAC(BasicMAC):
    """Derived in EPyMARL's way, by its own forward pass."""

    def forward(self, ep_batch, t, test_mode=False):
        return (super().forward(ep_batch, t).log() * 3).softmax(-1)


@pytest.mark.parametrize("mac_class", [DoublingMAC, SharpMAC])
def test_sequences_of_derived_controllers_follow_what_they_override(mac_class):
    mac, batch = make_mac(mac_class), make_batch()[:, :-1]
    torch.testing.assert_close(sequence_outputs(mac, batch).softmax(-1), stepped(mac, batch))
    plain = make_mac()
    plain.load_state(mac)
    assert not torch.allclose(sequence_outputs(plain, batch).softmax(-1), stepped(mac, batch))


def test_saved_models_are_read_back(tmp_path):
    mac, other = make_mac(), make_mac(hidden_dim=16)
    with torch.no_grad():
        mac.agent.fc1.weight.add_(1.0)
    mac.save_models(str(tmp_path))
    other.load_models(str(tmp_path))
    assert torch.equal(mac.agent.fc1.weight, other.agent.fc1.weight)


def test_an_unknown_output_type_is_refused():
    with pytest.raises(ValueError, match="'logits' is neither q nor pi_logits"):
        make_mac(agent_output_type="logits")


def test_a_policy_notes_how_likely_its_actions_were():
    mac, batch = make_mac(), make_batch()
    assert list(mac.noted_fields) == ["log_probs"]
    mac.init_hidden(B)
    probs = mac.forward(batch, 0)
    mac.init_hidden(B)
    playing = [0, 2, 3]
    actions = mac.select_actions(batch, 0, 0, bs=playing)
    expected = probs[playing].gather(-1, actions.unsqueeze(-1)).log()
    torch.testing.assert_close(mac.notes["log_probs"], expected)


class ChoosingMAC(BasicMAC):
    """Chooses in its own way, and notes nothing."""

    def select_actions(self, ep_batch, t_ep, t_env, bs=slice(None), test_mode=False):
        return ep_batch["avail_actions"][bs, t_ep].argmax(-1)


def test_values_and_controllers_that_choose_in_their_own_way_note_nothing():
    assert make_mac(agent_output_type="q", action_selector="epsilon_greedy").noted_fields == {}
    assert make_mac(ChoosingMAC).noted_fields == {}
