"""Products of many rows with the same matrix, against torch's in float64."""

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kernels
from kernels.products import laid_out
from torch_alone import needs_kernels

# Up to several groups of rows, panels of columns and words: whole ones, and what is left over.
sizes = st.one_of(st.integers(1, 40), st.sampled_from([64, 96, 160, 161, 191, 320, 330]))


def product(x: Tensor, matrix: Tensor, bias: Tensor | None, columns: int) -> Tensor:
    out = x.new_empty(len(x), columns)
    kernels.of(x.dtype).multiply(x, matrix, bias, out, *x.shape, columns)
    return out


@needs_kernels
@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
@given(rows=sizes, inputs=sizes, outputs=sizes, turned=st.booleans(), with_bias=st.booleans())
@settings(max_examples=60, deadline=None)
def test_products_with_a_matrix(
    factors: torch.dtype, rows: int, inputs: int, outputs: int, turned: bool, with_bias: bool
) -> None:
    torch.manual_seed(rows)
    weight = torch.randn(outputs, inputs)
    given, columns = (outputs, inputs) if turned else (inputs, outputs)
    x, bias = torch.randn(rows, given).to(factors), torch.randn(columns) if with_bias else None
    result = product(x, laid_out(weight, factors, turned), bias, columns)
    exact = x.double() @ (weight if turned else weight.T).to(factors).double()
    expected = exact if bias is None else exact + bias.double()
    assert result.dtype == factors
    rounding = 2**-8 if factors == torch.bfloat16 else 1e-6
    torch.testing.assert_close(result.double(), expected, rtol=rounding, atol=1e-5 * given**0.5)


@needs_kernels
def test_what_lies_behind_the_rows_has_no_part_in_their_product() -> None:
    """Rows that don't fill a word, a tile or a block are read to their end, and no further."""
    behind = torch.full((400, 37), torch.nan, dtype=torch.bfloat16)
    for rows in (1, 9, 33, 161):
        x = behind[:rows].fill_(1.0)
        result = product(x, laid_out(torch.ones(5, 37), torch.bfloat16), None, 5)
        assert torch.equal(result, torch.full((rows, 5), 37.0, dtype=torch.bfloat16))
        behind.fill_(torch.nan)


@needs_kernels
def test_they_are_not_made_number_by_number() -> None:
    """A compiler does so, without a word, where vectors are longer than registers: fifty times as slow."""
    x, weight = torch.randn(320, 256), torch.randn(256, 256)
    matrix = laid_out(weight, torch.float32)

    def fastest(multiply: Callable[[], object]) -> float:
        times = []
        for _ in range(30):
            began = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - began)
        return min(times)

    ours = fastest(lambda: product(x, matrix, None, 256))
    assert ours < 8 * fastest(lambda: x @ weight.T)
