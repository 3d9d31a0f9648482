"""MAG: the candidate taken is the one whose predicted errors add up to the least."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.candidates import Candidates, CandidatesConfig
from components.imagination import Decision, Moment
from modules.world_models.losses import WorldModelLoss
from modules.world_models.world_model import LatentState, WorldModel, WorldModelConfig

N, N_AGENTS, OBS, ACTIONS, HIDDEN = 50, 2, 3, 4, 5


class Policy:
    """Acts at random and counts in its memory how often it was asked."""

    sees_obs = True

    def policy_inputs(self, obs: Tensor, state: LatentState) -> Tensor:
        return obs

    def run_agent(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.new_zeros(*inputs.shape[:-1], ACTIONS), hidden.unsqueeze(1) + 1


def make(**changes: Any) -> Candidates:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "candidates": 4, "candidate_predictions": 6, "candidate_choice": "trajectory",
        "error_predictor_width": 16, "error_predictor_lr": 1e-2, "optim_eps": 1e-5,
    }  # fmt: skip
    model = WorldModel(N_AGENTS, OBS, ACTIONS, WorldModelConfig(8, 4, 5, 0.01, 1, 2, 1, False))
    policy: Any = Policy()
    return Candidates(model, policy, CandidatesConfig(**{**values, **changes}))


def let_live(candidates: Candidates, log_odds: float) -> None:
    """Whoever is alive stays so with these log-odds, at any state."""
    torch.nn.init.zeros_(candidates.model.alive_head[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.constant_(candidates.model.alive_head[-1].bias, log_odds)  # type: ignore[arg-type]


def make_moment(candidates: Candidates) -> tuple[Moment, Decision]:
    latents = candidates.model.latents
    z = latents.draw(torch.zeros(N, N_AGENTS, latents.size), torch.ones(N, N_AGENTS)).z
    state = LatentState(torch.randn(N, N_AGENTS, candidates.model.width), z)
    avail = torch.ones(N, N_AGENTS, ACTIONS, dtype=torch.bool)
    hidden = torch.zeros(N, N_AGENTS, HIDDEN)
    actions = torch.randint(ACTIONS, (N, N_AGENTS))
    return Moment(state, torch.randn(N, N_AGENTS, OBS), avail, hidden), Decision(
        actions, torch.zeros(N), hidden
    )


def watch(candidates: Candidates, monkeypatch: pytest.MonkeyPatch) -> list[tuple[LatentState, Tensor]]:
    """What `foreseen_errors` is asked and answers."""
    calls = []
    original = candidates.foreseen_errors

    def watched(state: LatentState, hidden: Tensor) -> Tensor:
        errors = original(state, hidden)
        calls.append((state, errors))
        return errors

    monkeypatch.setattr(candidates, "foreseen_errors", watched)
    return calls


@pytest.mark.parametrize("choice", ["trajectory", "batch"])
def test_the_candidate_with_the_least_predicted_error_is_taken(choice, monkeypatch):
    candidates = make(candidate_choice=choice)
    calls = watch(candidates, monkeypatch)
    moment, decision = make_moment(candidates)
    chosen = candidates.advance(moment, decision)
    ((offered, errors),) = calls
    offered_z, errors = offered.z.view(N, 4, N_AGENTS, -1), errors.view(N, 4)
    assert torch.equal(chosen.h, candidates.model.advance(moment.state, decision.actions))
    team_errors = errors.sum(dim=0)
    for row in range(N):
        judged = errors[row] if choice == "trajectory" else team_errors
        assert torch.equal(chosen.z[row], offered_z[row, int(judged.argmin())])
    assert len({int(row.argmin()) for row in errors}) == 4  # so the choice matters


def test_candidates_are_samples_of_the_prior_after_the_joint_action(monkeypatch):
    candidates = make(candidates=400, candidate_predictions=1)
    calls = watch(candidates, monkeypatch)
    moment, decision = make_moment(candidates)
    candidates.advance(moment, decision)
    h = candidates.model.advance(moment.state, decision.actions)
    offered = calls[0][0]
    assert torch.equal(offered.h.view(N, 400, N_AGENTS, -1), h.unsqueeze(1).expand(-1, 400, -1, -1))
    latents, living = offered.z.view(N, 400, N_AGENTS, -1), offered.living.view(N, 400, N_AGENTS)
    assert torch.equal(living, living[:, :1].expand(-1, 400, -1))  # who lives is not chosen
    assert 0 < living[:, 0].sum() < living[:, 0].numel()
    shares = latents.mean(dim=1)[living[:, 0]]
    prior = candidates.model.latents.probs(candidates.model.prior_logits(h)).flatten(-2)
    assert (shares - prior[living[:, 0]]).abs().max() < 0.15


@pytest.mark.parametrize("predictions", [1, 2, 6])
def test_errors_are_summed_over_the_predictions_and_the_policy_goes_on(predictions, monkeypatch):
    candidates = make(candidate_predictions=predictions)
    let_live(candidates, 50.0)
    seen: list[Tensor] = []

    def counted(features: Tensor) -> Tensor:
        seen.append(features)
        agents = torch.tensor([0.0, 2.0])  # their mean counts
        return (agents + len(seen)).expand(features.shape[:-1])

    monkeypatch.setattr(candidates.predictor, "forward", counted)
    memories: list[Tensor] = []
    original = Policy.run_agent

    def remembered(self: Policy, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        memories.append(hidden)
        return original(self, inputs, hidden)

    monkeypatch.setattr(Policy, "run_agent", remembered)
    state = make_moment(candidates)[0].state
    errors = candidates.foreseen_errors(state, torch.zeros(N, N_AGENTS, HIDDEN))
    assert torch.equal(seen[0], state.features)
    assert torch.equal(errors, torch.full((N,), sum(1.0 + step for step in range(1, predictions + 1))))
    assert [memory.unique().tolist() for memory in memories] == [[float(k)] for k in range(predictions - 1)]


def test_as_many_die_among_candidates_as_in_plain_imagination(monkeypatch):
    candidates = make()
    let_live(candidates, 2.0)
    # Little is got wrong of the dead, as in the losses that a predictor learns.
    monkeypatch.setattr(candidates.predictor, "forward", lambda features: features.any(dim=-1) * 50.0 + 13.0)
    moment, decision = make_moment(candidates)

    def deaths(state: LatentState) -> float:
        return 1 - state.living.float().mean().item()

    chosen = [deaths(candidates.advance(moment, decision)) for _ in range(60)]
    plain = [deaths(candidates.model.imagine(moment.state, decision.actions)) for _ in range(60)]
    assert sum(chosen) / 60 == pytest.approx(sum(plain) / 60, abs=0.02)
    assert sum(plain) / 60 == pytest.approx(1 - torch.sigmoid(torch.tensor(2.0)).item(), abs=0.02)


def test_errors_are_those_of_the_living_and_go_on_where_nobody_lives(monkeypatch):
    candidates = make(candidate_predictions=3)
    let_live(candidates, -50.0)  # nobody survives the first step
    monkeypatch.setattr(
        candidates.predictor, "forward", lambda features: torch.tensor([5.0, 9.0]).expand(len(features), -1)
    )
    state = make_moment(candidates)[0].state
    state.z[0, 1] = 0  # agent 1 of moment 0 is dead
    state.z[1] = 0  # nobody lives in moment 1
    errors = candidates.foreseen_errors(state, torch.zeros(N, N_AGENTS, HIDDEN))
    assert errors[:3].tolist() == [3 * 5.0, 0.0, 3 * 7.0]


def test_the_predictor_learns_the_models_losses_and_leaves_the_model_alone():
    candidates = make()
    torch.manual_seed(1)
    shape = (8, 6, N_AGENTS)
    h = torch.randn(*shape, candidates.model.width)
    errors = 5 + 3 * h[..., 0]
    state = LatentState(h.requires_grad_(), torch.ones(*shape, candidates.model.latents.size))
    loss = WorldModelLoss(torch.zeros(()), {}, errors.detach(), state)
    is_first = torch.zeros(8, 6, dtype=torch.bool)
    model = candidates.model
    losses = [candidates.train(model, loss, is_first)["error_predictor_loss"].item() for _ in range(150)]
    assert losses[-1] < 0.2 * losses[0]
    assert h.grad is None
    assert all(parameter.grad is None for parameter in candidates.model.parameters())


def test_nothing_is_asked_of_the_predictor_where_nothing_could_be_foreseen():
    candidates = make()
    state = make_moment(candidates)[0].state.each(lambda part: part.unsqueeze(1).expand(-1, 3, -1, -1))
    errors = torch.full((N, 3, N_AGENTS), 7.0)
    is_first = torch.ones(N, 3, dtype=torch.bool)
    loss = WorldModelLoss(torch.zeros(()), {}, errors, state)
    assert candidates.train(candidates.model, loss, is_first)["error_predictor_loss"] == 0
