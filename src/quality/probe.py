"""A linear probe: what of the global state can be read from each agent's features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 0.01  # penalty on the squared weights per record, in the features' own units


class Probe(NamedTuple):
    """A linear map per agent from features to the global state."""

    weight: Tensor  # (n, feature_size, state_size)
    feature_mean: Tensor  # (n, feature_size)
    state_mean: Tensor  # (state_size,)

    def read(self, features: Tensor) -> Tensor:
        """(..., n, feature_size) -> (..., n, state_size)."""
        return torch.einsum("...nf,nfs->...ns", features - self.feature_mean, self.weight) + self.state_mean


def fit_probe(features: Tensor, state: Tensor) -> Probe:
    """Ridge regression, one per agent.

    Args:
        features: (N, n, feature_size) of N real moments.
        state: (N, state_size) global states of the same moments.
    """
    x, y = features.double(), state.double()
    feature_mean, state_mean = x.mean(dim=0), y.mean(dim=0)
    x = (x - feature_mean).transpose(0, 1)  # (n, N, feature_size)
    covariance = x.mT @ x / x.shape[1] + RIDGE * torch.eye(x.shape[2], dtype=x.dtype)
    weight = torch.linalg.solve(covariance, x.mT @ (y - state_mean) / x.shape[1])
    return Probe(weight.float(), feature_mean.float(), state_mean.float())
