"""Other ways to compute the same networks: rounded products, compiled code, what is said where it fails."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils.compute import ComputeConfig, warn_of_no_effect

SQUARES = """
import logging
import torch
from utils.compute import Compiler

class Squares:
    def first(self, x):
        return (x * x).sin()

    def second(self, x):
        return (x * x).cos()

logging.basicConfig()
squares, x = Squares(), torch.randn(3)
Compiler().compile_methods(squares, "first", "second")
for _ in range(2):
    print(torch.equal(squares.first(x), (x * x).sin()), torch.equal(squares.second(x), (x * x).cos()))
"""


GRADIENT = """
import torch
from utils.compute import Compiler

class Model:
    def sines(self, x):
        return (x * x).sin()

model, x = Model(), torch.randn(3, requires_grad=True)
Compiler().compile_methods(model, "sines")
y = model.sines(x)
torch._inductor.config.cpp.cxx = (None, "no-such-compiler")
y.sum().backward()
print(torch.allclose(x.grad, 2 * x * (x * x).cos()))
"""


def run(code: str, cache: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that finds nothing compiled before."""
    paths = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **paths, **environ},
    )


def with_bfloat16(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr("utils.compute.multiplies_bfloat16", lambda: has)


def test_bfloat16_rounds_factors_of_products_and_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with_bfloat16(monkeypatch, True)
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64), torch.randn(64, 64)
    compute = ComputeConfig(precision="bfloat16")
    exact = layer(x)
    with compute.autocast():
        rounded = layer(x)
    rounded.sum().backward()
    assert rounded.dtype == compute.dtype == torch.bfloat16
    assert 0 < (rounded - exact).abs().max() < 0.05
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == layer.weight.dtype == torch.float32
    assert torch.equal(layer(x), exact)


def test_float32_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    with_bfloat16(monkeypatch, True)
    layer, x = nn.Linear(64, 64), torch.randn(64, 64)
    with ComputeConfig().autocast():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert ComputeConfig().dtype == torch.float32


def test_a_cpu_without_bfloat16_rounds_nothing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_bfloat16(monkeypatch, False)
    warn_of_no_effect(ComputeConfig())
    assert not caplog.messages
    compute = ComputeConfig(precision="bfloat16")
    warn_of_no_effect(compute)
    assert caplog.messages == ["precision=bfloat16 has no effect: this CPU has no fast products of bfloat16"]
    layer, x = nn.Linear(64, 64), torch.randn(64, 64)
    with compute.autocast():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert compute.dtype == torch.float32


@pytest.mark.parametrize(("rounded", "said"), [(100e9, True), (400e9, False)])
def test_it_is_said_where_rounding_takes_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rounded: float, said: bool
) -> None:
    """Some processors have instructions for bfloat16 that are slower than those for float32."""
    with_bfloat16(monkeypatch, True)
    speeds = {torch.bfloat16: rounded, torch.float32: 200e9}
    monkeypatch.setattr("utils.compute.operations_per_second", speeds.__getitem__)
    warn_of_no_effect(ComputeConfig(precision="bfloat16"))
    warn_of_no_effect(ComputeConfig())
    warning = (
        "precision=bfloat16 makes the run slower: this CPU multiplies bfloat16 at 100 GFLOP/s and float32 at "
        "200; leave precision at float32"
    )
    assert caplog.messages == ([warning] if said else [])


def test_without_a_compiler_methods_run_as_they_are_and_one_warning_says_so(tmp_path: Path) -> None:
    done = run(SQUARES, tmp_path, CXX="no-such-compiler")
    assert done.stdout.split() == 4 * ["True"]
    assert done.stderr.count("compile=True has no effect: ") == 1
    assert "no-such-compiler" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not which("g++"), reason="there is no g++")
def test_gradients_are_compiled_with_what_they_are_of_so_that_a_failure_can_still_be_helped(
    tmp_path: Path,
) -> None:
    done = run(GRADIENT, tmp_path)
    assert done.stdout.split() == ["True"]
