"""How fast the parts of a run are, each in a process of its own, on this machine.

    python benchmarks/speed.py                           # the table (make bench)
    python benchmarks/speed.py --full                    # scaling and large sizes, too (make bench-full)
    python benchmarks/speed.py --only qmix --threads 1   # the cases whose names begin so
    python benchmarks/speed.py --profile --only wm_small # where the time goes (make bench-profile)
    python benchmarks/speed.py --device cuda --only wm_8m with cuda_graphs=True  # a GPU, with settings

A case is warmed up, then repeated. The table gives the median wall time of a call, the fastest, the CPU time
of the median call in all threads (on a busy machine wall time says little), the rate, the fastest time in
multiples of what the counted matrix products would take at this machine's speed, and the peak memory, the
GPU's if that is what is timed.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from math import inf
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from rich.console import Console
from rich.table import Table
from speed_cases import CASES, FULL_CASES, Case, Setup

from utils.config import ConfigError, behind_with
from utils.threads import limit_threads

WARM_UP_ON_GPU = 5  # calls before a GPU is timed, in which CUDA graphs are captured
LEAST_CALLS, MOST_CALLS = 3, 30
PATIENCE = 4.0  # seconds after which a case that was called often enough is not called again
PEAK_SIZE, PEAK_SIZE_ON_GPU = 1024, 8192  # rows and columns of the product that tells the machine's speed
PACKAGES = ("torch", "numpy", "jax", "jaxmarl")


def measure(name: str, threads: int, setup: Setup) -> dict[str, Any]:
    """Warm the case up, time it and return its row; run in a process of its own."""
    from utils.products import operations_per_second

    case, torch = _prepare(name, threads, setup)
    wait = torch.cuda.synchronize if setup.on_gpu else lambda: None  # until the GPU has done what it was told
    operations = _operations(case, setup.on_gpu)
    if setup.on_gpu:
        _warm_up_gpu(case)
        torch.cuda.reset_peak_memory_stats()
    walls, cpus, amounts = [], [], []
    wait()
    began = time.perf_counter()
    while len(walls) < MOST_CALLS and (len(walls) < LEAST_CALLS or time.perf_counter() - began < PATIENCE):
        wall, cpu = time.perf_counter(), time.process_time()
        amounts.append(case.call())
        wait()
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    memory = torch.cuda.max_memory_reserved() if setup.on_gpu else _peak_memory()  # graphs reserve theirs
    size = PEAK_SIZE_ON_GPU if setup.on_gpu else PEAK_SIZE
    floor = operations / operations_per_second(case.dtype, size, setup.device)
    return {
        "case": name,
        "median_s": median(walls),
        "fastest_s": min(walls),
        "cpu_s": median(cpus),
        "rate": median(amount / wall for amount, wall in zip(amounts, walls, strict=True)),
        "unit": case.unit,
        "calls": len(walls),
        "gflop": operations / 1e9,
        "floors": min(walls) / floor if floor > 1e-4 else None,
        "peak_mb": memory / 2**20,
    }


def _operations(case: Case, on_gpu: bool) -> float:
    """Floating-point operations in the products of one call, the second one.

    Nothing is played back, as what is can't be counted; nor can a GPU's recurrent layers over time.
    """
    from torch.utils.flop_counter import FlopCounterMode

    ours = (lambda: 0) if on_gpu else our_operations
    with patch("utils.cuda_graphs.WARM_UP", inf):
        case.call()
        before = ours()
        with FlopCounterMode(display=False) as counter:
            case.call()
    return counter.get_total_flops() + ours() - before


def _warm_up_gpu(case: Case) -> None:
    """Until all is captured that is to be played back."""
    for _ in range(WARM_UP_ON_GPU):
        case.call()


def _peak_memory() -> int:
    """Of this process, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def our_operations() -> int:
    """Floating-point operations so far in products within kernels of our own, which torch doesn't see."""
    import torch

    import kernels

    number = torch.zeros(1, dtype=torch.int64)
    total = 0
    for factors in (torch.float32, torch.bfloat16):
        if kernels.serve(torch.empty(0, dtype=factors)):
            kernels.of(factors).operations_so_far(number)
            total += int(number)
    return total


def profile(name: str, threads: int, setup: Setup) -> str:
    """Where the time of one call goes: the case's named parts, then operators; run in its own process.

    Of a GPU's time, what gradients take is no part's, and of CUDA graphs there are no parts.
    """
    case, torch = _prepare(name, threads, setup)
    case.call()
    if setup.on_gpu:
        _warm_up_gpu(case)
    for owner, attribute in case.parts:
        _name_part(torch, owner, attribute)
    with torch.profiler.profile() as profiler:
        case.call()
    averages = profiler.key_averages()
    lines = [f"{name}: one call"]
    device, cpu = "device" if setup.on_gpu else "cpu", torch.autograd.DeviceType.CPU
    named = [row for row in averages if row.key.startswith("part: ") and row.device_type == cpu]
    parts = [(getattr(row, f"{device}_time_total"), row) for row in named]
    for total, row in sorted(parts, key=lambda part: -part[0]):
        lines.append(f"  {row.key[6:]:28s} {total / 1e3:10.1f} ms in {row.count} calls")
    table = averages.table(sort_by=f"self_{device}_time_total", row_limit=15, max_name_column_width=50)
    return "\n".join([*lines, table])


def _prepare(name: str, threads: int, setup: Setup) -> tuple[Case, Any]:
    import torch

    from utils.allocator import keep_freed_memory

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keep_freed_memory()  # also where no run is configured, which does it, too
    return {**CASES, **FULL_CASES}[name](setup), torch


def _name_part(torch: Any, owner: Any, attribute: str) -> None:
    """Make a method, or a module's forward pass, show up in profiles under its name."""
    name = f"{owner.__name__}.{attribute}" if isinstance(owner, type) else attribute
    if isinstance(getattr(owner, attribute), torch.nn.Module):
        owner, method = getattr(owner, attribute), "forward"
    else:
        method = attribute
    plain = getattr(owner, method)

    def named(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(f"part: {name}"):
            return plain(*args, **kwargs)

    setattr(owner, method, named)


def machine(threads: int, setup: Setup) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": platform.processor() or platform.machine(),
        "matrix_units": [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": _gpu() if setup.on_gpu else None,
        "settings": dict(setup.settings),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()


def show(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table."""
    table = Table(title="Speed")
    for heading in ("case", "median ms", "fastest", "CPU ms", "rate", "GFLOP", "floors", "peak MB", "calls"):
        table.add_column(heading, justify="left" if heading in ("case", "rate") else "right")
    for row in rows:
        times = [f"{1e3 * row[key]:.1f}" for key in ("median_s", "fastest_s", "cpu_s")]
        floors = "" if row["floors"] is None else f"{row['floors']:.1f}"
        rate = f"{row['rate']:,.1f} {row['unit']}/s"
        gflop = f"{row['gflop']:.1f}" if row["gflop"] else ""
        table.add_row(row["case"], *times, rate, gflop, floors, f"{row['peak_mb']:.0f}", str(row["calls"]))
    return table


def chosen(word: str, full: bool) -> list[str]:
    """The cases whose names begin with ``word``, large ones if they are asked for or no other does."""
    small, large = ([name for name in cases if name.startswith(word)] for cases in (CASES, FULL_CASES))
    return small + large if full else small or large


def main() -> int:
    """Measure what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description="How fast the parts of a run are on this machine.")
    parser.add_argument("--full", action="store_true", help="scaling and large sizes, too")
    parser.add_argument("--only", default="", metavar="WORD", help="cases whose names begin with it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the GPU")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default: 2)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures with machine and versions"
    )
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    parser.add_argument("rest", nargs="*", metavar="with key=value ...", help="settings of all runs")
    asked = parser.parse_intermixed_args()
    try:
        return run(asked, _setup(asked.device, asked.rest))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _setup(device: str, rest: list[str]) -> Setup:
    settings = behind_with(rest, "speed.py")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("there is no CUDA device for --device=cuda: leave it out to time the CPU.")
    return Setup(device, tuple(settings))


def run(asked: argparse.Namespace, setup: Setup) -> int:
    """Measure the cases that are asked for; returns the exit code."""
    names = chosen(asked.only, asked.full)
    if not names:
        known = ", ".join({**CASES, **FULL_CASES})
        raise ConfigError(f"no case begins with {asked.only!r}; there are: {known}.")
    limit_threads(asked.threads)
    console = Console(width=140)
    rows: list[dict[str, Any]] = []
    # A process per case: none inherits another's memory, threads or compiled code.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in names:
            if asked.profile:
                print(pool.submit(profile, name, asked.threads, setup).result())
                continue
            with console.status(name) if console.is_terminal else nullcontext():
                rows.append(pool.submit(measure, name, asked.threads, setup).result())
            print(f"{name}: {1e3 * rows[-1]['median_s']:.1f} ms", file=sys.stderr)
    if rows:
        console.print(show(rows))
    if asked.json and rows:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": machine(asked.threads, setup), "cases": rows}
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
