"""The far broker's stand-in: accepts a bridge, counts what it sends, acknowledges by the batch,
publishes to it.

Run by the runner as `python -m bench.far OPTIONS`. It is no broker: whatever a client publishes is
counted, and what is published is the load of the runner's order, whatever the filter of the
subscription was.
"""

from __future__ import annotations

import heapq
import json
import os
import socket
import struct
import time
from typing import Any

from bench import process, websocket, wire
from bench.ledger import Ledger
from bench.progress import Progress
from bench.stream import Loop, Outflow, Stream

SLOW_READ_BYTES = 8 << 10
STALL_S = 3.0


class FarLink(Stream):
    """One client, normally the bridge under test."""

    def __init__(self, sock: socket.socket, loop: Loop, far: Far) -> None:
        super().__init__(sock, loop)
        self.far = far
        self.version = 4
        self.filters: list[str] = []
        if far.over_websocket:
            self.frames = websocket.Frames(masks=False)

    def other(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == wire.CONNECT:
            size = int.from_bytes(body[:2], "big")
            self.version = body[2 + size] & 0x7F  # without the bridge bit of 3.x
            self.control += b"\x20\x03\0\0\0" if self.version == 5 else b"\x20\x02\0\0"
            self.far.connects += 1
            self.far.connected_at = self.far.connected_at or time.monotonic()
        elif kind == wire.SUBSCRIBE & 0xF0:
            self.subscribe(body)
        elif kind == wire.UNSUBSCRIBE & 0xF0:
            tail = b"\0\0" if self.version == 5 else b""
            self.control += wire.packet(wire.UNSUBACK, body[:2] + tail)
        elif kind == wire.PINGREQ:
            self.control += b"\xd0\0"
        else:
            super().other(first, body)

    def subscribe(self, body: bytes) -> None:
        pos = 2
        if self.version == 5:
            pos += 1 + body[2]
        codes = bytearray()
        while pos < len(body):
            size = int.from_bytes(body[pos : pos + 2], "big")
            self.filters.append(body[pos + 2 : pos + 2 + size].decode())
            codes.append(body[pos + 2 + size] & 3)
            pos += 3 + size
        tail = (b"\0" if self.version == 5 else b"") + codes
        self.far.grant(self, wire.packet(wire.SUBACK, body[:2] + tail), len(codes))

    def answer(self, answers: bytearray) -> None:
        if self.far.ack_delay_s:
            self.far.later(self.far.ack_delay_s, self, bytes(answers))
        else:
            self.control += answers

    def read(self) -> None:
        if not self.far.rate:
            super().read()
            return
        before = self.received
        try:
            data = self.sock.recv(SLOW_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(str(error))
            return
        if not data:
            self.close("end of stream")
            return
        self.feed(data)
        if not self.closed and self.received > before:
            self.far.rest(self, (self.received - before) / self.far.rate)

    def close(self, reason: str) -> None:
        if not self.closed:
            self.far.gone(self)
        super().close(reason)


class Far:
    """The listener, its links and the orders of the runner."""

    def __init__(
        self,
        *,
        collect_s: float = 0.0,
        over_websocket: bool = False,
        progress: str = "",
        port: int = 0,
        ack_delay_s: float = 0.0,
    ) -> None:
        self.over_websocket = over_websocket
        self.progress = Progress(progress)
        self.loop = Loop(collect_s=collect_s)
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.loop.add_reader(self.listener.fileno(), self.accept)
        self.links: list[FarLink] = []
        self.connects = self.resets = self.counted = 0
        # Whoever wants these sets them before the first link comes.
        self.arrivals: list[int] | None = None  # times of arrival in ns
        self.ledger: Ledger | None = None
        self.ack_delay_s = ack_delay_s
        self.rate = self.reset_every_s = 0.0
        self.suback_s = 0.0  # for each SUBSCRIBE, one after the other, of all links
        self.suback_free_at = self.connected_at = self.granted_at = 0.0
        self.granted = self.subscribes = 0  # filters and SUBSCRIBE packets, so far
        self.reset_at = 0.0
        self.timers: list[tuple[float, int, FarLink, bytes | None]] = []
        self.serial = 0

    @property
    def received(self) -> int:
        """PUBLISH packets read so far, of all links."""
        return self.counted + sum(link.received for link in self.links)

    def accept(self, _events: int) -> None:
        try:
            sock, _address = self.listener.accept()
        except BlockingIOError:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.over_websocket:
            sock.settimeout(5)
            websocket.answer(sock)
        sock.setblocking(False)
        link = FarLink(sock, self.loop, self)
        if self.arrivals is not None or self.ledger is not None:
            link.on_publish = self.published
        self.links.append(link)

    def published(
        self, data: bytes, pos: int, count: int, size: int, topic: int, topic_size: int
    ) -> None:
        if self.arrivals is not None:
            self.arrivals.extend([time.monotonic_ns()] * count)
        if self.ledger is not None:
            self.ledger.take(data, pos, count, size, topic, topic_size)

    def grant(self, link: FarLink, suback: bytes, filters: int) -> None:
        """Answer a SUBSCRIBE, after those that are being answered."""
        now = time.monotonic()
        self.granted += filters
        self.subscribes += 1
        if not self.suback_s:
            self.granted_at = now
            link.control += suback
            return
        self.granted_at = self.suback_free_at = max(self.suback_free_at, now) + self.suback_s
        self.later(self.granted_at - now, link, suback)

    def gone(self, link: FarLink) -> None:
        self.counted += link.received
        self.links.remove(link)

    def later(self, delay_s: float, link: FarLink, answers: bytes | None) -> None:
        self.serial += 1
        heapq.heappush(self.timers, (time.monotonic() + delay_s, self.serial, link, answers))

    def rest(self, link: FarLink, delay_s: float) -> None:
        """Read nothing from a link for a while: the rate limit."""
        self.loop.remove(link)
        self.later(delay_s, link, None)
        link.flush()

    def turn(self, timeout: float) -> None:
        if self.timers:
            timeout = max(0.0, min(timeout, self.timers[0][0] - time.monotonic()))
        self.loop.turn(timeout)
        self.progress.count = self.received
        now = time.monotonic()
        # before the acknowledgements that are due: what is cut off is read but not acknowledged
        if self.reset_every_s and now >= self.reset_at:
            self.reset_at = now + self.reset_every_s
            self.reset()
        while self.timers and self.timers[0][0] <= now:
            _due, _serial, link, answers = heapq.heappop(self.timers)
            if link.closed:
                continue
            if answers is None:
                self.loop.add(link)
                link.waiting = False
            else:
                link.control += answers
            link.flush()

    def reset(self) -> None:
        """Cut every link with RST."""
        for link in list(self.links):
            self.resets += 1
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close("reset")

    def wait(self, count: int, timeout: float, stall: float) -> None:
        """Turn until `count` messages have come, or none came for `stall` seconds."""
        start = progress = time.monotonic()
        last = self.received
        while self.received < count:
            self.turn(0.05)
            now = time.monotonic()
            if self.received != last:
                last, progress = self.received, now
            if now - start > timeout or now - progress > stall:
                return

    def wait_granted(self, count: int, timeout: float) -> None:
        """Turn until `count` filters have been granted."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and (self.granted < count or self.timers):
            self.turn(0.05)

    def publish(self, order: dict[str, Any]) -> None:
        """The inbound direction: publish to the bridge, which has subscribed."""
        link = next((link for link in self.links if link.filters), None)
        if link is None:
            raise ConnectionError("no link has subscribed")
        qos, window = order["qos"], order["window"]
        if link.flow is None:
            names = wire.topics(order["prefix"].encode(), order["topics"])
            properties = wire.user_properties(order["properties"])
            block = wire.Block(
                names,
                bytes(order["payload"]),
                qos=qos,
                window=window,
                version=link.version,
                properties=properties,
            )
            link.flow = Outflow(block, qos=qos, window=window)
        flow = link.flow
        flow.total += order["total"]
        deadline = time.monotonic() + order["timeout"]
        burst, arrivals = order["burst"], Progress(order["progress"])
        moved, arrived = time.monotonic(), -1
        while not flow.finished and not link.closed and time.monotonic() < deadline:
            if burst:
                count, now = arrivals.count, time.monotonic()
                if count != arrived:
                    arrived, moved = count, now
                elif now - moved > STALL_S:  # the rest of the burst has been dropped
                    flow.total = -(-flow.sent_bytes // flow.block.size)
                    burst = 0
                flow.allowed = count + burst if burst else None
            if not link.waiting:
                link.flush()
            if not flow.finished:
                self.turn(0.001 if burst else 0.2)
        flow.allowed = None
        if not flow.finished:
            raise TimeoutError(f"{flow.acked} of {flow.total} acknowledged; {link.closed}")

    def order(self, order: dict[str, Any]) -> None:
        """Carry out one line from the runner and answer it."""
        cpu, start = time.process_time(), time.monotonic()
        match order["do"]:
            case "wait":
                self.wait(order["count"], order["timeout"], order["stall"])
            case "wait_granted":
                self.wait_granted(order["count"], order["timeout"])
            case "publish":
                self.publish(order)
            case "slow_subacks":
                self.suback_s = order["suback_s"]
            case "slow":
                self.rate = order["rate"]
                self.ack_delay_s = order["ack_delay_s"]
            case "reset_every":
                self.reset_every_s = order["seconds"]
                self.reset_at = start + self.reset_every_s
            case "ledger":
                self.ledger = Ledger(order["total"], order["topics"], order["prefix"].encode())
            case "judge":
                assert self.ledger is not None
                process.reply(**self.ledger.judge(order["acked"]))
                return
        process.reply(
            received=self.received,
            links=len(self.links),
            connects=self.connects,
            resets=self.resets,
            filters=sum(len(link.filters) for link in self.links),
            different_filters=len({name for link in self.links for name in link.filters}),
            most_filters=max((len(link.filters) for link in self.links), default=0),
            granted=self.granted,
            subscribes=self.subscribes,
            connected_at=self.connected_at,
            granted_at=self.granted_at,
            unique=self.ledger.unique if self.ledger else 0,
            cpu_s=time.process_time(),
            order_cpu_s=time.process_time() - cpu,
            seconds=time.monotonic() - start,
        )


def handle(options: dict[str, Any]) -> None:
    far = Far(**options)
    lines = bytearray()
    open_end = True

    def read_orders(_events: int) -> None:
        nonlocal open_end
        data = os.read(0, 1 << 16)
        lines.extend(data)
        open_end = bool(data)

    far.loop.add_reader(0, read_orders)
    process.reply(port=far.port)
    while open_end:
        far.turn(1.0)
        while b"\n" in lines:
            line, _, rest = bytes(lines).partition(b"\n")
            lines[:] = rest
            far.order(json.loads(line))


if __name__ == "__main__":
    process.serve(handle)
