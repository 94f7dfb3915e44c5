"""A connector against a scripted far side: what it says, what it makes of the answers."""

from __future__ import annotations

import asyncio
import platform
import re
import socket

import pytest

from isthmus.app.settings import Settings
from isthmus.net.socket_options import TCP_RTO_MAX_MS
from mosquitto import free_port
from raw import (
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PUBACK,
    PUBLISH,
    PUBREC,
    SUBSCRIBE,
    UNSUBSCRIBE,
    FarSide,
    Raw,
    ack_packet,
    grant,
    packet,
    parse_hello,
    properties,
    publish_packet,
    text,
    until,
    within,
)
from running import back, bridge, out

ROUTES = {"out": out("out/#"), "in": back("in/#")}


# -- topic aliases -------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [0, 1])
async def test_topic_aliases_as_many_as_both_want(isthmus, far, ours):
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, topic_aliases_out=ours))
    there, _ = await far.client(alias_maximum=3)
    here = await near.client("here", 5)
    seen = []
    for topic in ("out/a", "out/a", "out/b"):
        here.send(publish_packet(topic, "x", 1, 1))
        message = await there.message()
        there.send(ack_packet(PUBACK, message.packet_id))
        seen.append((message.topic, message.properties.get("alias")))
        assert (await here.expect(PUBACK)).code == 0
    first = [("out/a", 1), ("", 1)] if ours else [("out/a", None)] * 2
    assert seen == [*first, ("out/b", None)]


# -- the loop guard ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "routes",
    [
        {"out": out("out/#", loop_guard={"memory": True})},
        {"out": out("out/#", retain="set"), "again": out("out/#", retain="clear")},
    ],
    ids=["with a memory", "two copies"],
)
async def test_every_copy_that_leaves_carries_the_hops(isthmus, far, routes):
    near = await isthmus(bridge(far.port, routes=routes))
    there, _ = await far.client()
    here = await near.client("here", 5)
    here.send(publish_packet("out/a", "x", 1, 1))
    found = set()
    for _ in routes:
        message = await there.message()
        there.send(ack_packet(PUBACK, message.packet_id))
        (hops,) = message.properties["user"]
        found.add(hops)
    assert found == {("isthmus-hops", f"1@{near.app.broker.hops.identity.decode()}")}


# -- CONNECT -------------------------------------------------------------------------------------


async def test_defaults_of_connect(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES))
    _, hello = await far.client()
    assert (hello.version, hello.bridge, hello.keep_alive) == (5, False, 60)
    assert (hello.username, hello.password) == (None, None)
    assert hello.properties["receive_maximum"] == 1000
    assert hello.properties["maximum_packet"] == 1 << 20
    # Without a data folder the id is new at each start, so that the session is begun anew.
    assert hello.clean
    assert near.status()["client_id"] == hello.client_id


async def test_a_kept_session_is_asked_for_seven_days(isthmus, far, tmp_path):
    await isthmus({**bridge(far.port, routes=ROUTES), "broker": {"data": str(tmp_path / "d")}})
    _, hello = await far.client()
    assert not hello.clean
    assert hello.properties["session_expiry"] == 7 * 86_400


async def test_credentials_and_empty_ones(isthmus, far):
    how = {"username": "u", "password": "p", "client_id": "me", "keepalive": "17s"}
    await isthmus(bridge(far.port, routes=ROUTES, **how))
    _, hello = await far.client()
    assert (hello.client_id, hello.username, hello.password) == ("me", "u", b"p")
    assert hello.keep_alive == 17
    assert not hello.clean
    await isthmus(bridge(far.port, routes=ROUTES, username="", password=""))
    _, hello = await far.client()
    assert (hello.username, hello.password) == (None, None)


@pytest.mark.parametrize("prefix", [None, "myprefix"])
async def test_client_ids_have_their_form_and_survive_restarts(isthmus, far, tmp_path, prefix):
    how = {"pool": 2} | ({"client_id_prefix": prefix} if prefix else {})
    configuration = bridge(far.port, routes=ROUTES, **how)
    configuration["broker"] = {"data": str(tmp_path / "data")}
    start = f"{prefix}:" if prefix else ""
    seen = []
    for _ in range(2):
        near = await isthmus(configuration)
        ids = sorted([(await far.client())[1].client_id for _ in range(2)])
        for number, client_id in enumerate(ids, 1):
            assert re.fullmatch(rf"{start}cloud[0-9a-f]{{8}}:{number}", client_id)
        seen.append(ids)
        await near.app.close()
    assert seen[0] == seen[1]


async def test_without_a_data_folder_client_ids_are_new(isthmus, far):
    ids = set()
    for _ in range(2):
        near = await isthmus(bridge(far.port, routes=ROUTES))
        there, hello = await far.client()
        assert hello.clean
        ids.add(hello.client_id)
        await grant(there)
        await near.connected()
        await near.app.close()
        goodbye = await there.expect(DISCONNECT)
        # Nobody comes back for this session.
        assert goodbye.properties == {"session_expiry": 0}
    assert len(ids) == 2


async def test_an_id_that_the_far_side_assigns_is_taken_only_where_there_is_none(isthmus, far):
    settings = Settings.model_validate(
        {"listeners": [{"bind": "127.0.0.1:0"}], **bridge(far.port, routes=ROUTES, client_id="me")}
    )
    near = await isthmus(settings)
    there, _ = await far.client(assigned_id="given-1")
    await grant(there)
    await near.connected()
    assert near.status()["client_id"] == "me"
    unnamed = settings.connectors["cloud"].model_copy(update={"client_id": ""})
    near = await isthmus(settings.model_copy(update={"connectors": {"cloud": unnamed}}))
    there, hello = await far.client(assigned_id="given-1")
    assert (hello.client_id, hello.clean) == ("", True)
    await until(lambda: near.status()["client_id"] == "given-1")
    there.close()
    _, hello = await far.client(session_present=True)
    assert (hello.client_id, hello.clean) == ("given-1", False)


async def test_an_address_that_the_system_binds_to_and_its_options(isthmus, far):
    how = {
        "bind_address": "127.0.0.3",
        "tcp_keepalive": {"idle": 30, "interval": 5, "count": 3},
        "tcp_user_timeout": "7s",
        "tcp_retransmit_max": "3s",
    }
    near = await isthmus(bridge(far.port, routes=ROUTES, **how))
    there, _ = await far.client()
    assert there.writer.get_extra_info("peername")[0] == "127.0.0.3"
    sock = near.cloud.members[0].client.link.sock
    tcp = socket.IPPROTO_TCP
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(tcp, socket.TCP_KEEPIDLE) == 30
    assert sock.getsockopt(tcp, socket.TCP_KEEPINTVL) == 5
    assert sock.getsockopt(tcp, socket.TCP_KEEPCNT) == 3
    assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 7000
    if tuple(map(int, platform.release().split(".")[:2])) >= (6, 15):
        assert sock.getsockopt(tcp, TCP_RTO_MAX_MS) == 3000


async def test_a_far_side_that_never_acknowledges_is_left_and_gets_it_again(isthmus, far):
    """Nothing is sent again on a live connection (MQTT-4.4.0-1)."""
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, client_id="me", ack_timeout="1s")
    )
    there, _ = await far.client()
    here = await near.client("here")
    here.publish("out/a", "1", 1)
    first = await there.expect(PUBLISH)
    assert await there.closed() in (b"", packet(0xE0))
    assert "acknowledge the oldest message" in near.status()["reason"]
    there, _ = await far.client(session_present=True)
    again = await there.expect(PUBLISH)
    assert (again.packet_id, again.dup, again.payload) == (first.packet_id, True, b"1")
    there.send(ack_packet(PUBACK, again.packet_id))
    assert (await here.expect(PUBACK)).code == 0


async def test_will_and_user_properties_of_connect(isthmus, far):
    how = {
        "will": {"topic": "site/up", "payload": "off", "qos": 1, "retain": True, "delay": "9s"},
        "user_properties": {"site": "7", "rack": "b"},
    }
    await isthmus(bridge(far.port, routes=ROUTES, **how))
    _, hello = await far.client()
    assert hello.will == ("site/up", b"off", 1, True)
    assert hello.will_properties == {"will_delay": 9}
    assert hello.properties["user"] == [("site", "7"), ("rack", "b")]
    await isthmus(bridge(far.port, routes=ROUTES, version="3.1.1", **how))
    _, hello = await far.client()
    assert hello.will == ("site/up", b"off", 1, True)


async def test_a_will_that_is_refused_is_lowered_and_the_connection_made(isthmus, far):
    """0x9B: QoS not supported, 0x9A: retain not supported."""
    will = {"topic": "t", "payload": "off", "qos": 2, "retain": True}
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, will=will))
    seen = []
    for code in (0x9B, 0x9A, 0x9B):
        raw, hello = await far.client(code=code)
        raw.close()
        seen.append(hello.will[2:])
    _, hello = await far.client()
    assert [*seen, hello.will[2:]] == [(2, True), (1, True), (1, False), (0, False)]
    assert hello.version == 5
    await near.connected()


async def test_filters_of_old_routes_are_unsubscribed_at_each_connection(isthmus, far):
    await isthmus(
        bridge(far.port, routes={"o": out("x/#")}, unsubscribe_out=["y/#"], client_id="c")
    )
    for _ in range(2):
        there, _ = await far.client(session_present=True)
        asked = await there.expect(UNSUBSCRIBE)
        assert asked.body[2:] == b"\0" + text("y/#")
        there.close()


@pytest.mark.parametrize(
    ("version", "level", "bridge_bit"),
    [("3.1", 3, True), ("3.1", 3, False), ("3.1.1", 4, True), ("3.1.1", 4, False)],
)
async def test_mqtt_3_with_and_without_the_bridge_bit(isthmus, far, version, level, bridge_bit):
    await isthmus(bridge(far.port, routes=ROUTES, version=version, bridge_bit=bridge_bit))
    _, hello = await far.client()
    assert (hello.version, hello.bridge) == (level, bridge_bit)


# -- falling back --------------------------------------------------------------------------------


async def levels(far: FarSide, refuse, count: int) -> list[int]:
    """The level bytes of `count` refused connections."""
    found = []
    for _ in range(count):
        raw = await far.accept()
        hello = parse_hello((await raw.expect(CONNECT)).body)
        found.append(hello.level)
        refuse(raw, hello)
    return found


def say_0x84(raw: Raw, hello) -> None:
    raw.send(packet(0x20, b"\0\x84\0"))
    raw.close()


def say_return_code_1(raw: Raw, hello) -> None:
    """As brokers that know only MQTT 3 answer, also to MQTT 5."""
    raw.send(packet(0x20, b"\0\x01"))
    raw.close()


def just_close(raw: Raw, hello) -> None:
    raw.close()


def reset(raw: Raw, hello) -> None:
    raw.reset()


@pytest.mark.parametrize("refuse", [say_0x84, say_return_code_1, just_close, reset])
async def test_mqtt_5_falls_back_to_3_1_1_with_and_then_without_the_bridge_bit(
    isthmus, far, refuse
):
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, client_id="me"))
    assert await levels(far, refuse, 2) == [5, 0x84]
    there, hello = await far.client()
    assert hello.level == 4
    assert await grant(there) == [("in/#", 2)]
    await near.connected()
    here = await near.client("here")
    await here.subscribe("in/#")
    there.send(publish_packet("in/x", "1", version=4))
    assert (await here.message()).payload == b"1"


async def test_a_version_that_was_refused_is_not_tried_again(isthmus, far):
    await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    assert await levels(far, say_return_code_1, 2) == [5, 0x84]
    there, hello = await far.client()
    assert hello.level == 4
    there.close()
    assert (await far.client())[1].level == 4


async def test_one_close_does_not_take_mqtt_5_away_for_good(isthmus, far):
    """A load balancer without a server behind it closes too; properties would be lost for ever."""
    await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    assert await levels(far, just_close, 1) == [5]
    there, hello = await far.client()
    assert hello.level == 0x84
    there.close()
    there, hello = await far.client()
    assert hello.level == 5
    there.close()
    assert (await far.client())[1].level == 5


async def test_a_far_side_that_always_closes_on_mqtt_5_is_soon_not_asked_again(isthmus, far):
    await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    seen = []
    while len(seen) < 12:
        raw = await far.accept()
        hello = parse_hello((await raw.expect(CONNECT)).body)
        seen.append(hello.level)
        if hello.level == 0x84:
            raw.version = 4
            raw.send(packet(0x20, b"\0\0"))
            await raw.expect(SUBSCRIBE)
        raw.close()
    assert seen[:2] == [5, 0x84]
    assert seen[-4:] == [0x84] * 4


async def test_a_far_side_that_took_mqtt_5_is_asked_with_it_again_though_it_closes(isthmus, far):
    await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    for _ in range(2):  # each time from the beginning
        (await far.client())[0].close()
        assert await levels(far, just_close, 2) == [5, 5]
    (await far.client())[0].close()
    # Three times in a row: somebody may have put an older one in its place.
    assert await levels(far, just_close, 6) == [5, 5, 5, 0x84, 4, 5]


@pytest.mark.parametrize(("code", "start"), [(0, "automatic"), (0x87, "automatic"), (0, "once")])
async def test_what_was_only_guessed_gives_way_to_what_is_better(
    isthmus, far, monkeypatch, code, start
):
    """A far side that crashed while it was asked, or was not up yet, costs no properties."""
    monkeypatch.setattr("isthmus.connectors.guess.LOOK_AFTER_S", 0.05)
    near = await isthmus(bridge(far.port, routes=ROUTES, client_id="me", start=start))
    assert await levels(far, just_close, 1) == [5]
    guessed, hello = await far.client()
    assert hello.level == 0x84
    _tried, hello = await far.client(code=code)
    assert (hello.level, hello.client_id) == (5, "me-version")
    await grant(guessed)
    await guessed.expect(DISCONNECT)
    there, hello = await far.client()
    assert (hello.level, hello.client_id) == (5, "me")
    await grant(there)
    await near.connected()
    assert far._accepted.empty()  # and nothing more is tried


async def test_a_far_side_that_goes_on_closing_on_mqtt_5_is_left_in_peace(
    isthmus, far, monkeypatch
):
    monkeypatch.setattr("isthmus.connectors.guess.LOOK_AFTER_S", 0.05)
    await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    assert await levels(far, just_close, 1) == [5]
    there, hello = await far.client()
    assert hello.level == 0x84
    await grant(there)
    assert await levels(far, just_close, 2) == [5, 5]
    await asyncio.sleep(0.5)
    assert far._accepted.empty()
    there.close()
    assert (await far.client())[1].level == 0x84


async def test_a_far_side_that_refuses_mqtt_5_when_it_is_asked_again(isthmus, far, monkeypatch):
    monkeypatch.setattr("isthmus.connectors.guess.LOOK_AFTER_S", 0.05)
    await isthmus(bridge(far.port, routes=ROUTES, client_id="me"))
    assert await levels(far, just_close, 1) == [5]
    there, _ = await far.client()
    assert await levels(far, say_return_code_1, 1) == [5]
    await grant(there)
    there.close()
    assert (await far.client())[1].level == 0x84


async def test_a_broker_that_could_not_be_reached_once_is_spoken_to_in_mqtt_5_soon(
    isthmus, mosquitto, proxy, monkeypatch
):
    monkeypatch.setattr("isthmus.connectors.guess.LOOK_AFTER_S", 0.3)
    real = await mosquitto()
    network = await proxy(real.port)
    network.refusing = True
    near = await isthmus(bridge(network.port, routes={"out": out("o")}, client_id="me"))
    await until(lambda: network.connections == 1)
    network.refusing = False
    await near.connected()
    assert near.status()["version"] == "MQTT 3.1.1 with bridge bit"
    there = await Raw.client(real.port, "there")
    await there.subscribe("o", qos=1)
    here = await near.client("here")
    got = []
    number = 0
    while near.status()["version"] != "MQTT 5" or near.status()["state"] != "connected":
        assert await here.published("o", str(number), 1) == 0
        number += 1
        got.append((await there.message()).payload)
    assert await here.published("o", "last", 1, user=("a", "b")) == 0
    last = await there.message()
    while last.payload != b"last":  # one may be sent twice where the connection was changed
        got.append(last.payload)
        last = await there.message()
    assert ("a", "b") in last.properties["user"]
    assert list(dict.fromkeys(got)) == [b"%d" % one for one in range(number)]
    assert near.status()["connects"] == 2


async def test_mqtt_3_does_not_fall_back(isthmus, far):
    await isthmus(bridge(far.port, routes=ROUTES, version="3.1.1", bridge_bit=False))
    assert await levels(far, just_close, 3) == [4, 4, 4]


async def test_wrong_credentials_are_no_reason_to_fall_back(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES))

    def refuse(raw, hello):
        raw.send(packet(0x20, b"\0\x86" + properties(reason="who are you?")))
        raw.close()

    assert await levels(far, refuse, 3) == [5, 5, 5]
    await until(lambda: near.status()["state"] == "refused")
    assert "who are you?" in near.status()["reason"]


# -- subscriptions -------------------------------------------------------------------------------


async def test_what_is_asked_for_in_mqtt_5(isthmus, far):
    """No local (0x04), retain as published (0x08), retained messages once per session (0x10)."""
    await isthmus(bridge(far.port, routes={"a": back("a/#"), "b": back("b", max_qos=1)}))
    there, _ = await far.client()
    assert await grant(there) == [("a/#", 0x1E), ("b", 0x1D)]


async def test_a_refused_filter_is_shown_and_the_others_work(isthmus, far, caplog):
    near = await isthmus(bridge(far.port, routes={"in": back("in/#", "secret/#", "c/#")}))
    there, _ = await far.client()
    await grant(there, 1, 0x87, 0x8F)
    await near.connected()
    assert near.subscribed == {"in/#": 1, "secret/#": 0x87, "c/#": 0x8F}
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert any("secret/#" in line and "ot authorized" in line for line in logged)
    here = await near.client("here")
    await here.subscribe("#")
    there.send(publish_packet("in/x", "1"))
    assert (await here.message()).topic == "in/x"


async def test_a_kept_session_asks_only_for_what_is_missing(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"in": back("in/#", "secret/#")}, client_id="me"))
    there, _ = await far.client()
    await grant(there, 1, 0x87)
    await near.connected()
    there.close()
    there, hello = await far.client(session_present=True)
    assert not hello.clean
    assert await grant(there) == [("secret/#", 0x1E)]
    there.close()
    there, _ = await far.client(session_present=False)
    assert [name for name, _ in await grant(there)] == ["in/#", "secret/#"]


async def test_a_connection_that_ended_before_suback_asks_again(isthmus, far):
    await isthmus(bridge(far.port, routes={"in": back("in/#")}, client_id="me"))
    there, _ = await far.client()
    await there.expect(SUBSCRIBE)
    there.close()
    there, _ = await far.client(session_present=True)
    assert await grant(there) == [("in/#", 0x1E)]


async def test_many_filters_are_subscribed_in_several_packets(isthmus, far):
    filters = [f"in/{number}/#" for number in range(250)]
    routes = {"in": back(*filters)}
    near = await isthmus(bridge(far.port, routes=routes, filters_per_subscribe=100))
    there, _ = await far.client()
    got = [name for _ in range(3) for name, _ in await grant(there)]
    assert got == filters
    await near.connected()


async def test_an_mqtt_3_far_side_without_echo_protection_does_not_loop(isthmus, far):
    """One copy comes back to local clients at most; it never goes out again."""
    near = await isthmus(
        bridge(far.port, routes={"o": out("b/#"), "i": back("b/#")}, version="3.1.1")
    )
    there, _ = await far.client()
    await grant(there)
    here = await near.client("here")
    await here.subscribe("b/#")
    here.publish("b/x", "1")
    got = await there.expect(PUBLISH)
    there.send(publish_packet(got.topic, got.payload, version=4))
    await there.nothing() if there.version == 5 else None
    assert {(await here.packet()).payload for _ in range(2)} == {b"1"}
    assert near.status()["sent"] == 1


# -- a bad far side ------------------------------------------------------------------------------

WRONG = {
    "a packet type that clients send": (packet(0x82, b"\0\1\0" + text("a") + b"\0"), 0x82),
    "a reserved type": (b"\0\0", 0x81),
    "PUBLISH with QoS 3": (packet(0x36, text("in/x") + b"\0\1\0"), 0x81),
    "PUBLISH with a wildcard": (publish_packet("in/+", "x"), 0x90),
    "PUBLISH with an unknown property": (packet(0x30, text("in/x") + b"\2\x7f\0"), 0x81),
    "PUBLISH larger than allowed": (b"\x30\xff\xff\xff\x7f", 0x95),
    "a topic alias that was not given": (publish_packet("", "x", alias=3), 0x82),
    "a topic alias above our maximum": (publish_packet("in/x", "x", alias=11), 0x94),
    "SUBACK to nothing": (packet(0x90, b"\0\x63\0\0"), 0x82),
    "CONNACK again": (packet(0x20, b"\0\0\0"), 0x82),
    "a PUBREL with wrong flags": (packet(0x60, b"\0\1"), 0x81),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_far_side_that_breaks_the_protocol_is_told_why_and_left(isthmus, far, wrong):
    data, code = WRONG[wrong]
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, client_id="me"))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    there.send(data)
    assert (await there.expect(DISCONNECT)).code == code
    assert await there.closed() == b""
    await far.client()  # and it comes back
    await until(lambda: near.status()["connects"] == 2)


@pytest.mark.parametrize(("qos", "kind"), [(2, PUBACK), (1, PUBREC)])
async def test_an_acknowledgement_of_the_wrong_qos_is_a_protocol_error(isthmus, far, qos, kind):
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, client_id="me"))
    there, _ = await far.client()
    here = await near.client("here")
    here.publish("out/x", "1", qos)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(kind, got.packet_id))
    assert (await there.expect(DISCONNECT)).code == 0x82
    await there.closed()
    there, _ = await far.client(session_present=True)
    again = await there.expect(PUBLISH)
    assert (again.packet_id, again.dup) == (got.packet_id, True)


async def test_acknowledgements_of_nothing_are_harmless(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    there, _ = await far.client()
    for kind in (4, 5, 7):
        there.send(ack_packet(kind, 999))
    there.send(ack_packet(6, 998))
    assert (await there.expect(6)).packet_id == 999
    assert (await there.expect(7)).code == 0x92
    here = await near.client("here")
    here.publish("out/x", "1", 1)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id))
    await here.expect(PUBACK)


async def test_the_far_sides_disconnect_gives_the_reason(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES, reconnect={"min": "5s", "max": "5s"}))
    there, _ = await far.client()
    await there.expect(SUBSCRIBE)
    there.send(packet(0xE0, b"\x8b\0"))
    await until(lambda: near.status()["state"] == "waiting")
    assert "shutting down" in near.status()["reason"].lower()


# -- reconnecting --------------------------------------------------------------------------------


async def test_a_far_side_that_is_not_there_yet(isthmus, far):
    port = free_port()
    near = await isthmus(bridge(port, routes={"in": back("in/#")}))
    await until(lambda: near.status()["state"] == "waiting")
    assert near.status()["reason"].startswith("tcp: ")
    assert "refused" in near.status()["reason"]
    late = FarSide()
    late.port = port
    await late.start()
    there, _ = await late.client()
    await grant(there)
    await near.connected()
    await late.stop()


async def test_waits_between_tries_grow(isthmus, far):
    port = free_port()
    near = await isthmus(
        bridge(port, routes=ROUTES, reconnect={"min": "10ms", "max": "200ms", "attempts": 8})
    )
    await until(lambda: near.status()["state"] == "stopped")
    assert near.cloud.members[0].attempts == 8
    assert "gave up after 8" in near.status()["reason"]


async def test_a_silent_far_side_is_given_up_after_the_connect_timeout(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES, connect_timeout="200ms"))
    there = await far.accept()
    await there.expect(CONNECT)
    await until(lambda: near.status()["state"] == "waiting")
    assert near.status()["reason"].startswith("timeout: ")
    await there.closed()
    assert await far.accept()


async def test_a_name_that_does_not_exist(isthmus, far):
    near = await isthmus(bridge(0, routes=ROUTES, url="no-such-host.invalid"))
    await until(lambda: near.status()["state"] == "waiting", 15)
    assert near.status()["reason"].startswith("name: ")


async def test_a_name_that_cannot_be_looked_up_at_the_start_is_tried_until_it_can(
    isthmus, far, monkeypatch
):
    """A machine that boots before its network: the name service is there a little later."""
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **how):
        name = host.decode() if isinstance(host, bytes) else host
        if name != "far.example":
            return real(host, port, *args, **how)
        asked.append(name)
        if len(asked) < 6:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return real("127.0.0.1", port, *args, **how)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    near = await isthmus(bridge(0, routes=ROUTES, url=f"far.example:{far.port}"))
    await until(lambda: near.status()["state"] == "waiting")
    assert "Temporary failure in name resolution" in near.status()["reason"]
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    assert asked == ["far.example"] * 6


async def test_qos_0_of_a_time_without_a_link_is_neither_kept_nor_sent_late(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    there = await far.accept()
    await there.expect(CONNECT)
    here = await near.client("here")
    here.publish("out/x", "while it connects")
    here.publish("out/x", "kept", 1)
    await here.nothing()
    assert near.cloud.drops.counts == {"link_down": 1}
    there.send(packet(0x20, b"\0\0\0"))
    assert (await there.expect(PUBLISH)).payload == b"kept"


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("more", [{}, {"rate_limit": "1000/s"}])
async def test_qos_0_waits_for_a_link_where_the_route_says_so(
    isthmus, far, tmp_path, more, on_disk
):
    routes = {"out": out("out/#", queue_qos0=True), "other": out("other/#")}
    broker = {"broker": {"data": str(tmp_path)}} if on_disk else {}
    near = await isthmus({**bridge(far.port, routes=routes, **more), **broker})
    publisher = await near.client("publisher")
    publisher.publish("out/x", "first")
    publisher.publish("out/x", "kept", 1)
    publisher.publish("out/x", "second")
    there = await far.accept()
    await there.expect(CONNECT)
    publisher.publish("out/x", "third")
    publisher.publish("other/x", "dropped")
    await publisher.arrived()
    assert near.cloud.drops.counts == {"link_down": 1}
    there.send(packet(0x20, b"\0\0\0"))
    arrived = [(await there.expect(PUBLISH)).payload for _ in range(4)]
    assert arrived == [b"first", b"kept", b"second", b"third"]


async def test_a_retained_change_that_waits_is_not_sent_twice(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"out": out("out/#", queue_qos0=True)}))
    there, _ = await far.client()
    await near.connected()
    there.close()
    await until(lambda: near.status()["state"] == "waiting")
    here = await near.client("here")
    here.publish("out/x", "changed", retain=True)
    await here.nothing()
    there, _ = await far.client(session_present=True)
    assert (await there.expect(PUBLISH)).payload == b"changed"
    await near.connected()
    here.publish("out/end")
    assert (await there.expect(PUBLISH)).topic == "out/end"


@pytest.mark.both_loops
async def test_keep_alive_finds_a_black_hole(isthmus, far, proxy, caplog):
    """MQTT-3.1.2-24 is the server's side of it: no answer to PINGREQ ends the connection."""
    network = await proxy(far.port)
    near = await isthmus(
        bridge(network.port, routes={"out": out("out/#")}, keepalive="1s", client_id="me")
    )
    there, _ = await far.client()
    here = await near.client("here")
    assert (await there.expect(PINGREQ)).kind == PINGREQ
    there.send(packet(0xD0))
    network.silent = network.refusing = True
    here.publish("out/x", "kept", 1)
    await until(lambda: near.cloud.members[0].lane.inflight == 1)
    await until(lambda: "connection lost: no answer to PINGREQ" in caplog.text)
    network.silent = network.refusing = False
    network.reset()
    there, _ = await far.client(session_present=True)
    got = await there.expect(PUBLISH)
    assert (got.payload, got.dup) == (b"kept", True)


async def test_the_far_sides_keep_alive_replaces_ours(isthmus, far):
    """MQTT-3.1.2-21."""
    await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    there, _ = await far.client(server_keep_alive=1)
    await within(there.expect(PINGREQ), 3)


async def test_a_message_larger_than_the_far_side_takes(isthmus, far):
    """MQTT-3.2.2-15: it is not sent; a QoS 1 publisher is told."""
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    there, _ = await far.client(maximum_packet=100)
    here = await near.client("here")
    assert await here.published("out/x", b"x" * 200, 0) == 0
    assert await here.published("out/x", b"x" * 200, 1) >= 0x80
    assert near.cloud.drops.counts == {"too_large": 2}
    here.publish("out/x", "small", 1)
    assert (await there.expect(PUBLISH)).payload == b"small"


async def test_stopping_leaves_the_subscriptions_of_a_kept_session(isthmus, far):
    """The far side keeps what comes in the meantime: nothing is unsubscribed."""
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, client_id="me"))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    await near.app.stop()
    assert (await there.expect(DISCONNECT)).properties == {}


async def test_what_comes_while_we_are_away_arrives_after_the_restart(mosquitto, isthmus, tmp_path):
    far = await mosquitto()
    configuration = bridge(far.port, routes={"in": back("in/#")})
    configuration["broker"] = {"data": str(tmp_path / "data")}
    near = await isthmus(configuration)
    await near.connected()
    await near.app.stop()
    there = await Raw.client(far.port, "there")
    for number in range(3):
        await there.published("in/x", str(number), 1)
    configuration["connectors"]["cloud"]["connect_timeout"] = "3s"
    near = await isthmus(configuration)
    here = await near.client("here", clean=False)
    await here.subscribe("in/#", qos=1)
    await there.published("in/x", "3", 1)
    found = [(await here.message()).payload]
    while found[-1] != b"3":
        found.append((await here.message()).payload)
    assert found[-1] == b"3"
    await near.connected()
    assert near.cloud.members[0].client.received == 4


async def test_stopping_says_goodbye_after_the_last_acknowledgement(isthmus, far):
    import asyncio

    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, client_id="me"))
    there, _ = await far.client()
    here = await near.client("here")
    here.publish("out/x", "1", 1)
    got = await there.expect(PUBLISH)
    stopping = asyncio.create_task(near.app.stop())
    there.send(ack_packet(PUBACK, got.packet_id))
    assert (await here.expect(PUBACK)).packet_id == 1
    goodbye = await here.expect(DISCONNECT)
    assert goodbye.code == 0x8B
    # The session is kept: a fixed id comes back for it.
    assert (await there.expect(DISCONNECT)).properties == {}
    await stopping


async def test_a_far_side_that_takes_no_wildcards(isthmus, far):
    """MQTT-3.2.2-21 and its like: not asked for, and shown as refused."""
    near = await isthmus(bridge(far.port, routes={"in": back("in/#", "plain")}))
    there, _ = await far.client(wildcards=0)
    assert await grant(there) == [("plain", 0x1E)]
    await near.connected()
    assert near.subscribed == {"in/#": 0xA2, "plain": 2}


async def test_connack_and_disconnect_in_one_segment(isthmus, far, caplog):
    """Two clients with one id throw each other out, at once."""
    near = await isthmus(bridge(far.port, routes=ROUTES))
    raw = await far.accept()
    await raw.expect(CONNECT)
    raw.send(packet(0x20, b"\0\0\0"), packet(0xE0, b"\x8e\0"))
    await far.client()
    await until(lambda: near.status()["connects"] == 2)
    said = [record.getMessage() for record in caplog.records]
    assert any("took the session over" in line for line in said)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
