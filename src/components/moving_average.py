"""Weights averaged over the updates of a network."""

from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """Keeps in ``average`` the exponential moving average of the weights of ``source``, of the same shape.

    Args:
        average: what follows; nothing else may move its weights.
        source: what is trained.
        decay: share of the average that an update keeps; the first updates keep less, (1 + n) / (10 + n).
    """

    def __init__(self, average: nn.Module, source: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._average: list[Tensor] = list(average.parameters())
        self._source: list[Tensor] = list(source.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the source's present weights."""
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, self._source, 1 - kept)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """How many updates there were; the weights are the modules' own."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.updates = state["updates"]
