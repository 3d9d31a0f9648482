"""Agent networks by the name a configuration gives in `agent`."""

from torch import nn

from .rnn_agent import RNNAgent

REGISTRY: dict[str, type[nn.Module]] = {"rnn": RNNAgent}
