"""Sending the retained messages that new subscriptions ask for, as fast as the client takes them.

A client may ask for any number of retained messages with one small packet, and may read slowly or
not at all. So they are sent in steps: a step ends when it has taken its share of the event loop,
and the next waits until the connection and the queue of the session have room. What is kept
meanwhile is one list of topics, and the filters that wait for their turn; each message is looked up
when it is sent, so a client never gets a value that was replaced before.

A subscription with "no local" is sent only what was there when it was made. Bridges subscribe and
then publish what is retained on their side: it must not come back to them this way either.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.broker.session import Subscription, stamp
from isthmus.delivery.outlet import LaneOutlet

if TYPE_CHECKING:
    from isthmus.broker.retained import RetainedMessages
    from isthmus.broker.session import Session

STEP_S = 0.002
"""Time that one step may take from everybody else."""

STEP_BYTES = 256 << 10
"""Bytes that one step hands to the network: about what a socket takes at once."""

LOOK_EVERY = 16
"""Messages between two looks at the clock."""

WAIT_MIN_S = 0.01
WAIT_MAX_S = 1.0
"""First and longest time between two looks at a client that has no room."""


class RetainedDelivery:
    """What one session still has to get; it outlives a connection, as the session does.

    It belongs to the session from `add` until everything is sent, and then removes itself.
    """

    __slots__ = ("_current", "_handle", "_pending", "_retained", "_session", "_topics", "_wait_s")

    def __init__(self, retained: RetainedMessages, session: Session) -> None:
        self._retained = retained
        self._session = session
        self._pending: dict[bytes, tuple[Subscription, int]] = {}
        self._topics: list[bytes] = []
        self._current: tuple[bytes, Subscription, int] | None = None
        self._handle: asyncio.Handle | None = None
        self._wait_s = WAIT_MIN_S

    def add(self, filter_: bytes, subscription: Subscription) -> None:
        """Send what is retained for `filter_`, soon, after what was asked for before.

        Never at once: one read may bring thousands of SUBSCRIBEs, and what is sent for them would
        pile up before it is known whether the client reads.
        """
        self._pending[filter_] = subscription, self._retained.newest
        if self._handle is None:
            self.resume()

    def discard(self, filter_: bytes) -> None:
        """Send no more for `filter_`: it was unsubscribed."""
        self._pending.pop(filter_, None)
        if self._current is not None and self._current[0] == filter_:
            self._topics = []

    def resume(self) -> None:
        """Go on: there is a connection."""
        self._handle = asyncio.get_running_loop().call_soon(self._run)

    def stop(self) -> None:
        """Do nothing more until `resume`: the connection has ended."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _run(self) -> None:
        """Send as far as there is room now, and see to the rest later."""
        self._handle = None
        lane = self._session.lane
        link = lane.link
        if link is None:
            return
        loop = asyncio.get_running_loop()
        if link.blocked or not self._has_room():
            self._handle = loop.call_later(self._wait_s, self._run)
            self._wait_s = min(2 * self._wait_s, WAIT_MAX_S)
            return
        self._wait_s = WAIT_MIN_S
        if self._step():
            self._handle = loop.call_soon(self._run)
        else:
            self._session.retained_delivery = None

    def _has_room(self) -> bool:
        """Whether the queue is less than half full; the other half is for what is published."""
        lane = self._session.lane
        return not lane.queued or (
            lane.queued < lane.max_queued // 2 and lane.queued_bytes < lane.max_queued_bytes // 2
        )

    def _step(self) -> bool:
        """Send for a short time; whether there is more."""
        end = clock.monotonic() + STEP_S
        sent = count = 0
        while self._topics or self._pending:
            if not self._topics:
                self._next_filter()
            else:
                assert self._current is not None
                _, subscription, newest = self._current
                sent += self._send(self._topics.pop(), subscription, newest)
                if subscription.options.qos and not self._has_room():
                    break
            count += 1
            if sent >= STEP_BYTES:
                break
            if (count % LOOK_EVERY == 0 or not self._topics) and clock.monotonic() >= end:
                break
        return bool(self._topics or self._pending)

    def _next_filter(self) -> None:
        filter_ = next(iter(self._pending))
        self._current = filter_, *self._pending.pop(filter_)
        self._topics = self._retained.topics(filter_)
        self._topics.reverse()  # they are taken from the end

    def _send(self, topic: bytes, subscription: Subscription, newest: int) -> int:
        """Send the message of `topic` with the retain flag (MQTT-3.3.1-8); its size in bytes."""
        session = self._session
        own = session.topic_for(topic, subscription)
        if not own:
            return 0
        message = self._retained.get(topic)
        if message is None or not session.rights.may_read(session.principal, topic):
            return 0
        if message.writer is not None and not message.writer.may_write(topic):
            return 0
        if subscription.options.no_local and message.number > newest:
            return 0
        flags = session.flags(subscription.options.qos, retain=True)
        outlet = LaneOutlet(session.lane, own, flags, memory=True, stamp=stamp([subscription]))
        outlet.send(message.flags, message.properties, message.payload, None)
        return len(topic) + len(message.properties) + len(message.payload)
