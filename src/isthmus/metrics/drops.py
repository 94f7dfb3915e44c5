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
    `queue_full`, `slow_consumer`, `too_large`, `expired`, `denied`, `refused`. `what` is what
    happened to them, as the log says it.
    """

    __slots__ = ("_line_at", "_log", "_logged", "counts", "place", "what")

    def __init__(self, place: str, log: logging.Logger, what: str = "dropped") -> None:
        self.place = place
        self.what = what
        self.counts: dict[str, int] = {}
        self._log = log
        self._line_at: dict[str, float] = {}
        self._logged: dict[str, int] = {}

    @property
    def total(self) -> int:
        """All drops, whatever the reason."""
        return sum(self.counts.values())

    def add(
        self, reason: str, detail: str | bytes = "", count: int = 1, *, publisher: str = ""
    ) -> None:
        """Count `count` messages dropped for `reason`.

        `detail` and `publisher` go to the log line only. Bytes are a topic, decoded only where a
        line is logged: of a flood every other drop costs two look-ups and the clock.
        """
        counts = self.counts
        total = counts[reason] = counts.get(reason, 0) + count
        now = clock.monotonic()
        if now >= self._line_at.get(reason, 0.0):
            self._line_at[reason] = now + LOG_EVERY_S
            self._log_line(reason, detail, total - self._logged.get(reason, 0), publisher)
            self._logged[reason] = total

    def _log_line(self, reason: str, detail: str | bytes, count: int, publisher: str) -> None:
        if isinstance(detail, str):
            text = detail
        else:
            text = f"topic {detail.decode(errors='backslashreplace')}"
        text = ", ".join(filter(None, (text, publisher)))
        self._log.warning(
            "%s: %d message(s) %s: %s%s",
            self.place,
            count,
            self.what,
            reason,
            f" ({text})" if text else "",
        )
