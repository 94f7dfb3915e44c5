"""Moving averages per minute, as a load average has them."""

from __future__ import annotations

from math import exp

MINUTES = (1, 5, 15)


class Load:
    """How fast a counter grows: events per minute, averaged over 1, 5 and 15 minutes."""

    __slots__ = ("_count", "averages")

    def __init__(self) -> None:
        self._count = 0
        self.averages = [0.0 for _ in MINUTES]

    def update(self, count: int, elapsed_s: float) -> None:
        """The counter stands at `count`, `elapsed_s` seconds (above 0) after the last update."""
        rate = (count - self._count) * 60.0 / elapsed_s
        self._count = count
        for index, minutes in enumerate(MINUTES):
            keep = exp(-elapsed_s / (60.0 * minutes))
            self.averages[index] = rate * (1.0 - keep) + self.averages[index] * keep
