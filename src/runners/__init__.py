"""Who steps environments. The three names share one class; they differ in how environments are stepped."""

from runners.runner import Runner

REGISTRY: dict[str, type[Runner]] = {"episode": Runner, "parallel": Runner, "vector": Runner}
