"""Switches kernels off, so that a test can compare them with torch's own operations."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import which

import pytest

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
