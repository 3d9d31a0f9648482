"""MAG's error predictor: how wrong the world model is going to be in an imagined state."""

from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = 4  # hidden ones


class ErrorPredictor(nn.Module):
    """Regresses the model's loss at one step of one agent from that agent's features.

    Args:
        feature_size: length of one agent's features.
        width: hidden units.
    """

    def __init__(self, feature_size: int, width: int) -> None:
        super().__init__()
        sizes = [feature_size] + LAYERS * [width]
        hidden = [part for i in range(LAYERS) for part in (nn.Linear(sizes[i], width), nn.ELU())]
        self.net = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(..., feature_size) -> (...)."""
        return self.net(features).squeeze(-1).float()

    def loss(self, features: Tensor, errors: Tensor) -> Tensor:
        """(..., feature_size) features, (...) errors that the model made there -> (...) smooth-L1."""
        return F.smooth_l1_loss(self(features), errors, reduction="none")
