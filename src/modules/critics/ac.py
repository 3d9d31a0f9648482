"""Decentralised state values: what each agent can tell from its own observation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.critics.value_critic import ValueCritic


class ACCritic(ValueCritic):
    """Values from an agent's own observation and its one-hot number."""

    def inputs(self, batch: Any, ts: slice = slice(None)) -> Tensor:
        """Inputs (batch, T, n_agents, size) at the steps `ts`."""
        obs = batch["obs"][:, ts]
        return torch.cat([obs, self.agent_ids(obs)], dim=-1)

    def input_size(self, scheme: dict[str, Any]) -> int:
        """Length of one agent's input."""
        return int(scheme["obs"]["vshape"]) + self.config.n_agents
