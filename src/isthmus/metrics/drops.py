"""Counted drops: nothing is lost silently.

Every message that is not delivered is counted here under its reason, and each reason is logged when
it first happens and then at most once a minute with the number since, so that a flood of drops is a
flood of numbers and not of log lines.
"""

from __future__ import annotations

import logging

from isthmus import clock

LOG_EVERY_S = 60.0


class Drops:
    """Drop counters of one place: a connector, a route, the broker.

    `counts` maps reason to messages since the start. Reasons are short words such as `link_down`,
    `queue_full`, `slow_consumer`, `too_large`, `expired`, `denied`, `refused`.
    """

    __slots__ = ("_log", "_logged", "counts", "place")

    def __init__(self, place: str, log: logging.Logger) -> None:
        self.place = place
        self.counts: dict[str, int] = {}
        self._log = log
        self._logged: dict[str, tuple[float, int]] = {}

    @property
    def total(self) -> int:
        """All drops, whatever the reason."""
        return sum(self.counts.values())

    def add(self, reason: str, detail: str = "", count: int = 1) -> None:
        """Count `count` messages dropped for `reason`; `detail` goes to the log line only."""
        before = self.counts.get(reason, 0)
        self.counts[reason] = before + count
        now = clock.monotonic()
        last, logged = self._logged.get(reason, (-LOG_EVERY_S, 0))
        if now - last >= LOG_EVERY_S:
            self._logged[reason] = (now, before + count)
            self._log.warning(
                "%s: %d message(s) dropped: %s%s",
                self.place,
                before + count - logged,
                reason,
                f" ({detail})" if detail else "",
            )
