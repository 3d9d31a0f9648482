"""An agent network that tells small differences of its inputs apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.agents.rnn_agent import RNNAgent
from utils.typed_args import read


@dataclass(frozen=True)
class FourierConfig:
    """What the network needs of the run's arguments, beside what RNNAgent does."""

    fourier_octaves: int
    """Frequencies per input, each twice the one before."""


class FourierRNNAgent(RNNAgent):
    """RNNAgent with two changes that let a policy be sharp.

    It is given sines and cosines of its inputs beside these themselves. A network learns what varies slowly
    over its inputs long before what varies quickly (Tancik et al., 2020, arXiv 2006.10739), and what is best
    in a battle changes within a step's walk, at the border of a weapon's range, while positions are told in
    the unit of how far one sees.

    And what it sees reaches the outputs past the GRU, too, which is left to remember: a bounded state, mixed
    with the old one at each step, is a poorer ground for a policy than layers of ReLU.
    """

    frequencies: Tensor

    def __init__(self, input_shape: int, args: Any) -> None:
        octaves = read(FourierConfig, args).fourier_octaves
        super().__init__(input_shape * (1 + 2 * octaves), args)
        width = self.config.hidden_dim
        self.mix = nn.Linear(2 * width, width)
        frequencies = math.pi / 2 * 2.0 ** torch.arange(octaves)  # the slowest turns half round over [-1, 1]
        self.register_buffer("frequencies", frequencies, persistent=False)

    def over_time(self, inputs: Tensor, hidden_state: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As RNNAgent's; `inputs` are meant to lie about within [-1, 1]."""
        angles = (inputs.unsqueeze(-1) * self.frequencies).flatten(-2)
        features = F.relu(self.fc1(torch.cat([inputs, angles.sin(), angles.cos()], dim=-1)))
        hiddens = self.remember(features, hidden_state, sizes)
        return self.fc2(F.relu(self.mix(torch.cat([features, hiddens], dim=-1)))), hiddens
