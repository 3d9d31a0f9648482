"""The controller that acts on a world model's state: it runs the model as a learner does, and agents talk."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.episode_buffer import EpisodeBatch
from components.transforms import OneHot
from controllers.latent_controller import LatentMAC
from modules.world_models.world_model import LatentState
from runners.acting import WindowActor

B, T, N_AGENTS, N_ACTIONS, OBS = 3, 6, 2, 4, 5
SCHEME = {
    "obs": {"vshape": OBS, "group": "agents"},
    "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
    "avail_actions": {"vshape": (N_ACTIONS,), "group": "agents", "dtype": torch.int},
}
GROUPS = {"agents": N_AGENTS}
ONE_HOT = {"actions": ("actions_onehot", [OneHot(N_ACTIONS)])}


def make_mac(obs_fusion: bool = False) -> LatentMAC:
    torch.manual_seed(0)
    args = SimpleNamespace(
        n_agents=N_AGENTS, n_actions=N_ACTIONS, agent="rnn", agent_output_type="pi_logits",
        action_selector="soft_policies", test_greedy=True, obs_agent_id=True, obs_last_action=False,
        hidden_dim=16, use_rnn=False, wm_width=16, wm_latent_groups=3, wm_latent_classes=4,
        wm_uniform_mix=0.01, wm_fusion_layers=1, wm_fusion_heads=2, wm_head_layers=1,
        wm_obs_fusion=obs_fusion,
    )  # fmt: skip
    return LatentMAC(SCHEME, GROUPS, args)


def make_episodes() -> EpisodeBatch:
    torch.manual_seed(1)
    batch = EpisodeBatch(SCHEME, GROUPS, B, T, preprocess=ONE_HOT)
    avail = (torch.rand(B, T, N_AGENTS, N_ACTIONS) < 0.5).int()
    avail[..., 1] = 1
    actions = torch.randint(N_ACTIONS, (B, T, N_AGENTS, 1))
    batch.update({"obs": torch.randn(B, T, N_AGENTS, OBS), "avail_actions": avail, "actions": actions})
    return batch


@torch.no_grad()
def play(mac: LatentMAC, batch: EpisodeBatch, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and features of all steps, each step acted on by itself."""
    torch.manual_seed(seed)
    mac.init_hidden(batch.batch_size)
    steps = [(mac.forward(batch, t), mac.hidden_states[..., :-1]) for t in range(batch.max_seq_length)]
    probabilities, features = zip(*steps, strict=True)
    return torch.stack(probabilities, dim=1), torch.stack(features, dim=1)


@torch.no_grad()
def observe(mac: LatentMAC, batch: EpisodeBatch, is_first: torch.Tensor, seed: int = 2) -> torch.Tensor:
    """Features of all steps as a learner has them, from the same random numbers."""
    torch.manual_seed(seed)
    return mac.world_model.observe(batch["obs"], batch["actions"][..., 0], is_first)[0].features


@pytest.mark.parametrize("obs_fusion", [True, False])
def test_acting_runs_the_model_as_learning_does(obs_fusion: bool) -> None:
    mac, batch = make_mac(obs_fusion), make_episodes()
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 0] = True
    _, features = play(mac, batch)
    assert torch.allclose(features, observe(mac, batch, is_first), atol=1e-5)


def test_a_step_at_which_nobody_sees_anything_begins_no_episode() -> None:
    mac, batch = make_mac(), make_episodes()
    batch["obs"][:, 2] = 0
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 0] = True
    assert torch.allclose(play(mac, batch)[1], observe(mac, batch, is_first), atol=1e-5)


@torch.no_grad()
def test_a_restarted_slot_forgets_and_the_others_go_on() -> None:
    mac, batch = make_mac(), make_episodes()
    ended = torch.tensor([False, True, False])
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[ended, 3] = True
    torch.manual_seed(2)
    mac.init_hidden(B)
    features = []
    for t in range(T):
        if t == 3:
            mac.reset_hidden(ended)
        mac.forward(batch, t)
        features.append(mac.hidden_states[..., :-1])
    assert torch.allclose(torch.stack(features, dim=1), observe(mac, batch, is_first), atol=1e-5)


def test_slots_at_different_steps_act_as_if_alone() -> None:
    mac, batch = make_mac(), make_episodes()

    def new_batch(batch_size: int, length: int) -> EpisodeBatch:
        return EpisodeBatch(SCHEME, GROUPS, batch_size, length, preprocess=ONE_HOT)

    actor = WindowActor(mac, new_batch, B)

    class View:
        def __init__(self, t: int) -> None:
            self.t = t

        def _asdict(self) -> dict[str, Any]:
            return {key: batch[key][:, self.t] for key in ("obs", "avail_actions")}

    torch.manual_seed(3)
    actor.start()
    everyone = torch.ones(B, dtype=torch.bool)
    with torch.no_grad():
        first = actor.act(View(0), everyone, 0, test_mode=True)  # type: ignore[arg-type]
        actor.restart(torch.tensor([True, False, False]))
        actor.act(View(1), everyone, 0, test_mode=True)  # type: ignore[arg-type]
    width = mac.world_model.width
    h = mac.hidden_states[..., :width]
    assert torch.all(h[0] == 0)
    assert torch.all(h[1:].abs().sum(dim=-1) > 0)
    assert batch["avail_actions"][:, 0].gather(-1, first.unsqueeze(-1)).all()


def test_agents_communicate_through_the_model() -> None:
    """What one agent sees reaches the others by the next step, and not before."""
    mac, batch = make_mac(obs_fusion=False), make_episodes()
    with torch.no_grad():
        mac.world_model.posterior_head[-1].weight *= 30  # latents that tell what was seen
    before, _ = play(mac, batch)
    batch["obs"][:, 0, 1] = torch.randn(B, OBS)
    after, _ = play(mac, batch)
    assert torch.equal(before[:, 0, 0], after[:, 0, 0])
    assert not torch.equal(before[:, 1, 0], after[:, 1, 0])


def test_inside_the_model_the_policy_looks_at_features_alone() -> None:
    mac = make_mac()
    model = mac.world_model
    h, logits = torch.randn(7, N_AGENTS, model.width), torch.randn(7, N_AGENTS, model.latents.size)
    state = LatentState(h, *model.latents.draw(logits, torch.rand(7, N_AGENTS) < 0.7))
    inputs = mac.policy_inputs(torch.randn(7, N_AGENTS, OBS), state)
    assert torch.equal(inputs[..., : model.feature_size], state.features)
    assert torch.equal(inputs, mac.policy_inputs(torch.full((7, N_AGENTS, OBS), torch.nan), state))
    assert torch.equal(inputs, mac.policy_inputs(torch.empty(7, N_AGENTS, 0), state.compact(model.latents)))


def test_only_the_policy_is_offered_for_training() -> None:
    mac = make_mac()
    offered = {id(parameter) for parameter in mac.parameters()}
    assert offered == {id(parameter) for parameter in mac.agent.parameters()}


def test_copies_hold_both_networks(tmp_path: Path) -> None:
    mac, twin, third = make_mac(), make_mac(), make_mac()
    torch.nn.init.normal_(mac.world_model.embed[0].weight)  # type: ignore[arg-type]
    torch.nn.init.normal_(mac.agent.fc1.weight)
    batch = make_episodes()
    expected, _ = play(mac, batch)
    assert not torch.equal(play(twin, batch)[0], expected)
    mac.save_models(str(tmp_path))
    twin.load_models(str(tmp_path))
    third.load_state(mac)
    assert torch.equal(play(twin, batch)[0], expected)
    assert torch.equal(play(third, batch)[0], expected)
