"""Who had which message when: read off the packets in a trace.

Payloads are unique, so they name the messages. Times are lines of the trace. Where it is not known
when something took effect, the time is the one that is harder on Isthmus: an acknowledgement has
left when its sending begins, and the far side's has come when its receiving has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from power_trace import NEVER, RECEIVES, SENDS, Call

from raw import CONNECT, PUBACK, PUBLISH, PUBREC, PUBREL, Packet, Raw, parse_hello, read_varint


@dataclass(slots=True)
class Sent:
    """A message that a publisher has sent."""

    topic: str
    qos: int
    retain: bool
    at: int


@dataclass
class Account:
    """Times by payload: `sent` to Isthmus, `acknowledged` by it, and `owned` by a far side.

    `on_link` has all (line, packet) that went to far sides.
    """

    sent: dict[bytes, Sent] = field(default_factory=dict)
    acknowledged: dict[bytes, int] = field(default_factory=dict)
    owned: dict[bytes, int] = field(default_factory=dict)
    on_link: list[tuple[int, Packet]] = field(default_factory=list)


class _Stream:
    """The packets of one direction of a connection."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.version = 4

    def feed(self, data: bytes) -> Iterator[Packet]:
        self._data += data
        while len(self._data) >= 2:
            try:
                size, at = read_varint(self._data, 1)  # type: ignore[arg-type]
            except IndexError:
                return
            if len(self._data) < at + size:
                return
            first, body = self._data[0], bytes(self._data[at : at + size])
            del self._data[: at + size]
            nobody = cast("Any", None)
            found = Raw(nobody, nobody, self.version)._parse(first, body)
            if found.kind == CONNECT:
                self.version = parse_hello(body).version
            yield found


class _Connection:
    """A connection with a publisher or a far side; messages by packet identifier and direction."""

    def __init__(self) -> None:
        self.sent, self.received = _Stream(), _Stream()
        self.published: dict[int, bytes] = {}


def account(
    calls: Iterable[Call],
    port: int,
    far_ports: Iterable[int],
    before: Account | None = None,
    *,
    up_port: int = 0,
) -> Account:
    """Read the account of a trace: of the listener on `port` and of what went to `far_ports`.

    A broker on `up_port` publishes too. `before` is the account of an earlier process on the same
    folder; it is continued.
    """
    found = before or Account()
    far = {*far_ports, up_port} - {0}
    connections: dict[str, _Connection] = {}
    for call in calls:
        if call.name not in SENDS and call.name not in RECEIVES:
            continue
        ports = call.ports
        if ports is None or (ports[0] != port and ports[1] not in far):
            continue
        out = call.name in SENDS
        if call.result is None and not out:
            continue  # nothing came of it
        connection = connections.setdefault(call.target, _Connection())
        stream, other = connection.sent, connection.received
        if not out:
            stream, other = other, stream
        for packet in stream.feed(call.data):
            if packet.kind == CONNECT:
                other.version = stream.version
            if ports[0] == port or ports[1] == up_port:
                _publisher(found, connection, packet, call, out=out)
            else:
                _far_side(found, connection, packet, call, out=out)
    return found


def _publisher(
    found: Account, connection: _Connection, packet: Packet, call: Call, *, out: bool
) -> None:
    if not out and packet.kind == PUBLISH:
        if packet.qos:
            connection.published[packet.packet_id] = packet.payload
        found.sent.setdefault(
            packet.payload, Sent(packet.topic, packet.qos, packet.retain, call.end)
        )
    elif out and packet.kind in (PUBACK, PUBREC) and packet.code < 0x80:
        payload = connection.published[packet.packet_id]
        found.acknowledged.setdefault(payload, call.begin)


def _far_side(
    found: Account, connection: _Connection, packet: Packet, call: Call, *, out: bool
) -> None:
    if out and packet.kind in (CONNECT, PUBLISH, PUBREL):
        found.on_link.append((call.end, packet))
        if packet.kind == PUBLISH and packet.qos:
            connection.published[packet.packet_id] = packet.payload
    elif not out and packet.kind in (PUBACK, PUBREC) and packet.code < 0x80:
        # An answer to what went out on an earlier connection names nothing here.
        payload = connection.published.get(packet.packet_id)
        if payload is not None and call.end < NEVER:
            found.owned.setdefault(payload, call.end)
