"""How weights are moved: Adam, and for world models Muon beside it."""

import inspect
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

SMALLEST_SIDE = 32  # of a matrix that Muon takes: a thinner one has too few directions to balance

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the published quintic iteration
NEWTON_SCHULZ_STEPS = 5
WIDE = 1.5  # columns per row from which iterating x x^T is cheaper than iterating x


def gradients_of(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Those of all weights, None where the loss doesn't depend on one.

    They lie in memory as the weights do, as fused optimisers take it that they do; ``torch.autograd.grad``
    would give them as they come.
    """
    for weight in weights:
        weight.grad = None
    torch.autograd.backward(loss)
    return [weight.grad for weight in weights]


def give_gradients(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], longest: float) -> Tensor:
    """Give weights their gradients, all scaled down if they are longer than ``longest``.

    Returns:
        How long they were.
    """
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    return torch.nn.utils.clip_grad_norm_(weights, longest)


class Eager:
    """Before a class of ``torch.optim``: leaves out what its methods are wrapped in for ``torch.compile``.

    The first call of a wrapped one imports the compiler, a tenth of the time that a run takes to start.
    Optimisers are never compiled here.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class Adam(Eager, torch.optim.Adam):
    """Torch's."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken, however its tensors lie in memory.

        On a CPU the fused step goes over weights and moments as they lie, and takes it that they do so alike.
        """
        super().load_state_dict(state)
        for weight, moments in self.state.items():
            for name, moment in moments.items():
                if moment.shape == weight.shape:
                    moments[name] = torch.empty_like(weight).copy_(moment)


class MuonAdam:
    """Muon for the matrices behind a network's input layer, Adam for all else: that layer, biases, norms,
    embeddings, and matrices too thin to balance, such as the layers that put out a few numbers.

    Muon (Jordan et al., 2024) makes every direction of a matrix's step equally long. A world model's rare
    but decisive directions, what one agent's choice of target changes, are so learnt along with the common
    ones: on SMAX 3m it took a third of the updates that Adam took.

    Args:
        module: what is trained.
        lr: Adam's step size.
        muon_lr: Muon's, on Adam's scale (the root mean square of a step is matched to Adam's); 0 leaves the
            matrices to Adam, too.
        eps: added to Adam's denominator.
        input_layer: the layer that the data enters by, which is not hidden.
        rounds: Muon multiplies in bfloat16 on a CPU, too.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        muon_lr: float,
        eps: float,
        input_layer: nn.Module,
        rounds: bool = False,
    ) -> None:
        inputs = {id(p) for p in input_layer.parameters()}
        hidden = [p for p in module.parameters() if id(p) not in inputs]
        matrices = [p for p in hidden if muon_lr > 0 and p.ndim == 2 and min(p.shape) >= SMALLEST_SIDE]
        of_muon = {id(p) for p in matrices}
        others = [p for p in module.parameters() if id(p) not in of_muon]
        self._optimisers: list[Optimizer] = [Adam(others, lr=lr, eps=eps, fused=True)]
        if matrices:
            self._optimisers.append(BatchedMuon(matrices, lr=muon_lr, rounds=rounds))

    def step(self) -> None:
        """Move all weights along their gradients."""
        for optimiser in self._optimisers:
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """The moments of both."""
        return {type(optimiser).__name__: optimiser.state_dict() for optimiser in self._optimisers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        for optimiser in self._optimisers:
            optimiser.load_state_dict(state[type(optimiser).__name__])


class BatchedMuon(Eager, Optimizer):
    """``torch.optim.Muon`` with Nesterov momentum and no weight decay, all matrices of one shape at once.

    A GPU orthogonalises in bfloat16 as ``torch.optim.Muon`` does; a CPU in float32, which is exact, unless it
    is to round, too.

    Args:
        matrices: what is trained, all of two dimensions.
        lr: the root mean square of a step is about 0.2 times this, as Adam's is.
        momentum: share of the old direction that is kept.
        rounds: orthogonalise in bfloat16 on a CPU, too.
    """

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95, rounds: bool = False
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        self.rounds = rounds

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all matrices that have a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            directions = self._directions(moved, group["momentum"])
            by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for i, direction in enumerate(directions):
                by_shape[tuple(direction.shape)].append(i)
            for shape, members in by_shape.items():
                step = -group["lr"] * 0.2 * math.sqrt(max(shape))
                stacked = torch.stack([directions[i] for i in members])
                rounds = self.rounds or stacked.is_cuda
                balanced = orthogonalised(stacked.bfloat16() if rounds else stacked)
                for i, update in zip(members, balanced, strict=True):
                    moved[i].add_(update if moved[i].shape == shape else update.T, alpha=step)

    def _directions(self, matrices: Sequence[Tensor], momentum: float) -> list[Tensor]:
        """Advance the momenta; returns where to go, each matrix turned so that it isn't higher than wide."""
        gradients = [p.grad for p in matrices if p.grad is not None]
        buffers = []
        for p in matrices:
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffers.append(state["momentum_buffer"])
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)
        return [x if x.shape[0] <= x.shape[1] else x.T for x in ahead]


def orthogonalised(matrices: Tensor) -> Tensor:
    """Push all singular values of (N, rows, columns) matrices to about 1; rows <= columns is cheapest.

    A step of the iteration is x <- p(x x^T) x with a polynomial p. Of a wide matrix only the square x x^T is
    iterated, the polynomials are multiplied up, and x itself is moved once, at the end: in exact arithmetic
    the same. In bfloat16 it would lose small singular values: then x itself is iterated.
    """
    x = matrices / matrices.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    if x.dtype == torch.bfloat16 or x.shape[2] < WIDE * x.shape[1]:
        for _ in range(NEWTON_SCHULZ_STEPS):
            x = _moved(x, _polynomial(x @ x.mT))
        return x
    gram = x @ x.mT
    product = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(gram)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        polynomial = _polynomial(gram)
        product = _moved(product, polynomial)
        gram = _moved(_moved(gram, polynomial), polynomial)
    return _moved(product, _polynomial(gram)) @ x


def _polynomial(gram: Tensor) -> Tensor:
    """What a step multiplies by, but for its multiple of the identity."""
    _, b, c = NEWTON_SCHULZ
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def _moved(x: Tensor, polynomial: Tensor) -> Tensor:
    return torch.baddbmm(x, polynomial, x, beta=NEWTON_SCHULZ[0])
