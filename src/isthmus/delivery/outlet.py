"""Outlets of a lane: hot code, one call per message and target.

The common cases are written out here, without calls: QoS 0 to a link that takes it, QoS 1 with room
in the window. Everything else is the lane's.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from isthmus.delivery import framing
from isthmus.delivery.queue import Queued, expiry
from isthmus.delivery.receipt import PUBREC
from isthmus.mqtt.wire import varint

if TYPE_CHECKING:
    from isthmus.auth.rights import Writer
    from isthmus.delivery.hops import Hops
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.receipt import Receipt
    from isthmus.metrics.traffic import Tally

EMPTY = b""

NO_PROPERTIES = b"\0"
"""An empty property block with its length."""

KEEP: tuple[int, ...] = tuple(range(8))
"""The flag table that changes nothing: `table[qos << 1 | retain]`."""


def flag_table(
    *, qos: int | None = None, max_qos: int = 2, retain: bool | None = None
) -> tuple[int, ...]:
    """The table from the flags of a message to those it is sent with.

    `qos` replaces the quality of service, `max_qos` only lowers it, `retain` sets or clears the
    retain flag; None keeps.
    """
    table = []
    for flags in range(8):
        level = flags >> 1 if qos is None else qos
        bit = flags & 1 if retain is None else retain
        table.append(min(level, max_qos, 2) << 1 | bit)
    return tuple(table)


@cache
def compose(first: tuple[int, ...], then: tuple[int, ...]) -> tuple[int, ...]:
    """The table that applies `first` and then `then`."""
    return tuple(then[flags] for flags in first)


@lru_cache(maxsize=16)
def _with_length(topic: bytes) -> bytes:
    # One for all lanes of a plan: there may be very many.
    return len(topic).to_bytes(2, "big") + topic


@cache
def _first_bytes(flags: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(0x30 | flag for flag in flags)


class Outlet:
    """One way out for one topic, with everything decided that the topic decides.

    `echo_key` is the session or connector that this leads to when a message must not go back to
    where it came from, else None. `retains` marks an outlet that is only used for messages with the
    retain flag; `writer` is set to their publisher, if it is a client, before each one. `hops` is
    the loop guard where the peer passes messages on to other brokers, else None.
    """

    __slots__ = ("echo_key", "hops", "retains", "writer")

    def __init__(
        self, echo_key: object = None, *, retains: bool = False, hops: Hops | None = None
    ) -> None:
        self.echo_key = echo_key
        self.retains = retains
        self.hops = hops
        self.writer: Writer | None = None

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Take one message.

        `flags` are the PUBLISH flags without DUP (QoS in bits 1 and 2, retain in bit 0),
        `properties` the MQTT 5 property block without its length. An outlet that makes the
        acknowledgement wait adds one to `receipt.holds` and releases it once, when the message is
        safe.
        """

    def with_flags(self, table: tuple[int, ...]) -> Outlet | None:
        """The same way out for messages whose flags are first mapped by `table`.

        None if nothing is left of it.
        """
        del table
        return self


class LaneOutlet(Outlet):
    """One topic on one lane.

    `topic` has its two length bytes in front. `memory` releases the publisher as soon as the
    message is in the lane. `stamp` are properties for every message of this topic, such as
    subscription identifiers; MQTT 3 connections do not see them.
    """

    __slots__ = ("bare", "first", "lane", "memory", "stamp", "topic")

    def __init__(
        self,
        lane: Lane,
        topic: bytes,
        flags: tuple[int, ...],
        *,
        memory: bool,
        echo_key: object = None,
        stamp: bytes = b"",
        hops: Hops | None = None,
    ) -> None:
        super().__init__(echo_key, hops=hops)
        self.lane = lane
        self.topic = _with_length(topic)
        self.first = _first_bytes(flags)
        self.memory = memory
        self.stamp = stamp
        self.bare = varint(len(stamp)) + stamp if stamp else NO_PROPERTIES

    def send(  # noqa: C901 - written out, for speed
        self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None
    ) -> None:
        """Send one message, queue it, or drop and count it; see `Outlet.send`."""
        lane = self.lane
        link = lane.link
        first = self.first[flags]
        topic = self.topic
        if first >= 0x32:
            if self.memory and not (lane.full and lane.blocks):
                receipt = None
            entries = lane.entries
            if (
                len(entries) >= lane.room
                or lane.waiting
                or link is None
                or (
                    lane.queues_qos2
                    and (first >= 0x34 or (receipt is not None and receipt.prefix is PUBREC))
                )
            ):
                lane.enqueue(topic, first, properties + self.stamp, payload, receipt)
                return
            free = lane.window.free
            packet_id = free.pop() if free else lane.window.next_id()
            # Also over MQTT 3, which has no codes: the next connection may be of MQTT 5.
            index = 0 if receipt is None else len(receipt.ids) - 1
            block = EMPTY
            if lane.v5:
                block = self.bare
                if properties:
                    properties += self.stamp
                    block = varint(len(properties)) + properties
            if len(topic) + 2 + len(block) + len(payload) > lane.max_body:
                lane.too_large(packet_id, topic, first, properties, payload, receipt, index)
                return
            if receipt is not None:
                receipt.holds += 1
            packet = framing.frame(first, topic, packet_id, block, payload)
            entries[packet_id] = (packet, receipt, index, lane.sent)
        else:
            if link is None:
                lane.away(topic, first, properties + self.stamp, payload)
                return
            block = EMPTY
            if lane.v5:
                block = self.bare
                if properties:
                    properties += self.stamp
                    block = varint(len(properties)) + properties
            if len(topic) + len(block) + len(payload) > lane.max_body:
                lane.drops.add("too_large", topic[2:])
                return
            packet = framing.frame(first, topic, EMPTY, block, payload)
            if link.blocked:
                lane.send_blocked(packet, len(payload))
                return
        if lane.echoes is not None:
            lane.remember(packet)
        if lane.aliases is not None:
            packet = lane.with_alias(packet)
        out = link.out
        if not out:
            link.touch()
        out.append(packet)
        lane.sent += 1
        traffic = lane.traffic
        traffic.sent += 1
        traffic.sent_bytes += len(payload)

    def item(self, first: int, properties: bytes, payload: bytes, receipt: Receipt) -> Queued:
        """The last message of `receipt` as it waits in a lane; `first` is its first byte there."""
        expires = expiry(properties) if properties else None
        place = len(receipt.ids) - 1
        return Queued(self.topic, first, properties + self.stamp, payload, receipt, place, expires)

    def with_flags(self, table: tuple[int, ...]) -> LaneOutlet:
        """The same topic on the same lane, with the flags mapped by `table` first."""
        flags = tuple(self.first[flag] & 7 for flag in table)
        return type(self)(
            self.lane,
            self.topic[2:],
            flags,
            memory=self.memory,
            echo_key=self.echo_key,
            stamp=self.stamp,
            hops=self.hops,
        )


class FanOutlet(Outlet):
    """One topic on many lanes, flags and stamp alike: each version is encoded once per message."""

    __slots__ = ("first", "lanes", "outlets", "stamp", "topic")

    def __init__(self, outlets: list[LaneOutlet]) -> None:
        super().__init__()
        self.outlets = outlets
        self.lanes = [outlet.lane for outlet in outlets]
        self.topic = outlets[0].topic
        self.first = outlets[0].first
        self.stamp = outlets[0].stamp

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Send one message to every lane; see `Outlet.send`."""
        first = self.first[flags]
        if first >= 0x32:
            for outlet in self.outlets:
                outlet.send(flags, properties, payload, receipt)
            return
        topic = self.topic
        properties += self.stamp
        block = varint(len(properties)) + properties
        v3_packet = framing.frame(first, topic, EMPTY, EMPTY, payload)
        v3_size = len(topic) + len(payload)
        v5_packet = EMPTY
        v5_size = v3_size + len(block)
        for lane in self.lanes:
            link = lane.link
            if link is None:
                lane.away(topic, first, properties, payload)
                continue
            packet = v3_packet
            size = v3_size
            if lane.v5:
                if not v5_packet:
                    v5_packet = framing.frame(first, topic, EMPTY, block, payload)
                packet = v5_packet
                size = v5_size
            if size > lane.max_body:
                lane.drops.add("too_large", topic[2:])
            elif link.blocked:
                lane.send_blocked(packet, len(payload))
            else:
                if lane.aliases is not None:
                    packet = lane.with_alias(packet)
                out = link.out
                if not out:
                    link.touch()
                out.append(packet)
                lane.sent += 1
                traffic = lane.traffic
                traffic.sent += 1
                traffic.sent_bytes += len(payload)


class HopsOutlet(Outlet):
    """One topic to all peers that pass it on to other brokers: each message is numbered once."""

    __slots__ = ("guard", "outlets")

    def __init__(self, guard: Hops, outlets: list[Outlet]) -> None:
        super().__init__()
        self.guard = guard
        self.outlets = outlets

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Send one message to every peer with its hops; see `Outlet.send`."""
        properties += self.guard.stamp()
        for outlet in self.outlets:
            outlet.send(flags, properties, payload, receipt)


class CountingOutlet(Outlet):
    """Counts the messages of a topic that go some way, beside the outlets that send them."""

    __slots__ = ("tally",)

    def __init__(self, tally: Tally, *, echo_key: object = None) -> None:
        super().__init__(echo_key)
        self.tally = tally

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Count one message."""
        self.tally.messages += 1


def fanned(outlets: list[Outlet]) -> list[Outlet]:
    """The same ways out, with those joined that differ only in their lane, or that need hops."""
    same: dict[tuple[object, ...], list[LaneOutlet]] = {}
    leaving: list[Outlet] = []
    found: list[Outlet] = []
    for outlet in outlets:
        if outlet.hops is not None:
            leaving.append(outlet)
        elif not isinstance(outlet, LaneOutlet):
            found.append(outlet)
        elif outlet.echo_key is None and (outlet.memory or not outlet.lane.blocks):
            same.setdefault((outlet.topic, outlet.first, outlet.stamp), []).append(outlet)
        else:
            found.append(outlet)
    found.extend(alike[0] if len(alike) == 1 else FanOutlet(alike) for alike in same.values())
    if leaving:
        assert leaving[0].hops is not None
        found.append(HopsOutlet(leaving[0].hops, leaving))
    return found
