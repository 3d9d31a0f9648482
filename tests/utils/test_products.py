"""Products by another library than torch's choice: the same numbers, and where it is used."""

import pytest
import torch

from utils import products


def on(monkeypatch: pytest.MonkeyPatch, amd: bool, rounds: bool) -> None:
    monkeypatch.setattr(products, "_is_amd", lambda: amd)
    monkeypatch.setattr(products, "cpu_rounds", lambda: rounds)


@pytest.mark.parametrize(
    ("amd", "rounds", "setting"),
    [
        (True, False, "medium"),
        (True, True, "highest"),
        (False, False, "highest"),
        (False, True, "highest"),
    ],
)
def test_onednn_multiplies_on_amd_where_it_rounds_nothing(monkeypatch, amd, rounds, setting) -> None:
    on(monkeypatch, amd, rounds)
    products.use_faster_library()
    assert torch.get_float32_matmul_precision() == setting


@pytest.mark.parametrize(
    ("units", "fast"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_bf16": False}, False), ({}, False)],
)
def test_a_processor_with_a_unit_for_bfloat16_multiplies_it(monkeypatch, units, fast) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **units})
    assert products.multiplies_bfloat16() == fast


@pytest.mark.skipif(products.cpu_rounds(), reason="this CPU rounds where it may, so oneDNN isn't used on it")
@pytest.mark.parametrize("shape", [(24, 64, 192), (160, 64, 192), (400, 300, 200)])
def test_the_other_library_errs_no_more_than_float32_does(monkeypatch, shape) -> None:
    on(monkeypatch, amd=True, rounds=False)
    torch.manual_seed(0)
    rows, inner, columns = shape
    x, layer = torch.randn(rows, inner, requires_grad=True), torch.nn.Linear(inner, columns)

    def results() -> list[torch.Tensor]:
        y = layer(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, layer.weight])]

    plain = results()
    products.use_faster_library()
    for ours, theirs in zip(results(), plain, strict=True):
        assert (ours - theirs).abs().max() < 3e-6 * theirs.abs().max()


def test_looking_whether_a_cpu_rounds_leaves_the_setting_as_it_was() -> None:
    for setting in ("highest", "medium"):
        torch.set_float32_matmul_precision(setting)
        products.cpu_rounds.cache_clear()
        products.cpu_rounds()
        assert torch.get_float32_matmul_precision() == setting


def test_a_product_is_timed_without_a_random_number() -> None:
    before = torch.get_rng_state()
    assert 1e8 < products.operations_per_second(torch.float32) < 1e14
    assert torch.equal(torch.get_rng_state(), before)
