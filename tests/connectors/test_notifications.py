"""Notifications: `1` while a connection is up, `0` while it is not, on both sides."""

from __future__ import annotations

from raw import DISCONNECT, PUBACK, PUBLISH, SUBSCRIBE, Raw, ack_packet, until
from running import back, bridge, out

ON = {"enabled": True}
TOPIC = "$SYS/broker/connection/edge/state"


async def state(near, topic=TOPIC) -> bytes | None:
    found = near.app.broker.retained.get(topic.encode())
    return None if found is None else found.payload


async def test_nothing_is_published_by_default(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, client_id="edge"))
    there, hello = await far.client()
    assert hello.will is None
    await there.expect(SUBSCRIBE)
    assert await state(near) is None


async def test_the_far_side_hears_1_first_and_has_0_as_will(isthmus, far):
    routes = {"in": back("in/#"), "out": out("out/#")}
    near = await isthmus(bridge(far.port, routes=routes, client_id="edge", notifications=ON))
    assert await state(near) == b"0"
    there, hello = await far.client()
    assert hello.will == (TOPIC, b"0", 1, True)
    first = await there.expect(PUBLISH)
    assert (first.topic, first.payload, first.qos, first.retain) == (TOPIC, b"1", 1, True)
    there.send(ack_packet(PUBACK, first.packet_id, 0x10))
    await there.expect(SUBSCRIBE)
    assert await state(near) == b"1"
    there.close()
    await until(lambda: near.status()["state"] == "waiting")
    assert await state(near) == b"0"


async def test_a_window_of_the_far_side_is_not_exceeded(isthmus, far):
    """Also the notification counts until it is acknowledged (MQTT-3.3.4-7)."""
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, client_id="edge", notifications=ON)
    )
    for maximum, qos in ((1, 0), (2, 1)):
        there, _ = await far.client(receive_maximum=maximum)
        assert (await there.expect(PUBLISH)).qos == qos
        await near.connected()
        assert near.cloud.members[0].lane.window.limit == 1
        there.close()
        await until(lambda: near.status()["state"] == "waiting")


async def test_at_the_end_0_is_the_last_message(isthmus, far):
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, client_id="edge", notifications=ON)
    )
    there, _ = await far.client()
    await there.expect(PUBLISH)
    await near.connected()
    await near.app.close()
    last = await there.expect(PUBLISH)
    assert (last.topic, last.payload, last.retain) == (TOPIC, b"0", True)
    assert (await there.expect(DISCONNECT)).code == 0


async def test_local_only(isthmus, far):
    how = {"enabled": True, "local_only": True, "topic": "bridge/${connection.client_id}"}
    near = await isthmus(
        bridge(far.port, routes={"out": out("o/#")}, client_id="edge", notifications=how)
    )
    there, hello = await far.client()
    assert hello.will is None
    await near.connected()
    here = await near.client("here")
    here.publish("o/first", "x")
    assert (await there.expect(PUBLISH)).topic == "o/first"
    assert await state(near, "bridge/edge") == b"1"


async def test_a_link_that_is_silently_gone_shows_0(isthmus, far, proxy):
    network = await proxy(far.port)
    how = {"enabled": True, "local_only": True}
    near = await isthmus(
        bridge(
            network.port,
            routes={"out": out("o/#")},
            client_id="edge",
            notifications=how,
            keepalive="1s",
        )
    )
    await far.client()
    await near.connected()
    assert await state(near) == b"1"
    network.silent = True
    here = await near.client("here")
    await here.subscribe(TOPIC)
    assert (await here.message()).payload == b"1"
    assert (await here.message()).payload == b"0"
    assert "PINGREQ" in near.status()["reason"]


async def test_after_a_reconnect_it_is_1_and_no_late_0_follows(isthmus, far):
    """Neither waits: what shows an old state is not sent behind a newer one."""
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, client_id="edge", notifications=ON)
    )
    here = await near.client("here")
    await here.subscribe(TOPIC)
    seen = [(await here.message()).payload]
    for _ in range(3):
        there, _ = await far.client(session_present=True)
        first = await there.expect(PUBLISH)
        assert (first.topic, first.payload, first.dup) == (TOPIC, b"1", False)
        await near.connected()
        here.publish("out/x", "next")
        assert (await there.expect(PUBLISH)).topic == "out/x"
        assert await state(near) == b"1"
        there.close()  # "1" was never acknowledged
        await until(lambda: near.status()["state"] == "waiting")
        seen += [(await here.message()).payload for _ in range(2)]
    assert seen == [b"0", *[b"1", b"0"] * 3]


async def test_a_refused_notification_is_logged_and_harms_nothing(isthmus, far, caplog):
    near = await isthmus(
        bridge(far.port, routes={"out": out("o/#")}, client_id="edge", notifications=ON)
    )
    there, _ = await far.client()
    first = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, first.packet_id, 0x87))
    await until(lambda: any("local_only" in one.getMessage() for one in caplog.records))
    assert near.status()["state"] == "connected"


async def test_a_real_mosquitto_shows_the_state(isthmus, mosquitto, proxy):
    far = await mosquitto()
    bad = await proxy(far.port)
    near = await isthmus(
        bridge(bad.port, routes={"out": out("out/#")}, client_id="edge", notifications=ON)
    )
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe(TOPIC, qos=1)
    assert (await there.message()).payload == b"1"
    bad.cut()
    assert (await there.message()).payload == b"0"
    assert (await there.message()).payload == b"1"
