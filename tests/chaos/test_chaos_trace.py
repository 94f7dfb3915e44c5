"""The crash test's own instruments: what they would say if something were wrong."""

from __future__ import annotations

import asyncio

import pytest
from chaos_publisher import Publisher
from chaos_trace import TOPICS, Trace, story

from raw import (
    CONNACK,
    CONNECT,
    PUBACK,
    PUBLISH,
    ack_packet,
    connect_packet,
    packet,
    publish_packet,
)


@pytest.mark.parametrize("version", [4, 5])
def test_a_trace_tells_who_turned_the_order(version):
    sent = {"publisher": (3, TOPICS + 3, 3, 4), "a": (TOPICS + 3, 4, 3, TOPICS + 3)}
    traces = []
    for sender, numbers in sent.items():
        data = connect_packet("some", version)
        for number in numbers:
            topic = f"chaos/{number % TOPICS}"
            data += publish_packet(topic, str(number), 1, 1 + number, version=version)
        trace = Trace(sender)
        stream = trace.connection()
        for at in range(0, len(data), 7):  # in pieces, as a network brings it
            stream(data[at : at + 7])
        traces.append(trace)
    publisher, a = traces
    assert list(publisher.first) == [3, TOPICS + 3, 4]
    assert (publisher.turned, a.turned) == (set(), {3})
    told = story(3, TOPICS + 3, traces)
    assert "publisher: -" in told
    assert "a: +" in told


async def test_the_publisher_comes_back_with_the_old_ones_first(far):
    publisher = Publisher(far.port, qos=1, rate=2000, version=4)
    try:
        first_side, hello = await far.client()
        assert not hello.clean
        first = [await first_side.expect(PUBLISH) for _ in range(50)]
        assert [int(one.payload) for one in first] == list(range(50))
        first_side.send(*(ack_packet(PUBACK, one.packet_id) for one in first[:10]))
        first_side.reset()
        side = await far.accept()
        side.version = 4
        await side.expect(CONNECT)
        await asyncio.sleep(0.05)  # a message before CONNACK would be ahead of the old ones
        side.send(packet(CONNACK << 4, b"\1\0"))
        again = [await side.expect(PUBLISH) for _ in range(90)]
        start = int(again[0].payload)
        assert start in (0, 10)  # the reset may have overtaken the acknowledgements
        assert [int(one.payload) for one in again] == list(range(start, start + 90))
        old = [one for one in again if int(one.payload) < 50]
        assert all(one.dup for one in old)
        assert [one.packet_id for one in old] == [one.packet_id for one in first[start:]]
    finally:
        await publisher.close()
