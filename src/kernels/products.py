"""Products of many rows with the same matrix."""

import torch
from torch import Tensor

import kernels

PANEL = DEPTH = 32  # the most that panels.h has


class Matrix:
    """What rows are multiplied by: laid out once, in the order in which a product reads it.

    Args:
        weight: (outputs, inputs) float32 of a linear layer.
        factors: what products multiply.
        turned: rows of ``outputs`` numbers are multiplied by the weight itself, which gives the gradient of
            the layer's input. Otherwise rows of ``inputs`` are multiplied by its transpose.
    """

    def __init__(self, weight: Tensor, factors: torch.dtype, turned: bool = False) -> None:
        weight = weight.contiguous()
        matrix = weight if turned else weight.T
        (inner, self.columns), self._kernels = matrix.shape, kernels.of(factors)
        panels, depth = -(-self.columns // PANEL), -(-inner // DEPTH) * DEPTH
        self._laid_out = torch.empty(panels, depth, PANEL, dtype=factors)
        self._kernels.lay_out(weight, *matrix.stride(), self._laid_out, *matrix.shape)

    def times(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """(R, inner) -> (R, columns), with a float32 ``bias`` (columns) added if there is one."""
        out = rows.new_empty(len(rows), self.columns)
        self._kernels.multiply(rows, self._laid_out, bias, out, *rows.shape, self.columns)
        return out
