"""Multi-agent controllers by the name a configuration gives in `mac`."""

from .basic_controller import BasicMAC
from .latent_controller import LatentMAC

REGISTRY: dict[str, type] = {"basic_mac": BasicMAC, "latent_mac": LatentMAC}
