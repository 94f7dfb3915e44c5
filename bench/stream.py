"""One connection of a load generator: parses what comes in by runs, sends pre-encoded packets by
slices.

The trick that makes plain Python fast enough: the packets of a run have one size, so counting
them, checking them and building their acknowledgements are a few strided slices for the whole
read, not a loop.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable

from bench import wire
from bench.websocket import Frames

READ_BYTES = 128 << 10
SEND_BYTES = 256 << 10
BIG_BYTES = 16 << 10  # what is missing of a packet of that size is not looked at
BIG_HEAD_BYTES = 512  # more than the headers of any message of a load take
SCRATCH = bytearray(1 << 20)  # never written
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# (data, start of the first packet, packets, size of each, offset of the topic, its length)
PublishHook = Callable[[bytes, int, int, int, int, int], None]


class Outflow:
    """Sends packets of a block, at most `window` of them unacknowledged (QoS 0: no window)."""

    __slots__ = ("acked", "allowed", "block", "qos", "sent_bytes", "total", "unordered", "window")

    def __init__(self, block: wire.Block, *, qos: int, window: int) -> None:
        self.block, self.qos, self.window = block, qos, window
        self.sent_bytes = self.acked = self.total = self.unordered = 0
        self.allowed: int | None = None  # a pace-maker's limit on messages sent so far

    def limit_bytes(self) -> int:
        """How many bytes may have been sent by now."""
        limit = min(self.total, self.acked + self.window) if self.qos else self.total
        if self.allowed is not None and self.allowed < limit:
            limit = self.allowed
        return limit * self.block.size

    @property
    def finished(self) -> bool:
        if self.qos:
            return self.acked >= self.total
        return self.sent_bytes >= self.total * self.block.size

    def took(self, data: bytes, pos: int, count: int) -> None:
        """Take in `count` final acknowledgements of 4 bytes each."""
        at = self.acked % self.block.count * 4
        if data[pos : pos + count * 4] != self.block.acks[at : at + count * 4] and (
            at + count * 4 <= len(self.block.acks)
        ):
            self.unordered += count
        self.acked += count
        if self.acked * self.block.size > self.sent_bytes:
            raise ValueError("more acknowledgements than messages")


class Stream:
    """A non-blocking socket with an MQTT stream on it."""

    secure = False

    def __init__(self, sock: socket.socket, loop: Loop) -> None:
        self.sock, self.loop, self.fd = sock, loop, sock.fileno()
        self.secure = isinstance(sock, ssl.SSLSocket)
        self.frames: Frames | None = None  # WebSocket
        self.rest = b""
        self.skipped = 0  # bytes still to come of a big PUBLISH that is taken apart already
        self.owed = bytearray()  # its acknowledgement
        self.read_bytes = READ_BYTES
        self.control = bytearray()
        self.flow: Outflow | None = None
        self.received = 0
        self.closed = ""
        self.waiting = False  # EPOLLOUT is armed
        self.on_publish: PublishHook | None = None
        loop.add(self)

    def ready(self, events: int) -> None:
        """Called by the loop with the events of this descriptor."""
        if events & ~select.EPOLLOUT:
            self.read()
        if not self.closed and (self.flow is not None or self.control or self.frames is not None):
            self.flush()

    def read(self) -> None:
        plain = not self.secure and self.frames is None
        while not self.closed:
            try:
                if self.skipped and plain:
                    # the kernel throws them away without a copy
                    wanted = min(self.skipped, len(SCRATCH))
                    size = self.sock.recv_into(SCRATCH, wanted, socket.MSG_TRUNC)
                    self.skip(size)
                    if not size:
                        self.close("end of stream")
                    elif not self.skipped:
                        continue
                    return
                data = self.sock.recv(self.read_bytes)
            except WOULD_BLOCK:
                return
            except OSError as error:
                self.close(str(error))
                return
            if not data:
                self.close("end of stream")
                return
            self.feed(data)
            if not self.secure and not self.skipped:
                return

    def feed(self, data: bytes) -> None:
        """Take in all whole packets of `data`."""
        if self.frames is not None:
            try:
                data = self.frames.open(data)
            except ConnectionError as error:
                self.close(str(error))
                return
        pos = min(self.skipped, len(data))
        if pos:
            self.skip(pos)
        elif self.rest:
            data = self.rest + data
        end = len(data)
        while pos + 1 < end:
            first = data[pos]
            head, size = wire.header(data, pos, end)
            if not size:
                if end - pos > BIG_HEAD_BYTES and first & 0xF0 == wire.PUBLISH:
                    pos = self.big(data, pos, end)
                break
            kind = first & 0xF0
            if kind == wire.PUBLISH:
                pos = self.publishes(data, pos, head, size)
            elif size == 4 and (
                kind in {wire.PUBACK, wire.PUBREC, wire.PUBCOMP} or first == wire.PUBREL
            ):
                pos = self.acknowledgements(data, pos, first)
            else:
                self.other(first, data[pos + head : pos + size])
                pos += size
        self.rest = data[pos:]

    def big(self, data: bytes, pos: int, end: int) -> int:
        """Take a PUBLISH whose payload is not all there, if it is big; it counts when it is."""
        length, size = wire.length(data, pos, end)
        if size < BIG_BYTES or self.on_publish is not None:
            return pos
        self.read_bytes = BIG_HEAD_BYTES * 2  # the next one is probably as big
        at = pos + length
        topic_size = data[at] << 8 | data[at + 1]
        qos = data[pos] >> 1 & 3
        at += 2 + topic_size
        if at + 2 > end:
            return pos
        if qos:
            self.owed = bytearray(b"\x40\x02" if qos == 1 else b"\x50\x02") + data[at : at + 2]
        self.skipped = size - (end - pos)
        return end

    def skip(self, size: int) -> None:
        """Bytes of the big PUBLISH came."""
        self.skipped -= size
        if not self.skipped:
            self.received += 1
            if self.owed:
                owed, self.owed = self.owed, bytearray()
                self.answer(owed)

    def publishes(self, data: bytes, pos: int, head: int, size: int) -> int:
        count = wire.run_length(data, pos, head + 2, size)
        stop = pos + count * size
        topic = pos + head + 2
        topic_size = data[topic - 2] << 8 | data[topic - 1]
        qos = data[pos] >> 1 & 3
        if qos:
            at = topic + topic_size
            answers = bytearray((b"\x40\x02\0\0" if qos == 1 else b"\x50\x02\0\0") * count)
            answers[2::4] = data[at:stop:size]
            answers[3::4] = data[at + 1 : stop : size]
            self.answer(answers)
        if self.on_publish is not None:
            self.on_publish(data, pos, count, size, topic - pos, topic_size)
        self.received += count
        return stop

    def acknowledgements(self, data: bytes, pos: int, first: int) -> int:
        count = wire.run_length(data, pos, 2, 4)
        stop = pos + count * 4
        if first in {wire.PUBREC, wire.PUBREL}:
            answers = bytearray(
                (b"\x62\x02\0\0" if first == wire.PUBREC else b"\x70\x02\0\0") * count
            )
            answers[2::4] = data[pos + 2 : stop : 4]
            answers[3::4] = data[pos + 3 : stop : 4]
            self.control += answers
        elif self.flow is not None:
            self.flow.took(data, pos, count)
        return stop

    def answer(self, answers: bytearray) -> None:
        """Queue acknowledgements of PUBLISH packets; the far end overrides it to delay them."""
        self.control += answers

    def other(self, first: int, body: bytes) -> None:
        """One packet that is no plain PUBLISH or acknowledgement."""
        kind = first & 0xF0
        if kind in {wire.PUBACK, wire.PUBCOMP} and self.flow is not None:
            if body[2] >= 0x80:
                raise ValueError(f"acknowledgement with reason 0x{body[2]:02x}")
            self.flow.acked += 1
        elif kind == wire.PUBREC and body[2] < 0x80:
            self.control += b"\x62\x02" + body[:2]
        elif kind == wire.PINGRESP:
            pass
        elif kind == wire.DISCONNECT:
            self.close(f"DISCONNECT {body.hex()}")
        else:
            raise ValueError(f"unexpected packet 0x{first:02x} {body[:32].hex()}")

    def flush(self) -> None:
        """Send what may be sent; control packets go between PUBLISH packets, never inside one."""
        blocked = False
        try:
            flow = self.flow
            if flow is not None and flow.sent_bytes % flow.block.size:
                size = flow.block.size
                self.bulk(flow, (flow.sent_bytes // size + 1) * size)
            out = self.control
            if self.frames is not None:
                self.frames.seal(out)
                out = self.frames.out
            if out:
                sent = self.sock.send(out)
                del out[:sent]
            if not out and flow is not None:
                self.bulk(flow, flow.limit_bytes())
            blocked = bool(out)
        except WOULD_BLOCK:
            blocked = True
        except OSError as error:
            self.close(str(error))
            return
        if blocked is not self.waiting:
            self.waiting = blocked
            self.loop.watch(self)

    def bulk(self, flow: Outflow, limit: int) -> None:
        view, whole = flow.block.view, flow.block.bytes
        while flow.sent_bytes < limit:
            at = flow.sent_bytes % whole
            end = min(at + limit - flow.sent_bytes, whole, at + SEND_BYTES)
            flow.sent_bytes += self.sock.send(view[at:end])

    def close(self, reason: str) -> None:
        if not self.closed:
            self.closed = reason or "closed"
            self.loop.remove(self)
            self.sock.close()


class Loop:
    """An epoll and the objects behind its descriptors.

    `collect_s` is slept before each look at the sockets. A broker that writes every packet by
    itself would wake a generator for each; this way the generator stays cheap, and the broker gets
    work by the batch.
    """

    def __init__(self, *, collect_s: float = 0.0) -> None:
        self.collect_s = collect_s
        self.epoll = select.epoll()
        self.objects: dict[int, Callable[[int], None]] = {}

    def add(self, stream: Stream) -> None:
        self.objects[stream.fd] = stream.ready
        self.epoll.register(stream.fd, select.EPOLLIN)

    def add_reader(self, fd: int, ready: Callable[[int], None]) -> None:
        self.objects[fd] = ready
        self.epoll.register(fd, select.EPOLLIN)

    def watch(self, stream: Stream) -> None:
        if stream.fd in self.objects:
            self.epoll.modify(
                stream.fd, select.EPOLLIN | select.EPOLLOUT if stream.waiting else select.EPOLLIN
            )

    def remove(self, stream: Stream) -> None:
        if self.objects.pop(stream.fd, None) is not None:
            with contextlib.suppress(OSError, ValueError):
                self.epoll.unregister(stream.fd)

    def turn(self, timeout: float, collect_s: float | None = None) -> None:
        """Wait up to `timeout` seconds for events and handle them."""
        pause_s = self.collect_s if collect_s is None else collect_s
        if pause_s:
            time.sleep(pause_s)
        for fd, events in self.epoll.poll(timeout):
            ready = self.objects.get(fd)
            if ready is not None:
                ready(events)

    def until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        """Turn until `done()`; TimeoutError naming `what` after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            self.turn(0.1)
