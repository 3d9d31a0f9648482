"""How a learner's networks are computed: in which precision, and whether compiled."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch
from torch.utils._pytree import tree_map_only

from utils.products import multiplies_bfloat16

log = logging.getLogger("marl.compute")


@dataclass(frozen=True)
class ComputeConfig:
    """How networks are computed; no choice changes what is computed, but for rounding."""

    device: str = "cpu"
    precision: str = "float32"  # or bfloat16: of matrix products, on a GPU of the recurrent step, too
    compile: bool = False  # by torch.compile, on a GPU with CUDA graphs

    @property
    def rounds(self) -> bool:
        """Whether factors of matrix products are rounded: asked for, and fast on this device."""
        asked = self.precision == "bfloat16"
        return asked and (torch.device(self.device).type != "cpu" or multiplies_bfloat16())

    @property
    def dtype(self) -> torch.dtype:
        """What holds all that matrix products take in of their factors."""
        return torch.bfloat16 if self.rounds else torch.float32

    def autocast(self) -> torch.autocast:
        """The context of one forward pass.

        Weights are cast once in it, so they must not change within.
        """
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.rounds)


def warn_of_no_effect(config: ComputeConfig) -> None:
    """Say so where this CPU won't round as it is asked to, as it has no fast way to."""
    if config.precision == "bfloat16" and not config.rounds:
        log.warning("precision=bfloat16 has no effect: this CPU has no fast products of bfloat16")


def factor_dtype(x: Tensor) -> torch.dtype:
    """What ``x`` is rounded to as a factor of products: autocast's type within it, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Compiler:
    """Compiles methods; where that fails all of them run as they are, and one warning says why.

    On a GPU they are played back as CUDA graphs, whose next call may overwrite what the last one gave: the
    caller is given copies.
    """

    def __init__(self, config: ComputeConfig) -> None:
        self.graphs = torch.device(config.device).type == "cuda"
        self.failed = False
        # By default gradients are compiled as they are first taken, where nothing could be helped any more.
        functorch.force_non_lazy_backward_lowering = True

    def compile_methods(self, owner: Any, *names: str) -> None:
        """Put compiled functions in the place of ``owner``'s methods ``names``."""
        for name in names:
            setattr(owner, name, self._compiled(getattr(owner, name)))

    def _compiled(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        fast = torch.compile(plain, mode="reduce-overhead" if self.graphs else "default", dynamic=False)

        def call(*args: Any) -> Any:
            if self.failed:
                return plain(*args)
            try:
                outputs = fast(*args)
                return tree_map_only(Tensor, torch.clone, outputs) if self.graphs else outputs
            except torch._dynamo.exc.TorchDynamoException as error:
                self.failed = True
                reason = str(error).strip().partition("\n")[0]
                log.warning("compile=True has no effect: %s", reason)
                return plain(*args)

        return call
