"""Who publishes in the kill test: a client, or a broker to which Isthmus connects."""

from __future__ import annotations

import asyncio

from raw import PUBACK, PUBCOMP, PUBREC, PUBREL, SUBSCRIBE, FarSide, Raw, ack_packet, grant

TOPICS = ("far/a", "far/b")


class Publisher:
    """A client that publishes numbered messages, over any number of connections.

    What was not acknowledged it sends again with QoS 1. With QoS 2 it does not, as its identifier
    is not known any more: such a message may arrive once or not at all.
    """

    def __init__(self, qos: int) -> None:
        self._qos = qos
        self._next = 0
        self._open: dict[int, tuple[str, bytes]] = {}
        self._releasing: set[int] = set()
        self.sent: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.again: set[bytes] = set()
        self._raw: Raw | None = None

    async def start(self) -> None:
        """Make ready."""

    async def stop(self) -> None:
        """End its connections."""

    async def connect(self, port: int) -> None:
        """Connect to the broker on `port`, and send what is unacknowledged again."""
        raw = self._raw = await self._connect(port)
        self._send_again(raw)

    def _send_again(self, raw: Raw) -> None:
        waiting, self._open = self._open, {}
        self._releasing.clear()
        if self._qos == 1:
            for topic, payload in waiting.values():
                self.again.add(payload)
                self._open[raw.publish(topic, payload, 1, dup=True)] = topic, payload

    async def _connect(self, port: int) -> Raw:
        return await Raw.client(port, "publisher", 4)

    def _publish(self, raw: Raw, topic: str, payload: bytes) -> int:
        return raw.publish(topic, payload, self._qos)

    async def publish(self, count: int, window: int = 8) -> None:
        """Publish `count` more, and wait for all acknowledgements.

        Raises:
            ConnectionError: The connection has ended.
        """
        raw = self._raw
        assert raw is not None
        releasing = self._releasing
        while count or self._open or releasing:
            while count and len(self._open) < window:
                count -= 1
                topic, payload = TOPICS[self._next % 2], b"m%06d" % self._next
                self._next += 1
                self.sent.add(payload)
                self._open[self._publish(raw, topic, payload)] = topic, payload
            try:
                found = await raw.packet()
            except asyncio.IncompleteReadError:
                raise ConnectionResetError from None
            if found.kind in (PUBACK, PUBREC):
                self.acknowledged.add(self._open.pop(found.packet_id)[1])
            if found.kind == PUBREC:
                releasing.add(found.packet_id)
                raw.send(ack_packet(PUBREL, found.packet_id))
            elif found.kind == PUBCOMP:
                releasing.discard(found.packet_id)
            elif found.kind == SUBSCRIBE:
                raw._put_back.append(found)
                await grant(raw)


class Upstream(Publisher):
    """The same, as a broker that keeps its session with Isthmus: nothing of QoS 2 is given up."""

    def __init__(self, qos: int) -> None:
        super().__init__(qos)
        self._side = FarSide()
        self._session = False
        self._last_id = 0

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

    def _send_again(self, raw: Raw) -> None:
        raw.send(*(ack_packet(PUBREL, packet_id) for packet_id in self._releasing))
        for packet_id, (topic, payload) in self._open.items():
            if self._qos == 1:
                self.again.add(payload)
            raw.publish(topic, payload, self._qos, packet_id=packet_id, dup=True)

    def _publish(self, raw: Raw, topic: str, payload: bytes) -> int:
        self._last_id += 1
        return raw.publish(topic, payload, self._qos, packet_id=self._last_id)

    async def _connect(self, port: int) -> Raw:
        del port  # Isthmus comes to us
        raw, _ = await self._side.client(session_present=self._session)
        if not self._session:
            await grant(raw)
        self._session = True
        return raw
