"""Decentralised state values: what each agent can tell from its own observation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modules.critics.value_critic import ValueCritic


class ACCritic(ValueCritic):
    """Values from an agent's own observation and its one-hot number."""

    def inputs(self, batch: Any, ts: slice = slice(None)) -> Tensor:
        """Inputs (batch, T, n_agents, size) at the steps `ts`."""
        obs: Tensor = batch["obs"][:, ts]
        return obs

    def sees(self, scheme: dict[str, Any]) -> int:
        """Length of one agent's observation."""
        return int(scheme["obs"]["vshape"])
