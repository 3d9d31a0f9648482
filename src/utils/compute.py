"""How a learner's networks are computed: in which precision, and whether compiled."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._functorch import config as functorch

from utils.cuda_graphs import Graphed
from utils.products import multiplies_bfloat16, operations_per_second

log = logging.getLogger("marl.compute")

Result = TypeVar("Result")


@dataclass(frozen=True)
class ComputeConfig:
    """How networks are computed; no choice changes what is computed, but for rounding."""

    device: str = "cpu"
    precision: str = "float32"  # or bfloat16: of matrix products, on a GPU of the recurrent step, too
    compile: bool = False  # by torch.compile
    cuda_graphs: bool = False  # a GPU plays back what it does in each update

    @property
    def on_cpu(self) -> bool:
        """Whether there is no GPU to compute on."""
        return torch.device(self.device).type == "cpu"

    @property
    def rounds(self) -> bool:
        """Whether factors of matrix products are rounded: asked for, and fast on this device."""
        asked = self.precision == "bfloat16"
        return asked and (not self.on_cpu or multiplies_bfloat16())

    @property
    def dtype(self) -> torch.dtype:
        """What holds all that matrix products take in of their factors."""
        return torch.bfloat16 if self.rounds else torch.float32

    def autocast(self) -> torch.autocast:
        """The context of one forward pass.

        Weights are cast once in it, so they must not change within.
        """
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.rounds)

    def graphed(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, as a CUDA graph where that is asked for; ``utils.cuda_graphs`` has the conditions."""
        return Graphed(function) if self.cuda_graphs and not self.on_cpu else function


def warn_of_no_effect(config: ComputeConfig) -> None:
    """Say so where this CPU won't do what it is asked to, or gains nothing by it."""
    if config.precision == "bfloat16" and not config.rounds:
        log.warning("precision=bfloat16 has no effect: this CPU has no fast products of bfloat16")
    elif config.rounds and config.on_cpu:
        rounded, exact = (operations_per_second(x) for x in (torch.bfloat16, torch.float32))
        if rounded < exact:
            log.warning(
                "precision=bfloat16 makes the run slower: this CPU multiplies bfloat16 at %.0f GFLOP/s and "
                "float32 at %.0f; leave precision at float32",
                rounded / 1e9,
                exact / 1e9,
            )
    if config.cuda_graphs and config.on_cpu:
        log.warning("cuda_graphs=True has no effect: there is no GPU")


def factor_dtype(x: Tensor) -> torch.dtype:
    """What ``x`` is rounded to as a factor of products: autocast's type within it, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Compiler:
    """Compiles methods; where that fails all of them run as they are, and one warning says why."""

    def __init__(self) -> None:
        self.failed = False
        # By default gradients are compiled as they are first taken, where nothing could be helped any more.
        functorch.force_non_lazy_backward_lowering = True

    def compile_methods(self, owner: Any, *names: str) -> None:
        """Put compiled functions in the place of ``owner``'s methods ``names``."""
        for name in names:
            setattr(owner, name, self._compiled(getattr(owner, name)))

    def _compiled(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        fast = torch.compile(plain, dynamic=False)

        def call(*args: Any) -> Any:
            if self.failed:
                return plain(*args)
            try:
                return fast(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                self.failed = True
                reason = str(error).strip().partition("\n")[0]
                log.warning("compile=True has no effect: %s", reason)
                return plain(*args)

        return call
