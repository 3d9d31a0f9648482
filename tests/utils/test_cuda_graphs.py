"""CUDA graphs on a stand-in for a GPU: what is played back is what would be computed."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import gpu_stand_in
from utils.cuda_graphs import MOST_KEPT, WARM_UP, Graphed

CALLS = WARM_UP + 3


class Point(NamedTuple):
    x: Tensor
    seen: Tensor | None
    times: int


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gpu_stand_in.be_cuda(monkeypatch)
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


def test_each_kind_of_arguments_has_a_capture_and_the_oldest_makes_room() -> None:
    plain = Counted()
    graphed = Graphed(plain)
    kinds = [Point(on_gpu(5, 6), None, 3), Point(on_gpu(1, 2, 3), None, 3), Point(on_gpu(1, 2), None, 4)]

    def call(*points: Point) -> int:
        before = plain.calls
        for point in CALLS * points:
            assert graphed(point)["product"].tolist() == (point.times * point.x).tolist()
        return plain.calls - before

    assert call(*kinds[:MOST_KEPT]) == MOST_KEPT * (WARM_UP + 1)
    assert call(*kinds[:MOST_KEPT]) == 0
    assert call(kinds[2]) == WARM_UP + 1
    assert call(kinds[2], kinds[1]) == 0
    assert call(kinds[0]) == 1  # captured anew, as what its operations need is known


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
    graphed, before = Graphed(function), torch.cuda.current_stream()
    for k in range(CALLS):
        assert graphed(on_gpu(k, 2)) == function(on_gpu(k, 2))
    (warning,) = caplog.messages
    assert warning.startswith("cuda_graphs=True has no effect on <lambda>: ")
    assert gpu_stand_in.REFUSAL in warning
    assert torch.cuda.current_stream() is before


def test_what_fails_without_a_graph_fails() -> None:
    graphed = Graphed(lambda x: x @ on_gpu(1, 2, 3))
    with pytest.raises(RuntimeError, match="size"):
        graphed(on_gpu(1, 2))
