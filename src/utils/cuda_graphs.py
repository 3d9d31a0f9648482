"""Functions of tensors that a GPU plays back as CUDA graphs: thousands of launches become one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

log = logging.getLogger("marl.compute")

WARM_UP = 3  # plain calls before a capture: in the first ones libraries choose kernels and make room
MOST_KEPT = 2  # captures of a function: sizes of minibatches, say, that differ by one

Result = TypeVar("Result")


class Graphed(Generic[Result]):
    """A function of tensors that is captured as a CUDA graph after some calls, and played back from then on.

    It must do the same operations each time, whatever the numbers in its tensors, and never wait for the GPU.
    Tensors come as arguments, in tuples and the like, or are weights that only change in place. What it
    returned is overwritten by the next call. Arguments of other shapes have a capture of their own.

    Where it can't be captured it goes on as it is, and a warning says why.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self.function = function
        self._calls: Counter[Any] = Counter()  # plain ones, by the layout of their arguments
        self._captures: dict[Any, _Capture[Result]] = {}  # likewise, the oldest first
        self._failed = False

    def __call__(self, *arguments: Any) -> Result:
        layout = _layout(arguments)
        if layout not in self._captures and self._calls[layout] >= WARM_UP and not self._failed:
            self._try_to_capture(layout, arguments)
        if layout in self._captures:
            return self._captures[layout].play(arguments)
        self._calls[layout] += 1
        return self.function(*arguments)

    def _try_to_capture(self, layout: Any, arguments: tuple[Any, ...]) -> None:
        if len(self._captures) == MOST_KEPT:
            del self._captures[next(iter(self._captures))]
        try:
            self._captures[layout] = _Capture(self.function, arguments)
        except RuntimeError as error:  # one that is not the capture's comes again from the plain call
            self._failed = True
            cause = error.__context__ or error  # that a capture failed is told last
            reason = str(cause).strip().partition("\n")[0]
            log.warning("cuda_graphs=True has no effect on %s: %s", self.function.__name__, reason)


class _Capture(Generic[Result]):
    """One call of a function: where it finds its arguments, and where it leaves its results."""

    def __init__(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> None:
        self.arguments = tree_map_only(Tensor, torch.clone, arguments)
        self.graph = torch.cuda.CUDAGraph()
        # The first of these goes back to the present stream where a capture that fails does not.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(self.graph):
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
