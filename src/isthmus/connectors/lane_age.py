"""How old the oldest message of a lane is, without a time stamp in any message.

Messages have numbers: those in flight the count of messages sent before them, those that wait their
place in the row. Once a second somebody notes how far the numbers have come; so the number of the
oldest message says between which two looks it came. The age is too low by the time between two
looks, and by no more than 1 % where that is longer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from isthmus.delivery.queue import NEVER_SENT

if TYPE_CHECKING:
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.queue import Queue

FINENESS = 100
"""Notes lie apart by this part of the time that they span, so a day of them is some hundreds."""


class Notes:
    """When a count that grows had come how far."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: deque[tuple[int, float]] = deque()

    def __len__(self) -> int:
        return len(self._notes)

    def note(self, count: int, now: float) -> None:
        """At `now` the count is `count`."""
        notes = self._notes
        if notes:
            last, at = notes[-1]
            if count <= last or (now - at) * FINENESS < at - notes[0][1]:
                return
        notes.append((count, now))

    def forget(self, number: int) -> None:
        """Forget what says nothing about things from `number` on."""
        while self._notes and self._notes[0][0] <= number:
            self._notes.popleft()

    def age_s(self, number: int, now: float) -> float:
        """How long thing `number`, counted from 0, has been there at least."""
        return next((now - at for count, at in self._notes if count > number), 0.0)


class LaneAge:
    """The age of the oldest message of one lane."""

    __slots__ = ("_queue", "_sent", "_waiting")

    def __init__(self) -> None:
        self._sent = Notes()
        self._waiting = Notes()
        self._queue: Queue | None = None

    def look(self, lane: Lane, now: float) -> None:
        """Note how far the lane has come; `now` is monotonic."""
        if lane.queue is not self._queue:
            self._queue = lane.queue
            self._waiting = Notes()
        self._sent.forget(_oldest_sent(lane))
        self._sent.note(lane.sent, now)
        queue = self._queue
        if queue is not None:
            self._waiting.forget(queue.taken)
            self._waiting.note(queue.taken + len(queue), now)

    def oldest_s(self, lane: Lane, now: float) -> float:
        """The age in seconds of what has waited or been in flight longest; 0 without messages.

        It begins anew when a message that waited is sent.
        """
        age_s = self._sent.age_s(_oldest_sent(lane), now)
        queue = lane.queue
        if queue is not None and queue is self._queue:
            age_s = max(age_s, self._waiting.age_s(queue.taken, now))
        return age_s


def _oldest_sent(lane: Lane) -> int:
    """The number of the oldest message that was sent and is not acknowledged."""
    first = next(iter(lane.entries.values()), None)
    oldest = lane.sent if first is None else first[3]
    queue = lane.queue
    head = None if queue is None else queue.first
    if head is not None and head.order != NEVER_SENT:
        oldest = min(oldest, head.order)
    return oldest
