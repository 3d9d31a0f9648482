"""Transforms that an episode batch applies to a field when it is written (its ``preprocess`` argument)."""

import torch
from torch import Tensor


class Transform:
    """Turns the values of one field into those of another, and says what shape and type come out."""

    def transform(self, tensor: Tensor) -> Tensor:
        """Transformed values; the leading (batch, time, group) dimensions stay as they are."""
        raise NotImplementedError

    def infer_output_info(
        self, vshape_in: int | tuple[int, ...], dtype_in: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        """Value shape and type of what :meth:`transform` returns for such an input."""
        raise NotImplementedError


class OneHot(Transform):
    """Indices of shape (..., 1) to one-hot float vectors of shape (..., out_dim)."""

    def __init__(self, out_dim: int):
        self.out_dim = out_dim

    def transform(self, tensor: Tensor) -> Tensor:
        onehot = torch.zeros(*tensor.shape[:-1], self.out_dim, dtype=torch.float32, device=tensor.device)
        return onehot.scatter_(-1, tensor.long(), 1.0)

    def infer_output_info(
        self, vshape_in: int | tuple[int, ...], dtype_in: torch.dtype
    ) -> tuple[tuple[int, ...], torch.dtype]:
        return (self.out_dim,), torch.float32
