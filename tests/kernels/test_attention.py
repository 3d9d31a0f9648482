"""Attention by heads that take turns in memory, against a softmax of scores as autograd sees it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from torch_alone import assert_close_on_scale, needs_kernels


@needs_kernels
@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
@given(
    groups=st.integers(1, 5),
    agents=st.integers(1, 11),
    heads=st.sampled_from([1, 2, 3, 4, 6, 8, 16, 24]),
    size=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_attention(factors: torch.dtype, groups: int, agents: int, heads: int, size: int) -> None:
    torch.manual_seed(agents)
    rows = torch.randn(groups, agents, 3, size, heads).to(factors)
    of_attended = torch.randn(groups, agents, size, heads).to(factors)
    attended, of_rows = torch.empty_like(of_attended), torch.empty_like(rows)
    shares = torch.empty(groups, agents, agents, heads)
    sizes = (groups, agents, heads, size)
    kernels.of(factors).attend(rows, attended, shares, *sizes)
    kernels.of(factors).attend_back(of_attended, rows, shares, of_rows, *sizes)

    exact = rows.double().requires_grad_()
    query, key, value = exact.unbind(2)
    expected_shares = torch.einsum("gish,gjsh->gijh", query, key).softmax(dim=2)
    expected = torch.einsum("gijh,gjsh->gish", expected_shares, value)
    (of_exact,) = torch.autograd.grad(expected, exact, of_attended.double())
    rounding = 2**-7 if factors == torch.bfloat16 else 1e-5
    for result, right in ((shares, expected_shares), (attended, expected), (of_rows, of_exact)):
        assert_close_on_scale(result, right, rtol=rounding, atol=rounding)
