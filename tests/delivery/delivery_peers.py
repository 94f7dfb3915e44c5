"""What the tests of delivery/ stand on: a link without a network, lanes, sources, and a clock.

The doubles are subclasses of the real classes: compiled, those have typed attributes which take
nothing else. What goes over a link is read with the parser of `raw`, which knows nothing of the
code under test.
"""

from __future__ import annotations

import logging
from typing import Any

from isthmus.delivery.endpoint import Origin
from isthmus.delivery.lane import Lane
from isthmus.delivery.outlet import KEEP, LaneOutlet
from isthmus.delivery.plan import Plan
from isthmus.delivery.receipt import Receipt, Settler, open_receipt
from isthmus.delivery.source import Source
from isthmus.metrics.drops import Drops
from isthmus.mqtt.connection import Connection
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import Connack, Connect
from isthmus.net.link import Link, Turn
from isthmus.net.timers import Wheel
from raw import PUBACK, PUBLISH, PUBREL, Packet, read_properties, read_varint

LOG = logging.getLogger("isthmus.tests")


class Time:
    """A monotonic clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float, reactor: Reactor | None = None) -> None:
        """Let time go by; timers of `reactor` that are due fire."""
        self.now += seconds
        if reactor is not None:
            reactor.now = self.now
            # A timer may be 100 ms late.
            reactor.wheel.expire(self.now + 0.1, 1.0)


TIME = Time()


class Reactor(Turn):
    """As much of a reactor as links and lanes ask for. It never flushes."""

    def __init__(self) -> None:
        super().__init__(TIME.now)
        self.in_turn = True
        self.wheel = Wheel(TIME.now, lambda deadline: None)
        self.loop = self
        self.soon: list[Any] = []

    def call_soon(self, function: Any) -> None:
        """As the event loop: called by the test, later."""
        self.soon.append(function)

    def ending(self, link: Link) -> None: ...

    def bury(self, sock: object) -> None: ...


class NoSocket:
    def fileno(self) -> int:
        return -1


class Wire(Link):
    """A link whose bytes stay in `out` until `take`."""

    def __init__(self, reactor: Reactor | None = None) -> None:
        super().__init__(reactor or Reactor(), NoSocket(), "test")
        self.paused = False
        self.pauses = 0
        self.resumes = 0

    def pause(self) -> None:
        self.pauses += 1
        self.paused = True

    def resume(self) -> None:
        self.resumes += 1
        self.paused = False

    def close(self, reason: str) -> None:
        self.closed = True
        self.reason = reason

    def take(self, version: int = 5) -> list[Packet]:
        """What was sent since the last call; the rule of `out` is checked on the way."""
        touched = [link for link in self.reactor.touched if link is self]
        assert bool(touched) == bool(self.out), "who appends to an empty list calls touch first"
        assert len(touched) <= 1, "touched more than once"
        self.reactor.touched = [link for link in self.reactor.touched if link is not self]
        data = b"".join(self.out)
        self.out.clear()
        return parse(data, version)


def parse(data: bytes, version: int) -> list[Packet]:
    found = []
    at = 0
    while at < len(data):
        first = data[at]
        size, at = read_varint(data, at + 1)
        body = data[at : at + size]
        assert len(body) == size, "half a packet"
        at += size
        found.append(_packet(Packet(first >> 4, first & 15, body), version))
    return found


def _packet(packet: Packet, version: int) -> Packet:
    body = packet.body
    if packet.kind == PUBLISH:
        end = 2 + int.from_bytes(body[:2], "big")
        packet.topic = body[2:end].decode()
        if packet.qos:
            packet.packet_id = int.from_bytes(body[end : end + 2], "big")
            assert packet.packet_id
            end += 2
        if version == 5:
            packet.properties, end = read_properties(body, end)
        packet.payload = body[end:]
    elif packet.kind in range(PUBACK, 8):
        packet.packet_id = int.from_bytes(body[:2], "big")
        if len(body) > 2:
            packet.code = body[2]
        if packet.kind == PUBREL:
            assert packet.flags == 2
    return packet


def payloads(packets: list[Packet]) -> list[str]:
    return [packet.payload.decode() for packet in packets if packet.kind == PUBLISH]


def wire_id(packet_id: int) -> bytes:
    return packet_id.to_bytes(2, "big")


# -- receipts ------------------------------------------------------------------------------------


class Owed(Settler):
    """Takes receipts back; notes the order."""

    def __init__(self, *, v5: bool = True) -> None:
        super().__init__()
        self.v5 = v5
        self.done: list[Receipt] = []
        self.pressed = 0

    def settled(self, receipt: Receipt) -> None:
        self.done.append(receipt)

    def press(self) -> None:
        self.pressed += 1

    def receipt(self, prefix: bytes = b"\x40\x02") -> Receipt:
        return open_receipt(self, prefix)


# -- lanes ---------------------------------------------------------------------------------------


def make_lane(*, blocks: bool = True, **how: Any) -> Lane:
    """A connector's lane, or with `blocks=False` a session's."""
    settings = {
        "max_inflight": 10,
        "max_queued": 1000,
        "max_queued_bytes": 1 << 20,
        "max_unsent_bytes": 1 << 20,
    }
    return Lane(Drops("test", LOG), blocks=blocks, **{**settings, **how})


def attach(lane: Lane, wire: Wire | None = None, **how: Any) -> Wire:
    """Give `lane` a connection."""
    wire = wire or Wire()
    settings = {
        "v5": True,
        "session_present": False,
        "receive_maximum": 65_535,
        "max_packet": 268_435_460,
    }
    lane.attach(wire, **{**settings, **how})
    return wire


def send(
    lane: Lane,
    payload: str | bytes,
    *,
    qos: int = 1,
    topic: bytes = b"t",
    receipt: Receipt | None = None,
    properties: bytes = b"",
    memory: bool = False,
    retain: bool = False,
) -> None:
    """Publish one message to a lane. A receipt gets the next packet identifier, as in a read."""
    if receipt is not None:
        receipt.ids.append(wire_id(len(receipt.ids) + 1))
    data = payload.encode() if isinstance(payload, str) else payload
    outlet = LaneOutlet(lane, topic, KEEP, memory=memory)
    outlet.send(qos << 1 | retain, properties, data, receipt)


def expiry(seconds: int) -> bytes:
    return b"\x02" + seconds.to_bytes(4, "big")


# -- sources -------------------------------------------------------------------------------------


class Near(Source):
    """A client's connection. `plans` says where topics go; what is asked is noted."""

    def __init__(
        self,
        plans: dict[bytes, list[Any]] | None = None,
        *,
        version: int = 5,
        max_unacked: int = 10,
        pausable: bool = True,
        lane: Lane | None = None,
    ) -> None:
        wire = Wire()
        connection = Connection(Role.SERVER, now=TIME.now, out=wire.out)
        super().__init__(wire, connection, max_unacked)
        properties: dict[Any, Any] = {}
        hello = Connect("near", version, False, 0, None, None, None, properties)
        far = Connection(Role.CLIENT, now=TIME.now)
        far.send(hello)
        connection.receive(b"".join(far.take()), TIME.now)
        connection.send(Connack(False, 0, {}))
        wire.out.clear()
        self.v5 = version == 5
        self.version = version
        self.lane = lane or make_lane(blocks=False)
        self.origin = Origin(self, "near", "")
        self.outlets = plans if plans is not None else {}
        self.pausable = pausable
        self.asked: list[bytes] = []
        self.handled: list[Any] = []
        self.excess = 0

    @property
    def wire(self) -> Wire:
        wire = self.link
        assert isinstance(wire, Wire)
        return wire

    def send(self, *packets: bytes) -> list[Packet]:
        """Receive these packets in one read; what was answered."""
        self.receive(b"".join(packets))
        return self.wire.take(self.version)

    def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
        self.asked.append(topic)
        plan = Plan()
        for outlet in self.outlets.get(topic, ()):
            plan.add(outlet)
        return plan

    def handle(self, event: Any) -> None:
        if not self.handle_flow(event):
            self.handled.append(event)

    def may_pause(self) -> bool:
        return self.pausable

    def refuse_excess(self) -> None:
        self.excess += 1
        self.end()

    def close_reason(self, reason: str) -> None:
        self.end()

    def end(self) -> None:
        """The connection is gone."""
        if not self.closed:
            self.shut()


def ids(packets: list[Packet], kind: int = PUBACK) -> list[int]:
    """The identifiers of the successful acknowledgements among `packets`."""
    return [packet.packet_id for packet in packets if packet.kind == kind and packet.code < 0x80]
