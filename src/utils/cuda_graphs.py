"""Functions of tensors that a GPU plays back as CUDA graphs: thousands of launches become one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

log = logging.getLogger("marl.compute")

WARM_UP = 3  # plain calls before a capture: in the first ones libraries choose kernels and make room

Result = TypeVar("Result")


class Graphed(Generic[Result]):
    """A function of tensors that is captured as a CUDA graph after some calls, and played back from then on.

    It must do the same operations each time, whatever the numbers in its tensors, and never wait for the GPU.
    Tensors come as arguments, in tuples and the like, or are weights that only change in place. What it
    returned is overwritten by the next call. Arguments of other shapes begin anew.

    Where it can't be captured it goes on as it is, and a warning says why.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self.function = function
        self._layout: Any = None
        self._calls = 0  # with arguments of this layout
        self._capture: _Capture[Result] | None = None
        self._failed = False

    def __call__(self, *arguments: Any) -> Result:
        if self._failed:
            return self.function(*arguments)
        layout = _layout(arguments)
        if layout != self._layout:
            self._layout, self._calls, self._capture = layout, 0, None
        self._calls += 1
        if self._calls <= WARM_UP:
            return self.function(*arguments)
        if self._capture is None:
            try:
                self._capture = _Capture(self.function, arguments)
            except RuntimeError as error:  # one that is not the capture's comes again from the plain call
                self._failed = True
                reason = str(error).strip().partition("\n")[0]
                log.warning("cuda_graphs=True has no effect on %s: %s", self.function.__name__, reason)
                return self.function(*arguments)
        return self._capture.play(arguments)


class _Capture(Generic[Result]):
    """One call of a function: where it finds its arguments, and where it leaves its results."""

    def __init__(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> None:
        self.arguments = tree_map_only(Tensor, torch.clone, arguments)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = function(*self.arguments)

    def play(self, arguments: tuple[Any, ...]) -> Result:
        for place, given in zip(_tensors(self.arguments), _tensors(arguments), strict=True):
            place.copy_(given)
        self.graph.replay()
        return self.results


def _tensors(nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(nested)[0] if isinstance(leaf, Tensor)]


def _layout(arguments: tuple[Any, ...]) -> Any:
    """What a capture depends on: the shapes and types of tensors, and all that is no tensor."""
    return tree_map_only(Tensor, lambda tensor: (tensor.shape, tensor.dtype), arguments)
