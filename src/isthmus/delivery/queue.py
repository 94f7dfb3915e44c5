"""What waits for room in a lane's window, in order.

Two parts in one row: at the head the messages that were sent before and came back, which keep their
order and go first, and behind them those that were never sent.
"""

from __future__ import annotations

import heapq
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.publication import unpack
from isthmus.mqtt.properties import PropertyId, message_expiry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.drops import Drops

ENTRY_OVERHEAD_BYTES = 200
"""What a queued message costs besides its bytes; part of every queue's size."""

FORGET_AT = 64
"""Messages in a full queue at which it is first looked through for those that nobody needs."""

NEVER_SENT = -1
"""The `order` of a message that was not sent before."""

PUBACK = 0x40

EXPIRY = bytes((PropertyId.MESSAGE_EXPIRY_INTERVAL,))


class Queued:
    """A message that waits for room in the window.

    `first` is the first byte of its PUBLISH, `expires` the monotonic end of its life or None,
    `place` its index in the receipt, and `order` tells those that came back which was sent first.
    `size` is what it counts for in bytes, with what its keeping costs.
    """

    __slots__ = (
        "expires",
        "first",
        "order",
        "payload",
        "place",
        "properties",
        "receipt",
        "size",
        "topic",
    )

    def __init__(
        self,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
        place: int,
        expires: float | None,
        order: int = NEVER_SENT,
    ) -> None:
        self.topic = topic
        self.first = first
        self.properties = properties
        self.payload = payload
        self.receipt = receipt
        self.place = place
        self.expires = expires
        self.order = order
        self.size = len(topic) + len(properties) + len(payload) + ENTRY_OVERHEAD_BYTES


def expiry(properties: bytes, aged_s: float = 0.0) -> float | None:
    """The monotonic end of the life of a message that is `aged_s` seconds old; None for ever."""
    if EXPIRY not in properties:
        return None  # without a look at properties that differ from message to message
    lifetime = message_expiry(properties)
    return None if lifetime is None else clock.monotonic() + lifetime - aged_s


def from_packet(
    packet: bytes,
    receipt: Receipt | None,
    place: int,
    order: int,
    *,
    v5: bool,
    aged_s: float = 0.0,
) -> Queued:
    """A publication that was sent `aged_s` seconds ago and is to be sent anew."""
    first, topic, _, properties, payload = unpack(packet, v5=v5)
    expires = expiry(properties, aged_s) if properties else None
    return Queued(topic, first, properties, payload, receipt, place, expires, order)


class Queue:
    """Messages in the order in which they will be sent; `size` counts their bytes.

    `taken` are those that left it at the front, less those that came back: with the length, it says
    which place in the row a message has, as long as none is dropped in between.
    """

    __slots__ = ("_forget_at", "_items", "_returned", "size", "taken")

    def __init__(self) -> None:
        self._items: deque[Queued] = deque()
        self._returned = 0
        self._forget_at = FORGET_AT
        self.size = 0
        self.taken = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Queued]:
        return iter(self._items)

    @property
    def first(self) -> Queued | None:
        """The next message, if there is one."""
        return self._items[0] if self._items else None

    @property
    def returned(self) -> int:
        """How many at the front were sent before."""
        return self._returned

    def append(self, item: Queued) -> None:
        """Queue a new message."""
        self._items.append(item)
        self.size += item.size

    def put_back(self, *items: Queued) -> None:
        """Queue messages that were sent before: in order of sending, and before all new ones."""
        there = [self._items.popleft() for _ in range(self._returned)]
        merged = list(heapq.merge(there, sorted(items, key=_order), key=_order))
        self._items.extendleft(reversed(merged))
        self._returned = len(merged)
        self.taken -= len(items)
        self.size += sum(item.size for item in items)

    def put_first(self, item: Queued) -> None:
        """Queue the message that was just taken out again."""
        self._items.appendleft(item)
        self._returned += 1
        self.taken -= 1
        self.size += item.size

    def popleft(self) -> Queued:
        """Take the next message out."""
        item = self._items.popleft()
        if self._returned:
            self._returned -= 1
        self.taken += 1
        self.size -= item.size
        return item

    def take(self, wanted: Callable[[Queued], bool]) -> list[Queued]:
        """Take out what is `wanted`, in order, with its holds."""
        found = []
        kept: deque[Queued] = deque()
        returned = 0
        for place, item in enumerate(self._items):
            if wanted(item):
                found.append(item)
                self.size -= item.size
            else:
                kept.append(item)
                returned += place < self._returned
        self._items, self._returned = kept, returned
        return found

    def withdraw(self, allowed: Callable[[bytes], bool], drops: Drops) -> None:
        """Drop what waits on topics that are not `allowed`, and release its holds."""
        kept: deque[Queued] = deque()
        returned = 0
        for place, item in enumerate(self._items):
            topic = item.topic[2:]
            if allowed(topic):
                kept.append(item)
                returned += place < self._returned
                continue
            self.size -= item.size
            self.taken += 1
            drops.add("denied", topic)
            if item.receipt is not None:
                item.receipt.release()
        self._items, self._returned = kept, returned

    def forget_orphans(self, drops: Drops) -> None:
        """Drop messages that wait while the connection that they came on has ended.

        Nobody was told that they are safe, so their publishers send them again. Without this, one
        that reconnects while the far side is down would add its messages each time. A QoS 2
        message is not sent anew, but bound to the one that waits here, while its session lives.
        What another broker brought stays: the loop guard may have dropped another copy for it.

        Looks only when the queue has doubled since the last time.
        """
        if len(self._items) < self._forget_at:
            return
        kept: deque[Queued] = deque()
        for place, item in enumerate(self._items):
            if place >= self._returned and item.receipt is not None and orphaned(item.receipt):
                self.size -= item.size
                self.taken += 1
                drops.add("orphaned", item.topic[2:])
            else:
                kept.append(item)
        self._items = kept
        self._forget_at = max(2 * len(kept), FORGET_AT)


_order = attrgetter("order")


def orphaned(receipt: Receipt) -> bool:
    """Whether nobody would hear that these messages are safe, so that nobody counts on it."""
    source = receipt.source
    return (
        source.closed
        and not source.bridges
        and (receipt.prefix[0] == PUBACK or not source.remembers(receipt.ids[0]))
    )
