"""Retained messages of this side at the far side: once per session, and what it missed."""

from __future__ import annotations

import pytest

from raw import PUBACK, PUBLISH, Raw, ack_packet, until
from running import back, bridge, out

ROUTES = {"out": out("out/#")}


async def down(near, there) -> None:
    there.close()
    await until(lambda: near.status()["state"] == "waiting")


async def test_a_new_session_gets_what_is_retained_and_a_kept_one_does_not(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    here = await near.client("here")
    for number in range(150):
        here.publish(f"out/{number}", "kept", 0, retain=True)
    here.publish("elsewhere", "kept", 0, retain=True)
    await here.arrived()
    there, _ = await far.client()
    topics = set()
    for _ in range(150):
        found = await there.expect(PUBLISH)
        assert (found.payload, found.retain) == (b"kept", True)
        topics.add(found.topic)
    assert len(topics) == 150
    await down(near, there)
    there, _ = await far.client(session_present=True)
    here.publish("out/new", "1", 0)
    assert (await there.expect(PUBLISH)).topic == "out/new"
    await down(near, there)
    there, _ = await far.client(session_present=False)
    assert len({(await there.expect(PUBLISH)).topic for _ in range(150)}) == 150


async def test_changes_and_deletions_with_qos_0_while_the_link_was_down(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    there, _ = await far.client()
    here = await near.client("here")
    for name in ("gone", "changed", "same"):
        here.publish(f"out/{name}", "1", 0, retain=True)
        await there.expect(PUBLISH)
    far_port_open = far.port
    far.stop_listening()
    await down(near, there)
    here.publish("out/gone", "", 0, retain=True)
    here.publish("out/changed", "2", 0, retain=True)
    here.publish("out/changed", "3", 0, retain=True)
    here.publish("out/plain", "x", 0)
    await here.arrived()
    await far.start()
    assert far.port == far_port_open
    there, _ = await far.client(session_present=True)
    found = {}
    for _ in range(2):
        one = await there.expect(PUBLISH)
        assert one.retain
        found[one.topic] = one.payload
        if one.qos:
            there.send(ack_packet(PUBACK, one.packet_id))
    assert found == {"out/gone": b"", "out/changed": b"3"}
    here.publish("out/plain", "y", 0)
    assert (await there.expect(PUBLISH)).payload == b"y"


async def test_what_waits_in_the_queue_is_not_sent_twice(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    there, _ = await far.client()
    here = await near.client("here")
    far.stop_listening()
    await down(near, there)
    here.publish("out/a", "1", 1, retain=True)
    await here.arrived()
    await far.start()
    there, _ = await far.client(session_present=True)
    assert (await there.expect(PUBLISH)).topic == "out/a"
    here.publish("out/b", "2", 0)
    assert (await there.expect(PUBLISH)).topic == "out/b"


async def test_messages_of_the_far_side_itself_are_not_sent_back(isthmus, far):
    routes = {"out": out("x/#"), "in": back("x/#")}
    near = await isthmus(bridge(far.port, routes=routes, client_id="me"))
    there, _ = await far.client()
    here = await near.client("here")
    await here.subscribe("x/#")
    await there.packet()  # SUBSCRIBE
    there.publish("x/1", "theirs", 0, retain=True)
    assert (await here.message()).payload == b"theirs"
    await down(near, there)
    there, _ = await far.client(session_present=True)
    here.publish("x/2", "ours", 0)
    await there.packet()  # SUBSCRIBE
    while (found := await there.packet()).kind != PUBLISH:
        pass
    assert found.topic == "x/2"


@pytest.mark.parametrize("how", [{"retain": "clear"}, {}])
async def test_it_can_be_left_out(isthmus, far, how):
    connector = {} if how else {"send_retained": False}
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#", **how)}, client_id="me", **connector)
    )
    here = await near.client("here")
    here.publish("out/a", "1", 0, retain=True)
    await here.arrived()
    there, _ = await far.client()
    await near.connected()
    here.publish("out/b", "2", 0)
    assert (await there.expect(PUBLISH)).topic == "out/b"


async def test_topics_are_mapped_and_each_is_sent_by_its_member_of_a_pool(isthmus, mosquitto):
    far = await mosquitto()
    routes = {"out": out("out/#", prepend="site/")}
    near = await isthmus(bridge(far.port, routes=routes, pool=3))
    here = await near.client("here")
    for number in range(30):
        await here.published(f"out/{number}", "kept", 1, retain=True)
    await near.connected()
    there = await Raw.client(far.port, "there")

    async def kept() -> set[str]:
        await there.subscribe("site/#")
        found = {one.topic for one in await there.arrived() if one.kind == PUBLISH}
        await there.unsubscribe("site/#")
        return found

    expected = {f"site/out/{number}" for number in range(30)}
    seen: set[str] = set()
    for _ in range(100):
        seen = await kept()
        if seen == expected:
            break
    assert seen == expected
    assert await here.published("out/7", "", 1, retain=True) == 0
    assert await kept() == expected - {"site/out/7"}


async def test_a_route_that_is_taken_away_is_not_synchronised_any_more(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    there, _ = await far.client()
    here = await near.client("here")
    here.publish("out/a", "1", 0, retain=True)
    assert (await there.expect(PUBLISH)).topic == "out/a"
    broker = near.app.broker
    near.cloud.retained_sync.watch((), near.app.tables["local"], broker, broker.retained)
    await down(near, there)
    here.publish("out/a", "2", 0, retain=True)
    await here.arrived()
    there, _ = await far.client(session_present=False)
    await near.connected()
    here.publish("out/b", "3", 0)
    assert (await there.expect(PUBLISH)).topic == "out/b"


def on_disk(far, tmp_path, pool=1, *, routes=None):
    found = bridge(far.port, routes=routes or ROUTES, pool=pool, connect_timeout="60s")
    return {**found, "broker": {"data": str(tmp_path / "data")}}


async def missed(near, far, topics) -> None:
    """Delete what is retained in topics while the link is down."""
    there, _ = await far.client()
    there.close()
    await far.accept()  # the next attempt
    here = await near.client("here")
    for topic in topics:
        here.publish(topic, "", 0, retain=True)
    await here.arrived()
    assert set(near.app.missed.of("cloud")) == {topic.encode() for topic in topics}
    await near.app.close()


async def test_what_was_missed_goes_by_another_pool_after_a_restart(isthmus, far, tmp_path):
    topics = [f"out/{number}" for number in range(100)]  # more than one step
    await missed(await isthmus(on_disk(far, tmp_path)), far, topics)
    near = await isthmus(on_disk(far, tmp_path, 2))
    for _ in range(2):
        there, hello = await far.client(session_present=True)
        mine = {one for one in topics if near.cloud.client_id_of(one.encode()) == hello.client_id}
        assert mine
        found = set()
        for _ in mine:
            one = await there.expect(PUBLISH)
            assert (one.payload, one.retain, one.qos) == (b"", True, 1)
            there.send(ack_packet(PUBACK, one.packet_id))
            found.add(one.topic)
        assert found == mine
    await until(lambda: not list(near.app.missed.of("cloud")))


async def test_what_was_missed_is_forgotten_where_no_route_leads_there_any_more(
    isthmus, far, tmp_path
):
    await missed(await isthmus(on_disk(far, tmp_path)), far, ["out/a"])
    near = await isthmus(on_disk(far, tmp_path, routes={"out": out("other/#")}))
    await until(lambda: not list(near.app.missed.of("cloud")))
    await near.app.close()
    near = await isthmus(on_disk(far, tmp_path))
    assert not list(near.app.missed.of("cloud"))
