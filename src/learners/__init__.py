"""Learners by the name a configuration gives in `learner`."""

REGISTRY: dict[str, type] = {}
