"""The centralised critic of imagined play: one team value from every agent's world-model features."""

from torch import Tensor, nn

from modules.world_models.layers import NormSiLU, mlp
from modules.world_models.symlog import TwoHot


class LatentCritic(nn.Module):
    """A shared network per agent, the mean over agents, then a distribution of the team's return.

    Args:
        feature_size: length of one agent's features.
        width: hidden units.
    """

    def __init__(self, feature_size: int, width: int) -> None:
        super().__init__()
        self.two_hot = TwoHot()
        self.agent_encoder = nn.Sequential(mlp(feature_size, width, width, 1), NormSiLU(width))
        self.value_head = mlp(width, width, len(self.two_hot.bins), 1)
        nn.init.zeros_(self.value_head[-1].weight)  # type: ignore[arg-type]  # start at a value of zero
        nn.init.zeros_(self.value_head[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """(..., n_agents, feature_size) -> (..., bins) logits, float32 in any precision."""
        logits: Tensor = self.value_head(self.agent_encoder(features).mean(dim=-2))
        return logits.float()

    def value(self, features: Tensor) -> Tensor:
        """(..., n_agents, feature_size) -> (...) expected return."""
        return self.two_hot.mean(self(features))

    def loss(self, features: Tensor, returns: Tensor) -> Tensor:
        """Cross-entropy (...) to the returns (...)."""
        return self.two_hot.loss(self(features), returns)
