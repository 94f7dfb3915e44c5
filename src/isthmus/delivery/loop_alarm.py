"""The alarm of the loop guard: very many messages come back, and are dropped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from isthmus import clock

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("isthmus.delivery")

ALARM_COUNT = 1000
ALARM_S = 10.0
"""So many dropped messages in so many seconds are worth a warning."""

QUIET_S = 60.0
"""Between two warnings: a ring does not go away by itself."""


class LoopAlarm:
    """Counts what came back, by hops or by memory, of all connections of one process."""

    __slots__ = ("_count", "_now", "_until")

    def __init__(self, now: Callable[[], float] = clock.monotonic) -> None:
        self._now = now
        self._until = 0.0
        self._count = 0

    def add(self, topic: bytes) -> None:
        """A message of `topic` came back, and was dropped."""
        now = self._now()
        if now >= self._until:
            self._until = now + ALARM_S
            self._count = 0
        self._count += 1
        if self._count == ALARM_COUNT:
            self._until = now + QUIET_S
            log.warning(
                "loop guard: %d messages came back within %d s and were dropped, the last one on "
                "%r; brokers are bridged in a ring, or a far side sends us what we send it; see "
                "`isthmus check`",
                ALARM_COUNT,
                int(ALARM_S),
                topic[:100].decode(errors="replace"),
            )
