"""Matrices that kernels multiply many rows by."""

import torch
from torch import Tensor

import kernels

PANEL = DEPTH = 32  # the most that panels.h has


def laid_out(weight: Tensor, factors: torch.dtype, turned: bool = False) -> Tensor:
    """What rows are multiplied by, in the order in which a product reads it.

    Args:
        weight: (outputs, inputs) float32 of a linear layer.
        factors: what products multiply.
        turned: rows of ``outputs`` numbers are multiplied by the weight itself, which gives the gradient of
            the layer's input. Otherwise rows of ``inputs`` are multiplied by its transpose.
    """
    matrix = weight if turned else weight.T
    if not (matrix.is_contiguous() or matrix.T.is_contiguous()):
        matrix = matrix.contiguous()
    inner, columns = matrix.shape
    in_memory = matrix if matrix.is_contiguous() else matrix.T
    panels, depth = -(-columns // PANEL), -(-inner // DEPTH) * DEPTH
    result = torch.empty(panels, depth, PANEL, dtype=factors)
    kernels.of(factors).lay_out(in_memory, *matrix.stride(), result, *matrix.shape)
    return result
