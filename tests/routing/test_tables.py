"""Several routes from one endpoint decide together: exclusions, priority, copies, rights."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging

import pytest

from isthmus.app.settings import Settings
from isthmus.config.loader import parse_text
from isthmus.delivery.outlet import flag_table
from isthmus.errors import ConfigError
from isthmus.routing.copies import joined
from isthmus.routing.leg import legs
from mosquitto import free_port
from raw import PUBACK, PUBLISH, UNSUBSCRIBE, FarSide, Packet, ack_packet, grant, until
from running import back, bridge, out

QUIET_S = 0.15
"""How long nothing has come when everything has."""


async def received(there) -> list[tuple[str, int, bool]]:
    """What the far side has got once nothing more comes, acknowledged."""
    found: list[Packet] = []
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(QUIET_S):
                found.append(await there.packet())
    for one in found:
        assert one.kind == PUBLISH, one
        if one.qos == 1:
            there.send(ack_packet(PUBACK, one.packet_id))
    return [(one.topic, one.qos, one.retain) for one in found]


async def started(isthmus, far, **routes):
    near = await isthmus(bridge(far.port, routes=routes))
    there, _ = await far.client()
    return near, there, await near.client("me")


async def test_what_is_excluded_is_not_taken(isthmus, far):
    near, there, raw = await started(
        isthmus, far, up=out("sensor/#", "!sensor/debug/#", "!+/secret")
    )
    for topic in ("sensor/1", "sensor/debug", "sensor/debug/x", "sensor/secret", "sensor/2"):
        raw.publish(topic, "x", 0)
    assert [topic for topic, _, _ in await received(there)] == ["sensor/1", "sensor/2"]
    assert not near.app.routes["up"].drops.counts  # not taken is not dropped


async def test_exclusions_do_not_change_what_the_far_side_is_asked_for(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"down": back("a/#", "!a/b", qos=1)}))
    there, _ = await far.client()
    assert [filter_ for filter_, _ in await grant(there)] == ["a/#"]
    raw = await near.client("x")
    await raw.subscribe("#")
    there.publish("a/b", "no", 1)
    there.publish("a/c", "yes", 1)
    assert (await raw.message()).topic == "a/c"
    assert {(await there.expect(PUBACK)).code for _ in range(2)} == {0}


async def test_the_first_filter_that_matches_says_what_a_capture_is(isthmus, far):
    _, there, raw = await started(
        isthmus, far, up=out("a/+/c", "a/#", topic="x/${1}"), late=out("b/#", "b/+", topic="y/${1}")
    )
    raw.publish("a/b/c", "x", 0)
    raw.publish("a/b/d", "x", 0)
    raw.publish("b/z", "x", 0)
    raw.publish("b", "x", 0)  # `#` stands for no level
    got = [topic for topic, _, _ in await received(there)]
    assert got == ["x/b", "x/b/d", "y/z", "y/"]


async def test_a_topic_without_the_level_is_refused_and_counted(isthmus, far):
    near, _, raw = await started(isthmus, far, up=out("#", topic="x/${topic[2]}"))
    assert await raw.published("a/b", "x", 1) == 0x90
    assert near.app.routes["up"].drops.counts == {"bad_topic": 1}


# -- copies ----------------------------------------------------------------------------------------


async def test_equal_results_go_out_once_with_the_higher_qos(isthmus, far):
    _, there, raw = await started(
        isthmus,
        far,
        low=out("s/#", qos=0, prepend="x/"),
        high=out("s/+", qos=1, topic="x/${topic}"),
        same=out("s/1", qos=0, topic="x/s/${1}", topics=["s/+"]),
        other=out("s/#", prepend="y/"),
    )
    raw.publish("s/1", "x", 0)
    assert await received(there) == [("x/s/1", 1, False), ("y/s/1", 0, False)]


async def test_copies_that_differ_in_the_retain_flag_both_go_out(isthmus, far):
    _, there, raw = await started(isthmus, far, keep=out("s", qos=1), all=out("s", retain="set"))
    raw.publish("s", "x", 0)
    assert sorted(await received(there)) == [("s", 0, True), ("s", 1, False)]
    raw.publish("s", "x", 0, retain=True)
    assert await received(there) == [("s", 1, True)]


async def test_local_subscribers_get_one_copy_too(isthmus, caplog):
    near = await isthmus({
        "routes": {
            name: {"from": "local", "to": "local", "topics": ["a"], "prepend": "x/", "qos": qos}
            for name, qos in (("one", 0), ("two", 1))
        }
    })  # fmt: skip
    raw = await near.client("x")
    await raw.subscribe("x/#", qos=2)
    raw.publish("a", "x", 0)
    got = [(found.topic, found.qos) for found in await raw.arrived() if found.kind == PUBLISH]
    assert got == [("x/a", 1)]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_local_copies_with_and_without_retain(isthmus):
    near = await isthmus({
        "routes": {
            name: {"from": "local", "to": "local", "topics": ["a"], "prepend": "x/", "retain": how}
            for name, how in (("one", "clear"), ("two", "set"))
        }
    })  # fmt: skip
    raw = await near.client("x")
    await raw.subscribe("x/#", options=8)  # retain as published
    raw.publish("a", "x", 0)
    got = [(found.topic, found.retain) for found in await raw.arrived() if found.kind == PUBLISH]
    assert sorted(got) == [("x/a", False), ("x/a", True)]
    assert near.app.broker.retained.get(b"x/a").payload == b"x"


def test_tables_are_joined_as_the_copies_would_be():
    """For every pair of tables and flags: the set of distinct copies, the QoS at its highest."""
    tables = [
        flag_table(qos=qos, max_qos=most, retain=retain)
        for qos, most, retain in itertools.product((None, 0, 1, 2), (0, 1, 2), (None, True, False))
    ]
    for pair in itertools.product(tables, tables):
        first, second = joined(pair)
        for flags in range(6):
            wanted = {}
            for table in pair:
                retain = table[flags] & 1
                wanted[retain] = max(wanted.get(retain, 0), table[flags])
            got = [first[flags]]
            if second is not None and flags in second[1]:
                got.append(second[0][flags])
            assert sorted(got) == sorted(wanted.values())


async def test_the_safer_promise_counts(isthmus, far):
    _, there, raw = await started(isthmus, far, quick=out("s", durability="memory"), safe=out("s"))
    raw.publish("s", "x", 1)
    got = await there.expect(PUBLISH)
    await raw.nothing()  # no PUBACK
    there.send(ack_packet(PUBACK, got.packet_id))
    await raw.expect(PUBACK)


# -- priority --------------------------------------------------------------------------------------


async def test_routes_come_in_order_of_priority_and_a_stop_ends_it(isthmus, far):
    _, there, raw = await started(
        isthmus,
        far,
        last=out("a/#", prepend="4/", priority=-1),
        third=out("a/#", prepend="3/"),
        second=out("a/b", prepend="2/", priority=1, stop=True),
        first=out("a/#", "!a/x", prepend="1/", priority=2),
        never=out("b/#", prepend="5/", stop=True),
    )
    raw.publish("a/b", "x", 0)
    assert [topic for topic, _, _ in await received(there)] == ["1/a/b", "2/a/b"]
    raw.publish("a/c", "x", 0)
    assert [topic for topic, _, _ in await received(there)] == ["1/a/c", "3/a/c", "4/a/c"]


async def test_a_stop_that_excludes_a_topic_does_not_stop_it(isthmus, far):
    _, there, raw = await started(
        isthmus,
        far,
        first=out("a/#", "!a/b", prepend="1/", stop=True),
        second=out("a/#", prepend="2/"),
    )
    raw.publish("a/b", "x", 0)
    raw.publish("a/c", "x", 0)
    assert [topic for topic, _, _ in await received(there)] == ["2/a/b", "1/a/c"]


async def test_first_match_wins_as_in_mosquitto(isthmus, far):
    """Two `topic` lines in, in the order of the file: the first whose filter matches."""
    near = await isthmus(
        bridge(
            far.port,
            routes={
                "one": back("r/a/#", strip="r/", prepend="l1/", stop=True),
                "two": back("r/#", strip="r/", prepend="l2/", stop=True),
            },
        )
    )
    there, _ = await far.client()
    await grant(there)
    raw = await near.client("x")
    await raw.subscribe("#")
    there.publish("r/a/1", "x")
    there.publish("r/b/1", "x")
    assert [(await raw.message()).topic for _ in range(2)] == ["l1/a/1", "l2/b/1"]
    await raw.nothing()


# -- publishers and connections --------------------------------------------------------------------


async def test_what_names_the_publisher_is_joined_too(isthmus, far):
    """Also one route without a name in it, which leads to the same topic by chance."""
    _, there, raw = await started(
        isthmus,
        far,
        by_id=out("s/+", topic="c/${clientid}/${1}"),
        fixed=out("s/+", topic="c/me/${1}", qos=1),
    )
    raw.publish("s/1", "x", 0)
    assert await received(there) == [("c/me/1", 1, False)]


async def pool(isthmus, far, **route):
    """A connector with four connections, whose client ids say which is which."""
    near = await isthmus(bridge(far.port, routes={"up": out("s/#", **route)}, pool=4))
    found = {}
    for _ in range(4):
        there, hello = await far.client()
        found[hello.client_id] = there
    return near, found


async def test_a_route_can_name_its_connection(isthmus, far):
    configuration = bridge(far.port, routes={"up": out("s/#", connection="${clientid}")}, pool=4)
    near = await isthmus(configuration)
    found = {}
    for _ in range(4):
        there, hello = await far.client()
        found[hello.client_id] = there
    for name, there in found.items():
        raw = await near.client(name)
        for number in range(5):
            raw.publish(f"s/{number}", "x", 0)
        assert len(await received(there)) == 5
        others = [other for other in found.values() if other is not there]
        assert [await received(other) for other in others] == [[], [], []]
    stranger = await near.client("stranger")
    assert await stranger.published("s/1", "x", 1) == 0x83
    assert near.cloud.drops.counts == {"no_such_connection": 1}


async def test_the_topic_can_name_the_connection(isthmus, far):
    near, found = await pool(isthmus, far, topic="by/${connection.client_id}/${1}")
    raw = await near.client("x")
    for number in range(20):
        raw.publish(f"s/{number}", "x", 0)
    for name, there in found.items():
        got = await received(there)
        assert got
        assert all(topic.startswith(f"by/{name}/") for topic, _, _ in got)


# -- rights ----------------------------------------------------------------------------------------

ACL = "user bridge\ntopic read out/#\ntopic deny out/secret\ntopic write in/#\n"


async def test_a_route_keeps_the_rights_of_a_user(isthmus, far, tmp_path):
    (tmp_path / "acl").write_text(f"topic readwrite #\n{ACL}")
    near = await isthmus(
        bridge(far.port, routes={
            "up": out("#", check_as="bridge"),
            "down": back("far/#", strip="far/", check_as="bridge"),
            "free": out("out/secret", prepend="free/"),
        })
        | {"auth": {"acl_file": str(tmp_path / "acl"), "allow_anonymous": True}}
    )  # fmt: skip
    there, _ = await far.client()
    await grant(there)
    raw, reader = await near.client("x"), await near.client("reader")
    await reader.subscribe("in/#")
    raw.publish("out/1", "x", 0)
    assert await received(there) == [("out/1", 0, False)]
    raw.publish("out/secret", "x", 0)
    assert await received(there) == [("free/out/secret", 0, False)]
    assert await raw.published("elsewhere", "x", 1) == 0x87
    assert near.app.routes["up"].drops.counts == {"denied": 2}
    there.publish("far/in/1", "x", 1, packet_id=1)
    there.publish("far/out/1", "x", 1, packet_id=2)
    answers = {found.packet_id: found.code for found in [await there.expect(4) for _ in range(2)]}
    assert answers == {1: 0, 2: 0x87}
    assert near.app.routes["down"].drops.counts == {"denied": 1}
    assert (await reader.message()).topic == "in/1"


async def test_a_denied_route_with_stop_stops(isthmus, far, tmp_path):
    (tmp_path / "acl").write_text(f"topic readwrite #\n{ACL}")
    near = await isthmus(
        bridge(far.port, routes={
            "strict": out("#", check_as="bridge", stop=True), "rest": out("#", prepend="rest/"),
        })
        | {"auth": {"acl_file": str(tmp_path / "acl"), "allow_anonymous": True}}
    )  # fmt: skip
    there, _ = await far.client()
    raw = await near.client("x")
    raw.publish("elsewhere", "x", 0)
    assert await received(there) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{from: local, to: cloud, topics: [a], check_as: u}", "check_as: needs 'auth.acl_file'"),
        ("{from: cloud, to: b, topics: [a], check_as: u}", "neither end is 'local'"),
        ("{from: cloud, to: local, topics: [a], connection: x}", "'local', which has none"),
        ("{from: cloud, to: local, topics: [a], topic: '${connection.client_id}'}",
         "'local', which has none"),
        ("{from: local, to: local, topics: [a/#], strip: a/, prepend: b/, direction: both}",
         "'both' between an endpoint and itself"),
        ("{from: local, to: cloud, topics: [a], connection: '${connection.client_id}'}",
         "cannot name itself"),
    ],
)  # fmt: skip
def test_what_the_ends_do_not_allow(text: str, problem: str) -> None:
    connectors = f"connectors: {{cloud: {{url: h}}, b: {{url: i:{free_port()}}}}}"
    with pytest.raises(ConfigError) as caught:
        parse_text(Settings, f"{connectors}\nroutes: {{r: {text}}}", name="f")
    assert problem in str(caught.value)


# -- both ways -------------------------------------------------------------------------------------


async def test_both_ways_without_an_echo(isthmus, far):
    near = await isthmus(bridge(far.port, routes={
        "both": out("s/#", "!s/x/#", strip="s/", prepend="f/", direction="both"),
    }))  # fmt: skip
    there, _ = await far.client()
    assert [filter_ for filter_, _ in await grant(there)] == ["f/#"]
    raw, reader = await near.client("x"), await near.client("reader")
    raw.publish("s/1", "up", 0)
    raw.publish("s/x/1", "up", 0)
    assert await received(there) == [("f/1", 0, False)]
    await reader.subscribe("#")
    there.publish("f/2", "down")
    there.publish("f/x/2", "down")
    assert await received(there) == []  # nothing goes back
    assert [found.topic for found in await reader.arrived()] == [
        "s/2"
    ]  # what is excluded on the way up does not come down


async def test_a_two_way_route_does_not_write_what_it_does_not_read(isthmus, far):
    """`#` does not match topics that begin with `$`, and the way back does not make them."""
    near = await isthmus(
        bridge(far.port, routes={"both": out("#", prepend="f/", direction="both")})
    )
    there, _ = await far.client()
    await grant(there)
    raw = await near.client("x")
    await raw.subscribe("$SYS/x", "#")
    there.publish("f/$SYS/x", "no")
    there.publish("f", "no")  # `f/#` matches it, and nothing here becomes it
    there.publish("f/a", "yes")
    assert (await raw.message()).topic == "a"
    await raw.nothing()
    assert not near.app.routes["both.back"].drops.counts


# -- other routes while it runs --------------------------------------------------------------------


async def test_routes_are_replaced_and_equal_subscriptions_stay(isthmus, far):
    near = await isthmus(
        bridge(far.port, routes={"a": back("a/#"), "b": back("b/#", qos=1), "c": back("c/#")})
    )
    there, _ = await far.client()
    await grant(there)
    raw = await near.client("x")
    await raw.subscribe("#")
    table, routes = near.app.tables["cloud"], near.app.routes
    there.publish("a/1", "x")
    assert (await raw.message()).topic == "a/1"
    new = bridge(far.port, routes={"a": back("a/#", prepend="n/"), "d": back("d/#")})
    settings = Settings.model_validate(new)
    fresh = [near.app.new_route(leg) for leg in legs(settings.routes, "edge")]
    table.replace([routes["b"], *fresh])
    assert [filter_ for filter_, _ in await grant(there)] == ["d/#"]
    gone = b""
    for _ in range(4):  # a filter without its answer yet may be asked for again
        found = await there.packet()
        gone += found.body if found.kind == UNSUBSCRIBE else b""
        if b"a/#" not in gone and b"c/#" in gone:
            break
    assert b"b/#" not in gone
    there.publish("a/1", "x")
    there.publish("c/1", "x")
    there.publish("d/1", "x")
    assert [(await raw.message()).topic for _ in range(2)] == ["n/a/1", "d/1"]
    await raw.nothing()


async def test_many_alike_routes_make_one_plan(isthmus, far):
    """1,000 routes of one filter: one outlet, one count, and their decision is remembered."""
    near = await isthmus(
        bridge(
            far.port, routes={f"r{number}": out("s/#", f"!s/x{number}") for number in range(1000)}
        )
    )
    there, _ = await far.client()
    raw = await near.client("x")
    raw.publish("s/1", "x", 0)
    assert await received(there) == [("s/1", 0, False)]
    plan = near.app.broker.exchange.plan(b"s/1")
    assert len(plan.outlets) == 2
    assert {route.messages for route in near.app.routes.values()} == {1}
    assert len(near.app.broker.exchange) == 2  # the routes, and what looks after retained messages
    before = near.app.tables["local"].decide
    near.app.tables["local"].decide = None  # asked no more
    try:
        near.app.broker.exchange.plans.clear()
        assert len(near.app.broker.exchange.plan(b"s/1").outlets) == 2
    finally:
        near.app.tables["local"].decide = before


async def test_two_far_sides_get_what_is_theirs(isthmus, far):
    second = FarSide()
    await second.start()
    configuration = bridge(far.port, routes={
        "one": out("s/#", priority=1, stop=True, topics=["s/a/#"]),
        "two": out("s/#", to="other"),
    })  # fmt: skip
    configuration["connectors"]["other"] = {"url": f"127.0.0.1:{second.port}"}
    near = await isthmus(configuration)
    there, _ = await far.client()
    other, _ = await second.client()
    raw = await near.client("x")
    raw.publish("s/a/1", "x", 0)
    raw.publish("s/b/1", "x", 0)
    assert await received(there) == [("s/a/1", 0, False)]
    assert await received(other) == [("s/b/1", 0, False)]
    await until(lambda: near.app.connectors["other"].unsettled == 0)
    await second.stop()
