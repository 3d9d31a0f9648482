"""The world model's optimiser: every weight is moved by one of the two, and it continues where it stopped."""

import copy

import torch
from torch import Tensor, nn

from components.optimisers import MuonAdam


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.LayerNorm(40), nn.SiLU(), nn.Linear(40, 33), nn.Linear(33, 2))


def steps(network: nn.Module, optimiser: MuonAdam, count: int) -> list[Tensor]:
    for k in range(count):
        inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(k))
        optimiser.zero_grad()
        network(inputs).square().sum().backward()
        optimiser.step()
    return [p.detach().clone() for p in network.parameters()]


def test_every_weight_is_moved() -> None:
    network = make_network()
    before = [p.detach().clone() for p in network.parameters()]
    after = steps(network, MuonAdam(network, lr=1e-2, muon_lr=1e-2), 1)
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_rare_directions_of_a_large_matrix_move_nearly_as_far_as_common_ones() -> None:
    network = make_network()
    optimiser = MuonAdam(network, lr=1e-2, muon_lr=1e-2)
    before = network[3].weight.detach().clone()
    steps(network, optimiser, 1)

    def spread(matrix: Tensor) -> float:
        singular = torch.linalg.svdvals(matrix)
        return float(singular[0] / singular[7])

    gradient = network[3].weight.grad
    assert spread(network[3].weight.detach() - before) < spread(gradient) / 3


def test_it_continues_where_its_state_was_taken() -> None:
    network = make_network()
    optimiser = MuonAdam(network, lr=1e-2, muon_lr=1e-2)
    steps(network, optimiser, 3)
    twin, saved = copy.deepcopy(network), copy.deepcopy(optimiser.state_dict())
    expected = steps(network, optimiser, 3)
    resumed = MuonAdam(twin, lr=1e-2, muon_lr=1e-2)
    resumed.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(expected, steps(twin, resumed, 3), strict=True))
