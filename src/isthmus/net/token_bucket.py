"""A rate that may be saved up for a while, and no longer."""

from __future__ import annotations

BURST_S = 1.0
"""For how long a rate may be saved up, where nothing else is said."""

ROUNDING = 1e-9


class TokenBucket:
    """How much may be done: `rate` per second, saved up for `burst_s`, at least one.

    It has no clock: `now` is in monotonic seconds.
    """

    __slots__ = ("_at", "_tokens", "rate", "size")

    def __init__(self, rate: float, now: float, burst_s: float = BURST_S) -> None:
        self.rate = rate
        self.size = max(1.0, rate * burst_s)
        self._tokens = self.size
        self._at = now

    def take(self, now: float) -> bool:
        """Take one; whether there was one."""
        self._fill(now)
        if self._tokens + ROUNDING < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def ready_at(self, now: float) -> float:
        """When there will be one."""
        self._fill(now)
        return now + max(0.0, 1.0 - self._tokens) / self.rate

    def spend(self, count: int, now: float, longest_s: float) -> float:
        """Take `count`, which are done already; how long it takes until they are paid, in seconds.

        What takes longer than `longest_s` to pay is forgiven.
        """
        self._fill(now)
        self._tokens = max(self._tokens - count, -self.rate * longest_s)
        return max(0.0, -self._tokens) / self.rate

    def _fill(self, now: float) -> None:
        self._tokens = min(self.size, self._tokens + (now - self._at) * self.rate)
        self._at = now
