"""Notices that a lane has something unacknowledged for so long that it should go to disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from isthmus.delivery.stored import Stored

if TYPE_CHECKING:
    import asyncio

    from isthmus.delivery.lane import Lane
    from isthmus.delivery.receipt import Receipt

TICKS = 2
"""In so many steps the time is measured: a message may wait for half as long again."""


class Spiller(Protocol):
    """The outbox of the lane; see there for its attributes."""

    logged: bool
    spill_after_s: float

    def spill(self) -> None:
        """Write all that is unacknowledged."""


class SpillTimer:
    """Has `outbox` spill when the oldest message of `lane` is there for its `spill_after_s`.

    It runs only while something is on its way, so it costs nothing for each message.
    """

    __slots__ = ("_head", "_head_ticks", "_loop", "_outbox", "_ticking", "lane")

    def __init__(self, outbox: Spiller, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        self._outbox = outbox
        self.lane = lane
        self._loop = loop
        self._ticking = False
        self._head: object = None
        self._head_ticks = 0

    def arm(self) -> None:
        """Something is about to be sent: look in a while whether it was acknowledged."""
        if not self._ticking and not self._outbox.logged:
            self._head = None
            self._tick_later()

    def _tick_later(self) -> None:
        self._ticking = True
        self._loop.call_later(self._outbox.spill_after_s / TICKS, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        link = self.lane.link
        if self._outbox.logged or link is None:
            return
        head = self.oldest()
        if head is None:
            if link.out or link.blocked:
                self._tick_later()  # what is written behind this touches nothing
            return
        if head is not self._head:
            self._head = head
            self._head_ticks = 0
        else:
            self._head_ticks += 1
            if self._head_ticks == TICKS:
                self._outbox.spill()
                return
        self._tick_later()

    def oldest(self) -> object:
        """The oldest message that is not on disk and may go there, or None."""
        for entry in self.lane.entries.values():
            if spills(entry[1]):
                return entry
        queue = self.lane.queue
        first = None if queue is None else queue.first
        return first if first is not None and spills(first.receipt) else None


def spills(receipt: Receipt | None) -> bool:
    """Whether a message that is held by `receipt` may go to the log."""
    return receipt is None or not (isinstance(receipt, Stored) or receipt.source.takes_back)
