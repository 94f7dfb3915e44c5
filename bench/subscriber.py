"""Load generator's other end: local subscribers that count, and the subscription churn.

Run by the runner as `python -m bench.subscriber OPTIONS`.
"""

from __future__ import annotations

import time
from typing import Any

from bench import process, wire
from bench.client import Client, Target, open_client
from bench.progress import Progress
from bench.stream import Loop


def wait_for(
    loop: Loop, clients: list[Client], count: int, order: dict[str, Any], progress: Progress
) -> int:
    """Turn until the clients have `count` messages, or none came for `stall` seconds."""
    start = moved = time.monotonic()
    last = received = sum(client.received for client in clients)
    while received < count:
        loop.turn(0.05)
        now = time.monotonic()
        received = sum(client.received for client in clients)
        if received != last:
            last, moved = received, now
            progress.count = received
        if now - start > order["timeout"] or now - moved > order["stall"]:
            break
    return received


def churn_filter(change: int) -> bytes:
    """The filter of one subscription: half a reply topic of its own, as request/reply over HTTP
    makes it, a quarter one of the live topics, a quarter a wildcard over 100 of them.
    """
    kind = change % 4
    if kind == 0:
        return b"bench/%03d/%02d" % (change % 97, change % 100)
    if kind == 1:
        return b"bench/%03d/+" % (change % 89)
    return b"bench/reply/%06d" % (change % 1_000_000)


def churn(client: Client, loop: Loop, target: Target, rate: float, seconds: float) -> int:
    """Subscribe and unsubscribe in turn, `rate` changes per second, evenly spread; returns the
    changes.
    """
    start = time.monotonic()
    stop = start + seconds
    made = 0
    while True:
        due = start + made / rate
        now = time.monotonic()
        if due > stop or client.closed:
            break
        if now < due:
            loop.turn(due - now)
            continue
        packet_id = made % 60_000 + 2
        name = churn_filter(made // 2)
        if made % 2 == 0:
            client.control += wire.subscribe(packet_id, name, qos=0, version=target.version)
        else:
            client.control += wire.unsubscribe(packet_id, name, version=target.version)
        client.flush()
        made += 1
    # the first SUBACK belongs to the subscription made at the start
    loop.until(
        lambda: client.subscribed + client.unsubscribed > made or bool(client.closed),
        10,
        "churn answers",
    )
    if client.closed:
        raise ConnectionError(client.closed)
    return made


def handle(options: dict[str, Any]) -> None:
    target = Target(**options["target"])
    loop = Loop(collect_s=options["collect_s"])
    progress = Progress(options["progress"])
    count = options["connections"]
    # Many subscribers to one filter each get everything, to a prefix each get one topic below it.
    names = [options["filter"].encode()] * count
    if options["own_topics"]:
        names = wire.topics(options["filter"].encode(), count)
    clients = [
        open_client(
            loop,
            target,
            f"bench-subscriber-{i}",
            topic_filter=name,
            qos=options["qos"],
        )
        for i, name in enumerate(names)
    ]
    process.reply(ready=True)
    for order in process.requests():
        cpu = time.process_time()
        if order["do"] == "wait":
            received = wait_for(loop, clients, order["count"], order, progress)
            process.reply(
                received=received,
                each=[client.received for client in clients],
                cpu_s=time.process_time() - cpu,
            )
        else:
            made = 0
            start = time.monotonic()
            if order["rate"]:
                clients[0].subscribed = 1
                clients[0].unsubscribed = 0
                made = churn(clients[0], loop, target, order["rate"], order["seconds"])
            process.reply(
                changes=made, seconds=time.monotonic() - start, cpu_s=time.process_time() - cpu
            )


if __name__ == "__main__":
    process.serve(handle)
