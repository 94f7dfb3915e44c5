"""How long to wait before the next try."""

from __future__ import annotations

import random


class Backoff:
    """Exponential waiting times with full jitter.

    Each time is drawn evenly between nothing and a ceiling that doubles from `min_s` to `max_s`.
    The jitter is full because after an outage thousands of clients would otherwise come back in
    step, again and again.
    """

    __slots__ = ("_ceiling_s", "max_s", "min_s")

    def __init__(self, min_s: float, max_s: float) -> None:
        if not 0 < min_s <= max_s:
            raise ValueError(f"0 < min_s <= max_s is needed, not {min_s} and {max_s}")
        self.min_s = min_s
        self.max_s = max_s
        self._ceiling_s = min_s

    def next(self) -> float:
        """Return the seconds to wait now, and double the ceiling for the next time."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(self.max_s, ceiling_s * 2)
        return random.uniform(0, ceiling_s)  # noqa: S311 - to spread load, not to be secret

    def reset(self) -> None:
        """Start again from `min_s`: the last try worked."""
        self._ceiling_s = self.min_s
