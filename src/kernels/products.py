"""Products of many rows with the same matrix."""

import torch
from torch import Tensor

import kernels

PANEL = DEPTH = 32  # as products.cpp has them


class Matrix:
    """What rows are multiplied by: laid out once, in the order in which a product reads it.

    In float32 libraries multiply as fast by it as it lies; ``products.cpp`` has those of bfloat16.

    Args:
        weight: (outputs, inputs) float32 of a linear layer.
        factors: what products multiply.
        turned: rows of ``outputs`` numbers are multiplied by the weight itself, which gives the gradient of
            the layer's input. Otherwise rows of ``inputs`` are multiplied by its transpose.
    """

    def __init__(self, weight: Tensor, factors: torch.dtype, turned: bool = False) -> None:
        matrix = weight if turned else weight.T
        self.inner, self.columns = matrix.shape
        self._multiply = None
        if factors == torch.float32:
            self._laid_out = matrix.contiguous()  # by a turned one a product takes half as long again
            return
        of_factors, weight = kernels.of(factors), weight.contiguous()
        strides = weight.stride() if turned else weight.T.stride()
        self._multiply = of_factors.multiply
        panels, depth = -(-self.columns // PANEL), -(-self.inner // DEPTH) * DEPTH
        self._laid_out = torch.empty(panels, depth, PANEL, dtype=factors)
        of_factors.lay_out(weight, *strides, self._laid_out, *matrix.shape)

    def times(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """(R, inner) -> (R, columns), with a float32 ``bias`` (columns) added if there is one."""
        if self._multiply is None:
            return rows @ self._laid_out if bias is None else torch.addmm(bias, rows, self._laid_out)
        out = rows.new_empty(len(rows), self.columns)
        self._multiply(rows, self._laid_out, bias, out, len(rows), self.inner, self.columns)
        return out
