"""A connector as a client: what it sends to a far side and what it makes of the answers."""

from __future__ import annotations

import pytest

from raw import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    ack_packet,
    grant,
    packet,
    parse_hello,
    properties,
    publish_packet,
    read_properties,
)
from running import back, bridge, out

ROUTES = {"out": out("out/#")}
VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


async def far_pair(isthmus, far, **how):
    """A bridge, its connection at the far side, and a publisher at home."""
    near = await isthmus(bridge(far.port, routes=ROUTES, **how))
    there, hello = await far.client()
    return near, there, hello, await near.client("publisher")


async def test_mqtt_3_1_0_1_connect_is_the_first_packet_and_whole(isthmus, far):
    """MQTT-3.1.2-1, -3, -17, -19, MQTT-3.1.3-1, -12; nothing before CONNACK but CONNECT."""
    await isthmus(bridge(far.port, routes=ROUTES, username="u", password="p", client_id="me"))
    there = await far.accept()
    hello = await there.expect(CONNECT)
    assert hello.flags == 0
    assert hello.body[:7] == b"\0\4MQTT\5"
    assert not hello.body[7] & 1
    found = parse_hello(hello.body)
    assert (found.client_id, found.username, found.password) == ("me", "u", b"p")


@VERSIONS
async def test_mqtt_2_2_1_3_new_messages_have_unused_identifiers(isthmus, far, version):
    """MQTT-4.3.2-1, -2, MQTT-4.3.3-1, -2, MQTT-3.3.1-1, -2, MQTT-2.2.1-2."""
    _near, there, _, publisher = await far_pair(isthmus, far, version=version)
    for number in range(9):
        publisher.publish("out/t", str(number), number % 3)
    found = [await there.expect(PUBLISH) for _ in range(9)]
    assert [one.payload for one in found] == [str(number).encode() for number in range(9)]
    assert [one.qos for one in found] == [0, 1, 2] * 3
    ids = [one.packet_id for one in found if one.qos]
    assert len(set(ids) - {0}) == 6
    assert not any(one.dup for one in found)


@VERSIONS
async def test_mqtt_4_3_3_4_the_qos_2_flow_of_a_sender(isthmus, far, version):
    """MQTT-2.2.1-5, MQTT-4.3.3-3, -5, -6."""
    _near, there, _, publisher = await far_pair(isthmus, far, version=version)
    publisher.publish("out/t", "x", 2)
    found = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, found.packet_id))
    assert (await there.expect(PUBREL)).packet_id == found.packet_id
    there.send(ack_packet(PUBCOMP, found.packet_id))
    assert (await publisher.expect(PUBREC)).code == 0


@VERSIONS
async def test_mqtt_4_6_0_4_pubrels_in_the_order_of_pubrecs(isthmus, far, version):
    _near, there, _, publisher = await far_pair(isthmus, far, version=version)
    for number in range(4):
        publisher.publish("out/t", str(number), 2)
    ids = [(await there.expect(PUBLISH)).packet_id for _ in range(4)]
    order = [ids[2], ids[0], ids[3], ids[1]]
    there.send(*(ack_packet(PUBREC, number) for number in order))
    assert [(await there.expect(PUBREL)).packet_id for _ in order] == order


@VERSIONS
async def test_mqtt_4_6_0_2_and_3_acknowledgements_in_order_whatever_they_are_for(
    isthmus, far, version
):
    """MQTT-4.5.0-2: acknowledged although no route takes them; MQTT-4.3.2-4, MQTT-4.3.3-8, -11."""
    near = await isthmus(bridge(far.port, routes={"in": back("in/#")}, version=version))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    ids = [5, 3, 9, 4]
    level = there.version
    there.send(*(publish_packet("in/t", "x", 1, number, version=level) for number in ids))
    there.send(publish_packet("unasked", "x", 1, 11, version=level))
    assert [(await there.expect(PUBACK)).packet_id for _ in range(5)] == [*ids, 11]
    there.send(*(publish_packet("in/t", "x", 2, number, version=level) for number in ids))
    assert [(await there.expect(PUBREC)).packet_id for _ in ids] == ids
    there.send(*(ack_packet(PUBREL, number) for number in ids))
    assert [(await there.expect(PUBCOMP)).packet_id for _ in ids] == ids


async def test_mqtt_3_2_2_5_a_session_that_we_did_not_ask_for_closes(isthmus, far):
    """MQTT-3.2.2-4: clean start was asked for and the far side says that it has a session."""
    await isthmus(bridge(far.port, routes=ROUTES, clean_start=True))
    there, hello = await far.client(session_present=True)
    assert hello.clean
    rest = await there.closed()
    assert rest == b"" or rest[:1] == b"\xe0"
    # And it tries again.
    _, hello = await far.client()
    assert hello.clean


async def test_mqtt_3_2_2_17_aliases_are_only_used_as_far_as_they_are_taken(isthmus, far):
    """MQTT-3.2.2-18, MQTT-3.3.2-9: a far side that says nothing gets none."""
    _near, there, _, publisher = await far_pair(isthmus, far)
    for number in range(6):
        publisher.publish(f"out/{number % 2}", "x")
        found = await there.expect(PUBLISH)
        assert found.topic == f"out/{number % 2}"
        assert "alias" not in found.properties


async def test_mqtt_4_9_0_1_and_2_the_far_sides_receive_maximum(isthmus, far):
    """MQTT-3.3.4-9: what is no PUBLISH goes on."""
    near = await isthmus(bridge(far.port, routes={**ROUTES, "in": back("in/#")}))
    there, _ = await far.client(receive_maximum=2)
    await grant(there)
    await near.connected()
    publisher = await near.client("publisher")
    for number in range(4):
        publisher.publish("out/t", str(number), 1)
    first = await there.expect(PUBLISH)
    await there.expect(PUBLISH)
    there.send(publish_packet("in/t", "x", 1, 9))
    assert (await there.expect(PUBACK)).packet_id == 9
    there.send(ack_packet(PUBACK, first.packet_id))
    assert (await there.expect(PUBLISH)).payload == b"2"


async def test_mqtt_3_14_4_1_after_disconnect_it_closes(isthmus, far):
    """MQTT-3.14.4-2, MQTT-3.14.2-1; the last packet is DISCONNECT."""
    near, there, _, _ = await far_pair(isthmus, far)
    await near.app.stop()
    goodbye = await there.expect(DISCONNECT)
    assert goodbye.code == 0
    assert await there.closed() == b""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (packet(0x41, b"\0\1"), 0x81),
        (publish_packet("a/+", "x"), 0x90),
        (publish_packet("a", "x", dup=True), 0x81),
        (packet(0x36, b"\0\1a\0\1\0"), 0x81),
        (publish_packet(b"\xff", "x"), 0x81),
        (publish_packet("a", "x", alias=0), 0x94),
        (packet(0xC0), 0x82),
        (packet(0x20, b"\0\0\0"), 0x82),
        (packet(0xE0, b"\0" + properties(session_expiry=1)), 0x82),
        (packet(0xF0, b"\x18" + properties(auth_method="m")), 0x82),
    ],
    ids=["2.1.3-1", "3.3.2-2", "3.3.1-2", "3.3.1-4", "1.5.4-1", "3.3.2-8", "4.13.1-1", "3.2.0-2",
         "3.14.2-2", "4.12.0-6"],
)  # fmt: skip
async def test_a_far_side_that_breaks_the_protocol_is_closed_with_the_reason(
    isthmus, far, data, code
):
    """MQTT-4.13.2-1."""
    _near, there, _, _ = await far_pair(isthmus, far)
    there.send(data)
    goodbye = await there.expect(DISCONNECT)
    assert goodbye.code == code
    assert await there.closed() == b""


async def test_mqtt_3_8_4_subscribe_is_well_formed(isthmus, far):
    """MQTT-3.8.1-1, MQTT-3.8.3-1, -2, -5, MQTT-2.2.1-3, MQTT-2.2.2-1."""
    await isthmus(bridge(far.port, routes={"in": back("in/#", "also/+")}))
    there, _ = await far.client()
    request = await there.expect(SUBSCRIBE)
    assert request.flags == 2
    assert request.packet_id
    _, at = read_properties(request.body, 2)
    filters = request.body[at:]
    assert filters
    assert b"in/#" in filters
    assert b"also/+" in filters
