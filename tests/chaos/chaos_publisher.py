"""The publisher of the crash test: numbered messages, which leave it in order, whatever happens.

Written by hand, with no library: what arrives is judged by the order of the numbers, so they have
to leave in that order. Client libraries do not promise it. The usual one for Python, paho-mqtt,
writes what is published between CONNECT and CONNACK at once, and what waited for the connection
behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from chaos_trace import TOPICS

from raw import PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Raw, ack_packet, publish_packet

WINDOW = 100
"""Messages that are unacknowledged at most."""

RECONNECT_S = 0.05

TICK_S = 0.001

LATE_S = 1.0
"""One that was held back for longer does not make up for it in one burst."""

PACKET_IDS = 65_535


class Publisher:
    """Publishes numbers 0, 1, 2, ... to TOPICS topics in turn, `rate` per second, until `stop`.

    As number `place` of `of` publishers it takes every `of`th number, from `place` on; `of` divides
    TOPICS, so that no two of them share a topic. At most `window` of its messages are without an
    acknowledgement, and each payload has `payload_bytes` at least.

    It keeps its session and comes back by itself. What is unacknowledged then goes first, in the
    order of its first sending (MQTT-4.6.0-1), and only then what is new. `acked` are the numbers
    that the other side has acknowledged to the end, `refused` counts those that it refused with a
    reason code, and `sent` is the next number.
    """

    def __init__(
        self,
        port: int,
        *,
        qos: int,
        rate: float,
        version: int,
        place: int = 0,
        of: int = 1,
        window: int = WINDOW,
        payload_bytes: int = 1,
    ) -> None:
        assert TOPICS % of == 0
        self.acked: set[int] = set()
        self.refused = 0
        self.sent = place
        self.of = of
        self._place = place
        self._window = window
        self._payload_bytes = payload_bytes
        self._port = port
        self._qos = qos
        self._rate = rate
        self._version = version
        self._begin = time.monotonic()
        self._unacked: dict[int, int] = {}
        self._releasing: dict[int, int] = {}
        self._last_id = 0
        self._stopping = False
        self._task = asyncio.create_task(self._come_back())

    async def stop(self, longest_s: float) -> None:
        """Publish no more, and wait until all is acknowledged."""
        self._stopping = True
        until = time.monotonic() + longest_s
        while (self._unacked or self._releasing) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Leave."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _come_back(self) -> None:
        while True:
            # A refusal or an answer that nobody asked for is an AssertionError: it is tried again,
            # and the course sees that nothing arrives.
            with contextlib.suppress(OSError, EOFError, AssertionError):
                await self._connect()
            await asyncio.sleep(RECONNECT_S)

    async def _connect(self) -> None:
        raw = await Raw.client(
            self._port,
            f"chaos-publisher-{self._place}",
            self._version,
            clean=False,
            session_expiry=3600,
        )
        sending = asyncio.create_task(self._send(raw))
        try:
            while True:
                self._answered(raw, await raw.packet())
        finally:
            sending.cancel()
            raw.close()

    async def _send(self, raw: Raw) -> None:
        old = [ack_packet(PUBREL, packet_id) for packet_id in self._releasing]
        old += [self._packet(*entry, dup=True) for entry in self._unacked.items()]
        raw.send(*old)
        window = min(self._window, raw.hello.properties.get("receive_maximum", self._window))
        while not self._stopping and not raw.writer.is_closing():
            late_s = time.monotonic() - self._begin - self.sent / self.of / self._rate
            if late_s > LATE_S:
                self._begin += late_s
            elif late_s >= 0 and len(self._unacked) + len(self._releasing) < window:
                packet_id = self._next_id()
                self._unacked[packet_id] = self.sent
                raw.send(self._packet(packet_id, self.sent, dup=False))
                self.sent += self.of
            else:
                await asyncio.sleep(TICK_S)

    def _packet(self, packet_id: int, number: int, *, dup: bool) -> bytes:
        topic = f"chaos/{number % TOPICS}"
        payload = b"%0*d" % (self._payload_bytes, number)
        return publish_packet(topic, payload, self._qos, packet_id, dup=dup, version=self._version)

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % PACKET_IDS + 1
            if self._last_id not in self._unacked and self._last_id not in self._releasing:
                return self._last_id

    def _answered(self, raw: Raw, answer: Packet) -> None:
        if answer.kind == PUBCOMP:
            number = self._releasing.pop(answer.packet_id, None)
        else:
            assert answer.kind == (PUBACK if self._qos == 1 else PUBREC), answer
            number = self._unacked.pop(answer.packet_id, None)
            if answer.code >= 0x80:
                self.refused += 1
                return
            if answer.kind == PUBREC:
                if number is not None:
                    self._releasing[answer.packet_id] = number
                if not raw.writer.is_closing():  # it was read before the connection ended
                    raw.send(ack_packet(PUBREL, answer.packet_id))
                return
        if number is not None:
            self.acked.add(number)
