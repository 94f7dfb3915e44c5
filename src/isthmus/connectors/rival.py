"""Another client with our client id: the far side ends our connection for its, and its for ours.

With MQTT 5 the far side says so (0x8E). With MQTT 3 it only closes. So a long row of connections
that were closed soon after their login, with nothing else in between, is taken for that, and
called a guess. Both would go on for ever, so the wait before the next login doubles each time;
where it is a guess, only after a minute, as a bad network has to be over at once when it heals.
"""

from __future__ import annotations

import random

TAKEN_OVER = 0x8E

CLOSED_EARLY_S = 20.0
"""A connection that was closed sooner than this after its login counts for the guess. Firewalls and
load balancers that end silent connections mostly wait longer."""

ROW = 10
"""So many in a row make the guess. A bad network cuts too, but not only in this way, and those who
kick each other go on for ever: to see it late costs little, to wait for nothing costs messages."""

WAIT_MIN_S = 2.0
WAIT_MAX_S = 300.0
GUESS_MAX_S = 30.0
"""The longest waits before the next login: of what is known, and of what is guessed."""

GUESS_AFTER_S = 60.0
"""A row has to last so long before a guess makes anybody wait."""

PEACE_S = 60.0
"""A connection that lasted so long, and three times the wait before it, was left alone."""


class Rival:
    """What the ends of one member's connections say about a rival.

    `taken_over` counts the ends of which the far side said so, since the start. `wait_s` is how
    long to wait at least before the next login; 0 is no matter.
    """

    __slots__ = ("_row", "_since", "_waits", "taken_over", "wait_s")

    def __init__(self) -> None:
        self.taken_over = 0
        self.wait_s = 0.0
        self._row = self._waits = 0
        self._since = 0.0

    def ended(self, lived_s: float, *, code: int | None, closed: bool, now: float) -> str:
        """Learn from an open connection that has ended after `lived_s`.

        Args:
            lived_s: how long it was open.
            code: of the far side's DISCONNECT, None without one.
            closed: whether the far side just closed it.
            now: monotonic seconds.

        Returns: what to say about a rival, "" where there is no sign of one.
        """
        if lived_s >= max(PEACE_S, 3 * self.wait_s):
            self._row = 0
        if code == TAKEN_OVER:
            self.taken_over += 1
            self._row = max(self._row, ROW - 1) + 1
            self.wait_s = self._wait(WAIT_MAX_S, self._row - ROW) if self._row > ROW else 0.0
            return "another client with the same client id took its place"
        if not closed or code is not None or lived_s >= max(CLOSED_EARLY_S, 3 * self.wait_s):
            self.failed()
            return ""
        if not self._row:
            self._since = now
        self._row += 1
        if self._row < ROW:
            return ""
        if now - self._since >= GUESS_AFTER_S:
            self._waits += 1
            self.wait_s = self._wait(GUESS_MAX_S, self._waits)
        return (
            f"the far side closed {self._row} connections in a row soon after their login; "
            "probably another client has the same client id"
        )

    def failed(self) -> None:
        """A connection could not be made, or ended in another way: that is no rival's doing."""
        self._row = self._waits = 0
        self.wait_s = 0.0

    def _wait(self, longest_s: float, number: int) -> float:
        doubled = WAIT_MIN_S * 2.0 ** min(number, 20)
        # Two that wait alike would go on meeting each other.
        return min(longest_s, doubled) * random.uniform(0.75, 1.25)  # noqa: S311
