"""Publishers of numbered QoS 1 messages, for the soak.

Connection c of n sends the numbers c, c + n, c + 2n and so on; a topic belongs to one connection,
so that order per topic is defined. Run by the soak as `python -m bench.numbered OPTIONS`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from bench import process, wire
from bench.client import Client, Target, log_in
from bench.ledger import payload, topic_of
from bench.stream import Loop

BATCH = 50


class Numbered(Client):
    """A client that counts the PUBACKs of its numbered messages, which come in order."""

    version = 4
    acked = sent = unordered = 0

    def acknowledgements(self, data: bytes, pos: int, first: int) -> int:
        if first != wire.PUBACK:
            raise ValueError(f"unexpected packet 0x{first:02x}")
        packet_id = data[pos + 2] << 8 | data[pos + 3]
        if packet_id != self.acked % wire.MAX_IDS + 1:
            self.unordered += 1
        self.acked += 1
        return pos + 4

    def other(self, first: int, body: bytes) -> None:
        if first == wire.PUBACK:  # with a reason code
            if body[2] >= 0x80:
                raise ValueError(f"PUBACK with reason 0x{body[2]:02x}")
            self.acked += 1
        else:
            super().other(first, body)


def publish_more(client: Numbered, index: int, options: dict[str, Any]) -> None:
    """Fill the window of one connection."""
    step, total, topics = options["connections"], options["total"], options["topics"]
    mine = len(range(index, total, step))
    limit = min(mine, client.acked + options["window"], client.sent + BATCH)
    while client.sent < limit:
        number = index + client.sent * step
        topic = topic_of(number, topics)
        client.control += wire.publish(
            topic,
            payload(number, topic),
            qos=1,
            packet_id=client.sent % wire.MAX_IDS + 1,
            version=client.version,
        )
        client.sent += 1
    if client.control and not client.waiting:
        client.flush()


def handle(options: dict[str, Any]) -> None:
    target = Target(**options["target"])
    if options["topics"] % options["connections"]:
        raise ValueError("topics must be a multiple of connections")
    loop = Loop()
    clients = [Numbered(target, loop) for _ in range(options["connections"])]
    for index, client in enumerate(clients):
        client.version = target.version
        log_in(client, loop, target, f"soak-{index}")
    process.reply(ready=True)
    next(process.requests())  # start
    start = time.monotonic()
    deadline = start + options["timeout"]
    pinged = start
    total = options["total"]
    why = ""
    while sum(client.acked for client in clients) < total:
        now = time.monotonic()
        why = next((f"connection closed: {c.closed}" for c in clients if c.closed), "")
        if now > deadline:
            why = "not everything acknowledged in time"
        if why:
            break
        if now - pinged > 20:
            pinged = now
            for client in clients:
                client.control += b"\xc0\0"
        for index, client in enumerate(clients):
            publish_more(client, index, options)
        loop.turn(0.05)
    process.reply(
        acked=[client.acked for client in clients],
        sent=[client.sent for client in clients],
        unordered=sum(client.unordered for client in clients),
        seconds=time.monotonic() - start,
        why=why,
    )
    os.read(0, 1)  # keep the connections until the runner has its figures


if __name__ == "__main__":
    process.serve(handle)
