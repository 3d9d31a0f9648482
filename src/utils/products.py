"""How matrices are multiplied on a CPU: by which library, and what it can do."""

import time
from functools import cache
from pathlib import Path

import torch


def use_faster_library() -> None:
    """Let oneDNN multiply in this process where MKL, torch's choice, runs at half speed: on AMD's processors.

    torch hands it products of float32 only if it may round their factors to bfloat16. It does so where there
    is a unit for that; elsewhere it multiplies in float32 as MKL does, adding up in another order. So a
    processor that rounds is left alone.
    """
    if _is_amd() and not cpu_rounds():
        torch.set_float32_matmul_precision("medium")


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions that multiply and add up bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))


@cache
def operations_per_second(factors: torch.dtype | None, size: int = 512, device: str = "cpu") -> float:
    """What a product of ``size`` rows and columns makes at best, of torch's default type if none is given."""
    own = torch.Generator(device).manual_seed(0)  # a run draws what it would have drawn without
    a, times = torch.randn(size, size, dtype=factors, device=device, generator=own), []
    wait = torch.cuda.synchronize if a.is_cuda else lambda: None
    for _ in range(8):
        wait()
        began = time.perf_counter()
        a @ a
        wait()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


@cache
def cpu_rounds() -> bool:
    """Whether this CPU rounds factors to bfloat16 where it may."""
    factor = torch.arange(64.0 * 64).remainder(512).view(64, 64)  # 9 bits: float32 holds sums of products
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return not torch.equal((factor @ factor).double(), factor.double() @ factor.double())
    finally:
        torch.set_float32_matmul_precision(before)


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text()
