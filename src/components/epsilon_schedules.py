"""Exploration schedules: a value as a function of environment steps."""

from __future__ import annotations

import math


class DecayThenFlatSchedule:
    """Falls from `start` to `finish` within `time_length` environment steps, then stays there.

    `decay` is "linear" or "exp". The exponential one falls from 1 whatever `start` says, cut off above it;
    one that ends at zero falls by a factor e and drops to zero at the end.
    """

    def __init__(self, start: float, finish: float, time_length: int, decay: str = "exp") -> None:
        if decay not in ("linear", "exp"):
            raise ValueError(f"unknown decay '{decay}': linear or exp")
        self.start, self.finish, self.time_length, self.decay = start, finish, time_length, decay

    def eval(self, T: int) -> float:
        """The value at environment step `T`."""
        if self.time_length <= T:
            return self.finish
        if self.decay == "linear":
            return self.start - (self.start - self.finish) * T / self.time_length
        rate = -math.log(self.finish) / self.time_length if self.finish > 0 else 1.0 / self.time_length
        return min(self.start, math.exp(-rate * T))
