"""Kernels of our own for a CPU: what torch would do in several passes between two products, and recurrent
networks over all their steps.

The C++ beside this file says what each of them does. They are compiled when a process first needs them, and
kept in ``.cache/kernels``. Where that can't be done, all is made of torch's own operations.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("marl.kernels")

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
KEPT_IN = Path(__file__).resolve().parents[2] / ".cache" / "kernels"

FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC"]
# What is not a number must stay so, and sums are taken in the order in which they are written.
FLAGS += ["-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"]
if platform.machine() == "x86_64":
    FLAGS += ["-mprefer-vector-width=512"]

# What each takes: tensors of float32 (f), int16 (i), int64 (l) and of what products multiply (F), or None for
# some of them, integers (n), a number (x), a list of integers and tensors of any kind (g).
SIGNATURES = {
    "silu": "FFnn",
    "silu_back": "FFFnn",
    "attend": "FFfnnnn",
    "attend_back": "FFfFnnnn",
    "draw": "FfffFixnnn",
    "kl": "fFfxnnn",
    "kl_back": "ffFfFxxnnn",
    "add_picked_back": "iFfnnnn",
    "gru_over_time": "fffffffflnnn",
    "gru_over_time_back": "fffffffffflnnn",
    "lay_out": "fnnFnn",
    "multiply": "FFfFnnn",
    "operations_so_far": "l",
    "perceptron": "g",
    "perceptron_back": "g",
    "scan": "gx",
    "scan_back": "gx",
    "advance": "g",
}

Kernels = SimpleNamespace  # of functions with the names and arguments that they have in the source


@cache
def available(factors: torch.dtype = torch.float32) -> bool:
    """Whether there are kernels on this machine; a warning says why if there are none."""
    try:
        of(factors)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        log.warning(
            "Learning takes up to half as long again, as %s can't be compiled (%s): install a C++ compiler "
            "with OpenMP, such as g++, or name one in CXX",
            Path(__file__).parent,
            reason.strip().partition("\n")[0],
        )
        return False
    return True


def serve(x: Tensor) -> bool:
    """Whether kernels can take ``x``, made by a product or to be its factor."""
    known = x.dtype in (torch.float32, torch.bfloat16)
    if not known or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return available() and (x.dtype == torch.float32 or available(x.dtype))


@cache
def of(factors: torch.dtype) -> Kernels:
    """The kernels for products of float32 or bfloat16.

    Raises:
        OSError, subprocess.CalledProcessError: they can't be compiled.
    """
    library = ctypes.CDLL(str(_compiled(["-DROUNDED"] if factors == torch.bfloat16 else [])))
    return Kernels(**{name: _caller(library[name], takes, factors) for name, takes in SIGNATURES.items()})


def _caller(function: Any, signature: str, factors: torch.dtype) -> Callable[..., None]:
    """A C function that is called with tensors.

    These are looked at first: what reads or writes beside a tensor's numbers gives no error.
    """

    def address_of(kind: torch.dtype | None) -> Callable[[Tensor | None], int | None]:
        def address(tensor: Tensor | None) -> int | None:
            if tensor is None:
                return None
            if (kind and tensor.dtype != kind) or not tensor.is_contiguous():
                expected = f"a contiguous tensor of {kind}" if kind else "a contiguous tensor"
                given = f"one of {tensor.dtype} with strides {tensor.stride()}"
                raise TypeError(f"{expected} was expected, not {given}.")
            return tensor.data_ptr()

        return address

    any_address = address_of(None)

    def numbers(given: Sequence[Tensor | int | None]) -> Any:
        values = [x if isinstance(x, int) else any_address(x) or 0 for x in given]
        return (ctypes.c_int64 * len(values))(*values)

    takes: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "f": (ctypes.c_void_p, address_of(torch.float32)),
        "F": (ctypes.c_void_p, address_of(factors)),
        "i": (ctypes.c_void_p, address_of(torch.int16)),
        "l": (ctypes.c_void_p, address_of(torch.int64)),
        "n": (ctypes.c_int64, int),
        "x": (ctypes.c_float, float),
        "g": (ctypes.POINTER(ctypes.c_int64), numbers),
    }
    function.argtypes, converters = zip(*(takes[kind] for kind in signature), strict=True)
    function.restype = None

    def call(*arguments: Sequence[Tensor | int | None] | Tensor | float | None) -> None:
        function(*[convert(x) for convert, x in zip(converters, arguments, strict=True)])

    return call


def _compiled(options: list[str]) -> Path:
    """The library of this source, these options and this kind of processor."""
    command = [os.environ.get("CXX", "c++"), *FLAGS, *options]
    texts = [file.read_text() for file in (*SOURCES, *HEADERS)]
    of_all = hashlib.sha256("\n".join([*command, *texts, _processor()]).encode()).hexdigest()
    library = KEPT_IN / f"{of_all[:16]}.so"
    if not library.exists():
        KEPT_IN.mkdir(parents=True, exist_ok=True)
        # Moved into its place when it is done: others may compile the same, or look for it.
        with TemporaryDirectory(dir=KEPT_IN) as folder, ThreadPoolExecutor() as pool:
            objects = [f"{folder}/{source.stem}.o" for source in SOURCES]
            list(pool.map(lambda source, to: _run([*command, "-c", str(source), "-o", to]), SOURCES, objects))
            new = Path(folder) / library.name
            _run([*command, "-shared", *objects, "-o", str(new)])
            new.rename(library)
    return library


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _processor() -> str:
    """What tells processors apart that can't run the same code: a cache may be shared among machines."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    described = ("model name", "flags", "CPU part", "Features")
    lines = {line for line in cpuinfo.read_text().splitlines() if line.startswith(described)}
    return "\n".join(sorted(lines))
