"""Fusion over agents: its attention against torch's own, gradients too."""

import pytest
import torch
from torch.nn import functional as F

from modules.world_models.layers import FusionLayer


@pytest.mark.parametrize(("agents", "heads"), [(1, 2), (2, 1), (3, 4), (8, 8), (27, 2)])
def test_attention_is_that_of_torch(agents: int, heads: int) -> None:
    torch.manual_seed(0)
    layer, x = FusionLayer(32, heads), torch.randn(5, agents, 32, requires_grad=True)

    def reference() -> torch.Tensor:
        by_head = layer.query_key_value(x).view(5, agents, 3, heads, 32 // heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*by_head)
        return layer.attention_out(attended.transpose(1, 2).reshape(5, agents, 32))

    weights = torch.randn(5, agents, 32)
    results = []
    for attended in (layer._attend(x), reference()):
        moved = torch.autograd.grad((attended * weights).sum(), [x, layer.query_key_value.weight])
        results.append((attended, *moved))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
