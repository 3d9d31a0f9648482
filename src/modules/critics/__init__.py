"""Critics by the name a configuration gives in `critic_type`."""

from torch import nn

from .ac import ACCritic
from .centralV import CentralVCritic

REGISTRY: dict[str, type[nn.Module]] = {
    "ac_critic": ACCritic,
    "cv_critic": CentralVCritic,
}
