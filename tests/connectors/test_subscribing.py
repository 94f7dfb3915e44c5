"""Subscriptions of a pool: who asks for what, how fast, and what becomes of refusals."""

from __future__ import annotations

import asyncio
import struct
import time

import pytest

from isthmus.app.settings import Settings
from isthmus.connectors.far_client import MOST_REQUESTS
from isthmus.connectors.ownership import owners
from raw import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    FarSide,
    Raw,
    ack_packet,
    grant,
    packet,
    parse_hello,
    read_properties,
    until,
)
from running import back, bridge, out


def names(request) -> list[str]:
    body, at = request.body, 2
    at = read_properties(body, at)[1]
    found = []
    while at < len(body):
        size = struct.unpack_from(">H", body, at)[0]
        found.append(body[at + 2 : at + 2 + size].decode())
        at += 3 + size
    return found


def unsubscribed(request) -> list[str]:
    """The filters of an UNSUBSCRIBE of MQTT 5."""
    body, at = request.body, 2
    at = read_properties(body, at)[1]
    found = []
    while at < len(body):
        size = struct.unpack_from(">H", body, at)[0]
        found.append(body[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return found


def filters_3(request) -> list[str]:
    """The filters of a SUBSCRIBE of MQTT 3."""
    found, at = [], 2
    while at < len(request.body):
        size = struct.unpack_from(">H", request.body, at)[0]
        found.append(request.body[at + 2 : at + 2 + size].decode())
        at += 3 + size
    return found


def unsubscribed_3(request) -> list[str]:
    """The filters of an UNSUBSCRIBE of MQTT 3."""
    found, at = [], 2
    while at < len(request.body):
        size = struct.unpack_from(">H", request.body, at)[0]
        found.append(request.body[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return found


def owned(filters: list[str], members: int) -> dict[str, int | None]:
    found = owners([name.encode() for name in filters], members)
    return {name.decode(): owner for name, owner in found.items()}


def test_filters_are_spread_and_each_has_one_owner():
    filters = [f"plant/{number}/#" for number in range(4000)]
    found = owned(filters, 16)
    assert list(found) == filters
    counts = [list(found.values()).count(member) for member in range(16)]
    assert min(counts) > 180
    assert max(counts) < 320
    assert owned(filters, 16) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/+", "+/b"), ("a/#", "+/b/c"), ("a/+/c", "a/b/#"), ("a/#", "+"), ("#", "x/y"),
        ("+/+/z", "p/q/#"), ("a/b/#", "a/b"),
    ],
)  # fmt: skip
def test_filters_that_one_topic_can_match_have_the_same_owner(one, other):
    """Else a message of that topic would come over two connections."""
    rest = [f"far/{number}" for number in range(50)]
    for filters in ([one, *rest, other], [other, *rest, one]):
        found = owned(filters, 7)
        assert found[one] == found[other]


def test_shared_filters_belong_to_every_member():
    assert owned(["$share/g/a/#", "a/b"], 3)["$share/g/a/#"] is None


async def test_each_member_subscribes_to_its_part(isthmus, far):
    filters = [f"in/{number}" for number in range(60)]
    near = await isthmus(bridge(far.port, routes={"in": back(*filters, "$share/g/s/#")}, pool=4))
    seen: list[str] = []
    for _ in range(4):
        there, _ = await far.client()
        asked = [name for name, _ in await grant(there)]
        assert "$share/g/s/#" in asked
        seen += [name for name in asked if name != "$share/g/s/#"]
        assert len(asked) > 4
    assert sorted(seen) == sorted(filters)
    await near.connected()
    assert near.cloud.figures.read()["subscriptions"] == 64
    assert len(near.subscribed) == 61


async def test_messages_come_once_over_a_pool_with_a_real_broker(isthmus, mosquitto):
    """Mosquitto sends one copy on a connection of MQTT 3.1.1, but one on each connection."""
    far = await mosquitto()
    routes = {"in": back("in/+/x", "in/1/+", *[f"more/{number}" for number in range(30)])}
    near = await isthmus(bridge(far.port, routes=routes, pool=4, version="3.1.1"))
    await near.connected()
    here = await near.client("here")
    await here.subscribe("#", qos=1)
    there = await Raw.client(far.port, "there")
    for topic in ["in/1/x", *[f"more/{number}" for number in range(30)]]:
        await there.published(topic, topic)
        found = await here.message()
        assert found.topic == topic
    assert await here.arrived() == []


class OneAfterTheOther(FarSide):
    """A far side that takes 20 ms for each SUBACK, one after the other, of all its clients."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: asyncio.Queue[tuple[Raw, bytes, int]] = asyncio.Queue()
        self.filters: set[str] = set()
        self.most_waiting = 0
        self.granted = 0

    async def serve(self, raw: Raw) -> None:
        raw.version = parse_hello((await raw.expect(CONNECT)).body).version
        raw.send(packet(0x20, b"\0\0\0"))
        while True:
            asked = await raw.packet()
            if asked.kind == SUBSCRIBE:
                found = names(asked)
                self.filters.update(found)
                self.requests.put_nowait((raw, asked.body[:2], len(found)))

    async def answer(self) -> None:
        while True:
            raw, packet_id, count = await self.requests.get()
            self.most_waiting = max(self.most_waiting, self.requests.qsize())
            await asyncio.sleep(0.02)
            raw.send(packet(0x90, packet_id + b"\0" + bytes([1]) * count))
            self.granted += count


@pytest.mark.alone
async def test_16_connections_with_2000_filters_each_are_subscribed_in_under_5_s(isthmus):
    side = OneAfterTheOther()
    await side.start()
    filters = [f"plant/{number}/+/state" for number in range(32_000)]
    settings = Settings.model_validate(
        {
            "listeners": [{"bind": "127.0.0.1:0"}],
            **bridge(side.port, routes={"in": back(*filters)}, pool=16),
        }
    )
    began = time.monotonic()
    near = await isthmus(settings)
    tasks = [asyncio.create_task(side.answer())]
    try:
        for _ in range(16):
            raw = await side.accept()
            tasks.append(asyncio.create_task(side.serve(raw)))
        cloud = near.cloud
        await until(lambda: side.granted == 32_000)
        await until(lambda: sum(one["filters"] for one in counts(cloud)) == 32_000)
        assert time.monotonic() - began < 5.0
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await side.stop()
    assert len(side.filters) == 32_000
    assert side.most_waiting > 16  # of one connection several are asked at once


def counts(cloud) -> list[dict[str, int]]:
    return [{"filters": cloud.subscriptions.counts(member.index)[0]} for member in cloud.members]


async def test_a_refused_filter_is_asked_for_again(isthmus, far, monkeypatch, caplog):
    monkeypatch.setattr("isthmus.connectors.member.ASK_AGAIN_MIN_S", 0.1)
    near = await isthmus(bridge(far.port, routes={"in": back("a/#", "secret/#", "$share/g/s")}))
    there, _ = await far.client()
    await grant(there, 1, 0x87, 0x9E)
    # What will never be granted here waits for the next connection.
    assert await grant(there, 0x87) == [("secret/#", 0x1E)]
    assert await grant(there, 1) == [("secret/#", 0x1E)]
    await until(lambda: near.subscribed["secret/#"] == 1)
    assert near.status()["filters"] == 2
    assert near.status()["filters_refused"] == 1
    assert near.subscribed["$share/g/s"] == 0x9E
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2  # the same refusal is logged once


async def test_what_a_refused_filter_covers_works_all_the_same(isthmus, far):
    """A far side whose access list refuses `#`, and grants it when it is asked again."""
    routes = {"all": back("#", max_qos=0), "alarms": back("alarm/#", "b"), "out": out("x")}
    near = await isthmus(bridge(far.port, routes=routes))
    there, _ = await far.client()
    assert await grant(there, 0x87) == [("#", 0x1E)]
    assert await grant(there) == [("alarm/#", 0x1E), ("b", 0x1E)]
    await until(lambda: len(near.subscribed) == 3)
    here = await near.client("here")
    await here.subscribe("#", qos=2)
    there.publish("alarm/fire", "!", 1)
    assert (await there.expect(PUBACK)).code == 0
    found = await here.message()
    assert (found.topic, found.payload, found.qos) == ("alarm/fire", b"!", 1)
    await here.nothing()
    near.cloud.subscribe_refused(near.cloud.members[0])
    assert await grant(there) == [("#", 0x1E)]
    gone = await there.expect(UNSUBSCRIBE)
    assert unsubscribed(gone) == ["alarm/#", "b"]
    there.send(packet(0xB0, gone.body[:2] + b"\0\0\0"))
    await until(lambda: near.subscribed == {"#": 2})


async def test_a_far_side_without_wildcards_is_asked_for_what_they_cover(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"in": back("#", "a", "b/+", "b/c")}))
    there, _ = await far.client(wildcards=0)
    assert await grant(there) == [("a", 0x1E)]
    assert await grant(there) == [("b/c", 0x1E)]
    await near.connected()
    assert near.subscribed == {"#": 0xA2, "b/+": 0xA2, "a": 2, "b/c": 2}


async def test_a_new_wide_filter_that_is_refused_takes_nothing_away(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"in": back("a/#")}))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    near.cloud.subscribe(b"#", near.app.tables["cloud"], 1)
    assert await grant(there, 0x87) == [("#", 0x1E)]
    here = await near.client("here")
    await here.subscribe("#")
    there.publish("a/1", "x", 1)
    assert (await there.packet()).kind == PUBACK  # and no UNSUBSCRIBE before it
    assert (await here.message()).topic == "a/1"


async def test_subscriptions_that_change_are_brought_up_to_date_in_one_go(isthmus, far):
    routes = {"in": back("a/#", "b"), "out": out("out/#")}
    near = await isthmus(bridge(far.port, routes=routes))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    route = near.app.tables["cloud"]
    cloud = near.cloud
    for number in range(20):
        cloud.subscribe(b"c/%d" % number, route, 1)
    cloud.unsubscribe(b"b", route)
    assert len(await grant(there)) == 20
    gone = await there.expect(UNSUBSCRIBE)
    assert gone.body[2:] == b"\0\0\1b"
    there.send(packet(0xB0, gone.body[:2] + b"\0\0"))
    cloud.subscribe(b"a/#", route, 0)  # asks for no more than there is
    cloud.unsubscribe(b"c/0", route)
    cloud.subscribe(b"c/0", route, 1)
    here = await near.client("here")
    here.publish("out/x", "1", 1)
    assert (await there.packet()).kind == PUBLISH
    assert near.status()["filters"] == 21


async def test_an_mqtt_3_session_that_is_kept_is_not_subscribed_again(isthmus, far):
    """A SUBSCRIBE would bring all retained messages once more."""
    how = {"version": "3.1.1", "client_id": "me"}
    routes = {"in": back("in/#"), "out": out("out/#")}
    near = await isthmus(bridge(far.port, routes=routes, bridge_bit=False, **how))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    there.close()
    there, _ = await far.client(session_present=True)
    here = await near.client("here")
    here.publish("out/x", "1", 1)
    assert (await there.packet()).kind == PUBLISH


async def test_the_first_connection_of_a_process_brings_what_is_retained(isthmus, far, tmp_path):
    """The far side knows the session, this process knows no retained message any more."""
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, client_id="me"))
    there, _ = await far.client(session_present=True)
    assert await grant(there) == [("in/#", 0x0E)]
    await near.connected()
    there.close()
    there, _ = await far.client(session_present=False)
    assert await grant(there) == [("in/#", 0x1E)]


async def test_a_pool_says_how_much_of_it_is_connected(isthmus, far, caplog):
    caplog.set_level("INFO")
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, pool=3))
    for _ in range(2):
        await far.client()
    await until(lambda: near.cloud.status == "connecting: 2 of 3 connected")
    third, _ = await far.client()
    await until(lambda: near.cloud.status == "connected")
    third.close()
    await until(lambda: near.cloud.state == "degraded")
    lines = [record.getMessage() for record in caplog.records]
    assert "connector cloud: degraded: 2 of 3 connected" in lines
    assert "connector cloud: connected" in lines


MANY = [f"in/{number}" for number in range(100)]
"""With one filter in a packet, more requests than may be without an answer."""


async def without_routes(isthmus, far, **how):
    """A far side whose client wants nothing of `MANY` any more, and cannot say so for all yet."""
    configuration = bridge(
        far.port, routes={"in": back(*MANY), "out": out("out/#")}, filters_per_subscribe=1, **how
    )
    near = await isthmus(configuration)
    there, _ = await far.client()
    for _ in MANY:
        await grant(there)
    await near.connected()
    route = near.app.tables["cloud"]
    for name in MANY:
        near.cloud.unsubscribe(name.encode(), route)
    asked = [unsubscribed(await there.expect(UNSUBSCRIBE))[0] for _ in range(MOST_REQUESTS)]
    assert asked == MANY[:MOST_REQUESTS]
    return near, there


async def test_a_client_that_goes_unsubscribes_first_what_nobody_wants(isthmus, far):
    """Its session stays, and nobody else would do it."""
    near, there = await without_routes(isthmus, far, client_id="me")
    await near.app.stop()
    rest = [unsubscribed(await there.expect(UNSUBSCRIBE))[0] for _ in MANY[MOST_REQUESTS:]]
    assert rest == MANY[MOST_REQUESTS:]
    await there.expect(DISCONNECT)


@pytest.mark.parametrize("session_present", [True, False])
async def test_what_a_lost_connection_did_not_unsubscribe_the_next_one_does(
    isthmus, far, session_present
):
    near, there = await without_routes(isthmus, far)
    near.cloud.subscribe(b"in/7", near.app.tables["cloud"], 1)  # it is wanted again
    there.reset()
    there, _ = await far.client(session_present=session_present)
    if session_present:
        await there.expect(UNSUBSCRIBE)
        there.reset()
        there, _ = await far.client(session_present=True)
        gone = set()
        for _ in range(len(MANY) - 1):
            request = await there.expect(UNSUBSCRIBE)
            gone.update(unsubscribed(request))
            there.send(packet(0xB0, request.body[:2] + b"\0\0"))
        assert gone == {*MANY} - {"in/7"}
    assert [name for name, _ in await grant(there)] == ["in/7"]
    await near.connected()


async def test_what_was_subscribed_without_an_answer_is_not_forgotten(isthmus, far):
    """The far side may have done it: the answer is lost with the connection."""
    near = await isthmus(bridge(far.port, routes={"in": back("a", "b")}))
    there, _ = await far.client()
    assert len(names(await there.expect(SUBSCRIBE))) == 2
    near.cloud.unsubscribe(b"a", near.app.tables["cloud"])
    there.reset()
    there, _ = await far.client(session_present=True)
    assert unsubscribed(await there.expect(UNSUBSCRIBE)) == ["a"]
    assert names(await there.expect(SUBSCRIBE)) == ["b"]


async def test_a_session_of_mqtt_3_is_left_without_subscriptions(isthmus, far):
    """Also without those that were asked for last: it stays, and fills for nobody."""
    routes = {"in": back(*MANY), "out": out("out/#")}
    configuration = bridge(
        far.port, routes=routes, version="3.1.1", bridge_bit=False, filters_per_subscribe=1,
        client_id="me",
    )  # fmt: skip
    near = await isthmus(configuration)
    there, _ = await far.client()
    held = {(await grant(there))[0][0] for _ in range(10)}
    asked = []
    stopping = asyncio.create_task(near.reload({**configuration, "connectors": {}, "routes": {}}))
    while (request := await there.packet()).kind != DISCONNECT:
        if request.kind == SUBSCRIBE:
            asked += filters_3(request)
            held.add(asked[-1])
        elif request.kind == UNSUBSCRIBE:
            held.difference_update(unsubscribed_3(request))
    await stopping
    assert not held
    assert len(asked) < len(MANY) - 10


async def grant_all(there) -> None:
    """Answer every SUBSCRIBE and acknowledge every message."""
    while True:
        request = await there.packet()
        if request.kind == SUBSCRIBE:
            there._put_back.append(request)
            await grant(there)
        elif request.kind == PUBLISH:
            there.send(ack_packet(PUBACK, request.packet_id))


async def test_what_is_granted_to_a_member_that_leaves_is_unsubscribed_too(isthmus, far):
    routes = {"in": back(*MANY), "out": out("out/#")}
    configuration = bridge(
        far.port, routes=routes, version="3.1.1", bridge_bit=False, client_id_prefix="me", pool=2
    )
    near = await isthmus(configuration)
    cloud, here = near.cloud, await near.client("here")
    links = {hello.client_id: raw for raw, hello in [await far.client() for _ in range(2)]}
    stays, leaves = (links[member.client_id] for member in cloud.members)
    asked = await leaves.expect(SUBSCRIBE)
    lane = cloud.members[1].lane
    number = 0
    while not lane.inflight:  # what is on its way keeps the member for a while
        here.publish(f"out/{number}", "x", 1)
        number += 1
        await here.nothing()
    configuration["connectors"]["cloud"]["pool"] = 1
    await near.reload({"listeners": [{"bind": f"127.0.0.1:{near.port}"}], **configuration})
    assert cloud.leaving
    leaves.send(packet(0x90, asked.body[:2] + bytes(len(filters_3(asked)))))
    await until(lambda: cloud.leaving[0].parting)
    granting = asyncio.create_task(grant_all(stays))
    gone = []
    while (request := await leaves.packet()).kind != DISCONNECT:
        if request.kind == PUBLISH:
            leaves.send(ack_packet(PUBACK, request.packet_id))
        else:
            gone += unsubscribed_3(request)
    assert set(gone) == set(filters_3(asked))
    granting.cancel()


@pytest.mark.parametrize("kind", [SUBACK, UNSUBACK])
async def test_an_answer_of_the_wrong_kind_is_refused(isthmus, far, kind):
    near = await isthmus(bridge(far.port, routes={"in": back("in/#"), "out": out("out/#")}))
    there, _ = await far.client()
    if kind == SUBACK:
        await grant(there)
        await near.connected()
        near.cloud.unsubscribe(b"in/#", near.app.tables["cloud"])
    request = await there.expect(UNSUBSCRIBE if kind == SUBACK else SUBSCRIBE)
    there.send(packet(kind << 4, request.body[:2] + b"\0\0"))
    assert (await there.expect(DISCONNECT)).code == 0x82
    assert "an answer to nothing that was asked" in near.status()["reason"]
    there, _ = await far.client(session_present=True)
    if kind == SUBACK:
        assert unsubscribed(await there.expect(UNSUBSCRIBE)) == ["in/#"]
    else:
        await grant(there)
        await near.connected()


async def test_more_requests_than_there_are_identifiers_are_asked_as_answers_come(
    isthmus, far, tmp_path, caplog
):
    """With a data folder there are some 4,000 identifiers for what is not in it."""
    filters = [f"in/{number}" for number in range(4200)]
    routes = {"in": back(*filters), "out": out("out/#")}
    configuration = bridge(far.port, routes=routes, filters_per_subscribe=1)
    configuration["broker"] = {"data": str(tmp_path / "data")}
    near = await isthmus(configuration)
    there, _ = await far.client()
    asked = [name for _ in filters for name, _ in await grant(there)]
    assert asked == filters
    await until(lambda: near.status()["filters"] == 4200)
    route = near.app.tables["cloud"]
    for name in filters:
        near.cloud.unsubscribe(name.encode(), route)
    near.cloud.subscribe(b"in/0", route, 1)
    gone = []
    while len(gone) < 4199:
        request = await there.expect(UNSUBSCRIBE)
        gone += unsubscribed(request)
        there.send(packet(0xB0, request.body[:2] + b"\0\0"))
    assert gone == filters[1:]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
