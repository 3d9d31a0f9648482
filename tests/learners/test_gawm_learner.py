"""The GAWM learner as a whole, as GAWM and as its relatives: clocks, start states, resuming, divergence."""

import copy
import itertools
from shutil import which
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.episode_buffer import EpisodeBatch
from components.imagination import imagine
from components.transforms import OneHot
from controllers import REGISTRY as CONTROLLERS
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
    "mac": "basic_mac",
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
    "wm_share_per_update": 0.0,
    "wm_batch_size": 3,
    "wm_sequence_length": 6,
    "wm_lr": 1e-3,
    "wm_muon_lr": 1e-3,
    "wm_grad_norm_clip": 100.0,
    "wm_averaging": 0.9,
    "policy_steps_per_round": 10,
    "policy_share_per_round": 0.0,
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
    "wm_action_head": False,
    "wm_regression": "scale_free",
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
    "entropy_decay": 1.0,
    "entropy_target": 0.5,
    "entropy_target_final": 0.1,
    "lr": 1e-3,
    "lr_final": 1e-3,
    "policy_anneal_time": 100,
    "critic_lr": 1e-3,
    "optim_eps": 1e-5,
    "grad_norm_clip": 10.0,
    "critic_width": 16,
    "critic_real_scale": 1.0,
    "candidates": 1,
    "candidate_predictions": 3,
    "candidate_choice": "trajectory",
    "error_predictor_width": 16,
    "error_predictor_lr": 1e-3,
}
MAMBA: dict[str, Any] = {
    "mac": "latent_mac",
    "use_rnn": False,
    "wm_obs_fusion": False,
    "wm_action_head": True,
    "wm_regression": "smooth_l1",
    "wm_muon_lr": 0.0,
    "entropy_target": None,
}
RELATIVES: dict[str, dict[str, Any]] = {
    "gawm": {},
    "gawm without fusion": {"wm_obs_fusion": False},
    "mamba": MAMBA,
    "mag": {**MAMBA, "candidates": 3},
    "mag per batch": {**MAMBA, "candidates": 2, "candidate_choice": "batch"},
    "gawm on latents": {"mac": "latent_mac", "use_rnn": False},
    "gawm with candidates": {"candidates": 2},
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
    mac = CONTROLLERS[args.mac](batch.scheme, GROUPS, args)
    return GAWMLearner(mac, batch.scheme, Log(), args)


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


def test_training_halts_after_each_update() -> None:
    learner = make_learner(start_training_steps=0)
    done = []
    learner.store(random_episodes([8] * 5, seed=1))
    for _ in learner.updates_due(40):
        done.append((learner.averaging.updates, learner.pseudo.state_dict()["written"]))
    assert done == [*((n, 0) for n in range(1, 9)), *((8, n) for n in range(1, 5))]


def assert_same_networks(learner: GAWMLearner, twin: GAWMLearner) -> None:
    for mine, its in (
        (learner.mac.agent, twin.mac.agent),
        (learner.world_model, twin.world_model),
        (learner.student, twin.student),
        (learner.behaviour.critic, twin.behaviour.critic),
        *([] if learner.candidates is None else [(learner.candidates.predictor, twin.candidates.predictor)]),
    ):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, its.state_dict()[name]), name


@pytest.mark.parametrize("halted_after", [3, 8, 10])
def test_a_learner_restored_amid_its_updates_makes_the_others_bit_equal(halted_after: int) -> None:
    learner, twin = make_learner(start_training_steps=0), make_learner(start_training_steps=0)
    learner.store(random_episodes([8] * 5, seed=1))
    updates = learner.updates_due(40)
    for _ in range(halted_after):
        next(updates)
    saved, rng = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    made = len(list(updates))
    twin.load_state_dict(saved)
    torch.set_rng_state(rng)
    assert len(list(twin.updates_due(40))) == made == 12 - halted_after
    assert_same_networks(learner, twin)
    assert learner.logger.stats["wm_loss"] == twin.logger.stats["wm_loss"]


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
    state, _ = learner.world_model.observe(data.obs, data.actions, data.is_first)
    memory = learner._actor_memory(data, state)
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


@pytest.mark.parametrize("relative", RELATIVES)
def test_what_agents_see_is_imagined_only_where_the_policy_looks_at_it(relative: str) -> None:
    learner = make_learner(**RELATIVES[relative])
    learner.trajectories.insert_episode_batch(random_episodes([8, 3, 5], seed=1))
    decoded: list[Any] = []
    learner.world_model.obs_head.register_forward_hook(lambda *call: decoded.append(call))
    learner._train_policy(0)
    assert bool(decoded) == (RELATIVES[relative].get("mac") != "latent_mac")
    assert learner.pseudo.all().obs.shape[-1] == (OBS if decoded else 0)


@pytest.mark.parametrize("relative", RELATIVES)
def test_a_restored_learner_goes_on_bit_equal(relative: str) -> None:
    learner, twin = (make_learner(**RELATIVES[relative]) for _ in range(2))
    t_env = feed(learner, 6, 1)
    saved, rng = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    twin.load_state_dict(saved)
    feed(learner, 3, 1, start=t_env)
    torch.set_rng_state(rng)
    feed(twin, 3, 1, start=t_env)
    trained = learner.state_dict()
    assert any(
        not torch.equal(saved["world_model"][key], value) for key, value in trained["world_model"].items()
    )
    assert_same_networks(learner, twin)


@pytest.mark.parametrize("relative", ["gawm", "mamba", "mag"])
def test_gradients_move_the_student_and_its_average_imagines_and_acts(
    relative: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(**RELATIVES[relative])
    imagining = []

    def watch(model: Any, *others: Any) -> Any:
        imagining.append(model)
        return imagine(model, *others)

    monkeypatch.setattr("learners.gawm_learner.imagine", watch)
    feed(learner, 6, 1)
    assert imagining
    assert all(model is learner.world_model for model in imagining)
    assert all(p.grad is None for p in learner.world_model.parameters())
    pairs = zip(learner.world_model.parameters(), learner.student.parameters(), strict=True)
    assert not all(torch.equal(average, trained) for average, trained in pairs)
    assert getattr(learner.mac, "world_model", learner.world_model) is learner.world_model


@pytest.mark.parametrize("relative", ["gawm", "mamba"])
def test_saved_models_act_alike(tmp_path: Any, relative: str) -> None:
    learner, twin = make_learner(**RELATIVES[relative]), make_learner(**RELATIVES[relative])
    feed(learner, 5, 1)
    episodes = random_episodes([8, 8], seed=9)

    def acting(mac: Any) -> torch.Tensor:
        torch.manual_seed(4)
        mac.init_hidden(2)
        return torch.stack([mac.forward(episodes, t) for t in range(8)])

    assert not torch.equal(acting(learner.mac), acting(twin.mac))
    learner.mac.save_models(str(tmp_path))  # all that acting needs
    twin.mac.load_models(str(tmp_path))
    assert torch.equal(acting(learner.mac), acting(twin.mac))
    learner.save_models(str(tmp_path))
    twin.load_models(str(tmp_path))
    for name, value in learner.world_model.state_dict().items():
        assert torch.equal(value, twin.world_model.state_dict()[name]), name


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    learner = make_learner()
    episodes = random_episodes([8, 8, 8], seed=3)
    episodes["obs"][:, 2] = torch.nan
    with pytest.raises(TrainingDiverged, match="wm_"):
        learner.train(episodes, 40, 0)


def test_a_bad_gradient_of_the_model_moves_nothing() -> None:
    learner = make_learner()
    learner.student.reward_head[0].weight.register_hook(lambda gradient: gradient * torch.nan)
    before = copy.deepcopy((learner.student.state_dict(), learner.world_model.state_dict()))
    with pytest.raises(TrainingDiverged, match="wm_grad_norm"):
        feed(learner, 5, 1)
    for model, old in zip((learner.student, learner.world_model), before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in model.state_dict().items())


def test_what_is_logged_is_the_mean_over_all_updates_since_the_last_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = make_learner(learner_log_interval=40)
    losses, gradients = itertools.count(), itertools.count(100)
    monkeypatch.setattr(learner, "_train_world_model", lambda _: {"wm_loss": torch.tensor(next(losses))})
    monkeypatch.setattr(learner, "_train_policy", lambda _: {"pg_loss": torch.tensor(next(gradients))})
    feed(learner, 10, 1)
    logged = learner.logger.stats  # at 24, 40 and 80 steps, an update per 5 and a round per 10
    assert (logged["wm_updates"], logged["policy_rounds"]) == ([4, 8, 16], [2, 4, 8])
    assert logged["wm_loss"] == [1.5, 5.5, 11.5]
    assert logged["pg_loss"] == [100.5, 102.5, 105.5]


def updated(alg: dict[str, Any], **compute: Any) -> tuple[GAWMLearner, dict[str, torch.Tensor]]:
    """A learner after one update of its model and one round of its policy."""
    learner = make_learner(**alg, **compute)
    learner.trajectories.insert_episode_batch(random_episodes([8, 5, 8, 6], seed=1))
    torch.manual_seed(0)
    return learner, {**learner._train_world_model(0), **learner._train_policy(0)}


@pytest.mark.parametrize("relative", ["gawm", "mamba", "mag"])
def test_bfloat16_learns_nearly_the_same(relative: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.compute.multiplies_bfloat16", lambda: True)
    exact, expected = updated(RELATIVES[relative])
    rounded, statistics = updated(RELATIVES[relative], precision="bfloat16")
    for key, value in statistics.items():
        assert value.dtype == torch.float32, key
    for key in ("wm_kl", "wm_obs_loss", "wm_reward_loss", "wm_continue_loss"):
        assert statistics[key].item() == pytest.approx(expected[key].item(), rel=0.05)
    assert all(p.dtype == torch.float32 for p in rounded.world_model.parameters())
    assert rounded.pseudo.all().h.dtype == torch.bfloat16
    weights, as_before = (learner.world_model.prior_head[0].weight for learner in (rounded, exact))
    assert not torch.allclose(weights, as_before, rtol=0, atol=1e-6)


needs_compiler = pytest.mark.skipif(
    not (which("c++") or which("g++") or which("clang++")), reason="there is no C++ compiler"
)


@pytest.mark.slow
@needs_compiler
def test_episodes_of_all_lengths_share_what_is_compiled() -> None:
    model = make_learner(compile=True).world_model
    compiled = []
    for length in (4, 6, 8):
        episodes = random_episodes([length, length], seed=length)
        is_first = torch.zeros(2, length, dtype=torch.bool)
        with torch.no_grad():
            model.observe(episodes["obs"][:, :length], episodes["actions"][:, :length, :, 0], is_first)
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compiled[0] == compiled[1] == compiled[2] > 0


@pytest.mark.slow
@needs_compiler
def test_a_compiled_model_learns_the_same(caplog: pytest.LogCaptureFixture) -> None:
    plain, expected = updated({})
    compiled, statistics = updated({}, compile=True)
    assert not [record for record in caplog.records if record.name == "marl.compute"]
    for key in ("wm_loss", "wm_grad_norm", "imagined_return", "critic_loss"):
        assert statistics[key].item() == pytest.approx(expected[key].item(), rel=1e-3)
    for ours, theirs in zip(plain.world_model.parameters(), compiled.world_model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_errors_are_predicted_from_the_states_of_the_model_that_made_them(monkeypatch) -> None:
    learner = make_learner(**RELATIVES["mag"])
    learner.trajectories.insert_episode_batch(random_episodes([8, 5, 8, 6], seed=1))
    assert learner.candidates is not None
    before = [parameter.clone() for parameter in learner.student.parameters()]
    seen: list[torch.Tensor] = []
    train = learner.candidates.train

    def watched(model, loss, is_first):
        seen.extend(parameter.clone() for parameter in model.parameters())
        return train(model, loss, is_first)

    monkeypatch.setattr(learner.candidates, "train", watched)
    assert "error_predictor_loss" in learner._train_world_model(0)
    assert all(torch.equal(left, right) for left, right in zip(seen, before, strict=True))
    assert not all(map(torch.equal, seen, learner.student.parameters()))
