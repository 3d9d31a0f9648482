"""The controller whose policy looks at a world model's state, not at the observation (MAMBA, MAG)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.episode_buffer import EpisodeBatch
from controllers.basic_controller import BasicMAC
from modules.world_models.latents import CompactState
from modules.world_models.world_model import LatentState, WorldModel, WorldModelConfig
from utils.typed_args import read


@dataclass(frozen=True)
class LatentMACConfig:
    """What the controller needs of the run's arguments, beside what BasicMAC does."""

    n_agents: int
    """Number of agents."""
    n_actions: int
    """Number of actions."""


class LatentMAC(BasicMAC):
    """Runs a world model while acting: each agent decides on its features (h, z).

    The features depend on what the other agents did and saw before, so the agents communicate. The model is
    trained by the learner that the controller is given to; here it only acts. ``hidden_states`` holds the
    features of the step before and a one, (batch, n_agents, feature_size + 1); zeros at an episode's start.
    """

    sees_obs = False

    def __init__(self, scheme: dict[str, Any], groups: dict[str, int], args: Any) -> None:
        config = read(LatentMACConfig, args)
        self.world_model = WorldModel(
            config.n_agents, int(scheme["obs"]["vshape"]), config.n_actions, read(WorldModelConfig, args)
        )
        super().__init__(scheme, groups, args)

    def forward(self, ep_batch: EpisodeBatch, t: int, test_mode: bool = False) -> Tensor:
        """Probabilities (batch, n_agents, n_actions) at `t`; moves the model on by one step."""
        avail_actions = ep_batch["avail_actions"][:, t]
        actions = ep_batch["actions"][:, max(t - 1, 0), :, 0]
        features = self._perceive(ep_batch["obs"][:, t], actions).features
        self.hidden_states = nn.functional.pad(features, (0, 1), value=1.0)
        logits, _ = self.run_agent(self.agent_inputs(features).unsqueeze(1))
        return self.masked(logits[:, 0], avail_actions).softmax(dim=-1)

    def _perceive(self, obs: Tensor, actions: Tensor) -> LatentState:
        """The posterior state after `actions` (batch, n_agents) led from the step before to `obs`."""
        model = self.world_model
        h, z, goes_on = self.hidden_states.split([model.width, model.latents.size, 1], dim=-1)
        return model.perceive(obs, model.advance(LatentState(h, z), actions) * goes_on)

    def init_hidden(self, batch_size: int) -> None:
        """Starts `batch_size` episodes."""
        some_weight = next(self.world_model.parameters())
        size = self.world_model.feature_size + 1
        self.hidden_states = some_weight.new_zeros(batch_size, self.n_agents, size)

    def reset_hidden(self, mask: Tensor) -> None:
        """Restarts the batch entries where `mask` (batch,) bool is set."""
        restarts = mask.to(self.hidden_states.device)[:, None, None]
        self.hidden_states = self.hidden_states.masked_fill(restarts, 0.0)

    def policy_inputs(self, obs: Tensor, state: LatentState | CompactState) -> Tensor:
        """Inputs (..., n_agents, input) from a world model's state (..., n_agents, ...) alone."""
        return self.agent_inputs(state.features)

    def cuda(self) -> None:
        """Moves both networks to the GPU."""
        super().cuda()
        self.world_model.cuda()

    def save_models(self, path: str) -> None:
        """Writes the policy to `path`/agent.th and the model to `path`/world_model.th."""
        super().save_models(path)
        torch.save(self.world_model.state_dict(), f"{path}/world_model.th")

    def load_models(self, path: str) -> None:
        """Reads what `save_models` wrote."""
        super().load_models(path)
        self.world_model.load_state_dict(torch.load(f"{path}/world_model.th", map_location="cpu"))

    def load_state(self, other_mac: BasicMAC) -> None:
        """Takes over both networks of another controller of the same shape."""
        assert isinstance(other_mac, LatentMAC)
        super().load_state(other_mac)
        self.world_model.load_state_dict(other_mac.world_model.state_dict())

    def _get_input_shape(self, scheme: dict[str, Any]) -> int:
        return self.world_model.feature_size + (self.n_agents if self.config.obs_agent_id else 0)
