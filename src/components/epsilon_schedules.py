"""Exploration schedules: a value as a function of environment steps."""

from __future__ import annotations

import math


class DecayThenFlatSchedule:
    """Falls from `start` to `finish` within `time_length` environment steps, then stays there.

    `decay` is "linear" or "exp"; the exponential one starts at 1 whatever `start` says (capped by it).
    """

    def __init__(self, start: float, finish: float, time_length: int, decay: str = "exp") -> None:
        if time_length <= 0:
            raise ValueError(f"a schedule needs a positive length, got {time_length}")
        if decay not in ("linear", "exp"):
            raise ValueError(f"unknown decay '{decay}': linear or exp")
        self.start, self.finish, self.time_length, self.decay = start, finish, time_length, decay

    def eval(self, T: int) -> float:
        """The value at environment step `T`."""
        if self.decay == "linear":
            return max(self.finish, self.start - (self.start - self.finish) * T / self.time_length)
        rate = -math.log(self.finish) / self.time_length if self.finish > 0 else 1.0
        return min(self.start, max(self.finish, math.exp(-rate * T)))
