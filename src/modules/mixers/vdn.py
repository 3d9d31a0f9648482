"""Value decomposition by a plain sum (Sunehag et al., 2018)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class VDNMixer(nn.Module):
    """The team's value is the sum of the agents' values."""

    def __init__(self, args: Any = None) -> None:
        super().__init__()

    def forward(self, agent_qs: Tensor, states: Tensor) -> Tensor:
        """Values (batch, T, n_agents) -> (batch, T, 1); the state plays no part."""
        return agent_qs.sum(dim=2, keepdim=True)
