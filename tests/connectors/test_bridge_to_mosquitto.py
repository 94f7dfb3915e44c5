"""A bridge with a real Mosquitto at its far end: versions, TLS, QoS, retain, topics, properties."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from mosquitto import Mosquitto
from raw import Raw, until
from running import Isthmus, back, bridge, out

VERSIONS = ["3.1", "3.1.1", "5"]
LEVEL = {"3.1": 3, "3.1.1": 4, "5": 5}


def tls_lines(certificates, *, clients: bool = False, certificate: str = "server") -> list[str]:
    server = getattr(certificates, certificate)
    lines = [f"cafile {certificates.ca}", f"certfile {server}", f"keyfile {server}"]
    return (
        [*lines, "require_certificate true", "use_identity_as_username true"] if clients else lines
    )


async def both_ends(
    mosquitto: Any, isthmus: Any, version: str, transport: str, certificates: Any, **how: Any
) -> tuple[Isthmus, Raw, Raw]:
    """A bridge that sends `out/#` and brings `in/#`, with a client at each end, ready."""
    routes = {"out": out("out/#"), "in": back("in/#")}
    connector: dict[str, Any] = {"version": version, "client_id": "edge", **how}
    lines = []
    tls = None
    if transport == "tls":
        lines = tls_lines(certificates, clients=True)
        connector["tls"] = {"ca": str(certificates.ca), "certificate": str(certificates.client)}
        tls = ssl.create_default_context(cafile=str(certificates.ca))
        tls.load_cert_chain(certificates.client)
    far = await mosquitto(*lines)
    if transport == "tls":
        connector["url"] = f"mqtts://127.0.0.1:{far.port}"
    near = await isthmus(bridge(far.port, routes=routes, **connector))
    await near.connected()
    here = await near.client("here", 5)
    there = await Raw.client(far.port, "there", 5, tls=tls)
    return near, here, there


@pytest.mark.both_loops
@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_every_qos_both_ways(mosquitto, isthmus, certificates, version, transport):
    near, here, there = await both_ends(mosquitto, isthmus, version, transport, certificates)
    await there.subscribe("out/#", qos=2)
    await here.subscribe("in/#", qos=2)
    for publisher, receiver, prefix in ((here, there, "out"), (there, here, "in")):
        for qos in (0, 1, 2):
            assert await publisher.published(f"{prefix}/q", f"p{qos}", qos) == 0
            found = await receiver.message()
            assert (found.topic, found.payload, found.qos) == (f"{prefix}/q", b"p%d" % qos, qos)
            assert not found.retain
            assert not found.dup
    await here.nothing()
    await there.nothing()
    assert near.cloud.unsettled == 0
    assert not near.cloud.drops.counts


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.1", (3, True)), ("3.1.1", (4, True)), ("5", (5, False))],
)
async def test_mosquitto_sees_the_version_and_the_bridge(mosquitto, isthmus, version, expected):
    far = await mosquitto()
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, version=version))
    await near.connected()
    dialect = near.cloud.members[0].dialect
    assert (dialect.version, dialect.bridge) == expected
    client_id = near.status()["client_id"]
    # Debian's Mosquitto logs the level byte without the bridge's bit.
    assert f"as {client_id} (p{ {3: 1, 4: 2, 5: 5}[expected[0]] }," in far.log.read_text()


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_same_filter_both_ways_does_not_echo(mosquitto, isthmus, version):
    far = await mosquitto()
    routes = {"out": out("both/#"), "in": back("both/#")}
    near = await isthmus(bridge(far.port, routes=routes, version=version))
    await near.connected()
    here = await near.client("here")
    there = await Raw.client(far.port, "there")
    await here.subscribe("both/#", qos=1)
    await there.subscribe("both/#", qos=1)
    for publisher in (here, there):
        packet_id = publisher.publish("both/x", "once", 1)
        own = [await publisher.packet(), await publisher.packet()]
        assert {found.kind for found in own} == {3, 4}
        assert packet_id in {found.packet_id for found in own if found.kind == 4}
        other = there if publisher is here else here
        assert (await other.message()).payload == b"once"
    # What came back would have come by now: each end answers a whole exchange over the bridge.
    await here.published("out-of-the-way", "", 1)
    assert await here.arrived() == []
    assert await there.arrived() == []


@pytest.mark.parametrize(
    ("route", "flags"),
    [({"retain": "keep"}, (False, True)), ({"retain": "set"}, (True, True)),
     ({"retain": "clear"}, (False, False))],
)  # fmt: skip
@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_retain_is_kept_set_or_cleared_both_ways(mosquitto, isthmus, version, route, flags):
    far = await mosquitto()
    routes = {"out": out("out/#", **route), "in": back("in/#", **route)}
    near = await isthmus(bridge(far.port, routes=routes, version=version))
    await near.connected()
    here = await near.client("here")
    there = await Raw.client(far.port, "there")
    for publisher, receiver, prefix in ((here, there, "out"), (there, here, "in")):
        await receiver.subscribe(f"{prefix}/#", qos=1, options=0x08)  # retain as published
        for retain, expected in zip((False, True), flags, strict=True):
            topic = f"{prefix}/{retain}"
            assert await publisher.published(topic, "kept", 1, retain=retain) == 0
            found = await receiver.message()
            assert (found.topic, found.retain) == (topic, expected)
        await receiver.unsubscribe(f"{prefix}/#")
        await receiver.subscribe(f"{prefix}/#", qos=1)
        kept = sorted(found.topic for found in await receiver.arrived())
        assert kept == [
            f"{prefix}/{retain}" for retain, on in zip((False, True), flags, strict=True) if on
        ]


async def test_a_retained_message_is_deleted_over_the_bridge(mosquitto, isthmus):
    far = await mosquitto()
    routes = {"out": out("out/#"), "in": back("in/#")}
    near = await isthmus(bridge(far.port, routes=routes))
    await near.connected()
    here = await near.client("here")
    there = await Raw.client(far.port, "there")
    for publisher, receiver, topic in ((here, there, "out/r"), (there, here, "in/r")):
        await receiver.subscribe(topic, qos=1)
        for payload in ("kept", ""):
            await publisher.published(topic, payload, 1, retain=True)
            assert (await receiver.message()).payload == payload.encode()
        await receiver.unsubscribe(topic)
        await receiver.subscribe(topic, qos=1)
        await receiver.nothing()


async def test_what_the_far_side_retains_comes_at_the_first_connect(mosquitto, isthmus):
    far = await mosquitto()
    there = await Raw.client(far.port, "there")
    await there.published("in/state", "on", 1, retain=True)
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}))
    await near.connected()
    here = await near.client("here")
    await until(lambda: near.app.broker.retained.get(b"in/state"))
    await here.subscribe("in/#", qos=1)
    found = await here.message()
    assert (found.topic, found.payload, found.retain) == ("in/state", b"on", True)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_properties_are_kept_where_both_ends_speak_mqtt_5(mosquitto, isthmus, version):
    """MQTT-3.3.2-15, -16, -17, -18, -20: passed on unaltered."""
    _near, here, there = await both_ends(mosquitto, isthmus, version, "tcp", None)
    await there.subscribe("out/#", qos=1)
    await here.subscribe("in/#", qos=1)
    sent = {
        "payload_format": 1,
        "content_type": "text/plain",
        "response_topic": "answers/here",
        "correlation": b"\0\xff42",
        "user": [("unit", "°C"), ("unit", "twice"), ("a", "")],
    }
    for publisher, receiver, topic in ((here, there, "out/p"), (there, here, "in/p")):
        await publisher.published(topic, "37.5", 1, expiry=300, **sent)
        found = await receiver.message()
        assert found.payload == b"37.5"
        if version == "5":
            assert 298 <= found.properties.pop("expiry") <= 300
            if receiver is there:
                assert found.properties["user"].pop()[0] == "isthmus-hops"
            assert found.properties == sent
        else:
            assert found.properties == {}


@pytest.mark.parametrize(
    ("route", "topic"),
    [
        ({"topic": "site-7/${topic}"}, "site-7/plant/a/b"),
        ({"topic": "${node}/${topic}/x"}, "edge/plant/a/b/x"),
        ({"topic": "by/${clientid}/${topic}"}, "by/here/plant/a/b"),
        ({"topic": "by/${username}/${clientid}"}, "by/anna/here"),
        ({"strip": "plant/"}, "a/b"),
        ({"prepend": "up/"}, "up/plant/a/b"),
        ({"strip": "plant/", "prepend": "werk/"}, "werk/a/b"),
        ({"strip": "elsewhere/", "prepend": "up-"}, "up-plant/a/b"),
    ],
)
async def test_topics_are_mapped(mosquitto, isthmus, tmp_path, route, topic):
    from isthmus.auth.passwords import create_entry

    (tmp_path / "users").write_text(create_entry("anna", b"pw", iterations=101) + "\n")
    far = await mosquitto()
    configuration = bridge(far.port, routes={"out": out("plant/#", **route)})
    near = await isthmus({**configuration, "auth": {"password_file": str(tmp_path / "users")}})
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe("#", qos=1)
    here = await near.client("here", username="anna", password="pw")
    for payload in ("1", "2"):
        await here.published("plant/a/b", payload, 1)
        found = await there.message()
        assert (found.topic, found.payload) == (topic, payload.encode())


async def test_two_publishers_on_one_topic_each_under_its_own_name(mosquitto, isthmus):
    far = await mosquitto()
    near = await isthmus(bridge(far.port, routes={"out": out("t", topic="by/${clientid}")}))
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe("#", qos=1)
    for name in ("one", "two", "one"):
        here = await near.client(name)
        await here.published("t", name, 1)
        assert (await there.message()).topic == f"by/{name}"


async def test_a_publisher_whose_name_would_reach_other_topics_is_refused(mosquitto, isthmus):
    far = await mosquitto()
    near = await isthmus(bridge(far.port, routes={"out": out("t", topic="by/${clientid}")}))
    await near.connected()
    for name in ("a/b", "+", "#"):
        here = await near.client(name)
        assert await here.published("t", "x", 1) == 0x90
    assert near.app.routes["out"].drops.counts == {"bad_topic": 3}


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ({}, [0, 1, 2]),
        ({"qos": 0}, [0, 0, 0]),
        ({"qos": 1}, [1, 1, 1]),
        ({"qos": 2}, [2, 2, 2]),
        ({"max_qos": 0}, [0, 0, 0]),
        ({"max_qos": 1}, [0, 1, 1]),
    ],
)
async def test_qos_of_a_route_keep_exact_or_lowered(mosquitto, isthmus, route, expected):
    far = await mosquitto()
    routes = {"out": out("out/#", **route), "in": back("in/#", **route)}
    near = await isthmus(bridge(far.port, routes=routes))
    await near.connected()
    here = await near.client("here")
    there = await Raw.client(far.port, "there")
    await there.subscribe("out/#", qos=2)
    await here.subscribe("in/#", qos=2)
    for publisher, receiver, prefix in ((here, there, "out"), (there, here, "in")):
        got = []
        for qos in (0, 1, 2):
            await publisher.published(f"{prefix}/x", str(qos), qos)
            got.append((await receiver.message()).qos)
        assert got == expected


async def test_what_the_far_side_allows_lowers_the_qos(mosquitto, isthmus):
    far = await mosquitto("max_qos 1")
    near = await isthmus(bridge(far.port, routes={"out": out("o", qos=2), "in": back("i", qos=2)}))
    await near.connected()
    assert near.subscribed == {"i": 1}
    here = await near.client("here")
    there = await Raw.client(far.port, "there")
    await there.subscribe("o", qos=1)
    await here.published("o", "x", 2)
    assert (await there.message()).qos == 1


async def test_a_far_side_that_does_not_retain_gets_no_retain(mosquitto, isthmus):
    """MQTT-3.2.2-14."""
    far = await mosquitto("retain_available false")
    near = await isthmus(bridge(far.port, routes={"out": out("o")}))
    await near.connected()
    here = await near.client("here")
    there = await Raw.client(far.port, "there")
    await there.subscribe("o", qos=1, options=0x08)
    assert await here.published("o", "x", 1, retain=True) == 0
    assert not (await there.message()).retain
    assert near.status()["connects"] == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_overlapping_filters_deliver_once(mosquitto, isthmus, version):
    far = await mosquitto()
    routes = {
        "out": out("out/#", "out/+/b", "out/a/b"),
        "in": back("in/#", "in/+/b"),
        "more": back("in/a/#"),
    }
    near = await isthmus(bridge(far.port, routes=routes, version=version))
    await near.connected()
    assert list(near.subscribed) == ["in/#"]
    here = await near.client("here")
    there = await Raw.client(far.port, "there")
    await there.subscribe("#", qos=1)
    await here.published("out/a/b", "1", 1)
    assert (await there.message()).topic == "out/a/b"
    await there.nothing()
    await there.unsubscribe("#")
    await here.subscribe("in/#", "in/a/b", qos=1)
    await there.published("in/x/b", "1", 1)
    assert (await here.message()).payload == b"1"
    await here.nothing()


async def test_two_routes_with_one_filter_each_deliver(mosquitto, isthmus):
    far = await mosquitto()
    routes = {
        "plain": back("in/#"),
        "copy": back("in/#", prepend="copy/"),
        "part": back("in/a", prepend="part/"),
    }
    near = await isthmus(bridge(far.port, routes=routes))
    await near.connected()
    here = await near.client("here")
    await here.subscribe("#", qos=1)
    there = await Raw.client(far.port, "there")
    await there.published("in/a", "x", 1)
    topics = sorted([(await here.message()).topic for _ in range(3)])
    assert topics == ["copy/in/a", "in/a", "part/in/a"]
    await here.nothing()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_refused_subscriptions_are_shown(mosquitto, isthmus, tmp_path, caplog, version):
    (tmp_path / "acl").write_text("topic readwrite allowed/#\n")
    far = await mosquitto(f"acl_file {tmp_path / 'acl'}")
    routes = {"a": back("allowed/#"), "b": back("$SYS/#", "secret/#")}
    near = await isthmus(bridge(far.port, routes=routes, version=version))
    await near.connected()
    found = near.subscribed
    # Debian's Mosquitto grants every subscription and filters deliveries, with one exception.
    assert found["allowed/#"] in (0, 1, 2)
    assert set(found) == {"allowed/#", "$SYS/#", "secret/#"}


@pytest.mark.parametrize("pool", [1, 4])
async def test_a_pool_keeps_the_order_of_each_topic(mosquitto, isthmus, pool):
    far = await mosquitto("max_queued_messages 0")
    near = await isthmus(bridge(far.port, routes={"out": out("o/#")}, pool=pool))
    await near.connected()
    there = await Raw.client(far.port, "there")
    await there.subscribe("o/#", qos=1)
    here = await near.client("here")
    topics, each = 16, 50
    for number in range(each):
        for topic in range(topics):
            here.publish(f"o/{topic}", str(number), 1)
    seen: dict[str, list[int]] = {}
    for _ in range(topics * each):
        found = await there.message()
        seen.setdefault(found.topic, []).append(int(found.payload))
    assert seen == {f"o/{topic}": list(range(each)) for topic in range(topics)}
    used = [member.lane.sent for member in near.cloud.members]
    assert sum(used) == topics * each
    assert all(used), "each connection of the pool carries a share"


async def test_only_one_of_a_pool_subscribes(mosquitto, isthmus):
    far = await mosquitto()
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, pool=4))
    await near.connected()
    here = await near.client("here")
    await here.subscribe("in/#", qos=1)
    there = await Raw.client(far.port, "there")
    await there.published("in/x", "once", 1)
    assert (await here.message()).payload == b"once"
    await here.nothing()
    names = [member.client_id for member in near.cloud.members]
    assert [name.rpartition(":")[2] for name in names] == ["1", "2", "3", "4"]
    assert len({name.rpartition(":")[0] for name in names}) == 1


# -- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tls", "server", "needle"),
    [
        ({"ca": "stranger_ca"}, "server", "certificate"),
        ({"ca": "ca"}, "elsewhere", "for another "),
        ({"ca": "ca", "server_name": "wrong.test"}, "server", "for another "),
    ],
)
async def test_a_far_side_that_cannot_prove_itself_is_refused(
    mosquitto, isthmus, certificates, tls, server, needle
):
    far = await mosquitto(*tls_lines(certificates, certificate=server))
    tls = {**tls, "ca": str(getattr(certificates, tls["ca"]))}
    near = await isthmus(
        bridge(far.port, routes={"o": out()}, url=f"mqtts://127.0.0.1:{far.port}", tls=tls)
    )
    await until(lambda: near.status()["state"] == "waiting")
    reason = near.status()["reason"]
    assert reason.startswith("tls: ")
    assert needle in reason
    assert "New client connected" not in far.log.read_text()


async def test_a_name_that_is_in_the_certificate_is_enough(mosquitto, isthmus, certificates):
    far = await mosquitto(*tls_lines(certificates, certificate="elsewhere"))
    for tls in ({"server_name": "elsewhere.test"}, {"verify_hostname": False}):
        settings = {"ca": str(certificates.ca), **tls}
        near = await isthmus(
            bridge(far.port, routes={"o": out()}, url=f"mqtts://127.0.0.1:{far.port}", tls=settings)
        )
        await near.connected()


@pytest.mark.parametrize("certificate", [None, "stranger"])
async def test_a_far_side_that_wants_another_client_certificate_says_so(
    mosquitto, isthmus, certificates, certificate
):
    far = await mosquitto(*tls_lines(certificates, clients=True))
    tls = {"ca": str(certificates.ca)}
    if certificate:
        tls["certificate"] = str(getattr(certificates, certificate))
    near = await isthmus(
        bridge(far.port, routes={"o": out()}, url=f"mqtts://127.0.0.1:{far.port}", tls=tls)
    )
    await until(lambda: near.status()["state"] == "waiting")
    assert near.status()["connects"] == 0
    assert "certificate" in near.status()["reason"]


async def test_a_client_certificate_is_the_identity_at_the_far_side(
    mosquitto, isthmus, certificates, tmp_path
):
    (tmp_path / "acl").write_text("user edge-7\ntopic readwrite mine/#\n")
    far: Mosquitto = await mosquitto(
        *tls_lines(certificates, clients=True), f"acl_file {tmp_path / 'acl'}"
    )
    tls = {"ca": str(certificates.ca), "certificate": str(certificates.client)}
    near = await isthmus(
        bridge(far.port, routes={"o": out()}, url=f"mqtts://127.0.0.1:{far.port}", tls=tls)
    )
    await near.connected()
    here = await near.client("here")
    assert await here.published("mine/x", "1", 1) in (0, 0x10)
    assert await here.published("other/x", "1", 1) == 0x87  # the far side's code, handed on


async def test_plain_mqtt_to_a_tls_port_and_the_other_way_end_with_a_reason(
    mosquitto, isthmus, certificates
):
    secure = await mosquitto(*tls_lines(certificates))
    plain = await mosquitto()
    tls = {"ca": str(certificates.ca)}
    for url, step in ((f"mqtt://127.0.0.1:{secure.port}", "connack"),
                      (f"mqtts://127.0.0.1:{plain.port}", "tls")):  # fmt: skip
        how = {"tls": tls} if step == "tls" else {}
        near = await isthmus(bridge(0, routes={"o": out()}, url=url, **how))
        await until(lambda near=near: near.status()["state"] == "waiting")
        assert near.status()["reason"].startswith(f"{step}: ")


async def test_wrong_credentials_are_refused_with_the_far_sides_code(mosquitto, isthmus, tmp_path):
    from isthmus.auth.passwords import create_entry

    (tmp_path / "users").write_text(create_entry("edge", b"right", iterations=101) + "\n")
    far = await mosquitto("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    for version, needle in (("3.1.1", "authoriz"), ("5", "authoriz")):
        near = await isthmus(
            bridge(
                far.port, routes={"o": out()}, version=version, username="edge", password="wrong"
            )
        )
        await until(lambda near=near: near.status()["state"] == "refused")
        assert needle in near.status()["reason"].lower()
        assert near.cloud.members[0].dialect.version == LEVEL[version]
    near = await isthmus(bridge(far.port, routes={"o": out()}, username="edge", password="right"))
    await near.connected()


async def test_topic_aliases_over_a_reconnection(mosquitto, isthmus):
    """Mosquitto finds the topic of every message, also those that are sent again."""
    far = await mosquitto("max_topic_alias 2")
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, topic_aliases_out=10))
    await near.connected()
    here = await near.client("here", 5)
    there = await Raw.client(far.port, "there", 5)
    await there.subscribe("out/#", qos=2)

    async def sixty(turn: str) -> None:
        for number in range(60):
            topic, payload = f"out/{number % 3}", f"{turn} {number}"
            assert await here.published(topic, payload, number % 2 + 1) == 0
            found = await there.message()
            assert (found.topic, found.payload.decode()) == (topic, payload)

    await sixty("first")
    (await Raw.client(far.port, near.status()["client_id"], 5)).close()  # takes over
    await until(lambda: near.status()["connects"] == 2)
    await sixty("second")
