"""The centralised critic of imagined play: one team value from every agent's world-model state."""

from torch import Tensor, nn

from modules.world_models.latents import CategoricalLatents, CompactState
from modules.world_models.layers import MLP, MeanNormSiLU, in_turn, latent_mlp, mlp
from modules.world_models.symlog import TwoHot


class LatentCritic(nn.Module):
    """A shared network per agent, the mean over agents, then a distribution of the team's return.

    Args:
        state_width: length of one agent's deterministic state.
        latents: its stochastic state.
        width: hidden units.
    """

    def __init__(self, state_width: int, latents: CategoricalLatents, width: int) -> None:
        super().__init__()
        self.two_hot = TwoHot()
        self.agent_encoder = MLP(latent_mlp(state_width, latents, width, width, 1), MeanNormSiLU(width))
        self.value_head = mlp(width, width, len(self.two_hot.bins), 1)
        nn.init.zeros_(self.value_head[-1].weight)  # type: ignore[arg-type]  # start at a value of zero
        nn.init.zeros_(self.value_head[-1].bias)  # type: ignore[arg-type]

    def forward(self, state: CompactState) -> Tensor:
        """States (..., n_agents, ...) -> (..., bins) logits, float32 in any precision."""
        layers = [*self.agent_encoder.layers(), *self.value_head.layers()]
        return in_turn(layers, state).float()

    def value(self, state: CompactState) -> Tensor:
        """States (..., n_agents, ...) -> (...) expected return."""
        return self.two_hot.mean(self(state))

    def loss(self, state: CompactState, returns: Tensor) -> Tensor:
        """Cross-entropy (...) to the returns (...)."""
        return self.two_hot.loss(self(state), returns)
