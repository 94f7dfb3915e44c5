"""Load generator: publishes pre-encoded messages as fast as a window, a pace or the socket allows.

Run by the runner as `python -m bench.publisher OPTIONS`; then one JSON line per load.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from bench import process, wire
from bench.client import Client, Target, open_client, sealer
from bench.progress import Progress
from bench.stream import Loop, Outflow

FLOOD_STEP = 5_000  # messages
TICK_S = 0.001  # how often the clock is looked at
EVEN_RATE = 10_000  # messages/s; up to this each message has a moment of its own
STALL_S = 3.0  # without an arrival: what is under way has been dropped


@dataclass(slots=True)
class Pace:
    """At most `burst` messages under way from end to end, of each message `copies`; 0: no limit."""

    arrivals: Progress
    burst: int = 0
    copies: int = 1


def due(elapsed_s: float, rate: int) -> tuple[int, float]:
    """How many messages of a paced load have to be sent by now, and after how long more have.

    The clock alone decides, not when acknowledgements come: two brokers, or two states of one, then
    get the same messages at the same moments.
    """
    tick_s = 1 / rate if rate <= EVEN_RATE else TICK_S
    ticks = int(elapsed_s / tick_s)
    return round(ticks * tick_s * rate), max(0.0, (ticks + 1) * tick_s - elapsed_s)


def run_stream(
    client: Client, loop: Loop, flow: Outflow, order: dict[str, Any], pace: Pace
) -> None:
    """One load over one connection: `total` messages, or as many as go in `seconds`."""
    burst = pace.burst
    start = moved = time.monotonic()
    deadline = start + order.get("timeout", 120)
    stop = start + order["seconds"] if order.get("seconds") else 0.0
    rate = order.get("rate", 0)
    base = flow.sent_bytes // flow.block.size
    flow.total += order["total"]
    arrived = -1
    while not flow.finished and not client.closed:
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"{flow.acked} of {flow.total} acknowledged")
        tick_s = 0.2
        pause_s = None
        flow.allowed = None
        if stop:
            sent = -(-flow.sent_bytes // flow.block.size)
            if now > stop:
                flow.total, stop = sent, 0.0
            else:  # come back soon to look at the clock
                flow.allowed, tick_s = sent + FLOOD_STEP, 0.0 if not client.waiting else 0.1
        if rate:
            count, pause_s = due(now - start, rate)
            flow.allowed, tick_s = base + count, 0.0
        if burst:
            count = pace.arrivals.count
            if count != arrived:
                arrived, moved = count, now
            elif now - moved > STALL_S:
                flow.total = -(-flow.sent_bytes // flow.block.size)
                flow.allowed = None
                burst = 0
                continue
            most = (count + burst) // pace.copies
            flow.allowed = most if flow.allowed is None else min(flow.allowed, most)
            tick_s = min(tick_s, TICK_S)
        if not client.waiting:
            client.flush()
        if not flow.finished:
            loop.turn(tick_s, pause_s)
    flow.allowed = None
    if client.closed:
        raise ConnectionError(client.closed)
    if flow.unordered:
        raise ValueError(f"{flow.unordered} acknowledgements out of order")


def run_swarm(
    sockets: list[socket.socket],
    packets: list[bytes],
    order: dict[str, Any],
    *,
    collect_s: float,
) -> None:
    """Many publishers with one QoS 1 message in flight each; identifier 1 is free again by then."""
    epoll = select.epoll()
    send = {}
    recv = {}
    for sock, packet in zip(sockets, packets, strict=True):
        fd = sock.fileno()
        epoll.register(fd, select.EPOLLIN)
        send[fd] = (sock.send, packet)
        recv[fd] = sock.recv
    total = order["total"]
    started = acked = 0
    for write, packet in list(send.values())[:total]:
        write(packet)
        started += 1
    puback = b"\x40\x02\0\x01"
    deadline = time.monotonic() + order["timeout"]
    while acked < total:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{acked} of {total} acknowledged")
        if collect_s:
            time.sleep(collect_s)
        for fd, _events in epoll.poll(0.2):
            data = recv[fd](64)
            if data != puback:
                raise ValueError(f"expected one PUBACK, received {data!r}")
            acked += 1
            if started < total:
                write, packet = send[fd]
                write(packet)
                started += 1
    epoll.close()


def handle(options: dict[str, Any]) -> None:
    target = Target(**options["target"])
    qos, window, count = options["qos"], options["window"], options["connections"]
    version = target.version
    collect_s = options["collect_s"]
    pace = Pace(Progress(options["progress"]), options["burst"], options["copies"])
    loop = Loop(collect_s=collect_s)
    names = wire.topics(options["prefix"].encode(), options["topics"])
    payload = bytes(options["payload"])
    properties = wire.user_properties(options["properties"])
    name = options["prefix"].replace("/", "-")
    clients = [open_client(loop, target, f"{name}-publisher-{i}") for i in range(count)]
    flow = None
    packets: list[bytes] = []
    if count == 1:
        block = wire.Block(
            names,
            payload,
            qos=qos,
            window=window,
            version=version,
            properties=properties,
            seal=sealer(target),
        )
        flow = clients[0].flow = Outflow(block, qos=qos, window=window)
    else:
        packets = [
            wire.publish(
                names[i % len(names)],
                payload,
                qos=1,
                packet_id=1,
                version=version,
                properties=properties,
            )
            for i in range(count)
        ]
    process.reply(ready=True)
    for order in process.requests():
        cpu, start = time.process_time(), time.monotonic()
        before = flow.total if flow else 0
        if flow:
            run_stream(clients[0], loop, flow, order, pace)
        else:
            sockets = [client.sock for client in clients]
            run_swarm(sockets, packets, order, collect_s=collect_s)
        process.reply(
            sent=flow.total - before if flow else order["total"],
            seconds=time.monotonic() - start,
            cpu_s=time.process_time() - cpu,
        )


if __name__ == "__main__":
    process.serve(handle)
