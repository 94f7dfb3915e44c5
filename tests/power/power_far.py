"""A far broker that keeps its session, over connections and over its own downtime.

It owns a message with its first arrival, and holds the identifier of a QoS 2 message until PUBREL:
what comes under a held identifier is a repetition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from raw import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Packet,
    Raw,
    ack_packet,
    packet,
    parse_hello,
)


class FarBroker:
    """Listens on `port` while it is up; `arrived` has what came, in order, as (topic, payload).

    `delay_s` is how long an acknowledgement takes. `on_packet` is called for each packet that came,
    before it is answered, and `on_answered` behind the answer.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.delay_s = 0.0
        self.on_packet: Callable[[Packet], None] = lambda _: None
        self.on_answered: Callable[[Packet], None] = lambda _: None
        self.arrived: list[tuple[str, bytes]] = []
        self.held: set[int] = set()
        self.session = False
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        """Whether it takes connections."""
        return self._server is not None

    async def up(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse connections, and drop those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError
        ):
            await self._talk(Raw(reader, writer))
        self._connections.discard(task)
        writer.transport.abort()

    async def _talk(self, raw: Raw) -> None:
        hello = await raw._read()
        assert hello.kind == CONNECT
        said = parse_hello(hello.body)
        raw.version = said.version
        if said.clean:
            self.session = False
            self.held.clear()
        raw.send(packet(0x20, bytes([self.session, 0]) + (b"\0" if said.version == 5 else b"")))
        self.session = True
        await self._listen(raw)

    async def _listen(self, raw: Raw) -> None:
        """Take and answer what comes in an open session, until it ends."""
        loop = asyncio.get_running_loop()
        while True:
            found = await raw._read()
            self.on_packet(found)
            if answer := self.take(found):
                if self.delay_s:
                    loop.call_later(self.delay_s, self._send, raw, found, answer)
                else:
                    self._send(raw, found, answer)
            elif found.kind == DISCONNECT:
                return

    def _send(self, raw: Raw, found: Packet, answer: bytes) -> None:
        if not raw.writer.is_closing():
            raw.send(answer)
            self.on_answered(found)

    def take(self, found: Packet) -> bytes:
        """Take a packet of an open session; what is to be answered."""
        if found.kind == PINGREQ:
            return packet(PINGRESP << 4)
        if found.kind == PUBREL:
            self.held.discard(found.packet_id)
            return ack_packet(PUBCOMP, found.packet_id)
        if found.kind != PUBLISH:
            return b""
        if found.qos < 2 or found.packet_id not in self.held:
            self.arrived.append((found.topic, found.payload))
        if found.qos == 2:
            self.held.add(found.packet_id)
            return ack_packet(PUBREC, found.packet_id)
        return ack_packet(PUBACK, found.packet_id) if found.qos else b""
