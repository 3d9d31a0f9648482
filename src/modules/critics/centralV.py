"""Centralised state values: from what the whole team and the environment's state tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.critics.value_critic import ValueCritic
from utils.rl_utils import delayed


class CentralVCritic(ValueCritic):
    """Values from the global state and the agent's one-hot number.

    With `obs_individual_obs` the observations of all agents are appended, with `obs_last_action` their
    previous actions (zeros at the first step).
    """

    def inputs(self, batch: Any, ts: slice = slice(None)) -> Tensor:
        """Inputs (batch, T, 1, size) at the steps `ts`, the same for all agents."""
        parts = [batch["state"][:, ts]]
        if self.config.obs_individual_obs:
            parts.append(batch["obs"][:, ts].flatten(2))
        if self.config.obs_last_action:
            parts.append(delayed(batch["actions_onehot"])[:, ts].flatten(2))
        return torch.cat(parts, dim=-1).unsqueeze(2)

    def sees(self, scheme: dict[str, Any]) -> int:
        """Length of the input that all agents share."""
        size = int(scheme["state"]["vshape"])
        if self.config.obs_individual_obs:
            size += int(scheme["obs"]["vshape"]) * self.config.n_agents
        if self.config.obs_last_action:
            size += int(scheme["actions_onehot"]["vshape"][0]) * self.config.n_agents
        return size
