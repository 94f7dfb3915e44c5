"""MQTT over WebSocket, by hand: RFC 6455 frames on a socket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct

import pytest

from raw import connect_packet, packet, publish_packet, within
from running import bridge, out

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE = 1, 2, 8


def frame(data: bytes, kind: int = BINARY, *, final: bool = True) -> bytes:
    mask = os.urandom(4)
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    return bytes([kind | (0x80 if final else 0)]) + size + mask + body


class Socket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.accept = base64.b64encode(b"x" * 16)

    async def shake(self, *lines: str) -> tuple[int, dict[str, str]]:
        request = [
            "GET /mqtt HTTP/1.1", "Host: test", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self.accept.decode()}", "Sec-WebSocket-Version: 13", *lines,
        ]  # fmt: skip
        self.writer.write(("\r\n".join(request) + "\r\n\r\n").encode())
        answer = (await within(self.reader.readuntil(b"\r\n\r\n"))).decode().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in answer[1:] if line)
        }
        return int(answer[0].split()[1]), headers

    async def receive(self) -> tuple[int, bytes]:
        first, size = await within(self.reader.readexactly(2))
        assert not size & 0x80, "a server masks nothing"
        if size == 126:
            size = struct.unpack(">H", await self.reader.readexactly(2))[0]
        return first & 15, await within(self.reader.readexactly(size))


@pytest.fixture
async def socket(isthmus):
    near = await isthmus({"listeners": [{"bind": "127.0.0.1:0", "transport": "websocket"}]})
    reader, writer = await asyncio.open_connection("127.0.0.1", near.port)
    yield Socket(reader, writer)
    writer.close()


OFFER = "Sec-WebSocket-Protocol: mqtt"


@pytest.mark.parametrize("offer", [OFFER, "Sec-WebSocket-Protocol: other, mqtt"])
async def test_mqtt_6_0_0_4_the_subprotocol_is_mqtt(socket, offer):
    status, headers = await socket.shake(offer)
    assert status == 101
    assert headers["sec-websocket-protocol"] == "mqtt"
    digest = hashlib.sha1(socket.accept + GUID, usedforsecurity=False).digest()
    assert headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
    socket.writer.write(frame(connect_packet("x", 4)))
    assert await socket.receive() == (BINARY, b"\x20\2\0\0")


@pytest.mark.parametrize("lines", [[], ["Sec-WebSocket-Protocol: other"]], ids=["none", "other"])
async def test_mqtt_6_0_0_3_without_mqtt_in_the_offer_there_is_no_session(socket, lines):
    status, headers = await socket.shake(*lines)
    assert headers.get("sec-websocket-protocol") in (None, "mqtt")
    assert status != 101 or "sec-websocket-protocol" not in headers


async def test_mqtt_6_0_0_3_a_connector_offers_mqtt(isthmus):
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[str] = loop.create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not asked.done():
            asked.set_result((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await isthmus(bridge(port, url=f"ws://127.0.0.1:{port}/mqtt", routes={"out": out("out/#")}))
        lines = [line.lower() for line in (await within(asked)).split("\r\n")]
    finally:
        server.close()
    assert lines[0].startswith("get /mqtt ")
    (offer,) = [line for line in lines if line.startswith("sec-websocket-protocol:")]
    assert "mqtt" in [name.strip() for name in offer.partition(":")[2].split(",")]


async def test_mqtt_6_0_0_1_a_text_frame_closes(socket):
    await socket.shake(OFFER)
    socket.writer.write(frame(b"hello", TEXT))
    assert b"\x20\2\0\0" not in await within(socket.reader.read())


async def test_mqtt_6_0_0_2_packets_do_not_keep_to_frames(socket):
    await socket.shake(OFFER)
    stream = connect_packet("x", 4) + packet(0x82, b"\0\1\0\1t\0")
    stream += publish_packet("t", "hello", version=4) + packet(0xC0)
    for at in range(0, len(stream) - 4, 3):
        socket.writer.write(frame(stream[at : at + 3]))
    rest = stream[len(range(0, len(stream) - 4, 3)) * 3 :]
    socket.writer.write(frame(rest[:1], final=False) + frame(rest[1:], 0))
    got = b""
    while not got.endswith(b"\xd0\0"):
        kind, data = await socket.receive()
        assert kind == BINARY
        got += data
    assert got == b"\x20\2\0\0" + b"\x90\3\0\1\0" + b"\x30\x08\0\1thello" + b"\xd0\0"
