"""The agent network shared by the baselines and by GAWM's actor."""

from __future__ import annotations

from collections.abc import Sequence
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
        rows, length = inputs.shape[:2]
        steps = inputs.transpose(0, 1).reshape(length * rows, -1)
        results = self.over_time(steps, hidden_state, [rows] * length)
        outputs, hiddens = (x.view(length, rows, -1).transpose(0, 1) for x in results)
        return outputs, hiddens

    def over_time(self, inputs: Tensor, hidden_state: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`unroll` for sequences of any lengths: rows (..., input_shape) step by step, `sizes` at each.

        Sequences that end sooner come last, as `modules.gru.GRU` has it.
        """
        hiddens = self.remember(F.relu(self.fc1(inputs)), hidden_state, sizes)
        return self.fc2(hiddens), hiddens

    def remember(self, features: Tensor, hidden_state: Tensor, sizes: Sequence[int]) -> Tensor:
        """The recurrent states (..., hidden_dim) after all rows of `features` (..., hidden_dim)."""
        return self.rnn(features, hidden_state, sizes) if self.config.use_rnn else F.relu(self.rnn(features))
