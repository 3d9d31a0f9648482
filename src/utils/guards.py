"""Stops a run whose losses are no longer numbers: it is never trained through."""

from collections.abc import Mapping

import torch
from torch import Tensor


class TrainingDiverged(Exception):
    """A loss term became NaN or infinite.

    Attributes:
        step: environment step at which it was seen.
        term: name of the loss term.
    """

    def __init__(self, step: int, term: str) -> None:
        super().__init__(f"{term} is not finite at environment step {step}")
        self.step = step
        self.term = term


def check_all_finite(terms: Mapping[str, Tensor], t_env: int) -> None:
    """Look for NaN and infinity in loss terms (any shapes), with one transfer from the device for all.

    Raises:
        TrainingDiverged: names the first bad one.
    """
    finite = torch.stack([torch.isfinite(value.detach()).all() for value in terms.values()])
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise TrainingDiverged(t_env, list(terms)[bad])
