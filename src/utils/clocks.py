"""Clocks over environment steps: when something is due, and how many times.

They count environment steps and nothing else, so what they drive keeps its pace whatever the number of
environments.
"""

import math
from collections.abc import Iterator
from typing import Any


class Ratio:
    """Tells how many updates are due at one update per ``steps_per_update`` environment steps.

    Steps that do not fill an update are remembered, so the long-run ratio is exact however unevenly steps
    arrive.

    Args:
        steps_per_update: environment steps per update.
        share_per_update: but for no less than this share of all steps so far: what has been seen grows by the
            same factor from each update to the next then, and the updates become rarer.
    """

    def __init__(self, steps_per_update: float, share_per_update: float = 0.0) -> None:
        if steps_per_update <= 0:
            raise ValueError(f"steps_per_update must be positive, got {steps_per_update}")
        self.steps_per_update = steps_per_update
        self.share_per_update = share_per_update
        self.updates = 0

    def due(self, t_env: int) -> int:
        """Return the number of updates that became due since the last call, up to step ``t_env``."""
        due = max(0, int(self._until(t_env)) - self.updates)
        self.updates += due
        return due

    def each_due(self, t_env: int) -> Iterator[None]:
        """Yield once per update that is due at step ``t_env``; one that was not asked for remains due."""
        while self.updates < int(self._until(t_env)):
            self.updates += 1
            yield

    def _until(self, t_env: int) -> float:
        """All updates up to step ``t_env``: the integral of one per max(steps, share * t) steps."""
        even = t_env / self.steps_per_update
        rarer = even * self.share_per_update
        return even if rarer <= 1 else (1 + math.log(rarer)) / self.share_per_update

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
        self.next = self._after(t_env)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next, "interval": self.interval}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; a clock of another interval goes by its own from there."""
        self.next = state["next"]
        if state["interval"] != self.interval:
            passed = state["next"] - state["interval"]
            self.next = max(self.first, self._after(passed))

    def _after(self, t_env: int) -> int:
        """The first grid point behind step ``t_env``."""
        return self.first + ((t_env - self.first) // self.interval + 1) * self.interval
