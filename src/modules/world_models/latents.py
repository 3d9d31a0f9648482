"""Stochastic latents: groups of categoricals with straight-through gradients (Hafner et al., 2021)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import kernels


class Drawn(NamedTuple):
    """Samples of categorical variables."""

    z: Tensor  # (..., size) flat one-hot, zero for the dead
    picked: Tensor  # (..., groups) int16, the class of each, -1 for the dead


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
        uniform = probs.new_full((), self.uniform_mix / self.classes)  # new_tensor waits for a GPU
        return torch.add(uniform, probs, alpha=1 - self.uniform_mix)

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

    def draw(self, logits: Tensor, living: Tensor) -> Drawn:
        """Samples of ``probs(logits)``, without gradients.

        Only the ``living`` (...) bool have one, for others it is zero.
        """
        with torch.no_grad():
            uniforms = torch.rand((*logits.shape[:-1], self.groups), device=logits.device)
            if not kernels.serve(logits):
                z = self.sample(self.probs(logits), uniforms) * living.unsqueeze(-1)
                return Drawn(z, self.picked(z))
            logits = logits.contiguous()
            z, picked = torch.empty_like(logits), torch.empty_like(uniforms, dtype=torch.int16)
            given = (logits, uniforms, living.float().contiguous())
            sizes = (self.uniform_mix, living.numel(), self.classes, self.groups)
            kernels.of(logits.dtype).draw(*given, None, z, picked, *sizes)
            return Drawn(z, picked)

    def picked(self, z: Tensor) -> Tensor:
        """The classes (..., groups) int16 of flat one-hot samples (..., size), -1 where there is none."""
        numbers = torch.arange(1, self.classes + 1, device=z.device).unsqueeze(-1)
        by_group = torch.kron(numbers, torch.eye(self.groups, device=z.device))
        exact = z if self.classes <= 256 else z.float()  # bfloat16 has all numbers up to 256
        # Kernels look up what they are given, so it is within bounds in any case.
        return (exact @ by_group.to(exact.dtype)).round_().clamp_(0, self.classes).to(torch.int16) - 1

    def one_hot(self, picked: Tensor) -> Tensor:
        """Flat one-hot samples (..., size) bool of the classes (..., groups), zero where a class is -1."""
        return (picked.unsqueeze(-2) == torch.arange(self.classes, device=picked.device)[:, None]).flatten(-2)

    def balanced_kl(self, posterior: Tensor, prior_logits: Tensor, share: float) -> Tensor:
        """KL(posterior || prior) (...) in nats, summed over the groups.

        Its gradient to the prior is multiplied by ``share``, that to the posterior by what is left of 1.

        Args:
            posterior: (..., classes, groups) probabilities.
            prior_logits: (..., size).
            share: between 0 and 1.
        """
        if kernels.serve(prior_logits):
            both = (posterior.contiguous(), prior_logits.contiguous())
            fused: Tensor = _FusedKL.apply(*both, share, self)
            return fused
        prior = self.probs(prior_logits)
        if self.uniform_mix == 0:  # then a probability may be zero
            tiny = torch.finfo(posterior.dtype).tiny
            posterior, prior = posterior.clamp_min(tiny), prior.clamp_min(tiny)
        divergence: Tensor = _BalancedKL.apply(posterior, prior, share)
        return divergence


class CompactState(NamedTuple):
    """A world model's states by the classes of their latents, in a fraction of the room of ones and zeros."""

    h: Tensor  # (..., n_agents, width) deterministic, rounded where autocast rounds what networks read
    picked: Tensor  # (..., n_agents, groups) int16, the class of each latent, -1 if the agent is dead
    latents: CategoricalLatents
    z: Tensor | None = None  # (..., n_agents, size) the samples, where gradients are to reach them

    @property
    def features(self) -> Tensor:
        """(..., n_agents, width + size), the latents as ones and zeros."""
        z = self.latents.one_hot(self.picked).to(self.h.dtype) if self.z is None else self.z
        return torch.cat([self.h, z], dim=-1)

    def transposed(self) -> CompactState:
        """The first two dimensions exchanged, in memory, too, without gradients to the samples."""
        h, picked = (x.transpose(0, 1).contiguous() for x in (self.h, self.picked))
        return CompactState(h, picked, self.latents)

    def at(self, where: Any) -> CompactState:
        """The states at an index into the leading dimensions, without gradients to the samples."""
        return CompactState(self.h[where], self.picked[where], self.latents)

    def select(self, rows: Tensor) -> CompactState:
        """``at(rows)`` for ``rows`` (m,) int64, in half of the time."""
        return CompactState(self.h.index_select(0, rows), self.picked.index_select(0, rows), self.latents)


class _FusedKL(torch.autograd.Function):
    """``_BalancedKL`` of a prior's logits by kernels."""

    @staticmethod
    def forward(
        ctx: Any, posterior: Tensor, prior_logits: Tensor, share: float, latents: CategoricalLatents
    ) -> Tensor:
        divergence = posterior.new_empty(posterior.shape[:-2])
        ctx.share, ctx.mix = share, latents.uniform_mix
        ctx.sizes = (divergence.numel(), latents.classes, latents.groups)
        ctx.save_for_backward(posterior, prior_logits)
        kernels.of(prior_logits.dtype).kl(posterior, prior_logits, divergence, ctx.mix, *ctx.sizes)
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        posterior, prior_logits = ctx.saved_tensors
        of_both = (torch.empty_like(posterior), torch.empty_like(prior_logits))
        seen = (gradient.contiguous(), posterior, prior_logits)
        kernels.of(prior_logits.dtype).kl_back(*seen, *of_both, ctx.mix, ctx.share, *ctx.sizes)
        return *of_both, None, None


class _BalancedKL(torch.autograd.Function):
    """sum p log(p / q), whose gradients are log(p / q) + 1 to p and -p / q to q.

    Two terms, each with the gradient of one side, would go over all probabilities twice as often.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, share: float) -> Tensor:
        ratio = p / q
        log_ratio = ratio.log()
        ctx.share = share
        ctx.save_for_backward(ratio, log_ratio)
        return (p * log_ratio).sum(dim=(-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        ratio, log_ratio = ctx.saved_tensors
        of_p = (gradient * (1 - ctx.share))[..., None, None]
        of_q = (gradient * -ctx.share)[..., None, None]
        return torch.addcmul(of_p, of_p, log_ratio), of_q * ratio, None
