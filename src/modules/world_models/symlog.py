"""Regression of a scalar: as a distribution over fixed bins, blind to its scale, or as the number itself.

Two-hot targets in symlog space (Hafner et al., 2023, arXiv 2301.04104, section "Robust predictions"). Both
ways offer ``size``, how many numbers a network predicts, ``mean``, the scalar they stand for, and ``loss``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def symexp(x: Tensor) -> Tensor:
    """The inverse of symlog(x) = sign(x) ln(1 + |x|): near zero the identity, far out a logarithm."""
    return torch.sign(x) * torch.expm1(x.abs())


class TwoHot(nn.Module):
    """Bins placed evenly in symlog space over [-reach, reach]."""

    bins: Tensor

    def __init__(self, n_bins: int = 65, reach: float = 6.0) -> None:
        super().__init__()
        self.size = n_bins
        self.register_buffer("bins", symexp(torch.linspace(-reach, reach, n_bins)), persistent=False)

    @property
    def limit(self) -> float:
        """The greatest value that can be told from greater ones."""
        return self.bins[-1].item()

    def mean(self, logits: Tensor) -> Tensor:
        """(..., n_bins) logits -> (...) expected value."""
        return (F.softmax(logits, dim=-1) * self.bins).sum(dim=-1)  # a product of matrices may be rounded

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy to the two bins around ``target``, weighted so that their mean is the target.

        Args:
            logits: (..., n_bins).
            target: (...) values; those beyond the last bin count as the last bin.
        """
        target = target.clamp(self.bins[0], self.bins[-1])
        above = torch.searchsorted(self.bins, target.contiguous()).clamp(1, len(self.bins) - 1)
        low, high = self.bins[above - 1], self.bins[above]
        weight = ((target - low) / (high - low)).unsqueeze(-1)
        log_probs = F.log_softmax(logits, dim=-1)
        picked = log_probs.gather(-1, torch.stack([above - 1, above], dim=-1))
        return -(picked[..., :1] * (1 - weight) + picked[..., 1:] * weight).squeeze(-1)


class PlainNumber(nn.Module):
    """The scalar itself, regressed by smooth-L1."""

    size = 1

    def mean(self, predicted: Tensor) -> Tensor:
        """(..., 1) -> (...)."""
        return predicted.squeeze(-1)

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """(..., 1), (...) -> (...)."""
        return F.smooth_l1_loss(predicted.squeeze(-1), target, reduction="none")
