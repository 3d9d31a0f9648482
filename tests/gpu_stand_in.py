"""A stand-in for a GPU: a device whose tensors the CPU computes, but that is not the CPU to torch.

What goes wrong on a GPU because something was left on the other device goes wrong here, too: an operation on
tensors of both, numpy on a tensor that is not in main memory, an optimiser that knows other parameters than
the network has. So it does where a CUDA graph is captured: what would wait for the GPU, or copy from memory
that it doesn't have, is refused, a capture leaves no results, and what is played back finds its numbers where
they were, and leaves them there. What CUDA's own kernels do, and how fast, this can't tell.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "gpu"
aten = torch.ops.aten
# Operations that take tensors from one device to the other, and those whose indices may be on the CPU.
CROSSING = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


REFUSAL = "operation not permitted when stream is capturing"
# Operations whose result the CPU must know before it can go on.
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.bincount.default, aten.equal.default}


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, _Backend())
DEVICE = torch.device(NAME, 0)


class OnGPU(Tensor):
    """A tensor on the stand-in; ``held`` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGPU":
        self: OnGPU = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        self.held = held
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # what is saved is loaded on any machine

    def tolist(self) -> list[Any]:
        return self.held.tolist()


class StandIn(TorchDispatchMode):
    """While it is entered there is the device ``gpu``."""

    launches = 0
    """What it has been told to do so far; a graph that is played back counts once."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def move(module: torch.nn.Module, device: Any = None) -> torch.nn.Module:
    """What ``module.cuda()`` does: the parameters that an optimiser knows are moved, not replaced."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return module.to(DEVICE)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


class Graph:
    """A stand-in for ``torch.cuda.CUDAGraph``."""

    capturing: "Graph | None" = None

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any]] = []
        self.places: list[list[Tensor | None]] = []  # those that each of them makes, for its results

    def add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """An operation on plain tensors."""
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        made = [None if x.untyped_storage().data_ptr() in given else x for x in _tensors(out)]
        self.operations.append((func, args, kwargs))
        self.places.append(made)

    def forget(self) -> None:
        """Leave no results."""
        for place in (x for made in self.places for x in made if x is not None):
            place.fill_(torch.nan if place.is_floating_point() else 0)

    def replay(self) -> None:
        """Do it all again with what now lies where it was found; the results lie where they did."""
        StandIn.launches += 1
        for (func, args, kwargs), made in zip(self.operations, self.places, strict=True):
            for place, new in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                if place is not None:
                    place.copy_(new)


@contextmanager
def capture(graph: Graph) -> Iterator[None]:
    """A stand-in for ``torch.cuda.graph``: what fails in it is told last, and it stays on its stream."""
    numbers = torch.get_rng_state()
    Graph.capturing = graph
    before, Stream.present = Stream.present, Stream()
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError("operation failed due to a previous error during capture") from error
    finally:
        Graph.capturing = None
        torch.set_rng_state(numbers)
        graph.forget()
    Stream.present = before


class Stream:
    """What the stand-in is told things on; as a context, a stand-in for ``torch.cuda.stream``."""

    present: "Stream"

    def __init__(self, chosen: "Stream | None" = None) -> None:
        self.chosen = chosen or self

    def __enter__(self) -> None:
        self.before, Stream.present = Stream.present, self.chosen

    def __exit__(self, *_: Any) -> None:
        Stream.present = self.before


Stream.present = Stream()


def be_cuda(patch: pytest.MonkeyPatch) -> None:
    """Make what torch calls CUDA the stand-in."""
    patch.setattr(torch.nn.Module, "cuda", move)
    patch.setattr(torch.cuda, "CUDAGraph", Graph)
    patch.setattr(torch.cuda, "graph", capture)
    patch.setattr(torch.cuda, "stream", Stream)
    patch.setattr(torch.cuda, "current_stream", lambda: Stream.present)


def _tensors(nested: Any) -> list[Tensor]:
    return [value for value in tree_flatten(nested)[0] if isinstance(value, Tensor)]


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = _tensors((args, kwargs))
    on_gpu = any(isinstance(tensor, OnGPU) for tensor in tensors)
    strays = [tensor for tensor in tensors if tensor.dim() > 0 and not isinstance(tensor, OnGPU)]
    indexed = func in INDEXING and isinstance(args[0], OnGPU)
    if on_gpu and strays and func not in CROSSING and not indexed:
        raise RuntimeError(f"{func} expects all tensors on the same device, but found {NAME} and cpu")
    if Graph.capturing is not None and _waits(func, args, kwargs, tensors):
        raise RuntimeError(f"{func}: {REFUSAL}")
    if kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
    if func is aten.copy_.default:
        on_gpu = isinstance(args[0], OnGPU)
    plain_args, plain_kwargs = tree_map_only(OnGPU, lambda tensor: tensor.held, (args, kwargs))
    if on_gpu and Graph.capturing is None and not func.is_view and "empty" not in func.name():
        StandIn.launches += 1
    func_here = KERNELS.get(func, func)
    out = func_here(*plain_args, **plain_kwargs)
    if not on_gpu:
        return out
    if Graph.capturing is not None:
        Graph.capturing.add(func_here, plain_args, plain_kwargs, out)
    return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, OnGPU, out))


def _waits(func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
    """Whether an operation waits for the GPU, or copies from one device to the other."""
    on_gpu = [isinstance(tensor, OnGPU) for tensor in tensors]
    if not any(on_gpu):
        return False
    if func in CROSSING:
        return not all(on_gpu) or torch.device(kwargs.get("device") or DEVICE).type != NAME
    chosen = func in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
    return func in WAITING or chosen


def _gru_cell(gates: Tensor, recurrent: Tensor, hidden: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
    if biases:
        gates, recurrent = gates + biases[0], recurrent + biases[1]
    (r, z, n), (from_r, from_z, from_n) = gates.chunk(3, 1), recurrent.chunk(3, 1)
    r, z = (r + from_r).sigmoid(), (z + from_z).sigmoid()
    n = (n + r * from_n).tanh()
    return n + z * (hidden - n), torch.cat([r, z, n, hidden, from_n], 1)


def _gru_cell_backward(grad: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    r, z, n, hidden, from_n = workspace.chunk(5, 1)
    to_n = grad * (1 - z) * (1 - n * n)
    to_z = grad * (hidden - n) * z * (1 - z)
    to_r = to_n * from_n * r * (1 - r)
    gates, recurrent = torch.cat([to_r, to_z, to_n], 1), torch.cat([to_r, to_z, to_n * r], 1)
    biases = (gates.sum(0), recurrent.sum(0)) if has_bias else (None, None)
    return gates, recurrent, grad * z, *biases


KERNELS: dict[Any, Callable[..., Any]] = {  # what torch has for other devices than the CPU alone
    aten._thnn_fused_gru_cell.default: _gru_cell,
    aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
}

# Where torch makes a tensor of a list, it asks the device itself.
_LIBRARY = torch.library.Library("aten", "IMPL")


def _empty(size: Any, stride: Any, dtype: Any = None, **options: Any) -> OnGPU:
    return OnGPU(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: OnGPU, non_blocking: bool = False) -> OnGPU:
    if Graph.capturing is not None:
        raise RuntimeError(f"a copy between devices: {REFUSAL}")
    target.held.copy_(source.held if isinstance(source, OnGPU) else source)
    return target


_LIBRARY.impl("empty_strided", _empty, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
