"""Log lines about peers, limited: a peer that comes back in a loop must not fill the log.

One line per cause and identity a minute; what is left out is one number per cause at the end of it.
Counters are kept elsewhere and are exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from isthmus import clock

WINDOW_S = 60.0
"""For how long a line stands for those like it."""

LINES = 100
"""Lines of one cause in that time, whoever they are about: identities are made up easily."""


class LogLimit:
    """The lines of one place, at level `info`.

    `at(deadline, callback)` calls back at a monotonic time, as `Wheel.at` does.
    """

    __slots__ = ("_at", "_left_out", "_log", "_seen")

    def __init__(
        self, log: logging.Logger, at: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._log = log
        self._at = at
        self._seen: dict[str, set[str]] = {}
        self._left_out: dict[str, int] = {}

    def line(self, cause: str, identity: str, text: str) -> None:
        """Log `text`, unless there was a line for this cause and identity already."""
        if not self._seen:
            self._at(clock.monotonic() + WINDOW_S, self._close)
        seen = self._seen.setdefault(cause, set())
        if identity in seen or len(seen) >= LINES:
            self._left_out[cause] = self._left_out.get(cause, 0) + 1
            return
        seen.add(identity)
        self._log.info("%s", text)

    def _close(self) -> None:
        for cause, count in self._left_out.items():
            self._log.info("%d more in the last %.0f s: %s", count, WINDOW_S, cause)
        self._seen = {}
        self._left_out = {}
