"""Retained messages for clients that read slowly: all arrive, and little waits in memory."""

from __future__ import annotations

import asyncio

import pytest

from raw import PUBLISH, SUBACK, Raw, packet, properties, publish_packet, text, until

NO_LOCAL = 4


def subscribe_packet(packet_id: int, filter_: str, qos: int = 0) -> bytes:
    body = packet_id.to_bytes(2, "big") + properties() + text(filter_) + bytes([qos])
    return packet(0x82, body)


def retain(near, number: int, payload: bytes = b"x") -> None:
    """Put retained messages where they belong: a client would take long to publish so many."""
    for n in range(number):
        assert near.app.broker.retained.set(b"r/%d" % n, 3, b"", payload)


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_slow_reader_gets_all_100_000_retained_messages(isthmus, qos):
    near = await isthmus({"broker": {"limits": {"unsent_bytes": "64KiB", "queued_messages": 500}}})
    count = 100_000 if not qos else 5_000
    retain(near, count, b"x" * 100)
    slow = await near.client("slow")
    await slow.subscribe("r/#", qos=qos)
    link = near.app.broker.sessions["slow"].lane.link
    got: set[str] = set()
    while len(got) < count:
        got.add((await slow.message()).topic)
        if len(got) % 10_000 == 0:
            await asyncio.sleep(0.02)
        assert link.unsent + sum(map(len, link.out)) < 1 << 20
    assert near.app.broker.drops.counts == {}
    await slow.nothing()


async def test_asking_again_and_again_without_reading_costs_nothing(isthmus):
    near = await isthmus({"broker": {"limits": {"unsent_bytes": "64KiB"}}})
    retain(near, 200, b"x" * 50_000)
    fine = await near.client("fine")
    stuck = await near.client("stuck")
    stuck.reader._transport.pause_reading()
    session = near.app.broker.sessions["stuck"]
    link = session.lane.link
    for number in range(1, 2001):
        stuck.send(subscribe_packet(number, "r/#"))
    await until(lambda: link.blocked)
    for _ in range(20):
        await fine.nothing()
        assert link.unsent + sum(map(len, link.out)) < 1 << 20
    stuck.reader._transport.resume_reading()
    topics: set[str] = {""}
    while session.retained_delivery is not None or len(topics) < 201:
        topics |= {found.topic for found in await stuck.arrived()}
    assert near.app.broker.drops.counts == {}


async def test_what_is_retained_is_looked_up_when_it_is_sent(isthmus):
    near = await isthmus()
    retain(near, 300, b"x" * 100_000)
    slow = await near.client("slow")
    slow.reader._transport.pause_reading()
    slow.send(subscribe_packet(1, "r/#"))
    session = near.app.broker.sessions["slow"]
    await until(lambda: session.lane.link.blocked)
    gone, new = session.retained_delivery._topics[:2]  # the last to be sent
    near.app.broker.retained.set(new, 1, b"", b"new")
    near.app.broker.retained.set(gone, 1, b"", b"")
    slow.reader._transport.resume_reading()
    await slow.expect(SUBACK)
    found = [await slow.message() for _ in range(299)]
    assert {one.topic: one.payload for one in found}[new.decode()] == b"new"
    assert gone.decode() not in {one.topic for one in found}
    await slow.nothing()


async def test_the_rest_comes_after_a_new_connection_and_not_after_unsubscribe(isthmus):
    near = await isthmus({"broker": {"limits": {"queued_messages": 10}, "max_inflight": 5}})
    retain(near, 50)
    raw = await near.client("kept", clean=False, session_expiry=60)
    await raw.subscribe("r/#", qos=1)
    session = near.app.broker.sessions["kept"]
    raw.close()
    await until(lambda: session.client is None)
    raw = await near.client("kept", clean=False, session_expiry=60)
    topics = {(await raw.message()).topic for _ in range(50)}
    assert len(topics) == 50
    await raw.subscribe("r/#", qos=1)
    await raw.message()
    raw.send(packet(0xA2, b"\0\x09" + properties() + text("r/#")))
    await until(lambda: session.retained_delivery is None)
    assert near.app.broker.drops.counts == {}


async def test_what_waits_is_never_more_than_what_is_subscribed(isthmus):
    near = await isthmus()
    retain(near, 300, b"x" * 100_000)
    stuck = await near.client("stuck")
    stuck.reader._transport.pause_reading()
    stuck.send(subscribe_packet(1, "r/#"))
    session = near.app.broker.sessions["stuck"]
    await until(lambda: session.lane.link.blocked)
    for number in range(2, 1000):
        filter_ = f"+/{number}"
        stuck.send(subscribe_packet(number, filter_))
        stuck.send(packet(0xA2, number.to_bytes(2, "big") + properties() + text(filter_)))
    stuck.send(subscribe_packet(1000, "r/1"))
    await until(lambda: b"r/1" in session.subscriptions)
    assert list(session.retained_delivery._pending) == [b"r/1"]


async def test_a_walk_through_many_topics_lets_others_have_their_turn(isthmus):
    """The filters of one SUBSCRIBE are answered one by one, each in a step of its own."""
    near = await isthmus()
    retain(near, 30_000)
    greedy = await near.client("greedy")
    filters = [f"+/+/{n}" for n in range(90)]
    assert await greedy.subscribe(*filters) == [0] * 90
    loop = asyncio.get_running_loop()
    longest, before = 0.0, loop.time()
    while near.app.broker.sessions["greedy"].retained_delivery is not None:
        await asyncio.sleep(0)
        longest, before = max(longest, loop.time() - before), loop.time()
    assert longest < 0.25


async def published_before_and_after(raw, qos: int = 1) -> list[tuple[str, bytes]]:
    """What somebody gets who publishes, subscribes and publishes again in one write."""
    await raw.published("own/before", "1", 1, retain=True)
    await raw.published("own/replaced", "1", 1, retain=True)
    body = b"\0\x09" + (properties() if raw.version == 5 else b"")
    body += text("own/#") + bytes([qos | (NO_LOCAL if raw.version == 5 else 0)])
    how = {"retain": True, "version": raw.version}
    raw.send(
        packet(0x82, body),
        publish_packet("own/replaced", "2", 1, 10, **how),
        publish_packet("own/after", "2", 1, 11, **how),
    )
    got = []
    for _ in range(3):  # the broker may see to retained messages later
        got += [one for one in await raw.arrived() if one.kind == PUBLISH]
    return sorted((one.topic, one.payload) for one in got)


@pytest.mark.parametrize(("version", "bridge"), [(5, False), (4, True), (3, True)])
async def test_no_local_brings_what_was_retained_before_and_nothing_that_comes_after(
    isthmus, mosquitto, version, bridge
):
    """MQTT-3.3.1-9 knows no exception for one's own messages; MQTT-3.8.3-3 is about later ones."""
    near, oracle = await isthmus(), await mosquitto()
    ours, theirs = [
        await published_before_and_after(await Raw.client(port, "me", version, bridge=bridge))
        for port in (near.port, oracle.port)
    ]
    assert ("own/before", b"1") in ours
    assert ("own/before", b"1") in theirs
    assert all(payload == b"1" for _, payload in ours)
    # Mosquitto sends the value at the time of the SUBSCRIBE, which here is looked up later.
    assert set(ours) <= set(theirs)
