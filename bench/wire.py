"""MQTT packets as bytes, for the load generators only.

Everything that is sent during a measurement is encoded here before it starts. The module knows
just as much of MQTT as the generators need, and shares no code with what it measures: a fault in
the codec under test cannot hide itself in the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 0x30, 0x40, 0x50, 0x62, 0x70
CONNECT, CONNACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x82, 0x90
UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 0xA2, 0xB0, 0xC0, 0xD0, 0xE0

BLOCK_BYTES = 8 << 20  # pre-encoded packets of one publisher; small enough for a laptop's memory
MAX_IDS = 60_000  # below 65,535, so that a cycle of identifiers never meets itself in a window


def varint(value: int) -> bytes:
    """Variable byte integer, 0 to 268,435,455."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def string(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


def connect(
    client_id: str,
    *,
    version: int = 4,
    username: str = "",
    password: str = "",
    keep_alive: int = 60,
) -> bytes:
    """CONNECT with a clean session; `version` is the protocol level, 4 or 5."""
    flags = 0x02 | (0x80 if username else 0) | (0x40 if password else 0)
    body = string(b"MQTT") + bytes((version, flags)) + keep_alive.to_bytes(2, "big")
    if version == 5:
        body += b"\0"
    body += string(client_id.encode())
    if username:
        body += string(username.encode())
    if password:
        body += string(password.encode())
    return packet(CONNECT, body)


def subscribe(packet_id: int, topic_filter: bytes, *, qos: int, version: int = 4) -> bytes:
    head = packet_id.to_bytes(2, "big") + (b"\0" if version == 5 else b"")
    return packet(SUBSCRIBE, head + string(topic_filter) + bytes((qos,)))


def unsubscribe(packet_id: int, topic_filter: bytes, *, version: int = 4) -> bytes:
    head = packet_id.to_bytes(2, "big") + (b"\0" if version == 5 else b"")
    return packet(UNSUBSCRIBE, head + string(topic_filter))


def publish(
    topic: bytes,
    payload: bytes,
    *,
    qos: int = 0,
    packet_id: int = 0,
    version: int = 4,
    properties: bytes = b"",
) -> bytes:
    """PUBLISH; `properties` is a v5 property block without its length."""
    body = string(topic)
    if qos:
        body += packet_id.to_bytes(2, "big")
    if version == 5:
        body += varint(len(properties)) + properties
    return packet(PUBLISH | qos << 1, body + payload)


def user_properties(count: int) -> bytes:
    """A v5 property block of `count` user properties of the size that applications use."""
    return b"".join(
        b"\x26" + string(b"property-%d" % i) + string(b"value-of-%d" % i) for i in range(count)
    )


def topics(prefix: bytes, count: int) -> list[bytes]:
    """`count` topics of equal length, 100 below each middle level: `prefix/017/42`."""
    return [b"%s/%03d/%02d" % (prefix, i // 100, i % 100) for i in range(count)]


def header(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Length of the fixed header and of the whole packet at `pos`; (0, 0) when it is not all
    there.
    """
    head, size = length(data, pos, end)
    return (head, size) if pos + size <= end else (0, 0)


def length(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """The same, also when only the fixed header is there."""
    value = shift = 0
    at = pos + 1
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return at - pos, at - pos + value
        shift += 7
        if shift > 21:
            raise ValueError(f"remaining length longer than four bytes at {data[pos : pos + 8]!r}")
    return 0, 0


def run_length(data: bytes, pos: int, head: int, size: int) -> int:
    """How many packets from `pos` on have the same `size` and the same first `head` bytes.

    Packet i of the run starts at `pos + i * size` because the i before it had the same remaining
    length, which is among the bytes compared; so the answer is exact, at the speed of a slice.
    """
    count = (len(data) - pos) // size
    for i in range(head):
        column = data[pos + i : pos + count * size : size]
        count -= len(column.lstrip(column[:1]))
    return count


class Block:
    """Packets of one size, encoded once, sent in a circle as slices of one buffer."""

    __slots__ = ("acks", "bytes", "count", "size", "view")

    def __init__(
        self,
        names: Sequence[bytes],
        payload: bytes,
        *,
        qos: int,
        window: int,
        version: int = 4,
        properties: bytes = b"",
        seal: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """`seal` puts each packet into a WebSocket frame, where there is WebSocket."""
        first = publish(
            names[0], payload, qos=qos, packet_id=1, version=version, properties=properties
        )
        self.size = len(seal(first))
        room = max(BLOCK_BYTES // self.size, 2 * window, 2)
        self.count = min(
            max(room // len(names), 1) * len(names), MAX_IDS // len(names) * len(names)
        )
        if self.count < 2 * window:
            self.count = 2 * window
        tail = (varint(len(properties)) + properties if version == 5 else b"") + payload
        rest = varint(2 + len(names[0]) + (2 if qos else 0) + len(tail))
        heads = [bytes((PUBLISH | qos << 1,)) + rest + string(name) for name in names]
        if any(len(head) != len(heads[0]) for head in heads):
            raise ValueError("topics of one block must have one length")
        parts: list[bytes] = []
        for i in range(self.count):
            packet_id = (i + 1).to_bytes(2, "big") if qos else b""
            parts.append(seal(heads[i % len(heads)] + packet_id + tail))
        whole = b"".join(parts)
        self.bytes = len(whole)
        self.view = memoryview(whole)
        done = b"\x70\x02" if qos == 2 else b"\x40\x02"
        self.acks = b"".join(done + (i + 1).to_bytes(2, "big") for i in range(self.count))
