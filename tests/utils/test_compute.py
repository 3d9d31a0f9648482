"""Other ways to compute the same networks: rounded products, compiled code, what is said where it fails."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from utils.compute import ComputeConfig

SQUARES = """
import logging
import torch
from utils.compute import Compiler, ComputeConfig

class Squares:
    def first(self, x):
        return (x * x).sin()

    def second(self, x):
        return (x * x).cos()

logging.basicConfig()
squares, x = Squares(), torch.randn(3)
Compiler(ComputeConfig(compile=True)).compile_methods(squares, "first", "second")
for _ in range(2):
    print(torch.equal(squares.first(x), (x * x).sin()), torch.equal(squares.second(x), (x * x).cos()))
"""


def test_bfloat16_rounds_products_and_leaves_weights_and_gradients_alone() -> None:
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    with ComputeConfig(precision="bfloat16").autocast():
        rounded = layer(x)
    with ComputeConfig().autocast():
        exact = layer(x)
    assert (rounded.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    assert torch.allclose(rounded.float(), exact, atol=0.05)
    rounded.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == layer.weight.dtype == torch.float32


def test_without_a_compiler_methods_run_as_they_are_and_one_warning_says_so(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    }
    command = [sys.executable, "-c", SQUARES]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == 4 * ["True"]
    assert done.stderr.count("compile=True has no effect: ") == 1
    assert "no-such-compiler" in done.stderr
