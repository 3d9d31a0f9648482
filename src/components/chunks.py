"""Padded episodes cut into short sequences, for training recurrent networks on minibatches of them."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class Chunks:
    """Fields (count, length, ...) over chunks of episodes, zeros behind an episode's end.

    Args:
        steps: fields (batch, T, ...); among them `mask`, 1 where a step is real. Chunks without a real
            step are dropped.
        starts: fields (batch, T, ...) of which a chunk keeps the entry of its first step: (count, ...).
        length: steps of a chunk, 0 for whole episodes.
    """

    def __init__(self, steps: dict[str, Tensor], starts: dict[str, Tensor], length: int) -> None:
        length = length or steps["mask"].shape[1]
        fields = {key: split(value, length) for key, value in steps.items()}
        fields |= {key: value[:, ::length].flatten(0, 1) for key, value in starts.items()}
        real = fields["mask"].flatten(1).any(dim=1)
        self.fields = {key: value[real] for key, value in fields.items()}

    def select(self, rows: Tensor) -> Self:
        """The chunks of the indices `rows` (m,)."""
        selection = object.__new__(type(self))
        selection.fields = {key: value.index_select(0, rows) for key, value in self.fields.items()}
        return selection

    def __getitem__(self, key: str) -> Tensor:
        return self.fields[key]

    def __contains__(self, key: str) -> bool:
        return key in self.fields

    def __len__(self) -> int:
        return len(self.fields["mask"])


def split(steps: Tensor, length: int) -> Tensor:
    """(batch, T, ...) -> (batch * ceil(T / length), length, ...), zeros behind the last step."""
    missing = -steps.shape[1] % length
    if missing:
        padding = torch.zeros_like(steps[:, :1]).expand(-1, missing, *steps.shape[2:])
        steps = torch.cat([steps, padding], dim=1)
    return steps.unflatten(1, (-1, length)).flatten(0, 1)
