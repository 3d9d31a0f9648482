"""Centralised state values: from what the whole team and the environment's state tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.critics.value_critic import ValueCritic


class CentralVCritic(ValueCritic):
    """Values from the global state and the agent's one-hot number.

    With `obs_individual_obs` the observations of all agents are appended, with `obs_last_action` their
    previous actions (zeros at the first step).
    """

    def inputs(self, batch: Any, ts: slice = slice(None)) -> Tensor:
        """Inputs (batch, T, n_agents, size) at the steps `ts`."""
        parts = [batch["state"][:, ts]]
        if self.config.obs_individual_obs:
            parts.append(batch["obs"][:, ts].flatten(2))
        if self.config.obs_last_action:
            onehot = batch["actions_onehot"]
            previous = torch.cat([torch.zeros_like(onehot[:, :1]), onehot[:, :-1]], dim=1)
            parts.append(previous[:, ts].flatten(2))
        shared = torch.cat(parts, dim=-1).unsqueeze(2).expand(-1, -1, self.config.n_agents, -1)
        return torch.cat([shared, self.agent_ids(shared)], dim=-1)

    def input_size(self, scheme: dict[str, Any]) -> int:
        """Length of one agent's input."""
        n_agents = self.config.n_agents
        size = int(scheme["state"]["vshape"]) + n_agents
        if self.config.obs_individual_obs:
            size += int(scheme["obs"]["vshape"]) * n_agents
        if self.config.obs_last_action:
            size += int(scheme["actions_onehot"]["vshape"][0]) * n_agents
        return size
