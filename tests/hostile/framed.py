"""A hostile client behind WebSocket: `Raw`, whose bytes travel in frames that a test may choose."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from raw import OPEN, Raw, within

KEY = b"\x01\x02\x03\x04"

REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: mqtt\r\n{more}\r\n"
)


def request(port: int, more: str = "", path: str = "/mqtt", host: str = "") -> bytes:
    """A request for MQTT over WebSocket; `more` are further header lines."""
    return REQUEST.format(path=path, host=host or f"127.0.0.1:{port}", more=more).encode()


def frame(payload: bytes = b"", first: int = 0x82, *, size: int | None = None) -> bytes:
    """One masked frame; `size` is what it says of its length, if that is a lie."""
    told = len(payload) if size is None else size
    head = bytes([first])
    if told < 126:
        head += bytes([0x80 | told])
    elif told < 1 << 16:
        head += b"\xfe" + struct.pack(">H", told)
    else:
        head += b"\xff" + struct.pack(">Q", told)
    mask = (KEY * (len(payload) // 4 + 1))[: len(payload)]
    body = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + KEY + body.to_bytes(len(payload), "big")


class Framed(Raw):
    """A `Raw` in frames: `send` makes one of each call, `raw_send` is for bytes as they are."""

    @classmethod
    async def open(cls, port: int, version: int = 5, **how: Any) -> Framed:
        reader, writer = await within(asyncio.open_connection("127.0.0.1", port, **how))
        inner = asyncio.StreamReader()
        framed = cls(inner, writer, version)
        OPEN.append(framed)
        writer.write(request(port))
        answer = await within(reader.readuntil(b"\r\n\r\n"))
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        framed.closing = b""
        framed.pump = asyncio.ensure_future(framed.unframe(reader, inner))
        return framed

    closing: bytes
    """What the close frame of the broker said."""
    pump: asyncio.Future[None]

    async def unframe(self, reader: asyncio.StreamReader, inner: asyncio.StreamReader) -> None:
        try:
            while True:
                first, size = await reader.readexactly(2)
                if size == 126:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                payload = await reader.readexactly(size)
                if first == 0x82:
                    inner.feed_data(payload)
                elif first == 0x88:
                    self.closing = payload
        except (asyncio.IncompleteReadError, OSError):
            inner.feed_eof()

    def send(self, *packets: bytes) -> None:
        self.writer.write(frame(b"".join(packets)))

    def raw_send(self, data: bytes) -> None:
        self.writer.write(data)
