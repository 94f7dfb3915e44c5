"""One message at a time: when it arrives at the other end and when its PUBACK comes.

Outward a client publishes and the far end receives, inward the far end publishes and a client
receives. Client and far end are one process here, which polls without sleeping: both times are read
from one clock by one thread, and no wake-up of a generator is part of them. `light` mode is the
quiet client beside a flood; it sees only its PUBACK, and sleeps between messages.

Run by the runner as `python -m bench.latency OPTIONS`.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from bench import process, wire
from bench.client import Target, open_client, sealer
from bench.far import Far
from bench.stream import Outflow, Stream

GAP_NS = 100_000  # between messages, so that what is left of the last one is not part of the next
TOPIC = b"bench/one"
INWARD_TOPIC = b"far/in/one"
INWARD_FILTER = b"in/#"
PUBACK = b"\x40\x02\0\x01"
SO_TIMESTAMPNS = 35  # of Linux; the socket module has no name for it
TIMESPEC = struct.Struct("qq")


def one_at_a_time(
    far: Far,
    flow: Outflow,
    flush: Callable[[], None],
    seen: list[int],
    count: int,
    poll_s: float,
) -> tuple[list[int], list[int]]:
    """Nanoseconds to arrival, whose times come into `seen`, and to PUBACK of `count` messages."""
    arrivals: list[int] = []
    pubacks: list[int] = []
    clock = time.monotonic_ns
    for _ in range(count):
        seen.clear()
        flow.total += 1
        want = flow.total
        puback = 0
        start = clock()
        limit = start + 5_000_000_000
        flush()
        while not puback or not seen:
            far.turn(poll_s)
            if not puback and flow.acked >= want:
                puback = clock()
            if clock() > limit:
                raise TimeoutError(
                    f"message {want}: arrived {bool(seen)}, acknowledged {bool(puback)}"
                )
        arrivals.append(seen[0] - start)
        pubacks.append(puback - start)
        until = clock() + GAP_NS
        while clock() < until:
            far.turn(poll_s)
    return arrivals, pubacks


def beside_a_flood(sock: socket.socket, packet: bytes, count: int, interval_s: float) -> list[int]:
    """Nanoseconds to PUBACK of `count` messages, one every `interval_s` at most.

    It has come when the kernel says so: that this process is woken late is no part of it.
    """
    pubacks = []
    sock.settimeout(30)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    for _ in range(count):
        start = time.time_ns()
        sock.sendall(packet)
        data, noted, _, _ = sock.recvmsg(64, socket.CMSG_SPACE(TIMESPEC.size))
        came = time.time_ns()
        if data != PUBACK:
            raise ValueError(f"expected one PUBACK, received {data!r}")
        for *_, value in noted:  # none in the first moment after it was asked for
            seconds, nanoseconds = TIMESPEC.unpack(value)
            came = seconds * 1_000_000_000 + nanoseconds
        pubacks.append(came - start)
        time.sleep(interval_s)
    return pubacks


def handle(options: dict[str, Any]) -> None:
    seen: list[int] = []
    far = Far()
    far.arrivals = seen
    process.reply(port=far.port)
    poll_s = 0.0 if options["spin"] else 0.05
    requests = process.requests()
    order = next(requests)
    target = Target(**order["target"])
    if order["bridge"]:  # the bridge of the system under test comes to this process
        far.loop.until(lambda: far.connects > 0, 20, "the bridge did not connect")
    inward = options["inward"]
    client = open_client(
        far.loop, target, "bench-light", topic_filter=INWARD_FILTER if inward else b"", qos=1
    )
    publisher: Stream = client
    if inward:
        far.loop.until(lambda: any(link.filters for link in far.links), 20, "no bridge subscribed")
        publisher = next(link for link in far.links if link.filters)
        client.on_publish = far.published
    block = wire.Block(
        [INWARD_TOPIC if inward else options.get("topic", "").encode() or TOPIC],
        bytes(options["payload"]),
        qos=1,
        window=1,
        version=target.version,
        seal=bytes if inward else sealer(target),
    )
    flow = publisher.flow = Outflow(block, qos=1, window=1)
    process.reply(ready=True)
    for order in requests:
        if order["do"] == "one":
            arrivals, pubacks = one_at_a_time(
                far, flow, publisher.flush, seen, order["count"], poll_s
            )
            process.reply(arrivals=arrivals, pubacks=pubacks)
        else:
            packet = wire.publish(
                options.get("topic", "").encode() or TOPIC,
                bytes(options["payload"]),
                qos=1,
                packet_id=1,
                version=target.version,
            )
            pubacks = beside_a_flood(client.sock, packet, order["count"], order["interval_s"])
            process.reply(pubacks=pubacks)


if __name__ == "__main__":
    process.serve(handle)
