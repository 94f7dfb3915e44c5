"""The lane of a connector that limits its rate, or that connects only when something waits.

There every message passes the queue: a rate has to hold for each of them, QoS 0 included, and what
waits has to wake a sleeping connection. The ordinary lane has none of this, and stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.delivery.lane import Lane
from isthmus.delivery.outlet import LaneOutlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.delivery.receipt import Receipt
    from isthmus.net.reactor import Reactor
    from isthmus.net.timers import Timer
    from isthmus.net.token_bucket import TokenBucket


class QueuedLane(Lane):
    """A lane of which every message passes the queue.

    `bucket` limits what leaves it, shared by the connections of a connector; None: no limit.
    `on_waiting` is called for each message that is queued while it is set.
    """

    __slots__ = ("_limit", "_reactor", "_timer", "bucket", "on_waiting")

    def __init__(
        self,
        drops: Any,
        *,
        reactor: Reactor,
        bucket: TokenBucket | None,
        **limits: Any,
    ) -> None:
        super().__init__(drops, **limits)
        self._reactor = reactor
        self.bucket = bucket
        self.on_waiting: Callable[[], None] | None = None
        self._limit = 0
        self._timer: Timer | None = None

    def detach(self) -> None:
        """The connection is gone; see `Lane.detach`."""
        super().detach()
        self._limit = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def enqueue(
        self,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
    ) -> None:
        """Queue a message of any QoS, and send it if the rate allows it."""
        super().enqueue(topic, first, properties, payload, receipt)
        if self.on_waiting is not None:
            self.on_waiting()
        if self.bucket is not None and self._timer is None and self.link is not None:
            self.pump()

    def inherit(self, other: Lane, *, inflight: bool = True) -> int:
        """Take over what waits elsewhere; see `Lane.inherit`."""
        count = super().inherit(other, inflight=inflight)
        if count and self.on_waiting is not None:
            self.on_waiting()
        return count

    def limit(self, bucket: TokenBucket | None) -> None:
        """Keep to another rate, or to none."""
        self.bucket = bucket
        ahead = self.take_ahead()
        if ahead:
            self._open_queue().put_back(*ahead)
        self._set_room()
        if self.link is not None:
            self.pump()

    def pump(self) -> None:
        """Send from the queue while window and rate have room; see `Lane.pump`."""
        super().pump()  # with a rate the room is 0: this sends again what is in flight, no more
        queue, bucket = self._queue, self.bucket
        if bucket is None or queue is None or self._resend is not None or self._retry_timer:
            return
        now = clock.monotonic()
        while queue and len(self.entries) < self._limit:
            if not bucket.take(now):
                self._later(bucket.ready_at(now))
                break
            self._send(queue.popleft())
        super().pump()  # an empty queue is put away

    def _later(self, at: float) -> None:
        if self._timer is None:
            self._timer = self._reactor.wheel.at(at, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self.pump()

    def _set_room(self) -> None:
        super()._set_room()
        if self.bucket is not None:
            # Nothing goes past the queue.
            self._limit, self.room = self.room, 0


class LimitedOutlet(LaneOutlet):
    """One topic on a `QueuedLane` that has a bucket."""

    __slots__ = ()

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Send or queue one message; see `Outlet.send`."""
        lane = self.lane
        first = self.first[flags]
        if first < 0x32 and lane.link is not None:
            lane.enqueue(self.topic, first, properties + self.stamp, payload, None)
        else:
            super().send(flags, properties, payload, receipt)
