"""Mount points: the clients of one listener live below a topic that they do not know of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.broker.mount import is_open, mounted, stripped
from isthmus.mqtt.topics import matches, split_shared
from raw import CONNACK, DISCONNECT, PUBACK, Packet, Raw, ack_packet, connect_packet, until
from running import bridge, out

PATIENCE_S = 0.2


def houses(*mounts: str, **more: object) -> dict[str, object]:
    """A broker with a listener for each mount point, and a last one without."""
    binds: list[dict[str, object]] = [{"bind": "127.0.0.1:0"} for _ in (*mounts, "")]
    for bind, mount in zip(binds, mounts, strict=False):
        bind["mount_point"] = mount
    return {"listeners": binds, "broker": {"sys_interval": 0}, **more}


def seen(found: list[Packet]) -> list[tuple[str, str]]:
    return [(one.topic, one.payload.decode()) for one in found]


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_topics_are_mounted_on_the_way_in_and_stripped_on_the_way_out(isthmus, version):
    near = await isthmus(houses("a/"))
    inside = await Raw.client(near.ports[0], "inside", version)
    plain = await Raw.client(near.ports[-1], "plain", version)
    await plain.subscribe("#")
    await inside.subscribe("t/+", qos=1)
    plain.publish("t/1", "not for it")
    assert seen(await plain.arrived()) == [("t/1", "not for it")]
    inside.publish("u/1", "from within", 0)
    await inside.nothing()
    assert seen(await plain.arrived()) == [("a/u/1", "from within")]
    plain.publish("a/t/2", "from without", 0)
    await plain.arrived()
    assert seen(await inside.arrived()) == [("t/2", "from without")]


async def test_houses_do_not_see_each_other(isthmus):
    near = await isthmus(houses("a/", "b/"))
    a, b, plain = [
        await Raw.client(port, name) for port, name in zip(near.ports, "abp", strict=True)
    ]
    for raw in (a, b, plain):
        await raw.subscribe("#")
    for raw, name in ((a, "a"), (b, "b"), (plain, "p")):
        raw.publish("b/t", name)
    await asyncio.sleep(PATIENCE_S)
    assert seen(await a.arrived()) == [("b/t", "a")]
    assert sorted(seen(await b.arrived())) == [("b/t", "b"), ("t", "p")]
    found = sorted(seen(await plain.arrived()))
    assert found == [("a/b/t", "a"), ("b/b/t", "b"), ("b/t", "p")]


#   filter of the mounted client, topics inside, what the client gets
CASES = [
    ("#", ["m/a", "m/a/b", "m//a", "m/", "m", "x", "mm/a"], ["a", "a/b", "/a"]),
    ("+", ["m/a", "m/a/b", "m/", "m"], ["a"]),
    ("+/b", ["m/a/b", "m/b", "m//b"], ["a/b", "/b"]),
    ("/a", ["m//a", "m/a", "/a"], ["/a"]),
    ("a/#", ["m/a", "m/a/b", "a/b"], ["a", "a/b"]),
    ("m/a", ["m/a", "m/m/a"], ["m/a"]),
    # What begins with $ below the mount point does to the client as well (MQTT-4.7.2-1).
    ("#", ["m/$aws/x", "m/x"], ["x"]),
    ("+/x", ["m/$aws/x", "m/a/x"], ["a/x"]),
    ("$aws/#", ["m/$aws/x", "$aws/x"], ["$aws/x"]),
    ("$SYS/#", ["m/$SYS/x"], ["$SYS/x"]),
]


@pytest.mark.parametrize(("filter_", "topics", "expected"), CASES)
@pytest.mark.parametrize("way", ["live", "retained", "shared", "queued"])
async def test_filters_match_below_the_mount_point_only(isthmus, way, filter_, topics, expected):
    near = await isthmus(houses("m/"))
    plain = await Raw.client(near.ports[-1], "plain")
    if way == "retained":
        for topic in topics:
            await plain.published(topic, topic, retain=True)
    how = {"clean": False, "session_expiry": 60}
    inside = await Raw.client(near.ports[0], "inside", **how)
    wanted = f"$share/g/{filter_}" if way == "shared" else filter_
    assert await inside.subscribe(wanted, qos=1) == [1]
    if way == "queued":
        inside.close()
        await until(lambda: near.app.broker.sessions["inside"].client is None)
    if way != "retained":
        for topic in topics:
            await plain.published(topic, topic)
    if way == "queued":
        inside = await Raw.client(near.ports[0], "inside", **how)
        assert inside.hello.session_present
    got = [await inside.message() for _ in expected]
    await asyncio.sleep(PATIENCE_S / 4)
    await inside.nothing()
    assert sorted(one.topic for one in got) == sorted(expected)
    assert all(one.payload.decode() == f"m/{one.topic}" for one in got)


async def test_overlapping_filters_deliver_once_and_count_only_those_that_match(isthmus):
    near = await isthmus(houses("m/"))
    inside = await Raw.client(near.ports[0], "inside")
    plain = await Raw.client(near.ports[-1], "plain")
    await inside.subscribe("#", qos=1, subscription_id=1)
    await inside.subscribe("$x/t", qos=0, subscription_id=2)
    await inside.subscribe("+/t", qos=0, subscription_id=3)
    for topic in ("m/$x/t", "m/y/t"):
        assert await plain.published(topic) == 0
    first, second = await inside.message(), await inside.message()
    assert (first.topic, first.qos, first.properties) == ("$x/t", 0, {"subscription_id": [2]})
    assert (second.topic, second.qos) == ("y/t", 1)
    assert sorted(second.properties["subscription_id"]) == [1, 3]
    await inside.nothing()


async def test_a_subscription_made_later_is_seen_by_a_publisher_with_a_plan(isthmus):
    """The plan of a mounted topic is renewed by that topic, not by what the client calls it."""
    near = await isthmus(houses("m/"))
    inside = await Raw.client(near.ports[0], "inside")
    plain = await Raw.client(near.ports[-1], "plain")
    assert await inside.published("t", "nobody", 1) == 0
    for n in range(3):
        await plain.subscribe("m/t")
        assert await inside.published("t", str(n), 1) == 0
        assert seen(await plain.arrived()) == [("m/t", str(n))]
        await plain.unsubscribe("m/t")
        assert await inside.published("t", "nobody", 1) == 0
    await plain.nothing()


@pytest.mark.parametrize("version", [4, 5])
async def test_unsubscribing_takes_the_clients_own_filter(isthmus, version):
    near = await isthmus(houses("m/"))
    inside = await Raw.client(near.ports[0], "inside", version)
    plain = await Raw.client(near.ports[-1], "plain")
    await inside.subscribe("t", "$share/g/s")
    missing = 0x11 if version == 5 else None
    codes = await inside.unsubscribe("t", "$share/g/s", "m/t", "$share/g/m/s")
    assert codes == ([0, 0, missing, missing] if version == 5 else [])
    for topic in ("m/t", "m/s"):
        await plain.published(topic)
    await inside.nothing()
    assert not near.app.broker.shares


async def test_aliases_stand_for_mounted_topics(isthmus):
    near = await isthmus(houses("m/"))
    inside = await Raw.client(near.ports[0], "inside")
    plain = await Raw.client(near.ports[-1], "plain")
    await plain.subscribe("#")
    inside.publish("t", "1", alias=1)
    inside.publish("", "2", alias=1)
    await inside.nothing()
    assert seen(await plain.arrived()) == [("m/t", "1"), ("m/t", "2")]


async def test_response_topics_are_passed_on_as_they_are(isthmus):
    """Like any other property: who asks and who answers have to share a mount point."""
    near = await isthmus(houses("m/"))
    asks, answers = [await Raw.client(near.ports[0], name) for name in ("asks", "answers")]
    await asks.subscribe("reply")
    await answers.subscribe("ask")
    asks.publish("ask", "?", response_topic="reply")
    question = await answers.message()
    assert question.properties == {"response_topic": "reply"}
    answers.publish(question.properties["response_topic"], "!")
    assert seen([await asks.message()]) == [("reply", "!")]


# -- retained messages ---------------------------------------------------------------------------


async def test_retained_messages_are_those_of_the_mounted_topic(isthmus):
    near = await isthmus(houses("a/", "b/"))
    a = await Raw.client(near.ports[0], "a")
    await a.published("t", "of a", retain=True)
    assert near.app.broker.retained.topics(b"#") == [b"a/t"]
    for port, topics in zip(near.ports, (["t"], [], ["a/t"]), strict=True):
        late = await Raw.client(port)
        await late.subscribe("#")
        await asyncio.sleep(PATIENCE_S / 4)
        found = await late.arrived()
        assert [(one.topic, one.retain) for one in found] == [(topic, True) for topic in topics]
    b = await Raw.client(near.ports[1], "b")
    await b.published("t", "", retain=True)  # deletes its own, which there is not
    assert near.app.broker.retained.topics(b"#") == [b"a/t"]
    await a.published("t", "", retain=True)
    assert near.app.broker.retained.topics(b"#") == []


# -- wills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
async def test_wills_are_mounted(isthmus, version):
    near = await isthmus(houses("m/"))
    plain = await Raw.client(near.ports[-1], "plain")
    beside = await Raw.client(near.ports[0], "beside")
    await plain.subscribe("#")
    await beside.subscribe("#")
    leaves = await Raw.client(near.ports[0], "w", version, will=("w/t", "gone", 0, True))
    leaves.reset()
    assert seen([await plain.message()]) == [("m/w/t", "gone")]
    assert seen([await beside.message()]) == [("w/t", "gone")]
    assert near.app.broker.retained.topics(b"#") == [b"m/w/t"]


# -- shared subscriptions ------------------------------------------------------------------------


async def test_a_group_has_members_of_several_listeners(isthmus):
    near = await isthmus(houses("m/"))
    inside = await Raw.client(near.ports[0], "inside")
    plain = await Raw.client(near.ports[-1], "plain")
    publisher = await Raw.client(near.ports[-1], "publisher")
    await inside.subscribe("$share/g/s/#", qos=1)
    await plain.subscribe("$share/g/m/s/#", qos=1)
    assert len(near.app.broker.shares) == 1
    for n in range(6):
        await publisher.published(f"m/s/{n}", str(n))
    got = {one.topic for one in [await inside.message() for _ in range(3)]}
    others = {one.topic for one in [await plain.message() for _ in range(3)]}
    assert {f"m/{topic}" for topic in got} | others == {f"m/s/{n}" for n in range(6)}


async def test_groups_of_several_houses_are_apart(isthmus):
    near = await isthmus(houses("a/", "b/"))
    a, b = [await Raw.client(port, name) for port, name in zip(near.ports, "ab", strict=False)]
    for raw in (a, b):
        await raw.subscribe("$share/g/t", qos=1)
    for n in range(4):
        a.publish("t", str(n))
    await asyncio.sleep(PATIENCE_S)
    assert len(await a.arrived()) == 4
    await b.nothing()


@pytest.mark.parametrize("leaver", ["inside", "plain"])
async def test_what_a_member_has_not_acknowledged_goes_to_one_elsewhere(isthmus, leaver):
    near = await isthmus(houses("m/"))
    members = {
        "inside": await Raw.client(near.ports[0], "inside", receive_maximum=2),
        "plain": await Raw.client(near.ports[-1], "plain", receive_maximum=2),
    }
    publisher = await Raw.client(near.ports[-1], "publisher")
    await members["inside"].subscribe("$share/g/s/#", qos=1)
    await members["plain"].subscribe("$share/g/m/s/#", qos=1)
    for n in range(10):  # four are on their way, six wait in the group
        await publisher.published(f"m/s/{n}", str(n))
    gone = members.pop(leaver)
    for _ in range(2):
        await gone.expect(3)
    gone.reset()
    ((name, left),) = members.items()
    topics = [(await left.message()).topic for _ in range(10)]
    prefix = "s/" if name == "inside" else "m/s/"
    assert sorted(topics) == [f"{prefix}{n}" for n in range(10)]


# -- sessions ------------------------------------------------------------------------------------


async def test_a_session_goes_on_only_below_its_mount_point(isthmus):
    """What waits in it has been named by its mount point, and may be another house's."""
    near = await isthmus(houses("a/", "b/"))
    how = {"clean": False, "session_expiry": 60}
    a = await Raw.client(near.ports[0], "x", **how)
    publisher = await Raw.client(near.ports[-1], "publisher")
    await a.subscribe("t", qos=1)
    a.close()
    await until(lambda: near.app.broker.sessions["x"].client is None)
    await publisher.published("a/t", "waits")
    await publisher.published("b/t", "is not for it")
    a = await Raw.client(near.ports[0], "x", **how)
    assert a.hello.session_present
    assert seen([await a.expect(3)]) == [("t", "waits")]  # not acknowledged
    b = await Raw.client(near.ports[1], "x", **how)
    assert (await a.expect(DISCONNECT)).code == 0x8E
    assert not b.hello.session_present
    assert near.app.broker.drops.counts == {"other_mount_point": 1}
    for house in "ab":
        await publisher.published(f"{house}/t", house)
    await b.nothing()
    await b.subscribe("t", qos=1)
    await publisher.published("b/t", "b")
    assert seen([await b.message()]) == [("t", "b")]


async def test_a_session_may_move_between_listeners_of_one_mount_point(isthmus):
    near = await isthmus(houses("a/", "a/"))
    how = {"clean": False, "session_expiry": 60}
    first = await Raw.client(near.ports[0], "x", **how)
    await first.subscribe("t", qos=1)
    second = await Raw.client(near.ports[1], "x", **how)
    assert second.hello.session_present
    second.publish("t", "1", 1)
    assert {(await second.packet()).kind, (await second.packet()).kind} == {3, PUBACK}


async def test_an_unacknowledged_message_is_sent_again_by_the_same_name(isthmus):
    near = await isthmus(houses("m/"))
    how = {"clean": False, "session_expiry": 60}
    inside = await Raw.client(near.ports[0], "x", **how)
    publisher = await Raw.client(near.ports[-1], "publisher")
    await inside.subscribe("t", qos=1)
    await publisher.published("m/t", "1")
    first = await inside.expect(3)
    inside.reset()
    await until(lambda: near.app.broker.sessions["x"].client is None)
    inside = await Raw.client(near.ports[0], "x", **how)
    again = await inside.message()
    assert (again.topic, again.packet_id, again.dup) == ("t", first.packet_id, True)


# -- rights --------------------------------------------------------------------------------------


@pytest.fixture
def acl(tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "acl"
    file.write_text("topic readwrite m/ok/#\ntopic readwrite own/#\npattern readwrite m/%c/#\n")
    file.chmod(0o600)
    return {"auth": {"acl_file": str(file), "allow_anonymous": True}}


async def test_the_access_list_speaks_of_mounted_topics(isthmus, acl):
    near = await isthmus(houses("m/", **acl))
    inside = await Raw.client(near.ports[0], "me")
    assert await inside.published("ok/1") == 0
    assert await inside.published("me/1") == 0
    assert await inside.published("own/1") == 0x87
    assert near.app.broker.drops.counts == {"denied": 1}
    assert await inside.subscribe("ok/#", "m/ok/#", qos=1) == [1, 0x87]
    plain = await Raw.client(near.ports[-1], "plain")
    assert await plain.published("m/ok/2") == 0
    assert (await inside.message()).topic == "ok/2"
    for will, code in (("ok/w", 0), ("own/w", 0x87)):
        raw = await Raw.open(near.ports[0])
        raw.send(connect_packet("w", will=(will, "gone", 0, False)))
        assert (await raw.expect(CONNACK)).code == code


async def test_sys_topics_are_not_there_below_a_mount_point(isthmus):
    near = await isthmus({**houses("m/"), "broker": {"sys_interval": 60}})
    plain = await Raw.client(near.ports[-1], "plain")
    assert await plain.subscribe("$SYS/broker/version") == [0]
    assert (await plain.message()).topic == "$SYS/broker/version"
    inside = await Raw.client(near.ports[0], "inside")
    assert await inside.subscribe("$SYS/#", "#") == [0, 0]
    await asyncio.sleep(PATIENCE_S)
    await inside.nothing()
    assert await inside.unsubscribe("$SYS/#") == [0]
    # What it publishes there is a topic of its own house, and nothing that others would believe.
    assert await inside.published("$SYS/broker/version", "a lie", retain=True) == 0
    assert near.app.broker.retained.get(b"m/$SYS/broker/version").payload == b"a lie"
    assert near.app.broker.retained.get(b"$SYS/broker/version").payload != b"a lie"


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(4, 0x80), (5, 0x8F)])
async def test_a_mount_point_that_ends_within_a_level_takes_no_wildcard_first(
    isthmus, version, code
):
    near = await isthmus(houses("house-"))
    inside = await Raw.client(near.ports[0], "inside", version)
    plain = await Raw.client(near.ports[-1], "plain")
    codes = await inside.subscribe("#", "+/a", "$share/g/+", "a/+", qos=1)
    assert codes == [code, code, code, 1]
    await plain.published("house-a/1")
    assert (await inside.message()).topic == "a/1"


async def test_topics_and_filters_that_are_too_long_when_mounted_are_refused(isthmus):
    near = await isthmus(houses("m" * 20 + "/"))
    inside = await Raw.client(near.ports[0], "inside")
    long = "t" * 65_520
    assert await inside.subscribe(long, "t" * 65_514, qos=1) == [0x8F, 1]
    assert await inside.published(long) == 0x90
    assert near.app.broker.drops.counts == {"bad_topic": 1}
    raw = await Raw.open(near.ports[0])
    raw.send(connect_packet("w", will=(long, "gone", 0, False)))
    assert (await raw.expect(CONNACK)).code == 0x90
    inside.publish("t" * 65_514, "1")
    assert (await inside.message()).topic == "t" * 65_514


# -- bridges -------------------------------------------------------------------------------------


async def test_routes_know_mounted_topics(isthmus, far):
    near = await isthmus(
        {**bridge(far.port, routes={"up": out("m/#")}), "listeners": houses("m/")["listeners"]}
    )
    cloud, _ = await far.client()
    inside = await Raw.client(near.ports[0], "inside")
    await near.connected()
    inside.publish("t", "1", 1)
    found = await cloud.expect(3)
    assert found.topic == "m/t"
    cloud.send(ack_packet(PUBACK, found.packet_id))
    await inside.expect(PUBACK)


async def test_a_message_by_two_mount_points_is_two_messages_to_the_loop_guard(isthmus):
    """Another broker has a connection to each listener, and passes the same message by both."""
    near = await isthmus(houses("m/"))
    by_mount, by_plain = [await Raw.client(port) for port in near.ports]
    reader = await Raw.client(near.ports[-1], "reader")
    await reader.subscribe("#")
    hops = [("isthmus-hops", "1@0123456789ab")]
    for raw in (by_mount, by_plain):
        raw.publish("t", "1", 1, user=hops)
        await raw.expect(PUBACK)
    assert sorted(seen(await reader.arrived())) == [("m/t", "1"), ("t", "1")]


# -- the rule ------------------------------------------------------------------------------------

LEVEL = st.sampled_from(["", "a", "b", "$x", "m"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.one_of(LEVEL, st.just("+")), max_size=3))
    end = draw(st.sampled_from([[], ["#"]]))
    found = "/".join([*levels, *end]) or "+"
    return draw(st.sampled_from(["", "$share/g/"])) + found


@settings(max_examples=500)
@given(filter_=filters(), topic=TOPIC)
def test_a_client_sees_below_its_mount_point_what_its_filter_says(filter_: str, topic: str) -> None:
    """Mounted filter against mounted topic is the filter against the topic."""
    mount = b"m/"
    filter_b, topic_b = filter_.encode(), topic.encode()
    group, bare = split_shared(mounted(mount, filter_b))
    assert group == split_shared(filter_b)[0]
    inside = mount + topic_b
    assert stripped(mount, inside) == topic_b
    hidden = is_open(filter_b) and topic_b.startswith(b"$")
    assert (matches(bare, inside) and not hidden) == matches(split_shared(filter_b)[1], topic_b)
