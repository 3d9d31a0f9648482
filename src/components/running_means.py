"""Means of what is measured at every update, from one log to the next."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Adds up named scalars where they are, on their device, until their means are taken.

    A name need not come with every update: each has its own count.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        """Names that there is a mean of."""
        return len(self._sums)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the scalars of one update."""
        for name, value in values.items():
            sum_so_far = self._sums.get(name, 0.0)
            self._sums[name] = sum_so_far + value.detach()  # the first, too, is a tensor of our own
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, Tensor]:
        """The means over all updates since the last call."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: torch.as_tensor(total) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])
