"""Stochastic latents: groups of categoricals with straight-through gradients (Hafner et al., 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class CategoricalLatents(NamedTuple):
    """``groups`` independent categorical variables of ``classes`` values each, per agent.

    Tensors have the classes before the groups, (..., classes, groups): where a few classes are next to each
    other in memory torch takes their softmax number by number, twenty times slower.

    ``uniform_mix`` mixes that much of a uniform distribution into every probability, which bounds the KL.
    """

    groups: int
    classes: int
    uniform_mix: float

    @property
    def size(self) -> int:
        """Length of a flat one-hot sample, and of the logits that parameterise it."""
        return self.groups * self.classes

    def probs(self, logits: Tensor) -> Tensor:
        """(..., size) logits -> (..., classes, groups) probabilities, float32 in any precision."""
        probs = F.softmax(logits.float().unflatten(-1, (self.classes, self.groups)), dim=-2)
        if self.uniform_mix == 0:
            return probs
        return (probs * (1 - self.uniform_mix)).add_(self.uniform_mix / self.classes)

    def sample(self, probs: Tensor, uniforms: Tensor) -> Tensor:
        """Draw by inverting the cumulative distribution; gradients pass straight through to ``probs``.

        Args:
            probs: (..., classes, groups).
            uniforms: (..., groups) numbers in [0, 1).

        Returns:
            (..., size) flat one-hot samples.
        """
        with torch.no_grad():
            # Compared in place, the sums become ones and zeros that torch adds up as floats: twice as fast.
            passed = probs.cumsum(dim=-2).le_(uniforms.unsqueeze(-2)).sum(dim=-2, keepdim=True)
            # Rounding can leave the last cumulative sum below the uniform number: clamp to the last class.
            index = passed.clamp_max_(self.classes - 1).long()
            one_hot = torch.zeros_like(probs).scatter_(-2, index, 1.0)
        if probs.requires_grad:
            one_hot = probs + one_hot.sub_(probs.detach())
        return one_hot.flatten(-2)

    def draw(self, probs: Tensor) -> Tensor:
        """``sample`` with fresh random numbers."""
        return self.sample(probs, torch.rand((*probs.shape[:-2], self.groups), device=probs.device))

    def balanced_kl(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """KL(posterior || prior) in nats, summed over the groups, twice.

        Args:
            posterior, prior: (..., classes, groups) probabilities.

        Returns:
            (...) with gradients to the prior alone, and (...) with gradients to the posterior alone.
        """
        log_posterior, log_prior = self._log(posterior), self._log(prior)
        for_prior = posterior.detach() * (log_posterior.detach() - log_prior)
        for_posterior = posterior * (log_posterior - log_prior.detach())
        return for_prior.sum(dim=(-2, -1)), for_posterior.sum(dim=(-2, -1))

    def _log(self, probs: Tensor) -> Tensor:
        # Mixed with a uniform distribution no probability is zero.
        return (probs if self.uniform_mix > 0 else probs.clamp_min(torch.finfo(probs.dtype).tiny)).log()
