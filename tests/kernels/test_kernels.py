"""Kernels of our own against torch's operations, and what a machine that can't compile them goes on with."""

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import kernels
from modules.gru import GRU
from modules.world_models.latents import CategoricalLatents
from modules.world_models.layers import mlp
from torch_alone import differentiated, needs_kernels, torch_alone

SRC = Path(__file__).parents[2] / "src"
FACTORS = [torch.float32, torch.bfloat16]

sizes = st.integers(1, 40)


@pytest.fixture
def forgotten(monkeypatch, tmp_path: Path) -> Iterator[Path]:
    """Nothing is compiled yet; what is compiled is kept in the folder."""
    monkeypatch.setattr(kernels, "KEPT_IN", tmp_path / "kernels")
    for memo in (kernels.available, kernels.of):
        memo.cache_clear()
    yield tmp_path / "kernels"
    for memo in (kernels.available, kernels.of):
        memo.cache_clear()


def both_ways(function, *inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What ``function`` gives, with the gradients of a weighted sum of it: by kernels, and by torch alone."""

    def results() -> list[Tensor]:
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        return differentiated(lambda: function(*leaves), leaves)

    ours = results()
    with torch_alone():
        return ours, results()


@needs_kernels
@pytest.mark.parametrize("factors", FACTORS)
@given(rows=sizes, classes=st.integers(1, 33), groups=sizes, mix=st.sampled_from([0.0, 0.01, 0.5]))
@settings(max_examples=25, deadline=None)
def test_kl_of_latents(factors: torch.dtype, rows: int, classes: int, groups: int, mix: float) -> None:
    torch.manual_seed(rows)
    latents = CategoricalLatents(groups, classes, mix)
    posterior = latents.probs(3 * torch.randn(rows, latents.size))
    logits = (3 * torch.randn(rows, latents.size)).to(factors)
    ours, theirs = both_ways(lambda p, x: latents.balanced_kl(p, x, 0.8), posterior, logits)
    for result, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(result.float(), expected.float(), rtol=1e-2, atol=1e-4 * groups)


@needs_kernels
@pytest.mark.parametrize("factors", FACTORS)
@given(rows=sizes, classes=st.integers(1, 33), groups=sizes, mix=st.sampled_from([0.0, 0.01, 1.0]))
@settings(max_examples=25, deadline=None)
def test_draws_of_latents(factors: torch.dtype, rows: int, classes: int, groups: int, mix: float) -> None:
    """The same numbers draw the same, but for those that lie within rounding of a boundary."""
    torch.manual_seed(rows)
    latents = CategoricalLatents(groups, classes, mix)
    logits, living = (5 * torch.randn(rows, latents.size)).to(factors), torch.rand(rows) < 0.8
    torch.manual_seed(1)
    drawn, picked = latents.draw(logits, living)
    torch.manual_seed(1)
    with torch_alone():
        expected, expected_picked = latents.draw(logits, living)
    one_each = drawn.view(rows, classes, groups).sum(1)
    assert torch.equal(one_each, living.to(factors)[:, None].expand(-1, groups))
    assert (drawn != expected).sum() <= 2 + 2e-5 * 2 * rows * groups
    assert torch.equal(picked, latents.picked(drawn))
    assert torch.equal(expected_picked, latents.picked(expected))


@needs_kernels
@pytest.mark.parametrize("factors", FACTORS)
def test_silu_of_every_number(factors: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = every[every.isfinite()].to(factors)
    out, slope, ones = torch.empty_like(x), torch.empty_like(x), torch.ones_like(x)
    kernels.of(factors).silu(x, out, 1, x.numel())
    kernels.of(factors).silu_back(ones, x, slope, 1, x.numel())
    exact = x.double().requires_grad_()
    F.silu(exact).sum().backward()
    assert exact.grad is not None
    smallest = 1e-30 if factors == torch.float32 else 1e-20
    unit = torch.finfo(factors).eps
    torch.testing.assert_close(out.double(), F.silu(x.double()), rtol=4 * unit, atol=smallest)
    torch.testing.assert_close(slope.double(), exact.grad, rtol=16 * unit, atol=1e-6)


@needs_kernels
def test_what_is_not_a_number_stays_so() -> None:
    for factors in FACTORS:
        x = torch.full((2, 20), torch.nan).to(factors)
        latents = CategoricalLatents(groups=4, classes=5, uniform_mix=0.01)
        assert latents.balanced_kl(latents.probs(torch.zeros(2, 20)), x, 0.5).isnan().all()
    assert GRU(20, 3)(torch.full((4, 20), torch.nan), torch.zeros(2, 3), [2, 2]).isnan().all()


@needs_kernels
@pytest.mark.parametrize("wrong", [torch.zeros(4, dtype=torch.float64), torch.zeros(8)[::2]])
def test_tensors_that_would_be_misread_are_refused(wrong: Tensor) -> None:
    with pytest.raises(TypeError, match="contiguous tensor of torch.float32"):
        kernels.of(torch.float32).silu(wrong, torch.zeros(4), 1, 4)


@needs_kernels
def test_so_are_those_in_lists() -> None:
    with pytest.raises(TypeError, match="contiguous tensor was expected"):
        kernels.of(torch.float32).scan([1, None, torch.zeros(8)[::2]], 0.0)


@needs_kernels
def test_they_are_compiled_once(forgotten: Path) -> None:
    assert kernels.available()
    (library,) = forgotten.iterdir()
    made = library.stat().st_mtime_ns
    kernels.of.cache_clear()
    kernels.of(torch.float32)
    assert library.stat().st_mtime_ns == made
    kernels.of(torch.bfloat16)
    assert len(list(forgotten.iterdir())) == 2


@needs_kernels
def test_processes_that_start_together_share_them(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, torch, kernels\n"
        "kernels.KEPT_IN = pathlib.Path(sys.argv[1])\n"
        "print(kernels.available(), len(list(kernels.KEPT_IN.glob('*.so'))))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "kernels")]
    options = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "PYTHONPATH": str(SRC)}}
    started = [subprocess.Popen(command, **options) for _ in range(3)]
    assert [process.communicate()[0] for process in started] == ["True 1\n"] * 3


@needs_kernels
@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers of x86-64 processors")
@pytest.mark.parametrize(
    "without", ["-mno-avx512f", pytest.param("-mno-avx512f -mno-avx2", marks=pytest.mark.slow)]
)
def test_they_work_with_shorter_registers(tmp_path: Path, without: str) -> None:
    """What processors without AVX512, or AVX2, compile passes the tests of what is computed, and how fast."""
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" {without}\n')
    compiler.chmod(0o755)
    names = ["gru", "layers", "perceptron", "scan"]
    files = ["kernels", *(f"modules/test_{name}.py" for name in names)]
    tests = [str(Path(__file__).parents[1] / name) for name in files]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not (compiled or together or registers)", *tests]
    tested = subprocess.run(
        command, env={**os.environ, "CXX": str(compiler)}, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout[-3000:]


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_one_warning_says_so_and_torch_does_it_all(
    forgotten: Path, monkeypatch, caplog, compiler: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING, logger="marl.kernels"):
        layers, gru, x = mlp(6, 8, 3, 1), GRU(6, 5), torch.randn(4, 6)
        first, _, last = layers.layers()
        torch.testing.assert_close(layers(x), last(F.silu(F.layer_norm(first(x), (8,)))))
        by_torch = nn.GRU(6, 5)
        by_torch.load_state_dict(gru.state_dict())
        torch.testing.assert_close(
            gru(x, torch.zeros(2, 5), [2, 2]), by_torch(x.view(2, 2, 6))[0].flatten(0, 1)
        )
    (record,) = caplog.records
    assert "kernels can't be compiled" in record.getMessage()
    assert compiler in record.getMessage()
    assert not list(forgotten.glob("*.so"))


def test_latents_that_are_kept_as_their_classes_come_back() -> None:
    torch.manual_seed(0)
    for classes in (1, 32, 300):
        latents = CategoricalLatents(5, classes, 0.0)
        living = torch.rand(4, 3) < 0.5
        for kind in FACTORS:
            z = latents.draw(torch.randn(4, 3, latents.size), living).z.to(kind)
            picked = latents.picked(z)
            assert torch.equal(latents.one_hot(picked).to(kind), z)
            assert torch.equal((picked >= 0).all(-1), living)
