"""What a client says that it takes: receive maximum, packet size, problem information. And wills,
and the end of a connection.
"""

from __future__ import annotations

import pytest
from conformance_broker import drop, kept, leave
from conformance_differences import observe

from raw import (
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    UNSUBACK,
    ack_packet,
    packet,
    properties,
    publish_packet,
    text,
)

# -- receive maximum -----------------------------------------------------------------------------


async def test_mqtt_3_3_4_7_no_more_in_flight_than_the_receive_maximum(broker):
    """MQTT-4.9.0-1, -2; other packets go on (MQTT-4.9.0-3)."""
    near = await broker()
    raw = await near.client("small", receive_maximum=2)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher")
    for number in range(6):
        await publisher.published("t", str(number), 1 + number % 2)
    first, second = await raw.expect(PUBLISH), await raw.expect(PUBLISH)
    assert (first.payload, second.payload) == (b"0", b"1")
    await raw.nothing()
    assert await raw.subscribe("other", qos=1) == [1]
    assert await raw.published("elsewhere", "x", 1) in (0, 0x10)
    raw.send(ack_packet(PUBACK, first.packet_id))
    found = await raw.arrived()
    assert found[0].payload == b"2"
    # The second message is still on its way.
    observe(near.name, "receive-maximum-2", f"{1 + len(found)} in flight")


async def test_mqtt_3_3_4_7_pubrec_makes_no_room(broker):
    near = await broker()
    raw = await near.client("small", receive_maximum=1)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher")
    for number in range(2):
        await publisher.published("t", str(number), 2)
    first = await raw.expect(PUBLISH)
    raw.send(ack_packet(PUBREC, first.packet_id))
    assert (await raw.expect(PUBREL)).packet_id == first.packet_id
    await raw.nothing()
    raw.send(ack_packet(PUBCOMP, first.packet_id))
    assert (await raw.message()).payload == b"1"


async def test_mqtt_4_9_0_2_a_refusal_makes_room(broker):
    """MQTT-3.3.4-7: a PUBREC of 0x80 or more gives the quota back."""
    near = await broker()
    raw = await near.client("small", receive_maximum=1)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher")
    for number in range(3):
        await publisher.published("t", str(number), 2)
    for number in range(3):
        found = await raw.expect(PUBLISH)
        assert found.payload == str(number).encode()
        await raw.nothing()
        raw.send(ack_packet(PUBREC, found.packet_id, 0x83))
    await raw.nothing()


# -- maximum packet size -------------------------------------------------------------------------


async def test_mqtt_3_1_2_24_and_25_what_is_too_large_is_left_out(broker):
    near = await broker()
    raw = await near.client("small", maximum_packet=60, **kept(5))
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher")
    for qos in (0, 1, 2):
        await publisher.published("t", b"x" * 100, qos)
        await publisher.published("t", f"small {qos}", qos)
    for qos in (0, 1, 2):
        assert (await raw.message()).payload == f"small {qos}".encode()
    await raw.nothing()
    await drop(raw)
    # As if it had been delivered: a larger limit does not bring it back.
    raw = await near.client("small", **kept(5))
    await raw.nothing()


@pytest.mark.parametrize("qos", [0, 1])
async def test_mqtt_3_1_2_24_a_packet_of_exactly_the_maximum(broker, qos):
    near = await broker()
    payload = b"x" * 50
    size = len(publish_packet("t", payload, qos, 1))
    raw = await near.client("exact", maximum_packet=size)
    await raw.subscribe("t", qos=qos)
    publisher = await near.client("publisher")
    await publisher.published("t", payload, qos)
    assert (await raw.message()).payload == payload
    await publisher.published("t", payload + b"x", qos)
    observe(near.name, "one-byte-too-large", "sent" if await raw.arrived() else "left out")


@pytest.mark.parametrize("qos", [0, 1])
async def test_mqtt_3_1_2_24_properties_count(broker, qos):
    near = await broker()
    raw = await near.client("small", maximum_packet=60)
    await raw.subscribe("t", qos=qos)
    publisher = await near.client("publisher")
    await publisher.published("t", "x", qos, user=[("name", "v" * 60)])
    await publisher.published("t", "y", qos, user=[("name", "v")])
    assert (await raw.message()).payload == b"y"


async def test_mqtt_3_1_2_24_retained_messages_too(broker):
    near = await broker()
    publisher = await near.client("publisher")
    await publisher.published("r/large", b"x" * 100, 1, retain=True)
    await publisher.published("r/small", b"x", 1, retain=True)
    raw = await near.client("small", maximum_packet=60)
    await raw.subscribe("r/#", qos=1)
    assert (await raw.message()).topic == "r/small"
    await raw.nothing()


@pytest.mark.parametrize("asked", [0, 1])
async def test_mqtt_3_1_2_29_problem_information(broker, asked):
    """MQTT-3.4.2-3, 3.5.2-3, 3.6.2-2, -3, 3.7.2-3, 3.14.2-3, -4: answers are no larger than what
    the client takes, and explain nothing if it asks not to.
    """
    near = await broker()
    raw = await near.client("x", request_problem=asked, maximum_packet=20)
    await raw.subscribe("q", qos=2)
    await (await near.client("publisher")).published("q", "x", 2)
    raw.send(ack_packet(PUBREC, (await raw.expect(PUBLISH)).packet_id))
    release = await raw.expect(PUBREL)
    assert len(release.body) + 2 <= 20
    if not asked:
        assert not release.properties
    raw.send(ack_packet(PUBCOMP, release.packet_id))
    raw.publish("t", "x", 1, packet_id=1)
    raw.publish("t", "x", 2, packet_id=2)
    raw.send(ack_packet(PUBREL, 2), ack_packet(PUBREL, 3))
    raw.send(packet(0x82, b"\0\4\0" + text("a") + b"\0"))
    raw.send(packet(0xA2, b"\0\5\0" + text("a") + text("b")))
    found = await raw.arrived()
    assert [one.kind for one in found] == [PUBACK, PUBREC, PUBCOMP, PUBCOMP, 9, 11]
    for one in found:
        assert len(one.body) + 2 <= 20
        if not asked:
            assert not one.properties
    raw.send(publish_packet("a", "x", alias=0))
    goodbye = await raw.expect(DISCONNECT)
    assert goodbye.code >= 0x80
    assert len(goodbye.body) + 2 <= 20
    assert "session_expiry" not in goodbye.properties  # MQTT-3.14.2-2


WHY = [
    "not authorized",
    "not authorized",
    "the packet identifier is not known",
    "not authorized; more than 5 levels",
    "there was no such subscription",
]
"""The reason strings of what `refusals` asks for."""


@pytest.fixture
def denying(isthmus, tmp_path):
    """Start a broker that allows `yes/#` and filters of at most five levels."""
    (tmp_path / "acl").write_text("topic readwrite yes/#\n")
    return lambda: isthmus(
        {
            "auth": {"acl_file": str(tmp_path / "acl")},
            "broker": {"limits": {"topic_levels": 5}},
        }
    )


async def refusals(raw):
    """What the broker answers to requests that it refuses, one with each kind of packet."""
    raw.send(
        publish_packet("no", "x", 1, 1),
        publish_packet("no", "x", 2, 2),
        ack_packet(PUBREL, 3),
        packet(0x82, b"\0\4\0" + b"".join(text(f) + b"\0" for f in ("yes/a", "no", "a/" * 9))),
        packet(0xA2, b"\0\5\0" + text("yes/a") + text("b")),
    )
    found = await raw.arrived()
    assert [one.kind for one in found] == [PUBACK, PUBREC, PUBCOMP, SUBACK, UNSUBACK]
    assert [one.code for one in found[:3]] == [0x87, 0x87, 0x92]
    assert [one.codes for one in found[3:]] == [[0, 0x87, 0x8F], [0, 0x11]]
    return found


@pytest.mark.parametrize("asked", [None, 1, 0])
async def test_mqtt_3_1_2_29_refusals_say_why_unless_the_client_wants_no_reasons(denying, asked):
    near = await denying()
    how = {} if asked is None else {"request_problem": asked}
    found = await refusals(raw := await near.client("x", **how))
    assert [one.properties for one in found] == [
        {"reason": why} if asked != 0 else {} for why in WHY
    ]
    # What is granted needs no words.
    assert await raw.published("yes/a", "x", 1) == 0
    raw.send(packet(0x82, b"\0\6\0" + text("yes/a") + b"\0"))
    assert not (await raw.expect(SUBACK)).properties
    # An answer on which a DISCONNECT followed in the same read.
    raw.send(packet(0x82, b"\0\7\0" + text("no") + b"\0") + packet(DISCONNECT << 4))
    assert (await raw.expect(SUBACK)).properties == ({"reason": WHY[0]} if asked != 0 else {})


@pytest.mark.parametrize("place", range(5))
async def test_mqtt_3_4_2_2_a_reason_string_makes_no_answer_too_large(denying, place):
    """MQTT-3.5.2-2, 3.7.2-2, 3.9.2-2, 3.11.2-2: one byte decides."""
    near = await denying()
    size = len((await refusals(await near.client("any")))[place].body) + 2
    for room, wanted in ((size, {"reason": WHY[place]}), (size - 1, {})):
        found = await refusals(await near.client(f"x{room}", maximum_packet=room))
        assert found[place].properties == wanted
        assert all(len(one.body) + 2 <= room for one in found)


async def test_mqtt_3_9_3_2_no_reasons_for_mqtt_3(denying):
    near = await denying()
    raw = await near.client("x", 4)
    raw.send(packet(0x82, b"\0\4" + text("yes/a") + b"\0" + text("no") + b"\0"))
    assert (await raw.expect(SUBACK)).body == b"\0\4\0\x80"
    raw.send(packet(0xA2, b"\0\5" + text("b")))
    assert (await raw.expect(UNSUBACK)).body == b"\0\5"


async def test_mqtt_3_6_2_1_pubrel_for_an_identifier_that_is_not_known(broker):
    """MQTT-3.7.2-1."""
    near = await broker()
    raw = await near.client("x")
    raw.send(ack_packet(PUBREL, 5))
    answer = await raw.expect(PUBCOMP)
    assert answer.packet_id == 5
    observe(near.name, "pubrel-unknown", f"PUBCOMP 0x{answer.code:02X}")


async def test_mqtt_3_4_2_1_no_matching_subscribers(broker):
    near = await broker()
    raw = await near.client("x")
    codes = [await raw.published("nobody", "x", qos) for qos in (1, 2)]
    observe(near.name, "nobody-subscribed", "PUBACK 0x{:02X}, PUBREC 0x{:02X}".format(*codes))


# -- wills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "malformed", "disconnect", "take-over"])
async def test_mqtt_3_1_2_8_a_will_is_published_unless_disconnect_came(broker, version, end):
    """MQTT-3.1.2-10, MQTT-3.14.4-3; 3.1.1: MQTT-3.1.2-8, -10, -12, MQTT-3.14.4-3."""
    near = await broker()
    listening = await near.client("listening", version)
    await listening.subscribe("will", qos=2)
    raw = await near.client("mortal", version, will=("will", "gone", 1, False))
    if end == "close":
        await drop(raw)
    elif end == "malformed":
        raw.send(b"\0\0")
        await raw.closed()
    elif end == "disconnect":
        await leave(raw)
    else:
        await near.client("mortal", version)
    found = await listening.arrived()
    assert [one.payload for one in found] == ([] if end == "disconnect" else [b"gone"])
    if found:
        listening.send(ack_packet(PUBACK, found[0].packet_id))
    # Once, and not again at the next end of this client.
    again = await near.client("mortal", version)
    await drop(again)
    await listening.nothing()


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_mqtt_3_1_2_14_and_15_will_qos_and_retain(broker, version, qos, retain):
    """3.1.1: MQTT-3.1.2-16, -17."""
    near = await broker()
    listening = await near.client("listening", version)
    await listening.subscribe("will", qos=2)
    raw = await near.client("mortal", version, will=("will", "gone", qos, retain))
    await drop(raw)
    found = await listening.message()
    assert (found.payload, found.qos, found.retain) == (b"gone", qos, False)
    late = await near.client("late", version)
    await late.subscribe("will", qos=2)
    kept_ones = [one.payload for one in await late.arrived()]
    assert kept_ones == ([b"gone"] if retain else [])


async def test_mqtt_3_1_2_10_a_new_connection_has_its_own_will_or_none(broker, version):
    near = await broker()
    listening = await near.client("listening", version)
    await listening.subscribe("will/#")
    raw = await near.client("mortal", version, will=("will/1", "x", 0, False), **kept(version))
    await leave(raw)
    raw = await near.client("mortal", version, **kept(version))
    await drop(raw)
    await listening.nothing()
    raw = await near.client("mortal", version, will=("will/2", "x", 0, False), **kept(version))
    await drop(raw)
    assert (await listening.message()).topic == "will/2"
    await listening.nothing()


async def test_mqtt_3_3_2_4_a_will_has_properties(broker):
    near = await broker()
    listening = await near.client("listening")
    await listening.subscribe("will")
    sent = {
        "payload_format": 1, "content_type": "t", "response_topic": "r", "correlation": b"\1",
        "user": [("b", "1"), ("a", "2"), ("b", "3")],
    }  # fmt: skip
    raw = await near.client("mortal", will=("will", "x", 0, False), will_properties=sent)
    await drop(raw)
    assert (await listening.message()).properties == sent


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 4])
async def test_mqtt_3_14_4_3_disconnect_and_the_will(broker, code):
    near = await broker()
    listening = await near.client("listening")
    await listening.subscribe("will")
    raw = await near.client("mortal", will=("will", "x", 0, False))
    raw.send(packet(0xE0, bytes([code, 0])))
    assert await raw.closed() == b""
    assert len(await listening.arrived()) == (code == 4)


@pytest.mark.parametrize("code", [0x00, 0x80, 0x81, 0x83, 0x93, 0x95, 0x97, 0x98, 0x99])
async def test_mqtt_3_14_2_1_reasons_that_a_client_may_give(broker, code):
    """With a reason string and user properties; the server closes and answers nothing."""
    near = await broker()
    raw = await near.client("x")
    raw.send(packet(0xE0, bytes([code]) + properties(reason="why", user=[("a", "b")])))
    assert await raw.closed() == b""


async def test_mqtt_3_14_4_1_nothing_counts_after_disconnect(broker, version):
    """MQTT-3.14.4-2; 3.1.1: MQTT-3.14.4-1, -2: the server closes."""
    near = await broker()
    listening = await near.client("listening", version)
    await listening.subscribe("t")
    raw = await near.client("x", version)
    raw.send(packet(DISCONNECT << 4), publish_packet("t", "late", version=version))
    await raw.closed()
    await listening.nothing()


async def test_mqtt_4_13_2_1_one_bad_client_harms_no_other(broker, version):
    near = await broker()
    good = await near.client("good", version, **kept(version))
    await good.subscribe("t", qos=1)
    for number in range(5):
        bad = await near.client(f"bad-{number}", version)
        bad.send(b"\0\0")
        await bad.closed()
    good.publish("t", "x")
    found = await good.arrived()
    assert [one.payload for one in found] == [b"x"]
    good.send(packet(PINGREQ << 4))
    await good.expect(PINGRESP)
