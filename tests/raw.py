"""MQTT by hand, over a socket: a client and a far side that do exactly what a test tells them.

Knows nothing of the code under test. Everything that waits gives up after `PATIENCE_S`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

PATIENCE_S = 8.0

OPEN: list[Raw] = []
"""Connections that the running test has made; what it leaves open is closed after it."""

T = TypeVar("T")

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(8, 16)

# name: (identifier, kind); kinds are bytes of an integer, "s" string, "b" binary, "v" varint
PROPERTIES: dict[str, tuple[int, str]] = {
    "payload_format": (1, "1"),
    "expiry": (2, "4"),
    "content_type": (3, "s"),
    "response_topic": (8, "s"),
    "correlation": (9, "b"),
    "subscription_id": (11, "v"),
    "session_expiry": (17, "4"),
    "assigned_id": (18, "s"),
    "server_keep_alive": (19, "2"),
    "auth_method": (21, "s"),
    "auth_data": (22, "b"),
    "request_problem": (23, "1"),
    "will_delay": (24, "4"),
    "request_response": (25, "1"),
    "response_information": (26, "s"),
    "server_reference": (28, "s"),
    "reason": (31, "s"),
    "receive_maximum": (33, "2"),
    "alias_maximum": (34, "2"),
    "alias": (35, "2"),
    "maximum_qos": (36, "1"),
    "retain_available": (37, "1"),
    "user": (38, "p"),
    "maximum_packet": (39, "4"),
    "wildcards": (40, "1"),
    "subscription_ids": (41, "1"),
    "shared": (42, "1"),
}
_NAMES = {identifier: (name, kind) for name, (identifier, kind) in PROPERTIES.items()}


async def within(awaitable: Awaitable[T], seconds: float = PATIENCE_S) -> T:
    async with asyncio.timeout(seconds):
        return await awaitable


async def until(condition: Any, seconds: float = PATIENCE_S) -> None:
    """Wait for a state that nothing announces."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, "waited too long"
        await asyncio.sleep(0.002)


# -- bytes ---------------------------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def packet(first: int, body: bytes = b"") -> bytes:
    return bytes([first]) + varint(len(body)) + body


def properties(**values: Any) -> bytes:
    """The property block of MQTT 5, its length in front."""
    out = b""
    for name, value in values.items():
        identifier, kind = PROPERTIES[name]
        for item in value if isinstance(value, list) else [value]:
            out += bytes([identifier])
            if kind == "s" or kind == "b":
                out += text(item)
            elif kind == "v":
                out += varint(item)
            elif kind == "p":
                out += text(item[0]) + text(item[1])
            else:
                out += int(item).to_bytes(int(kind), "big")
    return varint(len(out)) + out


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def read_properties(data: bytes, at: int = 0) -> tuple[dict[str, Any], int]:
    length, at = read_varint(data, at)
    end = at + length
    found: dict[str, Any] = {}

    def chunk() -> bytes:
        nonlocal at
        size = struct.unpack_from(">H", data, at)[0]
        at += 2 + size
        return data[at - size : at]

    while at < end:
        name, kind = _NAMES[data[at]]
        at += 1
        if kind == "s":
            found[name] = chunk().decode()
        elif kind == "b":
            found[name] = chunk()
        elif kind == "p":
            found.setdefault(name, []).append((chunk().decode(), chunk().decode()))
        elif kind == "v":
            value, at = read_varint(data, at)
            found.setdefault(name, []).append(value)
        else:
            found[name] = int.from_bytes(data[at : at + int(kind)], "big")
            at += int(kind)
    return found, end


def connect_packet(
    client_id: str = "",
    version: int = 5,
    *,
    clean: bool = True,
    keep_alive: int = 60,
    username: str | None = None,
    password: str | None = None,
    will: tuple[str, str | bytes, int, bool] | None = None,
    will_properties: dict[str, Any] | None = None,
    bridge: bool = False,
    **values: Any,
) -> bytes:
    flags = 2 if clean else 0
    payload = text(client_id)
    if will is not None:
        topic, message, qos, retain = will
        flags |= 4 | qos << 3 | retain << 5
        if version == 5:
            payload += properties(**(will_properties or {}))
        payload += text(topic) + text(message)
    for value, bit in ((username, 0x80), (password, 0x40)):
        if value is not None:
            flags |= bit
            payload += text(value)
    level = version | (0x80 if bridge else 0)
    head = text("MQIsdp" if version == 3 else "MQTT") + bytes([level, flags])
    head += struct.pack(">H", keep_alive)
    if version == 5:
        head += properties(**values)
    return packet(0x10, head + payload)


def publish_packet(
    topic: str | bytes,
    payload: str | bytes = b"",
    qos: int = 0,
    packet_id: int = 0,
    *,
    retain: bool = False,
    dup: bool = False,
    version: int = 5,
    **values: Any,
) -> bytes:
    data = payload.encode() if isinstance(payload, str) else payload
    body = text(topic)
    if qos:
        body += struct.pack(">H", packet_id)
    if version == 5:
        body += properties(**values)
    return packet(0x30 | dup << 3 | qos << 1 | retain, body + data)


def ack_packet(kind: int, packet_id: int, code: int | None = None) -> bytes:
    body = struct.pack(">H", packet_id) + (b"" if code is None else bytes([code]))
    return packet(kind << 4 | (2 if kind == PUBREL else 0), body)


# -- what came -----------------------------------------------------------------------------------


@dataclass
class Packet:
    """A packet as it came: type, flags, body, and the fields that its type has."""

    kind: int
    flags: int
    body: bytes
    packet_id: int = 0
    code: int = 0
    codes: list[int] = field(default_factory=list)
    properties: dict[str, Any] = field(default_factory=dict)
    topic: str = ""
    payload: bytes = b""
    session_present: bool = False

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def retain(self) -> bool:
        return bool(self.flags & 1)

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)


@dataclass
class Hello:
    """What a CONNECT says."""

    level: int
    flags: int
    keep_alive: int
    properties: dict[str, Any]
    client_id: str
    username: str | None
    password: bytes | None
    will: tuple[str, bytes, int, bool] | None = None
    will_properties: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return self.level & 0x7F

    @property
    def bridge(self) -> bool:
        return bool(self.level & 0x80)

    @property
    def clean(self) -> bool:
        return bool(self.flags & 2)


def parse_hello(body: bytes) -> Hello:
    size = struct.unpack_from(">H", body)[0]
    at = 2 + size
    level, flags = body[at], body[at + 1]
    keep_alive = struct.unpack_from(">H", body, at + 2)[0]
    at += 4
    found: dict[str, Any] = {}
    if level == 5:
        found, at = read_properties(body, at)

    def chunk() -> bytes:
        nonlocal at
        size = struct.unpack_from(">H", body, at)[0]
        at += 2 + size
        return body[at - size : at]

    client_id = chunk().decode()
    will, will_properties = None, {}
    if flags & 4:
        if level == 5:
            will_properties, at = read_properties(body, at)
        will = (chunk().decode(), chunk(), flags >> 3 & 3, bool(flags & 0x20))
    fields: list[bytes] = []
    while at < len(body):
        fields.append(chunk())
    username = fields.pop(0).decode() if flags & 0x80 else None
    password = fields.pop(0) if flags & 0x40 else None
    return Hello(
        level, flags, keep_alive, found, client_id, username, password, will, will_properties
    )


def auth_packet(code: int, method: str | None, data: bytes | None = None) -> bytes:
    values: dict[str, Any] = {} if method is None else {"auth_method": method}
    if data is not None:
        values["auth_data"] = data
    return packet(AUTH << 4, bytes([code]) + properties(**values))


class Raw:
    """One end of a connection. `version` decides how packets are written and read."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int = 5
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.version = version
        self._ids = 0
        self._put_back: list[Packet] = []

    # -- opening and closing ---------------------------------------------------------------------

    @classmethod
    async def open(cls, port: int, version: int = 5, **how: Any) -> Raw:
        """Only the network connection."""
        reader, writer = await within(asyncio.open_connection("127.0.0.1", port, **how))
        raw = cls(reader, writer, version)
        OPEN.append(raw)
        return raw

    @classmethod
    async def client(
        cls, port: int, client_id: str = "", version: int = 5, *, tls: Any = None, **how: Any
    ) -> Raw:
        """A connection with an open session; its CONNACK is `hello`."""
        raw = await cls.open(port, version, **({"ssl": tls} if tls else {}))
        raw.send(connect_packet(client_id, version, **how))
        raw.hello = await raw.expect(CONNACK)
        assert raw.hello.code == 0, f"refused with {raw.hello.code:#x}"
        return raw

    hello: Packet

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """End with RST, as a crashed machine does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> bytes:
        """Wait until the other side has closed; what came before that."""
        try:
            return await within(self.reader.read())
        except ConnectionError:
            return b""

    # -- packets ---------------------------------------------------------------------------------

    def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))

    async def packet(self) -> Packet:
        """The next packet, whatever it is."""
        if self._put_back:
            return self._put_back.pop(0)
        return await within(self._read())

    async def _read(self) -> Packet:
        first = (await self.reader.readexactly(1))[0]
        size = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        return self._parse(first, await self.reader.readexactly(size))

    def _parse(self, first: int, body: bytes) -> Packet:
        found = Packet(first >> 4, first & 15, body)
        v5 = self.version == 5
        if found.kind == PUBLISH:
            size = struct.unpack_from(">H", body)[0]
            found.topic = body[2 : 2 + size].decode()
            at = 2 + size
            if found.qos:
                found.packet_id = struct.unpack_from(">H", body, at)[0]
                at += 2
            if v5:
                found.properties, at = read_properties(body, at)
            found.payload = body[at:]
        elif found.kind == CONNACK:
            found.session_present, found.code = bool(body[0] & 1), body[1]
            if v5 and len(body) > 2:
                found.properties = read_properties(body, 2)[0]
        elif found.kind in (DISCONNECT, AUTH):
            found.code = body[0] if body else 0
            if v5 and len(body) > 1:
                found.properties = read_properties(body, 1)[0]
        elif PUBACK <= found.kind <= UNSUBACK:
            found.packet_id = struct.unpack_from(">H", body)[0]
            if found.kind in (SUBACK, UNSUBACK):
                at = 2
                if v5:
                    found.properties, at = read_properties(body, 2)
                found.codes = list(body[at:])
            elif found.kind <= PUBCOMP:
                found.code = body[2] if len(body) > 2 else 0
                if v5 and len(body) > 3:
                    found.properties = read_properties(body, 3)[0]
        return found

    async def expect(self, kind: int) -> Packet:
        found = await self.packet()
        assert found.kind == kind, f"expected type {kind}, got {found}"
        return found

    async def arrived(self) -> list[Packet]:
        """What came before the answer to a second PINGREQ; acknowledges nothing.

        The second comes in a later read than all before it: their acknowledgements are out then.
        """
        found = []
        for _ in range(2):
            self.send(packet(PINGREQ << 4))
            while (one := await self.packet()).kind != PINGRESP:
                found.append(one)
        return found

    async def nothing(self) -> None:
        """Nothing has come, and nothing was due."""
        found = await self.arrived()
        assert not found, f"expected nothing, got {found}"

    # -- a client's doings -----------------------------------------------------------------------

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    async def subscribe(
        self, *filters: str, qos: int = 0, options: int = 0, **values: Any
    ) -> list[int]:
        """Subscribe; `options` are the bits above the QoS. Retained messages may follow."""
        packet_id = self.next_id()
        body = struct.pack(">H", packet_id) + (properties(**values) if self.version == 5 else b"")
        body += b"".join(text(filter_) + bytes([options | qos]) for filter_ in filters)
        self.send(packet(0x82, body))
        answer = await self.expect(SUBACK)
        assert answer.packet_id == packet_id
        return answer.codes

    async def unsubscribe(self, *filters: str) -> list[int]:
        packet_id = self.next_id()
        body = struct.pack(">H", packet_id) + (b"\0" if self.version == 5 else b"")
        self.send(packet(0xA2, body + b"".join(text(filter_) for filter_ in filters)))
        passed = []
        while (answer := await self.packet()).kind != UNSUBACK:
            passed.append(answer)
        self._put_back = passed + self._put_back
        return answer.codes

    def publish(self, topic: str, payload: str | bytes = b"", qos: int = 0, **how: Any) -> int:
        """Send a PUBLISH; its packet identifier."""
        packet_id = how.pop("packet_id", None) or (self.next_id() if qos else 0)
        self.send(publish_packet(topic, payload, qos, packet_id, version=self.version, **how))
        return packet_id

    async def published(
        self, topic: str, payload: str | bytes = b"", qos: int = 1, **how: Any
    ) -> int:
        """Publish and wait for the whole exchange; the reason code."""
        packet_id = self.publish(topic, payload, qos, **how)
        if not qos:
            await self.nothing()
            return 0
        answer = await self.expect(PUBACK if qos == 1 else PUBREC)
        assert answer.packet_id == packet_id
        if qos == 2 and answer.code < 0x80:
            self.send(ack_packet(PUBREL, packet_id))
            assert (await self.expect(PUBCOMP)).packet_id == packet_id
        return answer.code

    async def message(self, *, resumed: bool = False) -> Packet:
        """The next message, acknowledged to the end.

        With `resumed`, PUBREL may come before it, of what was not known to be completed.
        """
        while (found := await self.packet()).kind == PUBREL and resumed:
            self.send(ack_packet(PUBCOMP, found.packet_id))
        assert found.kind == PUBLISH, f"expected a message, got {found}"
        if found.qos == 1:
            self.send(ack_packet(PUBACK, found.packet_id))
        elif found.qos == 2:
            self.send(ack_packet(PUBREC, found.packet_id))
            passed = []
            while (release := await self.packet()).kind != PUBREL:
                passed.append(release)  # of other messages
            self._put_back = passed + self._put_back
            assert release.packet_id == found.packet_id
            self.send(ack_packet(PUBCOMP, found.packet_id))
        return found


class FarSide:
    """A scripted far broker: accepts connections and leaves every answer to the test."""

    def __init__(self, version: int = 5) -> None:
        self.version = version
        self.port = 0
        self._server: asyncio.Server | None = None
        self._accepted: asyncio.Queue[Raw] = asyncio.Queue()
        self._all: list[Raw] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer, self.version)
        self._all.append(raw)
        self._accepted.put_nowait(raw)

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        self.stop_listening()
        for raw in self._all:
            raw.writer.transport.abort()

    async def accept(self) -> Raw:
        """The next connection, before its CONNECT."""
        return await within(self._accepted.get())

    async def client(
        self, *, session_present: bool = False, code: int = 0, **values: Any
    ) -> tuple[Raw, Hello]:
        """The next connection with its CONNECT answered."""
        raw = await self.accept()
        hello = parse_hello((await raw.expect(CONNECT)).body)
        raw.version = hello.version
        body = bytes([session_present, code])
        if raw.version == 5:
            body += properties(**values)
        raw.send(packet(0x20, body))
        return raw, hello


async def grant(far: Raw, *codes: int) -> list[tuple[str, int]]:
    """Answer a SUBSCRIBE at the far side; the filters with their option bytes."""
    request = await far.expect(SUBSCRIBE)
    body, at = request.body, 2
    if far.version == 5:
        at = read_properties(body, at)[1]
    filters = []
    while at < len(body):
        size = struct.unpack_from(">H", body, at)[0]
        filters.append((body[at + 2 : at + 2 + size].decode(), body[at + 2 + size]))
        at += 3 + size
    answer = struct.pack(">H", request.packet_id) + (b"\0" if far.version == 5 else b"")
    granted = codes or [options & 3 for _, options in filters]
    far.send(packet(0x90, answer + bytes(granted)))
    return filters
