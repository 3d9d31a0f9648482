"""The world model's optimiser: every weight is moved by one of the two, and it continues where it stopped."""

import copy
import subprocess
import sys

import torch
from torch import Tensor, nn

from components.optimisers import Adam, BatchedMuon, MuonAdam, orthogonalised


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.LayerNorm(40), nn.SiLU(), nn.Linear(40, 33), nn.Linear(33, 2))


def steps(network: nn.Module, optimiser: MuonAdam, count: int) -> list[Tensor]:
    for k in range(count):
        inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(k))
        network.zero_grad()
        network(inputs).square().sum().backward()
        optimiser.step()
    return [p.detach().clone() for p in network.parameters()]


def test_every_weight_is_moved() -> None:
    network = make_network()
    before = [p.detach().clone() for p in network.parameters()]
    after = steps(network, MuonAdam(network, lr=1e-2, muon_lr=1e-2, eps=1e-5, input_layer=network[0]), 1)
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_training_does_not_import_the_compiler() -> None:
    code = """if True:
        import sys, torch
        from components.optimisers import MuonAdam
        network = torch.nn.Sequential(torch.nn.Linear(2, 40), torch.nn.Linear(40, 40))
        optimiser = MuonAdam(network, lr=0.1, muon_lr=0.1, eps=1e-5, input_layer=network[0])
        network.zero_grad()
        network(torch.ones(1, 2)).sum().backward()
        optimiser.step()
        optimiser.load_state_dict(optimiser.state_dict())
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], cwd="src", check=True)


def test_rare_directions_of_a_large_matrix_move_nearly_as_far_as_common_ones() -> None:
    network = make_network()
    optimiser = MuonAdam(network, lr=1e-2, muon_lr=1e-2, eps=1e-5, input_layer=network[0])
    before = network[3].weight.detach().clone()
    steps(network, optimiser, 1)

    def spread(matrix: Tensor) -> float:
        singular = torch.linalg.svdvals(matrix)
        return float(singular[0] / singular[7])

    gradient = network[3].weight.grad
    assert spread(network[3].weight.detach() - before) < spread(gradient) / 3


def test_it_continues_where_its_state_was_taken() -> None:
    network = make_network()
    optimiser = MuonAdam(network, lr=1e-2, muon_lr=1e-2, eps=1e-5, input_layer=network[0])
    steps(network, optimiser, 3)
    twin, saved = copy.deepcopy(network), copy.deepcopy(optimiser.state_dict())
    expected = steps(network, optimiser, 3)
    resumed = MuonAdam(twin, lr=1e-2, muon_lr=1e-2, eps=1e-5, input_layer=twin[0])
    resumed.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(expected, steps(twin, resumed, 3), strict=True))


def test_adam_continues_with_moments_that_lie_otherwise_in_memory() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.ones(6, 4).T), nn.Parameter(torch.ones(4, 6))]
    optimisers = [Adam([weight], lr=0.1, fused=True) for weight in weights]
    for gradient in torch.randn(4, 4, 6):
        for weight, optimiser in zip(weights, optimisers, strict=True):
            weight.grad = torch.empty_like(weight).copy_(gradient)
            optimiser.step()
        optimisers[0].load_state_dict(copy.deepcopy(optimisers[1].state_dict()))
    assert torch.equal(*weights)


def test_matrices_of_one_shape_move_together_as_each_would_alone() -> None:
    torch.manual_seed(0)
    shapes = [(40, 33), (33, 40), (40, 33), (36, 36), (96, 32), (36, 36)]
    together = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    library = [nn.Parameter(p.detach().clone()) for p in together]
    optimisers = [
        BatchedMuon(together, lr=0.1),
        *(BatchedMuon([p], lr=0.1) for p in alone),
        torch.optim.Muon(library, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    ]
    start = [p.detach().clone() for p in together]
    for _ in range(4):
        for a, b, c in zip(together, alone, library, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad, c.grad = a.grad.clone(), a.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for a, b, c, before in zip(together, alone, library, start, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        # The library orthogonalises in bfloat16, whose error it is that remains.
        assert (a - c).norm() < 0.02 * (c - before).norm()


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalised(torch.randn(3, 32, 80, generator=generator)))
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_in_bfloat16_no_direction_is_lost() -> None:
    """Small singular values, too, as a gradient has them that a few directions dominate."""
    torch.manual_seed(0)
    matrices = torch.randn(2, 32, 96) + 10 * torch.randn(2, 32, 1) @ torch.randn(2, 1, 96)
    exact = torch.linalg.svdvals(orthogonalised(matrices))
    rounded = torch.linalg.svdvals(orthogonalised(matrices.bfloat16()).float())
    assert torch.allclose(rounded, exact, atol=0.1)


def test_a_step_that_is_rounded_goes_the_same_way() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(32, 96), torch.randn(32, 96)
    moves = []
    for rounds in (False, True):
        matrix = nn.Parameter(start.clone())
        matrix.grad = gradient
        BatchedMuon([matrix], lr=0.1, rounds=rounds).step()
        assert matrix.dtype == torch.float32
        moves.append(matrix.detach() - start)
    exact, rounded = moves
    assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()


def test_a_wide_matrix_is_moved_as_the_plain_iteration_moves_it() -> None:
    """Directions of very unequal strength, too, as gradients have them."""
    torch.manual_seed(0)
    matrices = torch.randn(2, 32, 96) + 100 * torch.randn(2, 32, 1) @ torch.randn(2, 1, 96)
    x = matrices.double()
    x = x / x.flatten(1).norm(dim=1)[:, None, None]
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    assert (orthogonalised(matrices) - x).norm() < 1e-3 * x.norm()
