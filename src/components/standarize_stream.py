"""Running mean and variance of a stream (named as in EPyMARL, so that its learners import it)."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMeanStd:
    """Mean and variance over everything ever seen, per feature of the last dimension.

    `epsilon` is the weight of the prior (mean 0, variance 1); all of it is kept in tensors on `device`, so an
    update never waits for the device.
    """

    def __init__(
        self, epsilon: float = 1e-4, shape: tuple[int, ...] = (), device: str | torch.device = "cpu"
    ) -> None:
        self.mean = torch.zeros(shape, device=device)
        self.var = torch.ones(shape, device=device)
        self.count = torch.tensor(epsilon, dtype=torch.float64, device=device)

    @property
    def std(self) -> Tensor:
        """Standard deviation, kept away from zero."""
        return self.var.clamp_min(1e-8).sqrt()

    def update(self, arr: Tensor, mask: Tensor | None = None) -> None:
        """Takes in `arr` (..., features); zeros in `mask` (..., 1 or features) leave entries out."""
        rows = arr.reshape(-1, arr.shape[-1])
        weights = torch.ones_like(rows) if mask is None else mask.expand_as(arr).reshape(rows.shape)
        if self.mean.numel() == 1:
            rows, weights = rows.reshape(-1, 1), weights.reshape(-1, 1)
        count = weights.sum(0).clamp_min(1.0)
        mean = (rows * weights).sum(0) / count
        var = ((rows - mean).square() * weights).sum(0) / count
        self.update_from_moments(mean.view_as(self.mean), var.view_as(self.var), weights.sum(0).mean())

    def update_from_moments(self, batch_mean: Tensor, batch_var: Tensor, batch_count: int | Tensor) -> None:
        """Merges the moments of `batch_count` new rows into the running ones."""
        total = self.count + batch_count
        share = (batch_count / total).to(self.mean.dtype)
        delta = batch_mean - self.mean
        self.mean = self.mean + delta * share
        self.var = self.var * (1 - share) + batch_var * share + delta.square() * share * (1 - share)
        self.count = total

    def standardise(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Takes in `values`, as `update` does, and returns them normalised."""
        self.update(values, mask)
        return self.normalise(values)

    def scale(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Takes in `values`, as `update` does, and returns them with a running mean square of 1.

        Nothing is taken off, as it must be for rewards where the end of an episode is worth 0: without their
        mean, every further step would cost it.
        """
        self.update(values, mask)
        return values / (self.var + self.mean.square()).clamp_min(1e-8).sqrt()

    def normalise(self, values: Tensor) -> Tensor:
        """`values` (..., features) with the running mean taken off and in running standard deviations."""
        return (values - self.mean) / self.std

    def denormalise(self, values: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return values * self.std + self.mean

    def state_dict(self) -> dict[str, Tensor]:
        """Mean, variance and count."""
        return {"mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        device = self.mean.device
        self.mean, self.var, self.count = (state[key].to(device) for key in ("mean", "var", "count"))
