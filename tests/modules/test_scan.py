"""The scan by kernels, with its gradients written out, against the same loop as autograd sees it."""

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from modules.world_models import kernel_layers
from modules.world_models.world_model import LatentState, WorldModel, WorldModelConfig
from torch_alone import needs_kernels, torch_alone

pytestmark = needs_kernels

OBS, ACTIONS = 5, 4
BATCH, STEPS = 3, 6


def make_model(
    agents: int = 3, obs_fusion: bool = True, layers: int = 2, mix: float = 0.01, width: int = 16
) -> WorldModel:
    torch.manual_seed(0)
    config = WorldModelConfig(
        wm_width=width,
        wm_latent_groups=4,
        wm_latent_classes=5,
        wm_uniform_mix=mix,
        wm_fusion_layers=layers,
        wm_fusion_heads=2,
        wm_head_layers=1,
        wm_obs_fusion=obs_fusion,
    )
    model = WorldModel(agents, OBS, ACTIONS, config)
    for parameter in model.parameters():  # none is left at the zeros or ones that it starts with
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def play(agents: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Windows in which an agent dies and an episode begins."""
    torch.manual_seed(1)
    obs = torch.randn(BATCH, steps, agents, OBS)
    obs[0, steps // 2 :, -1] = 0
    is_first = torch.zeros(BATCH, steps, dtype=torch.bool)
    is_first[1, steps // 2] = True
    return obs, torch.randint(ACTIONS, (BATCH, steps, agents)), is_first


def results_and_gradients(
    model: WorldModel, by_hand: bool, steps: int = STEPS, rounded: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """States, latents and probabilities, and the gradients of a sum of theirs to observations and weights."""
    obs, actions, is_first = play(model.n_agents, steps)
    obs.requires_grad_()
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded), nullcontext() if by_hand else torch_alone():
        state, posterior = model.observe(obs, actions, is_first)
    results = [state.h, state.z.float(), posterior]
    torch.manual_seed(3)
    total = torch.stack([(x * torch.randn(x.shape)).sum() for x in results]).sum()
    inputs = [obs, *model.parameters()]
    gradients = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    return results, list(gradients)


def check(model: WorldModel, steps: int = STEPS) -> None:
    ours, plain = (results_and_gradients(model, by_hand, steps) for by_hand in (True, False))
    for result, expected in zip(ours[0], plain[0], strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    for gradient, expected in zip(ours[1], plain[1], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("obs_fusion", [True, False])
@pytest.mark.parametrize("agents", [1, 2, 8])
def test_it_is_the_plain_loop_for_any_number_of_agents(agents: int, obs_fusion: bool) -> None:
    check(make_model(agents, obs_fusion))


@pytest.mark.parametrize(("layers", "mix"), [(1, 0.0), (3, 0.05)])
def test_it_is_the_plain_loop_for_any_layers_and_share_of_the_uniform(layers: int, mix: float) -> None:
    check(make_model(layers=layers, mix=mix))


@pytest.mark.parametrize("steps", [1, 2, 17])
def test_it_is_the_plain_loop_for_any_length(steps: int) -> None:
    check(make_model(), steps)


@pytest.mark.parametrize(("mix", "steps"), [(1.0, STEPS), (0.01, 1)])
def test_rounding_makes_no_larger_errors_than_in_the_plain_loop(mix: float, steps: int) -> None:
    """Where no gradient depends on a draw, which rounding may change: of certain noise, or at one step."""
    model = make_model(mix=mix)
    _, exact = results_and_gradients(model, by_hand=False, steps=steps)

    def error(by_hand: bool) -> float:
        _, rounded = results_and_gradients(model, by_hand, steps, rounded=True)
        errors = [(x - y).norm() / y.norm().clamp_min(1e-6) for x, y in zip(rounded, exact, strict=True)]
        return float(torch.stack(errors).sum())

    plain = error(by_hand=False)
    assert 0 < error(by_hand=True) < 1.2 * plain


def test_what_it_keeps_is_freed_once_gradients_are_taken() -> None:
    model = make_model()
    state, _ = model.observe(*play(3, STEPS))
    assert state.h.grad_fn is not None
    ((node, _),) = state.h.grad_fn.next_functions  # behind the transposition
    state.h.sum().backward()
    assert node.layers is None
    with pytest.raises(RuntimeError, match="second time|freed"):
        torch.autograd.backward(state.h.sum())


@pytest.mark.parametrize("fusion", [True, False])
def test_without_gradients_the_results_are_the_same(fusion: bool) -> None:
    model = make_model(obs_fusion=fusion)
    with torch.no_grad():
        kept_nothing, _ = results(model)
    assert torch.equal(kept_nothing, results(model)[0].detach())


def results(model: WorldModel) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    state, posterior = model.observe(*play(model.n_agents, STEPS))
    return state.features, posterior


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one or two windows of three agents, as a thread takes them."""
    monkeypatch.setattr(kernel_layers, "MOST_ROWS", 6)
    monkeypatch.setattr(kernel_layers, "LEAST_ROWS", dict.fromkeys(kernel_layers.LEAST_ROWS, 1))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_it_is_the_plain_loop_for_any_pieces(threads: int, small_pieces, set_threads) -> None:
    """Three windows, one or two at a time."""
    set_threads(threads)
    check(make_model())


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("width", [12, 16, 20])
def test_results_depend_on_no_piece(width: int, rounded: bool, small_pieces) -> None:
    """Nor on whether a register is full where one ends; so the number of threads changes nothing."""
    model = make_model(width=width)

    def of_threads(number: int) -> list[Tensor]:
        with patch("torch.get_num_threads", lambda: number):  # torch itself goes on with its own number
            results, gradients = results_and_gradients(model, by_hand=True, rounded=rounded)
        return results + gradients

    for result, expected in zip(of_threads(3), of_threads(1), strict=True):
        assert torch.equal(result, expected)


@given(windows=st.integers(1, 800), agents=st.integers(1, 40), threads=st.integers(1, 64))
@settings(deadline=None)
def test_pieces_are_as_large_as_tiles_need_or_there_is_one(windows: int, agents: int, threads: int) -> None:
    extent = kernel_layers.Windows(20, windows, agents, torch.bfloat16, kept=True)
    with patch("torch.get_num_threads", lambda: threads):
        pieces = extent.pieces
    smallest = windows // pieces * agents
    assert pieces == 1 or smallest >= 32
    assert smallest <= 640 or pieces % threads == 0


@pytest.mark.parametrize("number", [1, 4, 11])
def test_states_advance_as_one_by_one(number: int, small_pieces) -> None:
    model = make_model()
    torch.manual_seed(3)
    z, picked = model.latents.draw(torch.zeros(number, 3, model.latents.size), torch.rand(number, 3) < 0.8)
    h, actions = torch.randn(number, 3, model.width), torch.randint(ACTIONS, (number, 3))
    after = model.advance(LatentState(h, z, picked), actions)
    assert torch.equal(after, model.advance(LatentState(h, z), actions))
    one_hot = F.one_hot(actions, ACTIONS).float()
    with torch.no_grad():
        expected = [model._recur(*(x[i : i + 1] for x in (h, z, one_hot))) for i in range(number)]
    torch.testing.assert_close(after, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_states_advance_in_bfloat16_where_autocast_asks_for_it() -> None:
    model = make_model()
    z, picked = model.latents.draw(torch.zeros(4, 3, model.latents.size), torch.ones(4, 3))
    state = LatentState(torch.randn(4, 3, model.width), z, picked)
    actions = torch.zeros(4, 3, dtype=torch.int64)
    exact = model.advance(state, actions)
    with torch.autocast("cpu", torch.bfloat16), model.unchanged():
        rounded, again = model.advance(state, actions), model.advance(state, actions)
    assert rounded.dtype == exact.dtype == torch.float32
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 2e-2
    assert torch.equal(rounded, again)


@pytest.mark.parametrize("wrong", [-1, ACTIONS])
def test_an_action_that_there_is_none_of_is_said_to_be_wrong(wrong: int) -> None:
    model = make_model()
    obs, actions, is_first = play(3, STEPS)
    actions[0, 1, 2] = wrong
    with pytest.raises(ValueError, match=f"from 0 to {ACTIONS - 1}"):
        model.observe(obs, actions, is_first)
    with pytest.raises(ValueError, match=f"from 0 to {ACTIONS - 1}"):
        model.advance(model.observe(*play(3, STEPS))[0].at((slice(None), 0)), actions[:, 1])


def test_states_that_kernels_would_misread_are_refused() -> None:
    model, state = make_model(), LatentState(torch.zeros(4, 3, 16), torch.zeros(4, 3, 20))
    actions = torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(TypeError, match="float32 was expected, not torch.bfloat16"):
        model.advance(state._replace(h=state.h.bfloat16()), actions)
    with pytest.raises(ValueError, match=r"states \(4, 3, 16\) were expected, not \(4, 5, 16\)"):
        model.advance(state._replace(h=torch.zeros(4, 5, 16)), actions)
    with pytest.raises(ValueError, match="actions of 5"):
        model.advance(state, torch.zeros(4, 5, dtype=torch.int64))
    assert model.advance(state, torch.zeros(3, 4, dtype=torch.int64).T).shape == (4, 3, 16)


def test_weights_that_have_changed_are_prepared_anew() -> None:
    model = make_model()
    z, picked = model.latents.draw(torch.zeros(4, 3, model.latents.size), torch.ones(4, 3))
    state = LatentState(torch.randn(4, 3, model.width), z, picked)
    actions = torch.zeros(4, 3, dtype=torch.int64)
    with model.unchanged():
        before = model.advance(state, actions)
    with torch.no_grad():
        model.cell.weight_ih.mul_(2.0)
    after = model.advance(state, actions)
    assert not torch.allclose(before, after)
    with model.unchanged():
        assert torch.equal(model.advance(state, actions), after)
