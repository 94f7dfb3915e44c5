"""Shared subscriptions: one message, one member of the group (MQTT 5, 4.8.2).

The group is the lane. What no member has room for waits here, and goes to whoever has room first;
a message that a member had not acknowledged when its connection ended comes back here, before all
others (MQTT-4.8.2-5 allows it at once). It goes on as it was published: what the member got of it
depends on that one's version, QoS and subscription identifier. QoS 2 stays with its member
(MQTT-4.8.2-4), and what a member refuses is discarded and counted (MQTT-4.8.2-6).

Where a member's session is kept on disk, so are the group's messages: see `share_log.py`. Else they
are in memory, and their publishers do not wait.

Members take turns. One that is away is left out, and so is one whose window is full, or for QoS 0
one that does not read. Each member gets its messages in the order of their publication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus.broker.session import Session, Subscription, stamp
from isthmus.broker.shared import Shared
from isthmus.delivery.outlet import KEEP, LaneOutlet, Outlet, compose
from isthmus.delivery.queue import Queue, Queued, expiry
from isthmus.delivery.receipt import PUBACK, Receipt, Settler
from isthmus.mqtt.properties import PropertyId

if TYPE_CHECKING:
    import asyncio

    from isthmus.broker.settings import LimitSettings
    from isthmus.broker.share_log import ShareLog
    from isthmus.delivery.endpoint import Origin
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.plan import Plan
    from isthmus.metrics.drops import Drops
    from isthmus.store.log import Log

EXPIRY = int(PropertyId.MESSAGE_EXPIRY_INTERVAL)

RUN = 64
"""How many messages share a mark, at most."""

SHORT_BYTES = 256
"""A message with a longer topic and properties has a mark of its own."""


class Held(Receipt):
    """Marks QoS 1 messages in the lanes of members, and knows how they were published.

    A run of messages shares one, so that it costs little for each. The lanes' entries carry it, so
    it is forgotten together with the last of them. Nobody waits for it: in the place of packet
    identifiers, `ids` has for each message its topic with the length, first byte, properties, when
    it expires, and its number in the group. The payload is in the lane.
    """

    __slots__ = ()

    ids: list[Any]


class ShareGroup(Settler):
    """The sessions that subscribed to one `$share/{group}/{filter}`.

    `version` changes with the members, `turn` says which of them had the last message. What is
    QoS 1 to a member, or waits, is numbered as it arrives: the `order` of what is in `queue`.
    `kept` is what keeps messages on disk, None while no member's session is there.
    """

    def __init__(self, limits: LimitSettings, drops: Drops) -> None:
        super().__init__()
        self.v5 = True
        self.takes_back = True
        self.version = 0
        self.turn = 0
        self.queue = Queue()
        self.drops = drops
        self.limits = limits
        self.kept: ShareLog | None = None
        self._members: dict[Lane, tuple[Session, Subscription]] = {}
        self._numbered = 0
        self._held_ids: list[Any] = []
        self._held = self._mark(self._held_ids)

    def __len__(self) -> int:
        """How many members there are."""
        return len(self._members)

    # -- members ---------------------------------------------------------------------------------

    def join(self, session: Session, subscription: Subscription) -> None:
        """Add a member, or replace its subscription."""
        lane = session.lane
        if self not in (lane.suppliers or ()):
            lane.suppliers = [*(lane.suppliers or ()), self]
        self._members[lane] = session, subscription
        self.version += 1
        self.supply(lane)

    def leave(self, session: Session) -> None:
        """Remove a member. What is on its way to it stays there while it is connected."""
        if self._members.pop(session.lane, None) is None:
            return
        self.version += 1
        if self.kept is not None:
            if not self._members:
                self.kept.finish()
            elif not any(member.kept for member, _ in self._members.values()):
                self.kept.wind_up()
        self.supply_all()

    def keep(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        """Have messages kept in `log` from now on: a member's session is on disk."""
        if self.kept is None:
            from isthmus.broker.share_log import ShareLog  # who keeps nothing need not pay for it

            self.kept = ShareLog(self, log, loop)
        self.kept.ending = False

    @property
    def connected(self) -> bool:
        """Whether a member is connected."""
        return any(lane.link is not None for lane in self._members)

    def disconnected(self, lane: Lane) -> None:
        """The connection of a member has ended: others get what it has not acknowledged."""
        self.queue.put_back(*(self._returned(item) for item in lane.give_back(self)))
        if self.kept is not None:
            self.kept.disconnected(lane)
        if lane not in self._members:
            lane.suppliers = [found for found in lane.suppliers or () if found is not self] or None
        self.supply_all()

    def _returned(self, item: Queued) -> Queued:
        """A message as it was published, from what a member had of it."""
        mark = item.receipt
        if isinstance(mark, Shared):
            if mark.keeper is self.kept:
                return mark.queued(item.payload)
            published = mark.topic, mark.first, mark.properties, mark.expires, mark.number
        else:
            assert isinstance(mark, Held)
            published = mark.ids[item.place]
        topic, first, properties, expires, number = published
        found = Queued(topic, first, properties, item.payload, None, 0, expires, number)
        return found if self.kept is None else self.kept.adopt(found)

    def supply(self, lane: Lane) -> None:
        """Give a member what waits, as far as it has room and may read it; then others."""
        if self._give(lane) and self.queue:
            self.supply_all()
        if self.kept is not None:
            self.kept.more()

    def supply_all(self) -> None:
        """Give what waits to whoever may have it: what is first may be for one member only."""
        given = True
        while given and self.queue:
            given = False
            for lane in list(self._members):
                given = (lane.has_room() and self._give(lane)) or given

    def _give(self, lane: Lane) -> bool:
        """Give a member what is first; whether it got anything, or something was dropped."""
        found = self._members.get(lane)
        if found is None:
            return False  # it has left, and only what is on its way to it concerns us
        session, subscription = found
        queue = self.queue
        before = len(queue)
        options = subscription.options
        flags = session.flags(options.qos, retain=options.retain_as_published)
        while queue and lane.has_room():
            item = queue.popleft()
            topic = item.topic[2:]
            own = _own_topic(session, subscription, topic)
            if not own:
                if self._readable(topic):
                    queue.put_first(item)
                    break
                self.drops.add("denied", topic)
                if item.receipt is not None:
                    item.receipt.release()
                continue
            first = 0x30 | flags[item.first & 7]
            if first < 0x32 and lane.link is not None and lane.link.blocked:
                queue.put_first(item)  # what it does not read in time would be dropped
                break
            mark = item.receipt
            properties = item.properties + stamp([subscription])
            held, place = None, 0
            if mark is None and first & 6 == 2:
                held = self._hold(item.topic, item.first, item.properties, item.expires, item.order)
                place = len(held.ids) - 1
            own = _with_length(own)
            if isinstance(mark, Shared):
                mark.keeper.give(lane, own, first, properties, item.payload, mark)
            else:
                lane.give(Queued(own, first, properties, item.payload, held, place, item.expires))
        return len(queue) < before

    def hold(self, topic: bytes, flags: int, properties: bytes) -> Held:
        """The mark of a new message that goes to a member at once; `topic` has its length."""
        number = self._numbered = self._numbered + 1
        ids = self._held_ids
        size = len(topic)
        expires = None
        if properties:
            size += len(properties)
            if EXPIRY in properties:  # without that byte there is none, and no need to look
                expires = expiry(properties)
        if size > SHORT_BYTES or len(ids) >= RUN:
            return self._hold(topic, 0x30 | flags, properties, expires, number)
        ids.append((topic, 0x30 | flags, properties, expires, number))
        return self._held

    def _hold(
        self, topic: bytes, first: int, properties: bytes, expires: float | None, number: int
    ) -> Held:
        """The mark of a message, which is the last one in it."""
        published = topic, first, properties, expires, number
        if len(topic) + len(properties) > SHORT_BYTES:
            return self._mark([published])
        ids = self._held_ids
        if len(ids) >= RUN:
            ids = self._held_ids = []
            self._held = self._mark(ids)
        ids.append(published)
        return self._held

    def _mark(self, ids: list[Any]) -> Held:
        held = Held.__new__(Held)
        held.source = self
        held.prefix = PUBACK
        held.ids = ids
        held.holds = 1  # the group's own, which it never gives back
        held.tied = 0
        held.codes = None
        return held

    def enqueue(self, topic: bytes, flags: int, properties: bytes, payload: bytes) -> None:
        """Keep a message that no member has room for; `topic` has its length in front."""
        expires = expiry(properties) if properties else None
        number = self.next_number()
        item = Queued(topic, 0x30 | flags, properties, payload, None, 0, expires, number)
        limits = self.limits
        queue = self.queue
        if len(queue) >= limits.queued_messages or (
            queue and queue.size + item.size > limits.queued_bytes
        ):
            self.drops.add("queue_full", topic[2:])
        else:
            queue.append(item)

    def next_number(self) -> int:
        """The number of the message that has just come."""
        self._numbered += 1
        return self._numbered

    def settled(self, receipt: Receipt) -> None:
        """A message on disk, or that its publisher waits for, needs no delivery any more."""
        assert isinstance(receipt, Shared)
        receipt.keeper.settled(receipt)

    def ways(self, topic: bytes) -> list[LaneOutlet]:
        """The ways to the members that may read `topic`."""
        found = []
        for lane, (session, subscription) in self._members.items():
            own = _own_topic(session, subscription, topic)
            if own:
                options = subscription.options
                flags = session.flags(options.qos, retain=options.retain_as_published)
                found.append(
                    LaneOutlet(lane, own, flags, memory=False, stamp=stamp([subscription]))
                )
        return found

    def _readable(self, topic: bytes) -> bool:
        return any(
            _own_topic(session, subscription, topic)
            for session, subscription in self._members.values()
        )

    # -- what the exchange and the lanes ask -----------------------------------------------------

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        """Add the one way to this group; which member it leads to is decided per message."""
        del options, origin
        plan.add(ShareOutlet(self, topic))


def _own_topic(session: Session, subscription: Subscription, topic: bytes) -> bytes:
    """What a member calls `topic`; empty if it may not read it."""
    may_read = session.rights.may_read(session.principal, topic)
    return session.topic_for(topic, subscription) if may_read else b""


def _with_length(topic: bytes) -> bytes:
    return len(topic).to_bytes(2, "big") + topic


class ShareOutlet(Outlet):
    """One topic to one member of a group at a time."""

    __slots__ = ("_flags", "_group", "_topic", "_version", "_ways", "_whole_topic")

    def __init__(self, group: ShareGroup, topic: bytes, flags: tuple[int, ...] = KEEP) -> None:
        super().__init__()
        self._group = group
        self._topic = topic
        self._whole_topic = _with_length(topic)
        self._flags = flags
        self._version = -1
        self._ways: list[LaneOutlet] = []

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Send one message to the next member that has room, or keep it; see `Outlet.send`."""
        group = self._group
        if self._version != group.version:
            self._version = group.version
            self._ways = group.ways(self._topic)
        ways = self._ways
        flags = self._flags[flags]
        if not ways:
            group.drops.add("denied", self._topic)
            return
        connected = None
        kept = group.kept if flags >= 2 else None
        if not (flags >= 2 and (group.queue or (kept is not None and kept.behind))):
            count = len(ways)
            for _ in ways:
                turn = group.turn = (group.turn + 1) % count
                way = ways[turn]
                lane = way.lane
                link = lane.link
                if link is None:
                    continue
                connected = way
                first = way.first[flags]
                if lane.has_room() if first >= 0x32 else not link.blocked:
                    if kept is not None:
                        kept.send(way, self._whole_topic, flags, properties, payload, receipt)
                        return
                    held = group.hold(self._whole_topic, flags, properties) if first & 2 else None
                    if held is not None and lane.waiting:
                        # What it has on disk for itself need not go before this.
                        lane.give(way.item(first, properties, payload, held))
                    else:
                        way.send(flags, properties, payload, held)
                    return
        if kept is not None:
            kept.enqueue(self._whole_topic, flags, properties, payload, receipt)
        elif flags >= 2:
            group.enqueue(self._whole_topic, flags, properties, payload)
        elif connected is not None:
            connected.send(flags, properties, payload, None)
        else:
            group.drops.add("link_down", self._topic)

    def with_flags(self, table: tuple[int, ...]) -> ShareOutlet:
        """The same for messages whose flags are first mapped by `table`."""
        return ShareOutlet(self._group, self._topic, compose(table, self._flags))
