"""Sessions: how long they are kept, and what they keep."""

from __future__ import annotations

import pytest
from conformance_broker import drop, kept, leave

from raw import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, ack_packet


@pytest.mark.parametrize("end", ["goodbye", "reset"])
@pytest.mark.parametrize("expiry", [None, 0])
async def test_mqtt_4_1_0_2_without_an_expiry_the_session_ends_with_its_connection(
    broker, expiry, end
):
    near = await broker()
    how = {"clean": False} | ({} if expiry is None else {"session_expiry": expiry})
    raw = await near.client("x", **how)
    await raw.subscribe("t", qos=1)
    # MQTT-4.1.0-1: while it is connected everything is there.
    raw.publish("t", "own")
    assert (await raw.message()).payload == b"own"
    await (leave if end == "goodbye" else drop)(raw)
    raw = await near.client("x", **how)
    assert not raw.hello.session_present
    raw.publish("t", "own")
    await raw.nothing()


async def test_mqtt_3_1_2_4_clean_start_and_an_expiry(broker):
    """Clean start forgets what was, and says nothing of what will be."""
    near = await broker()
    raw = await near.client("x", clean=True, session_expiry=60)
    await raw.subscribe("t", qos=1)
    await drop(raw)
    raw = await near.client("x", clean=False, session_expiry=60)
    assert raw.hello.session_present
    await drop(raw)
    assert not (await near.client("x", clean=True, session_expiry=60)).hello.session_present


async def test_mqtt_3_1_2_6_a_clean_session_of_3_1_1_lasts_as_long_as_its_connection(broker):
    """3.1.1: MQTT-4.1.0-2, MQTT-3.1.2-6; retained messages stay (MQTT-3.1.2.7)."""
    near = await broker()
    raw = await near.client("x", 4)
    await raw.subscribe("t", qos=1)
    await raw.published("r", "kept", 1, retain=True)
    await leave(raw)
    raw = await near.client("x", 4, clean=False)
    assert not raw.hello.session_present
    raw.publish("t", "own")
    await raw.nothing()
    await raw.subscribe("r")
    assert (await raw.message()).payload == b"kept"


async def test_mqtt_4_5_0_1_a_session_gets_what_it_missed(broker, version):
    """3.1.1: MQTT-3.1.2-5. QoS 1 and 2, in order, as new messages."""
    near = await broker()
    publisher = await near.client("publisher", version)
    raw = await near.client("kept", version, **kept(version))
    await raw.subscribe("t/#", qos=2)
    await leave(raw)
    for number in range(1, 7):
        await publisher.published(f"t/{number}", str(number), 1 + number % 2)
    raw = await near.client("kept", version, **kept(version))
    got = [await raw.message() for _ in range(6)]
    assert [found.payload for found in got] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert [found.qos for found in got] == [2, 1] * 3
    assert not any(found.dup for found in got)
    await raw.nothing()


async def test_mqtt_4_4_0_1_in_flight_messages_come_again(broker, version):
    """MQTT-3.3.1-1, MQTT-4.3.3-3, -5, -6, MQTT-4.6.0-1; 3.1.1: MQTT-4.4.0-1, MQTT-4.1.0-1.

    Same identifiers, DUP, in order; what was recorded with PUBREC gets its PUBREL only.
    """
    near = await broker()
    publisher = await near.client("publisher", version)
    raw = await near.client("kept", version, **kept(version))
    await raw.subscribe("t", qos=2)
    for number, qos in enumerate((1, 2, 2, 1)):
        await publisher.published("t", str(number), qos)
    first = [await raw.expect(PUBLISH) for _ in range(4)]
    assert not any(found.dup for found in first)
    raw.send(ack_packet(PUBREC, first[1].packet_id))
    assert (await raw.expect(PUBREL)).packet_id == first[1].packet_id
    raw.send(ack_packet(PUBACK, first[0].packet_id))
    await raw.nothing()  # MQTT-4.4.0-1: never again on the same connection
    await drop(raw)
    raw = await near.client("kept", version, **kept(version))
    again = [await raw.packet() for _ in range(3)]
    # PUBREL goes at its place or in front; PUBLISHes keep their order among each other.
    assert {(found.kind, found.packet_id) for found in again} == {
        (PUBREL, first[1].packet_id),
        (PUBLISH, first[2].packet_id),
        (PUBLISH, first[3].packet_id),
    }
    resent = [found for found in again if found.kind == PUBLISH]
    assert [(found.payload, found.dup) for found in resent] == [(b"2", True), (b"3", True)]
    raw.send(ack_packet(PUBCOMP, first[1].packet_id))
    await raw.nothing()


async def test_mqtt_3_3_2_6_a_message_that_did_not_wait_has_its_expiry(broker):
    near = await broker()
    raw = await near.client("x")
    await raw.subscribe("t", qos=1)
    raw.publish("t", "x", 0, expiry=100)
    assert (await raw.message()).properties == {"expiry": 100}
