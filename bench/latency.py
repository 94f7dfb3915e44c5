"""One message at a time: when it arrives at the far end and when its PUBACK comes.

Publisher and far end are one process here, which polls without sleeping: both times are read from
one clock by one thread, and no wake-up of a generator is part of them. `light` mode is the quiet
client beside a flood; it sees only its PUBACK, and sleeps between messages.

Run by the runner as `python -m bench.latency OPTIONS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench import process, wire
from bench.client import Target, open_client
from bench.far import Far
from bench.stream import Outflow

GAP_NS = 100_000  # between messages, so that what is left of the last one is not part of the next
TOPIC = b"bench/one"


def one_at_a_time(
    far: Far, flow: Outflow, flush: Callable[[], None], count: int, poll_s: float
) -> tuple[list[int], list[int]]:
    """Nanoseconds to arrival and to PUBACK of `count` messages."""
    arrivals: list[int] = []
    pubacks: list[int] = []
    seen = far.arrivals = []
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


def beside_a_flood(
    far: Far, flow: Outflow, flush: Callable[[], None], count: int, interval_s: float
) -> list[int]:
    """Nanoseconds to PUBACK of `count` messages, one every `interval_s` at most."""
    pubacks = []
    for _ in range(count):
        flow.total += 1
        start = time.monotonic_ns()
        flush()
        far.loop.until(lambda: flow.acked >= flow.total, 30, "no PUBACK within 30 s")
        pubacks.append(time.monotonic_ns() - start)
        time.sleep(interval_s)
    return pubacks


def handle(options: dict[str, Any]) -> None:
    far = Far()
    process.reply(port=far.port)
    poll_s = 0.0 if options["spin"] else 0.05
    requests = process.requests()
    order = next(requests)
    target = Target(**order["target"])
    if order["bridge"]:  # the bridge of the system under test comes to this process
        far.loop.until(lambda: far.connects > 0, 20, "the bridge did not connect")
    client = open_client(far.loop, target, "bench-light")
    block = wire.Block([TOPIC], bytes(options["payload"]), qos=1, window=1, version=target.version)
    flow = client.flow = Outflow(block, qos=1, window=1)
    process.reply(ready=True)
    for order in requests:
        if order["do"] == "one":
            arrivals, pubacks = one_at_a_time(far, flow, client.flush, order["count"], poll_s)
            process.reply(arrivals=arrivals, pubacks=pubacks)
        else:
            pubacks = beside_a_flood(far, flow, client.flush, order["count"], order["interval_s"])
            process.reply(pubacks=pubacks)


if __name__ == "__main__":
    process.serve(handle)
