"""Agent networks by the name a configuration gives in `agent`."""

from torch import nn

from .fourier_rnn_agent import FourierRNNAgent
from .rnn_agent import RNNAgent

REGISTRY: dict[str, type[nn.Module]] = {"rnn": RNNAgent, "fourier_rnn": FourierRNNAgent}
