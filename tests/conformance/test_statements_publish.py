"""PUBLISH, from a client to a server and on to clients: retain, QoS, properties, aliases."""

from __future__ import annotations

import pytest
from conformance_broker import drop, kept

from raw import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    ack_packet,
    publish_packet,
)

AS_PUBLISHED = 0x08

SENT = {
    "payload_format": 1,
    "content_type": "text/plain",
    "response_topic": "answers/1",
    "correlation": b"\0\xff\2",
    "user": [("b", "1"), ("a", "2"), ("b", "3"), ("b", "3"), ("", "")],
}

# -- retained messages ---------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_mqtt_3_3_1_5_a_retained_message_is_kept_with_its_qos(broker, version, qos):
    """3.1.1: MQTT-3.3.1-5 to -8."""
    near = await broker()
    publisher = await near.client("publisher", version)
    await publisher.published("r/a", "first", 2, retain=True)
    await publisher.published("r/a", "second", qos, retain=True)
    reader = await near.client("reader", version)
    await reader.subscribe("r/+", qos=2)
    found = await reader.message()
    assert (found.payload, found.qos, found.retain) == (b"second", qos, True)
    await reader.nothing()


async def test_mqtt_3_3_1_6_and_7_an_empty_payload_removes_and_is_not_kept(broker, version):
    """3.1.1: MQTT-3.3.1-10, MQTT-3.3.1-11."""
    near = await broker()
    publisher = await near.client("publisher", version)
    watcher = await near.client("watcher", version)
    await watcher.subscribe("r", qos=1)
    await publisher.published("r", "x", 1, retain=True)
    await publisher.published("r", "", 1, retain=True)
    assert [(await watcher.message()).payload for _ in range(2)] == [b"x", b""]
    late = await near.client("late", version)
    await late.subscribe("r", qos=1)
    await late.nothing()


async def test_mqtt_3_3_1_8_without_retain_nothing_kept_changes(broker, version):
    """3.1.1: MQTT-3.3.1-12."""
    near = await broker()
    publisher = await near.client("publisher", version)
    await publisher.published("r", "kept", 1, retain=True)
    await publisher.published("r", "passing", 1)
    await publisher.published("r", "", 1)
    await publisher.published("never", "passing", 1)
    reader = await near.client("reader", version)
    await reader.subscribe("r", "never")
    assert [found.payload for found in await reader.arrived()] == [b"kept"]


async def test_mqtt_3_3_1_12_retain_is_0_for_who_was_subscribed_before(broker, version):
    """3.1.1: MQTT-3.3.1-9."""
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("r")
    raw.publish("r", "x", 0, retain=True)
    assert (await raw.message()).retain is False


async def test_mqtt_3_3_1_13_retain_as_published(broker):
    near = await broker()
    raw = await near.client("x")
    await raw.subscribe("r", options=AS_PUBLISHED)
    for retain in (True, False):
        raw.publish("r", "x", 0, retain=retain)
        assert (await raw.message()).retain is retain


async def test_retained_messages_belong_to_nobodys_session(broker, version):
    """3.1.1: MQTT-3.1.2.7: they are there after the session that made them."""
    near = await broker()
    publisher = await near.client("publisher", version)
    await publisher.published("r", "kept", 1, retain=True)
    await drop(publisher)
    reader = await near.client("publisher", version)
    await reader.subscribe("r")
    assert (await reader.message()).payload == b"kept"


# -- QoS flows -----------------------------------------------------------------------------------


async def test_mqtt_3_3_4_1_the_answer_is_that_of_the_qos(broker, version):
    """MQTT-4.3.2-4, MQTT-4.3.3-8, MQTT-2.2.1-5; 3.1.1: MQTT-3.3.4-1, MQTT-2.3.1-6."""
    near = await broker()
    raw = await near.client("x", version)
    raw.publish("t", "x", 0)
    await raw.nothing()
    raw.publish("t", "x", 1, packet_id=65_535)
    assert (await raw.expect(PUBACK)).packet_id == 65_535
    raw.publish("t", "x", 2, packet_id=7)
    assert (await raw.expect(PUBREC)).packet_id == 7
    raw.send(ack_packet(PUBREL, 7))
    assert (await raw.expect(PUBCOMP)).packet_id == 7
    await raw.nothing()


async def test_mqtt_4_3_2_5_after_puback_the_identifier_is_a_new_message(broker, version):
    """With DUP or without. 3.1.1: MQTT-4.3.2-2."""
    near = await broker()
    listening = await near.client("listening", version)
    await listening.subscribe("t", qos=1)
    raw = await near.client("x", version)
    for number, dup in enumerate((False, True, False)):
        raw.publish("t", str(number), 1, packet_id=1, dup=dup)
        await raw.expect(PUBACK)
        assert (await listening.message()).payload == str(number).encode()
    await listening.nothing()


async def test_mqtt_4_3_3_10_and_12_qos_2_is_exactly_once(broker, version):
    """MQTT-4.3.3-8, -11; 3.1.1: MQTT-4.3.3-2. After PUBCOMP the identifier is a new message."""
    near = await broker()
    listening = await near.client("listening", version)
    await listening.subscribe("t", qos=2)
    raw = await near.client("x", version, **kept(version))
    raw.publish("t", "once", 2, packet_id=3)
    await raw.expect(PUBREC)
    raw.publish("t", "once", 2, packet_id=3, dup=True)
    assert (await raw.expect(PUBREC)).packet_id == 3
    await drop(raw)
    raw = await near.client("x", version, **kept(version))
    raw.publish("t", "once", 2, packet_id=3, dup=True)
    assert (await raw.expect(PUBREC)).packet_id == 3
    raw.send(ack_packet(PUBREL, 3))
    assert (await raw.expect(PUBCOMP)).packet_id == 3
    assert (await listening.message()).payload == b"once"
    await listening.nothing()
    raw.publish("t", "again", 2, packet_id=3, dup=True)
    await raw.expect(PUBREC)
    raw.send(ack_packet(PUBREL, 3))
    await raw.expect(PUBCOMP)
    assert (await listening.message()).payload == b"again"


async def test_mqtt_4_3_2_2_a_server_sends_new_messages_with_unused_identifiers(broker, version):
    """MQTT-2.2.1-4, MQTT-4.3.2-1, -2, MQTT-4.3.3-1, -2, MQTT-3.3.1-1.

    3.1.1: MQTT-2.3.1-1, MQTT-2.3.1-4, MQTT-4.3.2-1, MQTT-4.3.3-1.
    """
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher", version)
    for number in range(10):
        await publisher.published("t", "x", 1 + number % 2)
    found = [await raw.expect(PUBLISH) for _ in range(10)]
    assert len({one.packet_id for one in found} - {0}) == 10
    assert not any(one.dup for one in found)


async def test_mqtt_4_3_1_1_qos_0_has_no_dup_and_no_identifier(broker, version):
    """MQTT-2.2.1-2, MQTT-3.3.1-2; 3.1.1: MQTT-2.3.1-5, MQTT-3.3.1-2, MQTT-4.3.1-1."""
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("t")
    publisher = await near.client("publisher", version)
    await publisher.published("t", "x", 1, dup=True)
    found = await raw.expect(PUBLISH)
    assert found.flags == 0
    assert found.body == b"\0\1t" + (b"\0" if version == 5 else b"") + b"x"


async def test_mqtt_3_3_1_3_dup_is_not_passed_on(broker, version):
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher", version)
    for qos in (1, 2):
        await publisher.published("t", "x", qos, dup=True)
        found = await raw.message()
        assert (found.qos, found.dup) == (qos, False)


async def test_mqtt_4_6_0_5_messages_keep_their_order(broker, version):
    """MQTT-4.6.0-6; 3.1.1: MQTT-4.6.0-5, MQTT-4.6.0-6."""
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("t/#", qos=2)
    publisher = await near.client("publisher", version)
    for qos in (0, 1, 2):
        for number in range(40):
            await publisher.published("t/a", str(number), qos)
        for number in range(40):
            found = await raw.message()
            assert (found.payload, found.qos) == (str(number).encode(), qos)


async def test_mqtt_4_6_0_2_to_4_acknowledgements_keep_their_order(broker, version):
    """Ours as a receiver: PUBACK and PUBREC in the order of PUBLISH."""
    near = await broker()
    raw = await near.client("x", version)
    ids = [5, 3, 9, 4, 8, 1]
    raw.send(*(publish_packet("t", "x", 1, number, version=version) for number in ids))
    assert [(await raw.expect(PUBACK)).packet_id for _ in ids] == ids
    raw.send(*(publish_packet("t", "x", 2, number, version=version) for number in ids))
    assert [(await raw.expect(PUBREC)).packet_id for _ in ids] == ids
    raw.send(*(ack_packet(PUBREL, number) for number in ids))
    assert [(await raw.expect(PUBCOMP)).packet_id for _ in ids] == ids


async def test_mqtt_4_6_0_4_pubrels_keep_the_order_of_pubrecs(broker, version):
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher", version)
    for _ in range(5):
        await publisher.published("t", "x", 2)
    ids = [(await raw.expect(PUBLISH)).packet_id for _ in range(5)]
    order = [ids[2], ids[0], ids[4], ids[1], ids[3]]
    raw.send(*(ack_packet(PUBREC, number) for number in order))
    assert [(await raw.expect(PUBREL)).packet_id for _ in order] == order


async def test_mqtt_4_4_0_2_a_message_that_a_client_refuses_is_done(broker):
    """MQTT-4.3.3-9, MQTT-4.8.2-6 for a single subscriber: not again, nor after a reconnect."""
    near = await broker()
    raw = await near.client("x", **kept(5))
    await raw.subscribe("t", qos=2)
    publisher = await near.client("publisher")
    for qos, answer in ((1, PUBACK), (2, PUBREC)):
        await publisher.published("t", "refused", qos)
        found = await raw.expect(PUBLISH)
        raw.send(ack_packet(answer, found.packet_id, 0x83))
        await raw.nothing()
    await drop(raw)
    raw = await near.client("x", **kept(5))
    await raw.nothing()
    await publisher.published("t", "next", 1)
    assert (await raw.message()).payload == b"next"


# -- what is in it -------------------------------------------------------------------------------


async def test_mqtt_3_3_2_4_and_15_to_20_properties_are_passed_on_unaltered(broker):
    near = await broker()
    raw, publisher = await near.client("x"), await near.client("y")
    await raw.subscribe("t", qos=2)
    for qos in (0, 1, 2):
        await publisher.published("t", "x", qos, **SENT)
        assert (await raw.message()).properties == SENT


async def test_properties_of_a_retained_message_are_kept(broker):
    near = await broker()
    raw = await near.client("x")
    await raw.published("t", "x", 1, retain=True, **SENT)
    await raw.subscribe("t")
    assert (await raw.message()).properties == SENT


async def test_mqtt_1_5_4_3_a_byte_order_mark_is_kept(broker, version):
    """3.1.1: MQTT-1.5.3-3; MQTT-4.7.3-4: nothing is normalised."""
    near = await broker()
    raw = await near.client("x", version)
    topics = ["\ufeffbom", "bom", "e\u0301", "\u00e9", "A", "a", "a b", "a/", "/a", "//"]
    for topic in topics:
        await raw.subscribe(topic)
        raw.publish(topic, "x")
        assert [found.topic for found in await raw.arrived()] == [topic]


async def test_mqtt_4_7_3_3_a_topic_of_65535_bytes(broker, version):
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("#")
    topic = "t" * 65_535
    raw.publish(topic, "x")
    assert (await raw.message()).topic == topic


@pytest.mark.parametrize("filter_", ["#", "+", "+/x", "$SYS/#", "$other/#", "$other/+"])
async def test_mqtt_4_7_2_1_a_leading_wildcard_does_not_see_dollar_topics(broker, version, filter_):
    near = await broker({"broker": {"sys_interval": 0}})
    raw = await near.client("x", version)
    await raw.subscribe(filter_)
    raw.publish("$other/x", "x")
    found = [found.topic for found in await raw.arrived()]
    assert [topic for topic in found if not topic.startswith("$SYS/")] == (
        ["$other/x"] if filter_.startswith("$other") else []
    )


# -- topic aliases -------------------------------------------------------------------------------


async def test_mqtt_3_3_2_12_aliases_are_given_used_and_changed(broker):
    """They do not reach other clients (MQTT-3.1.2-27)."""
    near = await broker()
    raw, listening = await near.client("x"), await near.client("y")
    await listening.subscribe("#")
    for topic, alias in (("a", 1), ("b", 10), ("", 1), ("c", 1), ("", 1), ("", 10)):
        raw.publish(topic, "x", 0, alias=alias)
    seen = [await listening.message() for _ in range(6)]
    assert [found.topic for found in seen] == ["a", "b", "a", "c", "c", "b"]
    assert not any(found.properties for found in seen)


async def test_mqtt_3_3_2_10_aliases_end_with_their_connection(broker):
    near = await broker()
    raw = await near.client("x", **kept(5))
    raw.publish("a", "x", 0, alias=1)
    await raw.nothing()
    await drop(raw)
    raw = await near.client("x", **kept(5))
    raw.publish("", "x", 0, alias=1)
    assert (await raw.packet()).code == 0x82


@pytest.mark.parametrize("maximum", [None, 0, 1, 3])
async def test_mqtt_3_1_2_26_no_alias_above_what_the_client_takes(broker, maximum):
    """MQTT-3.1.2-27, MQTT-3.3.2-11; an alias names a topic before it stands for it."""
    near = await broker()
    raw = await near.client("x", **({} if maximum is None else {"alias_maximum": maximum}))
    await raw.subscribe("t/#")
    publisher = await near.client("publisher")
    known = {}
    for number in range(30):
        await publisher.published(f"t/{number % 5}", "x", 0)
        found = await raw.message()
        alias = found.properties.get("alias")
        assert alias is None or 1 <= alias <= (maximum or 0)
        if found.topic:
            known[alias] = found.topic
        assert known[alias] == f"t/{number % 5}"
