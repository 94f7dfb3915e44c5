"""The process is killed while it sends what a long outage has left: all arrives, in order."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from power_far import FarBroker
from power_process import IsthmusProcess

from raw import PUBACK, PUBCOMP, PUBREC, PUBREL, Raw, ack_packet, until

WINDOW = 100
"""`max_inflight` of the connector."""

KILLS = 4


async def leave(port: int, qos: int, count: int, at_a_time: int = 500) -> list[bytes]:
    """Publish so many messages, and wait until each is acknowledged to the end."""
    raw = await Raw.client(port, "publisher")
    payloads = [b"m%06d" % number for number in range(count)]
    for begin in range(0, count, at_a_time):
        part = payloads[begin : begin + at_a_time]
        for payload in part:
            raw.publish("far/a", payload, qos)
        left = len(part)
        while left:
            answer = await raw.packet()
            assert answer.code == 0
            if answer.kind == PUBREC:
                raw.send(ack_packet(PUBREL, answer.packet_id))
            else:
                assert answer.kind == (PUBACK if qos == 1 else PUBCOMP)
                left -= 1
    raw.close()
    return payloads


@pytest.mark.parametrize(("qos", "count"), [(1, 30_000), (2, 10_000)])
async def test_all_arrives_in_order_and_no_more_than_the_window_again(
    tmp_path: Path, qos: int, count: int
) -> None:
    far = FarBroker()
    await far.up()
    await far.down()
    isthmus = IsthmusProcess(tmp_path, {"far": far.port}, max_inflight=WINDOW)
    try:
        await isthmus.start()
        payloads = await leave(isthmus.port, qos, count)
        assert not far.arrived
        await far.up()
        for number in range(1, KILLS + 1):
            await until(lambda: len(far.arrived) > number * count // (KILLS + 1), 30)  # noqa: B023
            await isthmus.end(signal.SIGKILL)
            assert len(far.arrived) < count
            await isthmus.start()
        await until(lambda: {payload for _, payload in far.arrived} == set(payloads), 30)
    finally:
        await isthmus.end()
        await far.down()
    arrived = [payload for _, payload in far.arrived]
    assert list(dict.fromkeys(arrived)) == payloads
    again = sum(Counter(arrived).values()) - count
    assert again <= (KILLS * WINDOW if qos == 1 else 0)
