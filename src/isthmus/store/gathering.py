"""How long records are gathered before they go to the disk together.

A commit costs nearly the same for one record and for hundreds: time of the disk, of the processor,
and of whoever shares it with the thread that writes. Where records keep coming by themselves, it
pays to wait for more of them. Who sends more only when what he sent is answered is not made to wait
for that.
"""

from __future__ import annotations

from math import inf

GATHER_S = 0.003
"""From the beginning of a transaction with many records to that of the next, at least; and from one
look at what has come to the next."""

LONGEST_GATHER_S = 0.02
"""The same, at most: a message that goes to the disk is answered later by so much."""

MANY = 2
"""So many records in one transaction come from publishers that do not wait for each."""

ENOUGH = 400
"""With so many records, the cost of the commit is small for each."""

SELDOM = 32
"""After waiting in vain, so many transactions go before that is tried again."""


class Gathering:
    """When the open transaction goes to the writer; times are in seconds of one clock."""

    __slots__ = ("_begun", "_not_for", "_seen")

    def __init__(self) -> None:
        self._begun = -inf
        # How many records there were when it was decided to wait for more; 0 before that.
        self._seen = 0
        self._not_for = 0

    def begun(self, records: int, now: float) -> None:
        """A transaction with so many records goes to the writer."""
        self._seen = 0
        if records >= MANY:
            self._begun = now

    def left_s(self, now: float) -> float:
        """How long it is until the next one may go."""
        return max(0.0, self._begun + GATHER_S - now)

    def goes_on(self, records: int, now: float) -> bool:
        """The next one may go, with so many records: whether to look again in `GATHER_S`."""
        came = records - self._seen
        if self._seen:
            if came < MANY:
                self._not_for = SELDOM
        elif self._not_for:
            self._not_for -= 1
            return False
        if came < MANY or records >= ENOUGH or now + GATHER_S > self._begun + LONGEST_GATHER_S:
            return False
        self._seen = records
        return True
