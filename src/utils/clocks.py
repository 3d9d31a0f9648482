"""Clocks over environment steps: when something is due, and how many times.

They count environment steps and nothing else, so what they drive keeps its pace whatever the number of
environments.
"""

from typing import Any


class Ratio:
    """Tells how many updates are due at one update per ``steps_per_update`` environment steps.

    Steps that do not fill an update are remembered, so the long-run ratio is exact however unevenly steps
    arrive.

    Args:
        steps_per_update: environment steps per update.
        early_steps: so many environment steps at the beginning have a ratio of their own:
        early_steps_per_update: this one.
    """

    def __init__(
        self, steps_per_update: float, early_steps: int = 0, early_steps_per_update: float = 1
    ) -> None:
        for ratio in (steps_per_update, early_steps_per_update):
            if ratio <= 0:
                raise ValueError(f"steps_per_update must be positive, got {ratio}")
        self.steps_per_update = steps_per_update
        self.early_steps = early_steps
        self.early_steps_per_update = early_steps_per_update
        self.updates = 0

    def due(self, t_env: int) -> int:
        """Return the number of updates that became due since the last call, up to step ``t_env``."""
        early = min(t_env, self.early_steps)
        by_now = early / self.early_steps_per_update + (t_env - early) / self.steps_per_update
        due = max(0, int(by_now) - self.updates)
        self.updates += due
        return due

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]


class Every:
    """Fires once per ``interval`` environment steps, the first time at step ``first``.

    Firing times lie on the grid ``first + k * interval``: a late firing doesn't delay the following ones,
    and grid points that passed unasked fire once.
    """

    def __init__(self, interval: int, first: int = 0) -> None:
        if interval <= 0:
            raise ValueError(f"interval must be positive, got {interval}")
        self.interval = interval
        self.first = first
        self.next = first

    def due(self, t_env: int) -> bool:
        """Return whether a grid point was reached since the last firing; at most one firing per call."""
        if t_env < self.next:
            return False
        self.next = self.first + ((t_env - self.first) // self.interval + 1) * self.interval
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]
