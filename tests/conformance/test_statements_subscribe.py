"""SUBSCRIBE and UNSUBSCRIBE: their answers, their options, what they change."""

from __future__ import annotations

import struct

import pytest
from conformance_broker import drop, kept
from conformance_differences import observe

from raw import PINGREQ, PINGRESP, PUBACK, PUBLISH, SUBACK, UNSUBACK, ack_packet, packet, text

NO_LOCAL, AS_PUBLISHED, ONLY_NEW, NEVER = 0x04, 0x08, 0x10, 0x20


def subscribe(version: int, packet_id: int, *filters: tuple[str, int]) -> bytes:
    body = struct.pack(">H", packet_id) + (b"\0" if version == 5 else b"")
    return packet(0x82, body + b"".join(text(f) + bytes([options]) for f, options in filters))


def unsubscribe(version: int, packet_id: int, *filters: str) -> bytes:
    body = struct.pack(">H", packet_id) + (b"\0" if version == 5 else b"")
    return packet(0xA2, body + b"".join(text(f) for f in filters))


async def test_mqtt_3_8_4_1_suback_has_the_identifier_and_a_code_for_each_filter(broker, version):
    """MQTT-3.8.4-2, -5, -6, -7, MQTT-3.9.2-1, MQTT-3.9.3-1, -2, MQTT-2.2.1-6.

    3.1.1: MQTT-3.8.4-1, -2, -4, -5, MQTT-3.9.3-1, -2, MQTT-2.3.1-7.
    """
    near = await broker()
    raw = await near.client("x", version)
    raw.send(subscribe(version, 65_535, ("a", 2), ("b/+", 0), ("#", 1), ("a", 1), ("/", 2)))
    answer = await raw.expect(SUBACK)
    assert (answer.packet_id, answer.codes) == (65_535, [2, 0, 1, 1, 2])


async def test_mqtt_3_10_4_4_unsuback(broker, version):
    """MQTT-3.10.4-5, -6, MQTT-3.11.2-1, MQTT-3.11.3-1, -2, MQTT-2.2.1-6.

    3.1.1: MQTT-3.10.4-4, -5, -6, MQTT-2.3.1-7.
    """
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("a", "b", "c/+", qos=1)
    raw.send(unsubscribe(version, 9, "a", "never", "c/+"))
    answer = await raw.expect(UNSUBACK)
    assert answer.packet_id == 9
    assert answer.codes == ([0, 0x11, 0] if version == 5 else [])
    for topic in ("a", "b", "c/d"):
        raw.publish(topic, "x")
    assert [found.topic for found in await raw.arrived()] == ["b"]


async def test_mqtt_3_10_4_1_filters_are_compared_character_by_character(broker, version):
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("a/+")
    await raw.unsubscribe("a/b", "a/#", "A/+", "a/+/", "+/+")
    raw.publish("a/b", "x")
    assert (await raw.message()).topic == "a/b"
    await raw.unsubscribe("a/+")
    raw.publish("a/b", "x")
    await raw.nothing()


async def test_mqtt_3_10_4_3_what_has_begun_is_completed(broker, version):
    """MQTT-3.10.4-2: nothing new is added after UNSUBACK."""
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("t", qos=1)
    publisher = await near.client("publisher", version)
    await publisher.published("t", "before", 1)
    found = await raw.expect(PUBLISH)
    await raw.unsubscribe("t")
    await publisher.published("t", "after", 1)
    await raw.nothing()
    raw.send(ack_packet(PUBACK, found.packet_id))
    await raw.nothing()


async def test_mqtt_3_8_4_3_the_same_filter_replaces_the_subscription(broker, version):
    near = await broker()
    raw = await near.client("x", version)
    publisher = await near.client("publisher", version)
    for qos in (2, 0, 1):
        assert await raw.subscribe("t", qos=qos) == [qos]
        await publisher.published("t", "x", 2)
        assert (await raw.message()).qos == qos
        await raw.nothing()


async def test_mqtt_3_8_4_4_replacing_sends_what_is_retained_again_and_loses_nothing(
    broker, version
):
    """3.1.1: MQTT-3.8.4-3, MQTT-3.3.1-6."""
    near = await broker()
    publisher = await near.client("publisher", version)
    await publisher.published("t", "kept", 1, retain=True)
    raw = await near.client("x", version)
    live = []
    for number in range(5):
        raw.send(subscribe(version, number + 1, ("t", 1)))
        raw.publish("t", f"live {number}")
        found = await raw.arrived()
        assert [one.payload for one in found if one.kind == PUBLISH and one.retain] == [b"kept"]
        live += [one.payload for one in found if one.kind == PUBLISH and not one.retain]
        for one in found:
            if one.kind == PUBLISH and one.qos:
                raw.send(ack_packet(PUBACK, one.packet_id))
    assert live == [f"live {number}".encode() for number in range(5)]


async def test_mqtt_3_8_4_5_many_filters_are_like_many_packets(broker, version):
    """One packet with overlapping filters; 3.1.1: MQTT-3.8.4-4, MQTT-3.3.5-1."""
    near = await broker()
    raw = await near.client("x", version)
    raw.send(subscribe(version, 1, ("a/#", 0), ("a/+", 2), ("a/b", 1)))
    assert (await raw.expect(SUBACK)).codes == [0, 2, 1]
    publisher = await near.client("publisher", version)
    await publisher.published("a/b", "x", 2)
    found = await raw.arrived()
    # Once for all of them or once for each, with the highest QoS among them.
    qos = [one.qos for one in found]
    assert 1 <= len(qos) <= 3
    if version == 4:
        observe(near.name, "overlap-4", f"QoS {max(qos)}")
    else:
        assert max(qos) == 2


@pytest.mark.parametrize("granted", [0, 1, 2])
async def test_mqtt_3_8_4_8_the_lower_of_both_qos(broker, version, granted):
    """3.1.1: MQTT-3.8.4-6."""
    near = await broker()
    raw = await near.client("x", version)
    await raw.subscribe("t", qos=granted)
    publisher = await near.client("publisher", version)
    for qos in (0, 1, 2):
        await publisher.published("t", "x", qos)
        assert (await raw.message()).qos == min(qos, granted)


async def test_mqtt_3_8_3_3_no_local(broker):
    near = await broker()
    raw, other = await near.client("x"), await near.client("y")
    await raw.subscribe("t", options=NO_LOCAL)
    raw.publish("t", "own")
    await raw.nothing()
    await other.published("t", "other", 0)
    assert (await raw.message()).payload == b"other"


@pytest.mark.parametrize(
    ("handling", "expected"), [(0, [True, True]), (ONLY_NEW, [True, False]), (NEVER, [False] * 2)]
)
async def test_mqtt_3_3_1_9_to_11_retain_handling(broker, handling, expected):
    near = await broker()
    raw = await near.client("x")
    await raw.published("t/a", "kept", 1, retain=True)
    seen = []
    for filter_ in ("t/a", "t/a"):
        await raw.subscribe(filter_, options=handling)
        found = await raw.arrived()
        seen.append(bool(found))
        assert all(one.retain for one in found)
    assert seen == expected
    # After UNSUBSCRIBE it is a new subscription.
    await raw.unsubscribe("t/a")
    await raw.subscribe("t/a", options=handling)
    assert bool(await raw.arrived()) is expected[0]


async def test_mqtt_3_3_1_10_a_session_that_comes_back_has_its_subscriptions(broker):
    """Retain handling 1 after a reconnect: the subscription is not new."""
    near = await broker()
    raw = await near.client("x", **kept(5))
    await raw.published("t", "kept", 1, retain=True)
    await raw.subscribe("t", options=ONLY_NEW)
    assert await raw.arrived()
    await drop(raw)
    raw = await near.client("x", **kept(5))
    await raw.subscribe("t", options=ONLY_NEW)
    await raw.nothing()


TOPICS = ["a", "a/b", "a/b/c", "/a", "a/", "b", "$x/a", "a//c", "/"]
FILTERS = {
    "#": ["a", "a/b", "a/b/c", "/a", "a/", "b", "a//c", "/"],
    "+": ["a", "b"],
    "/": ["/"],
    "a/#": ["a", "a/b", "a/b/c", "a/", "a//c"],
    "a/+": ["a/b", "a/"],
    "+/b": ["a/b"],
    "+/+": ["a/b", "/a", "a/", "/"],
    "/+": ["/a", "/"],
    "/#": ["/a", "/"],
    "a/+/c": ["a/b/c", "a//c"],
    "a/+/#": ["a/b", "a/b/c", "a/", "a//c"],
    "+/a/#": ["/a"],
    "$x/#": ["$x/a"],
    "$x/+": ["$x/a"],
    "a/b": ["a/b"],
}


@pytest.mark.parametrize("filter_", FILTERS)
async def test_mqtt_4_7_1_filters_match_the_same_topics(broker, filter_):
    """MQTT-3.3.2-3, MQTT-4.7.1-1, MQTT-4.7.1-2, live and retained."""
    near = await broker()
    raw, late = await near.client("x"), await near.client("late")
    await raw.subscribe(filter_)
    for topic in TOPICS:
        raw.publish(topic, "x", 0, retain=True)
    assert [found.topic for found in await raw.arrived()] == FILTERS[filter_]
    await late.subscribe(filter_)
    assert sorted(found.topic for found in await late.arrived()) == sorted(FILTERS[filter_])


async def test_mqtt_3_12_4_1_pingreq_is_answered(broker, version):
    near = await broker()
    raw = await near.client("x", version)
    for _ in range(3):
        raw.send(packet(PINGREQ << 4))
        assert (await raw.expect(PINGRESP)).body == b""
