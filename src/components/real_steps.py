"""The steps of padded episodes that are real, as recurrent networks go through them."""

from __future__ import annotations

import torch
from torch import Tensor


class RealSteps:
    """All first steps of padded episodes, then all second ones, and so on, without what lies behind the ends.

    The longest episode comes first in each step, so that it is always the first ones that go on.

    Args:
        filled: (batch, T, 1), 1 where a step is real; an episode's real steps come first.
    """

    def __init__(self, filled: Tensor) -> None:
        real = filled.squeeze(-1) > 0
        self.shape = real.shape
        longest_first = real.sum(dim=1).argsort(descending=True, stable=True)
        self.step, rank = real[longest_first].T.nonzero(as_tuple=True)
        self.episode = longest_first[rank]
        self.sizes: list[int] = torch.bincount(self.step).tolist()
        """How many episodes are in each step."""

    def of(self, values: Tensor) -> Tensor:
        """(steps, ...) from ``values`` (batch, T, ...)."""
        # Half of the time that values[self.episode, self.step] takes, and its gradient isn't sorted first.
        return values.flatten(0, 1).index_select(0, self.episode * values.shape[1] + self.step)

    def padded(self, values: Tensor) -> Tensor:
        """(batch, T, ...) from ``values`` (steps, ...), zeros behind an episode's end."""
        return values.new_zeros(*self.shape, *values.shape[1:]).index_put((self.episode, self.step), values)
