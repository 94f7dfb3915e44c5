"""What was stored while the far side was down goes out as fast as that takes it."""

from __future__ import annotations

import asyncio

import pytest

from raw import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, FarSide, ack_packet, until, within
from running import bridge, out

STORED = 200
WINDOW = 10
LONGEST_S = 1.5
"""Twenty windows; if ten of them waited for the writing of what nobody waits for, 2 s."""


async def drained(far: FarSide, qos: int) -> float:
    """Take all that is stored, as it comes; how long it took, in seconds."""
    raw, _ = await far.client()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    left = STORED
    while left:
        found = await within(raw.packet())
        if found.kind == PUBLISH:
            raw.send(ack_packet(PUBACK if qos == 1 else PUBREC, found.packet_id))
        elif found.kind == PUBREL:
            raw.send(ack_packet(PUBCOMP, found.packet_id))
        left -= found.kind == (PUBLISH if qos == 1 else PUBREL)
    return loop.time() - begin


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("connections", [1, 2])
async def test_a_full_window_does_not_wait_for_a_write_that_nobody_hurries(
    isthmus, far, tmp_path, qos, connections
):
    """With two connections at first, one of them inherits what the other one has left."""
    data = {"broker": {"data": str(tmp_path / "data")}}
    routes = {"out": out(qos=qos)}
    how = {"routes": routes, "max_inflight": WINDOW, "url": f"127.0.0.1:{far.port}"}
    far.stop_listening()
    running = await isthmus({**bridge(0, **how, pool=connections), **data})
    publisher = await running.client("publisher")
    for number in range(STORED):
        publisher.publish(f"topic/{number}", b"", qos=1)
    await until(lambda: running.cloud.stored == STORED)
    await running.app.close()
    await isthmus({**bridge(0, **how), **data})
    await far.start()
    assert await drained(far, qos) < LONGEST_S
