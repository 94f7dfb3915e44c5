"""Retained messages of `local` at the far side: sent once per session there, not at each reconnect.

When a session begins at the far side, it gets the retained messages of every route that leads to
it. Later it gets what changes, like any message. A change with QoS 0 made while the link is down is
not queued, so its topic is remembered, on disk where there is a data folder, and what is retained
there now, or that nothing is, is sent with the next connection.

It sees those changes as a subscriber of `local` whose outlets take retained messages only, so other
messages cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from isthmus import clock
from isthmus.connectors.keeping_outlet import KeepingOutlet
from isthmus.delivery.outlet import KEEP, LaneOutlet, Outlet, compose
from isthmus.delivery.receipt import PUBACK, Settler, open_receipt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isthmus.connectors.connector import Connector
    from isthmus.connectors.member import Member
    from isthmus.connectors.missed_topics import MissedTopics
    from isthmus.delivery.endpoint import Endpoint, Origin
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.message import Message
    from isthmus.delivery.plan import Plan
    from isthmus.delivery.receipt import Receipt
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.connectors")

REMEMBERED_TOPICS = 100_000
"""Changed topics that are remembered for each connection while it is down: about 200 bytes each."""

TOPICS_PER_STEP = 64
"""Messages sent before others have their turn."""

MOST_WAITING = 1000
"""Messages in the lane above which no more are added for now."""

PAUSE_S = 0.1


class RetainedStore(Protocol):
    """The retained messages of `local`."""

    def get(self, topic: bytes) -> Message | None:
        """The message of `topic`, if there is one."""

    def topics(self, filter_: bytes) -> list[bytes]:
        """The topics with a message that match `filter_`."""


class Routes(Protocol):
    """The routes of `local`."""

    def outlets_to(self, target: Endpoint, topic: bytes) -> list[Outlet]:
        """The ways of messages of `topic` to `target`, whoever publishes them."""


class RetainedSync:
    """Keeps the retained messages at the far side of one connector what they are in `local`.

    `enabled` counts from the next `watch`. `kept` are the topics that are remembered on disk, None
    where there is none; to be set before the first `watch`.
    """

    def __init__(self, connector: Connector, *, enabled: bool) -> None:
        self._connector = connector
        self.enabled = enabled
        self.kept: MissedTopics | None = None
        self._stopped = False
        self._store: RetainedStore | None = None
        self._filters: tuple[bytes, ...] = ()
        self._watch: _Watch | None = None
        self._due: dict[Lane, dict[bytes, None]] = {}
        self._running: set[Lane] = set()
        self._timer: Timer | None = None

    def watch(
        self, filters: Iterable[bytes], routes: Routes, local: Endpoint, store: RetainedStore
    ) -> None:
        """`routes` lead from `local` to this connector, with what matches `filters`.

        `store` are the retained messages of `local`. What was watched before is watched no more;
        where a session is open already, what is retained for new filters is sent now.
        """
        wanted = tuple(dict.fromkeys(filters)) if self.enabled else ()
        if wanted == self._filters and self._watch is not None and self._store is store:
            return
        if self._watch is not None:
            for filter_ in self._filters:
                local.unsubscribe(filter_, self._watch)
        new = () if self._store is None else tuple(set(wanted) - set(self._filters))
        first = self._watch is None
        self._store = store
        self._filters = wanted
        self._watch = _Watch(self, self._connector, routes)
        if first and self.kept is not None:
            self._take_up(list(self.kept))
        for filter_ in wanted:
            local.subscribe(filter_, self._watch, 0)
        for lane, due in self._due.items() if new else ():
            for filter_ in new:
                due.update(dict.fromkeys(store.topics(filter_)))
            self._send_soon(lane)

    def _take_up(self, found: list[bytes]) -> None:
        """What an earlier process has not sent is due where its topics go now: step by step."""
        if self.kept is None or self._watch is None or self._stopped:
            return
        for topic in found[-TOPICS_PER_STEP:]:
            ways = self._watch.ways(topic) if self.enabled and topic in self.kept else []
            for way in ways:
                self._due.setdefault(way.lane, {})[topic] = None
                self._send_soon(way.lane)
            if not ways:
                self.kept.remove(topic)
        del found[-TOPICS_PER_STEP:]
        if found:
            asyncio.get_running_loop().call_soon(self._take_up, found)

    def session(self, member: Member, *, new: bool) -> None:
        """`member` is connected; with a `new` session everything is sent, else what was missed."""
        store = self._store
        if store is None:
            return
        due = self._due.setdefault(member.lane, {})
        if new:
            for filter_ in self._filters:
                due.update(dict.fromkeys(store.topics(filter_)))
        if due:
            self._send_soon(member.lane)

    def missed(self, lane: Lane, topic: bytes) -> None:
        """What is retained in `topic` has changed, and `lane` had no connection to say so."""
        due = self._due.setdefault(lane, {})
        if topic in due or len(due) < REMEMBERED_TOPICS:
            due[topic] = None
            if self.kept is not None:
                self.kept.add(topic)
        else:
            self._connector.drops.add("retained_change", topic)

    def moved(self, gone: Lane) -> None:
        """`gone` is a lane no more: what was due on it is due where its topics go now."""
        topics = self._due.pop(gone, {})
        for member in self._connector.members if topics else ():
            self._due.setdefault(member.lane, {}).update(topics)
            self._send_soon(member.lane)

    def stop(self) -> None:
        """Send nothing more; what is on disk stays there, and what is missed now comes to it."""
        self._stopped = True
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_soon(self, lane: Lane) -> None:
        if lane not in self._running:
            self._running.add(lane)
            asyncio.get_running_loop().call_soon(self._step, lane)

    def _step(self, lane: Lane) -> None:
        """Send some of what is due on `lane`; without a connection it stays due."""
        self._running.discard(lane)
        due = self._due.get(lane)
        if not due or lane.link is None:
            return
        if lane.queued >= MOST_WAITING or lane.full or self._connector.regrouping:
            if self._timer is None or not self._timer.active:
                at = clock.monotonic() + PAUSE_S
                self._timer = self._connector.reactor.wheel.at(at, self._go_on)
            return
        for topic in list(due)[:TOPICS_PER_STEP]:
            del due[topic]
            self._send(lane, topic)
        if due:
            self._send_soon(lane)

    def _go_on(self) -> None:
        for lane in list(self._due):
            self._send_soon(lane)

    def _send(self, lane: Lane, topic: bytes) -> None:
        store = self._store
        assert store is not None
        assert self._watch is not None
        message = store.get(topic)
        receipt = None
        if self.kept is not None and topic in self.kept:
            receipt = open_receipt(_Missed(self, topic), PUBACK)
            receipt.ids.append(b"\0\0")
        for outlet in self._watch.ways(topic):
            if outlet.lane is not lane:
                continue
            if message is not None:
                outlet.send(message.flags, message.properties, message.payload, receipt)
            else:
                outlet.send(DELETION, b"", b"", receipt)
        if receipt is not None:
            receipt.release()

    def sent(self, topic: bytes) -> None:
        """What is retained in `topic` is safe, or sent with QoS 0, unless it has changed again."""
        if self.kept is None or self._stopped:
            return
        if not any(topic in due for due in self._due.values()):
            self.kept.remove(topic)


DELETION = 1 << 1 | 1
"""The flags of a retained message without payload that must arrive: QoS 1."""


class _Missed(Settler):
    """Waits until what was sent for a topic is safe."""

    __slots__ = ("_sync", "_topic")

    def __init__(self, sync: RetainedSync, topic: bytes) -> None:
        super().__init__()
        self._sync = sync
        self._topic = topic

    def settled(self, receipt: Receipt) -> None:
        del receipt
        self._sync.sent(self._topic)


class _Watch:
    """The subscriber that sees the retained messages of the routes to one connector."""

    def __init__(self, sync: RetainedSync, connector: Connector, routes: Routes) -> None:
        self._sync = sync
        self._connector = connector
        self._routes = routes

    def ways(self, topic: bytes) -> list[LaneOutlet]:
        """The ways to the connector for messages of `topic` that leave with the retain flag."""
        return [
            outlet
            for outlet in self._routes.outlets_to(self._connector, topic)
            if isinstance(outlet, LaneOutlet) and outlet.first[DELETION] & 1
        ]

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        """Watch the changes of `topic`."""
        del options, origin
        ways = self.ways(topic)
        if ways:
            plan.add(ChangeOutlet(self._sync, topic, ways, KEEP))


class ChangeOutlet(Outlet):
    """Sees retained messages of one topic, and notes those that cannot be sent now."""

    __slots__ = ("_flags", "_sync", "_topic", "_ways")

    def __init__(
        self, sync: RetainedSync, topic: bytes, ways: list[LaneOutlet], flags: tuple[int, ...]
    ) -> None:
        super().__init__(ways[0].echo_key, retains=True)
        self._sync = sync
        self._topic = topic
        self._ways = ways
        self._flags = flags

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Note the topic if a way of it has no connection and queues no QoS 0."""
        del properties, payload, receipt
        for way in self._ways:
            lane = way.lane
            if lane.link is not None or lane.keeps_qos0 or isinstance(way, KeepingOutlet):
                continue
            if way.first[self._flags[flags]] < 0x32:
                self._sync.missed(lane, self._topic)

    def with_flags(self, table: tuple[int, ...]) -> ChangeOutlet:
        """The same for messages whose flags are first mapped by `table`."""
        return ChangeOutlet(self._sync, self._topic, self._ways, compose(table, self._flags))
