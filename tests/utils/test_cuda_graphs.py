"""CUDA graphs on a stand-in for a GPU: what is played back is what would be computed."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import gpu_stand_in
from utils.cuda_graphs import WARM_UP, Graphed

CALLS = WARM_UP + 3


class Point(NamedTuple):
    x: Tensor
    seen: Tensor | None
    times: int


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", gpu_stand_in.Graph)
    monkeypatch.setattr(torch.cuda, "graph", gpu_stand_in.capture)
    with gpu_stand_in.StandIn():
        yield


def on_gpu(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=gpu_stand_in.NAME)


class Counted:
    """A function that knows how often it was called as such."""

    def __init__(self) -> None:
        self.__name__, self.calls = "counted", 0

    def __call__(self, point: Point) -> dict[str, Tensor]:
        self.calls += 1
        return {"product": point.times * point.x, "sum": point.x.sum()}


def test_after_some_calls_it_is_played_back_with_what_it_is_given() -> None:
    plain = Counted()
    graphed = Graphed(plain)
    for k in range(CALLS):
        found = graphed(Point(on_gpu(k, 1), None, 3))
        assert {key: value.tolist() for key, value in found.items()} == {"product": [3 * k, 3], "sum": k + 1}
    assert plain.calls == WARM_UP + 1  # the last of them was captured


def test_weights_move_between_calls_and_gradients_follow() -> None:
    weights = on_gpu(1, 1).requires_grad_()

    def gradient(x: Tensor) -> Tensor | None:
        weights.grad = None
        (weights * x).square().sum().backward()
        return weights.grad

    graphed = Graphed(gradient)
    for k in range(CALLS):
        found = graphed(on_gpu(k, 2))
        assert found is not None
        assert found.tolist() == [2 * (k + 1) * k**2, 2 * (k + 1) * 4]
        with torch.no_grad():
            weights.add_(1)


def test_random_numbers_are_drawn_anew_and_are_those_of_plain_calls() -> None:
    torch.manual_seed(0)
    plain = [torch.rand(3, device=gpu_stand_in.NAME).tolist() for _ in range(CALLS)]
    torch.manual_seed(0)
    graphed = Graphed(torch.rand_like)
    assert [graphed(on_gpu(0, 0, 0)).tolist() for _ in range(CALLS)] == plain


@pytest.mark.parametrize("other", [Point(on_gpu(1, 2, 3), None, 3), Point(on_gpu(1, 2), None, 4)])
def test_arguments_of_another_kind_are_captured_anew(other: Point) -> None:
    plain = Counted()
    graphed = Graphed(plain)
    for point in (Point(on_gpu(5, 6), None, 3), other):
        for _ in range(CALLS):
            assert graphed(point)["product"].tolist() == (point.times * point.x).tolist()
    assert plain.calls == 2 * (WARM_UP + 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 1].tolist(),
        lambda x: (x + x.new_tensor([1.0, 1.0])).tolist(),
        lambda x: x.cpu().tolist(),
    ],
)
def test_what_waits_for_the_gpu_goes_on_as_it_is_and_one_warning_says_so(function, caplog) -> None:
    graphed = Graphed(function)
    for k in range(CALLS):
        assert graphed(on_gpu(k, 2)) == function(on_gpu(k, 2))
    (warning,) = caplog.messages
    assert warning.startswith("cuda_graphs=True has no effect on <lambda>: ")
    assert "capturing" in warning


def test_what_fails_without_a_graph_fails() -> None:
    graphed = Graphed(lambda x: x @ on_gpu(1, 2, 3))
    with pytest.raises(RuntimeError, match="size"):
        graphed(on_gpu(1, 2))
