"""How long to wait before the next try."""

from __future__ import annotations

import random

EAGER_S = 60.0
"""How long an outage is short: most end within a minute, and then every second counts."""

EAGER_MAX_S = 1.0
"""The longest ceiling in that time, unless the shortest is longer: what is back shall be found at
once, and messages arrive again within 2 s also where logging in and a backlog take time."""


class Backoff:
    """Exponential waiting times with full jitter.

    Each time is drawn evenly between nothing and a ceiling that doubles from `min_s` to `max_s`; in
    the first minute it stays at or below 1 s. The jitter is full because after an outage
    thousands of clients would otherwise come back in step, again and again.
    """

    __slots__ = ("_ceiling_s", "_since", "max_s", "min_s")

    def __init__(self, min_s: float, max_s: float) -> None:
        if not 0 < min_s <= max_s:
            raise ValueError(f"0 < min_s <= max_s is needed, not {min_s} and {max_s}")
        self.min_s = min_s
        self.max_s = max_s
        self._ceiling_s = min_s
        self._since: float | None = None

    def next(self, now: float) -> float:
        """Return the seconds to wait from `now` on, and double the ceiling for the next time."""
        if self._since is None:
            self._since = now
        ceiling_s = self._ceiling_s
        if now - self._since < EAGER_S:
            ceiling_s = min(ceiling_s, max(self.min_s, EAGER_MAX_S))
        self._ceiling_s = min(self.max_s, ceiling_s * 2)
        return random.uniform(0, ceiling_s)  # noqa: S311 - to spread load, not to be secret

    def reset(self) -> None:
        """Start again from `min_s`: the last try worked."""
        self._ceiling_s = self.min_s
        self._since = None
