"""Kernels and torch's own operations compared: kernels are switched off, and results held against others."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from shutil import which

import pytest
import torch
from torch import Tensor

import kernels

needs_kernels = pytest.mark.skipif(
    which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler: there are no kernels to test"
)


@contextmanager
def torch_alone() -> Iterator[None]:
    """Within it there are no kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "available", lambda *_: False)
        yield


def differentiated(function: Callable[[], Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """What ``function`` gives, and the gradients of a weighted sum of it."""
    output = function()
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(7))
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), leaves)]


def assert_close_on_scale(result: Tensor, expected: Tensor, rtol: float, atol: float) -> None:
    """Numbers are close, where the largest is at most 1, or would be if they were divided by it.

    What large numbers add up to is no more exact than they are, however small it is.
    """
    scale = expected.double().abs().max().clamp_min(1)
    torch.testing.assert_close(result.double() / scale, expected.double() / scale, rtol=rtol, atol=atol)
