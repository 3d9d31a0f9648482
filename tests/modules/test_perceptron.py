"""Multi-layer perceptrons by one kernel against torch's layers, gradients too."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modules.critics.latent_critic import LatentCritic
from modules.world_models.latents import CategoricalLatents, CompactState
from modules.world_models.layers import MLP, MeanNormSiLU, latent_mlp, mlp
from modules.world_models.perceptron import Seen, perceptron
from torch_alone import assert_close_on_scale, differentiated, needs_kernels

pytestmark = needs_kernels

FACTORS = [torch.float32, torch.bfloat16]
# Of numbers rounded to bfloat16 some lie where the last bit of a sum decides, and all layers behind see that.
TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 3e-2}}

sizes = st.integers(1, 40)
many = st.one_of(sizes, st.sampled_from([320, 321, 1030]))
widths = st.one_of(st.integers(8, 40), st.sampled_from([64, 128, 167]))


def scatter(module: nn.Module) -> None:
    """Give a network weights none of which is as unimportant as some are at the start."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.2 * torch.randn_like(weight))


def rounding(factors: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=factors == torch.bfloat16)


class _Rounded(torch.autograd.Function):
    """A number as a factor of products, and the gradient that it is given likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: torch.dtype) -> Tensor:
        ctx.factors = factors
        return x.to(factors).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.factors).float(), None


def in_plain_steps(network: MLP | LatentCritic, x: Tensor, z: Tensor | None, factors: torch.dtype) -> Tensor:
    """What the layers make of rows and latents, in float32 but for what a kernel rounds to ``factors``."""

    def rounded(x: Tensor) -> Tensor:
        return _Rounded.apply(x, factors)

    parts = [network.agent_encoder, network.value_head] if isinstance(network, LatentCritic) else [network]
    *layers, last = [layer for part in parts for layer in part.layers()]
    for linear, norm in zip(layers[::2], layers[1::2], strict=True):
        weight, latents_weight = rounded(linear.weight).tensor_split([x.shape[-1]], dim=1)
        x = rounded(rounded(x) @ weight.T)
        if z is not None:
            x, z = rounded(x + rounded(z) @ latents_weight.T), None
        normed = nn.functional.layer_norm(x + linear.bias, linear.bias.shape, norm.weight, norm.bias)
        x = nn.functional.silu(normed)
        x = rounded(x.mean(dim=-2) if isinstance(norm, MeanNormSiLU) else x)
    return rounded(rounded(x) @ rounded(last.weight).T + last.bias)


def assert_as_in_plain_steps(
    network: MLP | LatentCritic, given: Tensor | CompactState, leaves: Sequence[Tensor], factors: torch.dtype
) -> None:
    """Results and gradients to the leaves and to all weights."""
    h, latents = (given, None) if isinstance(given, Tensor) else (given.h, given.latents)
    z = None if latents is None else latents.one_hot(given.picked).float() if given.z is None else given.z
    leaves = [*leaves, *network.parameters()]
    with rounding(factors):
        ours = differentiated(lambda: network(given).float(), leaves)
    expected = differentiated(lambda: in_plain_steps(network, h, z, factors), leaves)
    for result, plain in zip(ours, expected, strict=True):
        assert_close_on_scale(result, plain, **TOLERANCE[factors])


@pytest.mark.parametrize("factors", FACTORS)
@given(rows=many, inputs=sizes, width=widths, outputs=sizes, layers=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_layers(factors: torch.dtype, rows: int, inputs: int, width: int, outputs: int, layers: int) -> None:
    torch.manual_seed(rows)
    network, x = mlp(inputs, width, outputs, layers), torch.randn(rows, inputs, requires_grad=True)
    scatter(network)
    assert_as_in_plain_steps(network, x, [x], factors)


@pytest.mark.parametrize("factors", FACTORS)
@given(rows=sizes, width=st.integers(8, 70), offset=st.sampled_from([1, 200]))
@settings(max_examples=25, deadline=None)
def test_the_norm_of_numbers_far_from_zero(
    factors: torch.dtype, rows: int, width: int, offset: float
) -> None:
    """Between products with ones and zeros, which change nothing."""
    torch.manual_seed(rows)
    unchanged, nothing = torch.eye(width), torch.zeros(width)
    x = (3 * torch.randn(rows, width) + offset).to(factors).requires_grad_()
    added, gain, bias = (torch.randn(width, requires_grad=True) for _ in range(3))
    leaves = [x, added, gain, bias]

    def by_torch() -> Tensor:
        normed = nn.functional.layer_norm(x.float() + added, (width,), gain, bias)
        return nn.functional.silu(normed)

    weights = [unchanged, added, gain, bias, unchanged, nothing]
    ours = differentiated(lambda: perceptron(Seen(x), [False], weights).float(), leaves)
    tolerance = TOLERANCE[factors]
    atol = tolerance["atol"] + 2**-23 * offset  # means are rounded, too, to the last bits of such numbers
    for result, expected in zip(ours, differentiated(by_torch, leaves), strict=True):
        assert_close_on_scale(result, expected, tolerance["rtol"], atol)


@pytest.mark.parametrize("factors", FACTORS)
@given(rows=many, classes=st.integers(1, 33), groups=sizes, width=widths)
@settings(max_examples=25, deadline=None)
def test_columns_that_latents_pick(
    factors: torch.dtype, rows: int, classes: int, groups: int, width: int
) -> None:
    torch.manual_seed(rows)
    latents = CategoricalLatents(groups, classes, 0.01)
    network = latent_mlp(7, latents, width, 5, 2)
    scatter(network)
    picked = latents.draw(torch.randn(rows, latents.size), torch.rand(rows) < 0.8).picked
    h, z = torch.randn(rows, 7, requires_grad=True), latents.one_hot(picked).float().requires_grad_()
    state = CompactState(h, picked, latents, z)
    assert_as_in_plain_steps(network, state, [h, z], factors)


@pytest.mark.parametrize("factors", FACTORS)
@given(states=many, agents=st.integers(1, 12), width=widths)
@settings(max_examples=25, deadline=None)
def test_the_mean_over_agents(factors: torch.dtype, states: int, agents: int, width: int) -> None:
    torch.manual_seed(states)
    latents = CategoricalLatents(4, 5, 0.01)
    critic = LatentCritic(9, latents, width)
    scatter(critic)
    picked = latents.draw(torch.randn(states, agents, 20), torch.rand(states, agents) < 0.8).picked
    state = CompactState(torch.randn(states, agents, 9), picked, latents)
    assert_as_in_plain_steps(critic, state, [], factors)


def test_of_no_rows_there_are_no_results_and_no_gradients() -> None:
    latents = CategoricalLatents(4, 5, 0.01)
    critic, picked = LatentCritic(9, latents, 16), torch.zeros(0, 3, 4, dtype=torch.int16)
    values = critic(CompactState(torch.zeros(0, 3, 9), picked, latents))
    assert len(values) == 0
    values.sum().backward()
    assert all(not weight.grad.any() for weight in critic.parameters())


@pytest.mark.parametrize("factors", FACTORS)
def test_neither_threads_nor_whether_gradients_are_wanted_change_a_bit(
    factors: torch.dtype, set_threads
) -> None:
    torch.manual_seed(0)
    latents = CategoricalLatents(4, 5, 0.01)
    network = latent_mlp(30, latents, 130, 5, 2)
    picked = latents.draw(torch.randn(4001, 20), torch.rand(4001) < 0.8).picked
    h = torch.randn(4001, 30, requires_grad=True)
    results = []
    for threads in (1, 3):
        set_threads(threads)
        with rounding(factors):
            results.append(
                differentiated(
                    lambda: network(CompactState(h, picked, latents)).float(), [h, *network.parameters()]
                )
            )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    with torch.no_grad(), rounding(factors):
        assert torch.equal(network(CompactState(h, picked, latents)).float(), results[0][0])


@pytest.mark.parametrize("factors", FACTORS)
def test_what_is_not_a_number_stays_so(factors: torch.dtype) -> None:
    network = mlp(4, 20, 3, 1)
    with rounding(factors):
        assert network(torch.full((2, 4), torch.nan)).isnan().all()
        for i in (0, 1, 19):  # nor is the norm of a row with an infinite one
            with torch.no_grad():
                network[0].bias.zero_()[i] = torch.inf
            assert network(torch.randn(2, 4)).isnan().all()


def test_gradients_are_refused_a_second_time_and_of_what_has_changed() -> None:
    network, x = mlp(4, 16, 3, 1), torch.randn(5, 4)
    total = network(x).sum()
    total.backward()
    with pytest.raises(RuntimeError, match="second time|freed"):
        total.backward()
    total = network(x).sum()
    with torch.no_grad():
        network[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_what_the_kernel_would_misread_is_refused() -> None:
    latents = CategoricalLatents(4, 5, 0.01)
    network, h = latent_mlp(6, latents, 16, 3, 1), torch.zeros(2, 6)
    with pytest.raises(TypeError, match="torch.int16 was expected, not torch.int64"):
        network(CompactState(h, torch.zeros(2, 4, dtype=torch.int64), latents))
    network[1].double()
    with pytest.raises(TypeError, match="torch.float32 was expected, not torch.float64"):
        network(CompactState(h, torch.zeros(2, 4, dtype=torch.int16), latents))
