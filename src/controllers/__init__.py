"""Multi-agent controllers by the name a configuration gives in `mac`."""

from .basic_controller import BasicMAC

REGISTRY: dict[str, type] = {"basic_mac": BasicMAC}
