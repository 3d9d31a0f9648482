"""The agent network shared by the baselines and by GAWM's actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        self.rnn = nn.GRU(width, width, batch_first=True) if self.config.use_rnn else nn.Linear(width, width)
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
        hiddens = self.remember(F.relu(self.fc1(inputs)), hidden_state)
        return self.fc2(hiddens), hiddens

    def remember(self, features: Tensor, hidden_state: Tensor) -> Tensor:
        """The recurrent state (N, T, hidden_dim) after each step of `features` (N, T, hidden_dim)."""
        if not isinstance(self.rnn, nn.GRU):
            return F.relu(self.rnn(features))
        # In float32 in any precision: autocast would take the sequence to float16 on a GPU, which has no room
        # for the small gradients of a policy, and a single step to another type than the sequence.
        with torch.autocast(features.device.type, enabled=False):
            features, hidden_state = features.float(), hidden_state.float()
            if features.shape[1] == 1:  # acting, for which the module for sequences takes twice as long
                return torch.gru_cell(features[:, 0], hidden_state, *self.rnn.all_weights[0]).unsqueeze(1)
            hiddens, _ = self.rnn(features, hidden_state.unsqueeze(0).contiguous())
        return hiddens
