"""The load of the power test: publishers of numbered messages that have several on their way."""

from __future__ import annotations

import asyncio
import contextlib
import random

from raw import PUBACK, PUBCOMP, PUBREC, PUBREL, FarSide, Raw, ack_packet, grant

WINDOW = 16
SIZES = (10, 100, 400, 1500, 6000)
"""Bytes that a payload has at most, each as often as the others."""


class Publisher:
    """Publishes NAME-000000-..., NAME-000001-... on topics below `root`, one after the other.

    Its end, and that of its connection, may come at any time; it publishes nothing twice.
    """

    def __init__(self, name: str, root: str, qos: int, dice: random.Random, **how: bool) -> None:
        self._name, self._root, self._qos, self._dice = name, root, qos, dice
        self._how = how
        self.published = self.acknowledged = 0

    async def run(self, port: int, version: int, count: int) -> None:
        """Connect, publish `count` more, and wait for all acknowledgements."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            await self._run(port, version, count)

    async def _connect(self, port: int, version: int) -> Raw:
        return await Raw.client(port, self._name, version)

    async def _run(self, port: int, version: int, count: int) -> None:
        raw = await self._connect(port, version)
        open_ids: set[int] = set()
        left = count
        while left or open_ids:
            while left and len(open_ids) < WINDOW and not raw.writer.is_closing():
                left -= 1
                open_ids.add(self._publish(raw))
            found = await raw.packet()
            if found.kind == PUBREC:
                self.acknowledged += 1
                raw.send(ack_packet(PUBREL, found.packet_id))
            elif found.kind in (PUBACK, PUBCOMP):
                self.acknowledged += found.kind == PUBACK
                open_ids.discard(found.packet_id)
        raw.close()

    def _publish(self, raw: Raw) -> int:
        number = self.published
        self.published += 1
        filler = bytes([97 + number % 26]) * self._dice.randrange(self._dice.choice(SIZES))
        payload = f"{self._name}-{number:06d}-".encode() + filler
        topic = f"{self._root}/{self._dice.randrange(4)}"
        return raw.publish(topic, payload, self._qos, **self._how)


class Upstream(Publisher):
    """The same as a broker to which Isthmus connects, and which forgets its session each time."""

    def __init__(self, name: str, root: str, qos: int, dice: random.Random) -> None:
        super().__init__(name, root, qos, dice)
        self._side = FarSide()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._side.port

    async def start(self) -> None:
        """Listen."""
        await self._side.start()

    async def stop(self) -> None:
        """Listen no more."""
        await self._side.stop()

    async def _connect(self, port: int, version: int) -> Raw:
        del port, version  # Isthmus comes to us
        while True:
            # The process behind a connection that waited may have gone.
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                raw, _ = await self._side.client()
                await grant(raw)
                return raw
