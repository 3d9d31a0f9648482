"""Mixers of the agents' Q-values into the team's, by the name a configuration gives in `mixer`."""

from torch import nn

from .qmix import QMixer
from .vdn import VDNMixer

REGISTRY: dict[str, type[nn.Module]] = {"qmix": QMixer, "vdn": VDNMixer}
