"""The agent network shared by the baselines and by GAWM's actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from modules.gru import GRU
from utils.typed_args import read


@dataclass(frozen=True)
class RNNAgentConfig:
    """What the network needs of the run's arguments."""

    hidden_dim: int
    """Width of every layer and of the recurrent state."""
    n_actions: int
    """Number of outputs: one Q-value or one logit per action."""
    use_rnn: bool
    """GRU in the middle; without it a linear layer, and the recurrent state is ignored."""


class RNNAgent(nn.Module):
    """Linear, ReLU, GRU, Linear, from one agent's inputs to its Q-values or logits.

    The same parameters serve single steps (`forward`) and whole sequences (`unroll`); a single step is a
    sequence of length one, so the two agree.
    """

    def __init__(self, input_shape: int, args: Any) -> None:
        super().__init__()
        self.config = read(RNNAgentConfig, args)
        width = self.config.hidden_dim
        self.fc1 = nn.Linear(input_shape, width)
        self.rnn = GRU(width, width) if self.config.use_rnn else nn.Linear(width, width)
        self.fc2 = nn.Linear(width, self.config.n_actions)

    def init_hidden(self) -> Tensor:
        """Recurrent state before an episode's first step, zeros (1, hidden_dim), on the network's device."""
        return self.fc1.weight.new_zeros(1, self.config.hidden_dim)

    def forward(self, inputs: Tensor, hidden_state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: `inputs` (N, input_shape), a state of N * hidden_dim numbers in any shape.

        Returns outputs (N, n_actions) and the new state (N, hidden_dim).
        """
        outputs, hiddens = self.unroll(inputs.unsqueeze(1), hidden_state.reshape(-1, self.config.hidden_dim))
        return outputs.squeeze(1), hiddens.squeeze(1)

    def unroll(self, inputs: Tensor, hidden_state: Tensor) -> tuple[Tensor, Tensor]:
        """A whole sequence in one call.

        `inputs` (N, T, input_shape), `hidden_state` (N, hidden_dim) before the first step. Returns outputs
        (N, T, n_actions) and the recurrent state after every step (N, T, hidden_dim).
        """
        outputs, hiddens = self.over_time(inputs.transpose(0, 1).contiguous(), hidden_state)
        return outputs.transpose(0, 1), hiddens.transpose(0, 1)

    def over_time(self, inputs: Tensor, hidden_state: Tensor) -> tuple[Tensor, Tensor]:
        """`unroll` with time first in all shapes but that of `hidden_state`: (T, N, ...)."""
        hiddens = self.remember(F.relu(self.fc1(inputs)), hidden_state)
        return self.fc2(hiddens), hiddens

    def remember(self, features: Tensor, hidden_state: Tensor) -> Tensor:
        """The recurrent state (T, N, hidden_dim) after each step of `features` (T, N, hidden_dim)."""
        return self.rnn(features, hidden_state) if self.config.use_rnn else F.relu(self.rnn(features))
