"""Routes between endpoints, beyond one bridge: chains, circles, local to local, bounded queues."""

from __future__ import annotations

import pytest

from raw import PUBACK, PUBLISH, FarSide, ack_packet, grant, publish_packet, until
from running import back, bridge, out


def local(*topics: str, **route) -> dict:
    return {"from": "local", "to": "local", "topics": list(topics), **route}


async def test_local_to_local_with_another_topic(isthmus):
    near = await isthmus({"routes": {"copy": local("a/#", prepend="copy/", retain="set")}})
    raw = await near.client("x")
    await raw.subscribe("#", qos=2)
    for qos in (0, 1, 2):
        raw.publish("a/b", str(qos), qos, packet_id=qos, content_type="t")
        got = [found for found in await raw.arrived() if found.kind == PUBLISH]
        assert sorted((found.topic, found.qos) for found in got) == [
            ("a/b", qos), ("copy/a/b", qos)
        ]  # fmt: skip
        assert all(found.properties == {"content_type": "t"} for found in got)
    assert near.app.broker.retained.get(b"copy/a/b").payload == b"2"
    assert near.app.broker.retained.get(b"a/b") is None


async def test_a_circle_of_routes_ends(isthmus, caplog):
    near = await isthmus({"routes": {"round": local("a/#", prepend="a/")}})
    raw = await near.client("x")
    await raw.subscribe("#")
    raw.publish("a/b", "x")
    got = await raw.arrived()
    assert 1 < len(got) <= 16
    assert any("circle" in record.getMessage() for record in caplog.records)
    await raw.nothing()


async def test_a_chain_over_two_far_sides_and_back(isthmus, far):
    second = FarSide()
    await second.start()
    configuration = bridge(far.port, routes={
        "in": back("t"), "over": {"from": "cloud", "topics": ["t"], "to": "other"},
        "up": {"from": "local", "topics": ["t"], "to": "other", "prepend": "local/"},
    })  # fmt: skip
    configuration["connectors"]["other"] = {"url": f"127.0.0.1:{second.port}"}
    near = await isthmus(configuration)
    one, _ = await far.client()
    await grant(one)
    two, _ = await second.client()
    raw = await near.client("x")
    await raw.subscribe("t", qos=1)
    one.send(publish_packet("t", "hello", 1, 5))
    got = {found.topic: found for found in [await two.expect(PUBLISH), await two.expect(PUBLISH)]}
    assert set(got) == {"t", "local/t"}
    assert (await raw.message()).payload == b"hello"
    two.send(ack_packet(PUBACK, got["t"].packet_id))
    await until(lambda: near.app.connectors["other"].unsettled == 1)
    two.send(ack_packet(PUBACK, got["local/t"].packet_id))
    assert (await one.expect(PUBACK)).packet_id == 5
    await second.stop()


async def test_a_mapped_topic_that_is_none_is_refused_and_counted(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"out": out("a/#", strip="a/b")}))
    there, _ = await far.client()
    raw = await near.client("x")
    assert await raw.published("a/b", "x", 1) == 0x90
    raw.publish("a/b", "x", 0)
    await raw.nothing()
    assert near.app.routes["out"].drops.counts == {"bad_topic": 2}
    raw.publish("a/b/c", "x", 1)
    assert (await there.expect(PUBLISH)).topic == "/c"


@pytest.mark.parametrize("durability", ["disk", "memory"])
async def test_a_queue_without_acknowledgements_to_withhold_is_bounded(isthmus, far, durability):
    """QoS 0 publishers on a route with `qos: 1`, and the far side is down."""
    far.stop_listening()
    route = out("o", qos=1, queue={"max_bytes": "64KiB"}, durability=durability)
    near = await isthmus(bridge(far.port, routes={"out": route}))
    raw = await near.client("x")
    for _ in range(300):
        raw.publish("o", b"x" * 1000, 0)
    await raw.nothing()
    lane = near.cloud.members[0].lane
    assert lane.queued_bytes <= 70_000
    assert near.cloud.drops.total + lane.queued == 300


async def test_durability_memory_withholds_when_the_queue_is_full(isthmus, far):
    far.stop_listening()
    route = out("o", queue={"max_bytes": "16KiB"}, durability="memory")
    near = await isthmus(bridge(far.port, routes={"out": route}))
    raw = await near.client("x")
    for number in range(1, 26):
        raw.publish("o", b"x" * 1000, 1, packet_id=number)
        await raw.writer.drain()
        if number <= 14:
            assert [found.packet_id for found in await raw.arrived()] == [number]
    # From here on the publisher is not read: what it sends waits in its own network buffers.
    assert near.cloud.members[0].lane.queued <= 15
    await far.start()
    there, _ = await far.client()
    for _ in range(25):
        got = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, got.packet_id))
    assert [(await raw.expect(PUBACK)).packet_id for _ in range(11)] == list(range(15, 26))


async def test_retry_waits_start_short_again_after_a_success(isthmus, far, monkeypatch):
    import asyncio

    from isthmus.delivery import lane

    monkeypatch.setattr(lane, "RETRY_MIN_S", 0.1)
    near = await isthmus(bridge(far.port, routes={"out": out("o")}))
    there, _ = await far.client()
    raw = await near.client("x")
    loop = asyncio.get_running_loop()
    waits = []
    for _ in range(4):
        raw.publish("o", "x", 1)
        got = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, got.packet_id, 0x97))
        start = loop.time()
        got = await there.expect(PUBLISH)
        waits.append(loop.time() - start)
        there.send(ack_packet(PUBACK, got.packet_id))
        await raw.expect(PUBACK)
    assert max(waits) < 0.35, waits


async def test_a_lower_receive_maximum_after_a_reconnect(isthmus, far):
    """MQTT-3.3.4-9 holds for what is sent again too, or the far side closes for ever."""
    near = await isthmus(bridge(far.port, routes={"out": out("o")}, client_id="me"))
    there, _ = await far.client()
    raw = await near.client("x")
    for number in range(3):
        raw.publish("o", str(number), 1)
        await there.expect(PUBLISH)
    there.reset()
    there, _ = await far.client(session_present=True, receive_maximum=1)
    for number in range(3):
        got = await there.expect(PUBLISH)
        assert got.payload == str(number).encode()
        await raw.nothing()
        there.send(b"\xd0\0")  # harmless; gives what is sent too early time to be there
        assert not there.reader._buffer
        there.send(ack_packet(PUBACK, got.packet_id))
        await raw.expect(PUBACK)
