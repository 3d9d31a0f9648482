"""World models as quality is measured of them: conditioned on real play, then left to themselves."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from modules.world_models.world_model import LatentState, WorldModel


class Outlook(NamedTuple):
    """What each agent expects of one time step."""

    obs: Tensor  # (..., n, obs_size) its own observation, should it be alive
    reward: Tensor  # (..., n) the team reward of arriving there
    continues: Tensor  # (..., n) the probability that the task goes on


class OpenLoopModel(Protocol):
    """What a world model must offer to be measured."""

    def condition(self, obs: Tensor, actions: Tensor) -> LatentState:
        """Latent states (E, T, n, ...) along real episodes from their first steps on.

        Args:
            obs: (E, T, n, obs_size).
            actions: (E, T, n) int64.
        """

    def imagine(self, state: LatentState, actions: Tensor) -> LatentState:
        """One step ahead of states (N, n, ...) under joint actions (N, n), without looking at reality."""

    def outlook(self, state: LatentState) -> Outlook:
        """What the agents read from states (..., n, ...)."""


class Measured:
    """A :class:`~modules.world_models.world_model.WorldModel` as an :class:`OpenLoopModel`.

    Latents are drawn as in imagination, by torch's global generator.
    """

    def __init__(self, model: WorldModel) -> None:
        self.model = model

    def condition(self, obs: Tensor, actions: Tensor) -> LatentState:
        is_first = torch.zeros(obs.shape[:2], dtype=torch.bool)
        is_first[:, 0] = True
        return self.model.observe(obs, actions, is_first)[0]

    def imagine(self, state: LatentState, actions: Tensor) -> LatentState:
        return self.model.imagine(state, actions)

    def outlook(self, state: LatentState) -> Outlook:
        predicted = self.model.predict(state)
        return Outlook(
            obs=predicted.sight.obs,
            reward=self.model.reward_code.mean(predicted.reward_logits),
            continues=torch.sigmoid(predicted.continue_logits),
        )
