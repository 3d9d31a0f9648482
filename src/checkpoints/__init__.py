"""Checkpoints of a run: what it needs to go on as if it had never stopped, and its policies."""

from checkpoints.checkpoint import Checkpoint, CheckpointError
from checkpoints.store import CheckpointStore

__all__ = ["Checkpoint", "CheckpointError", "CheckpointStore"]
