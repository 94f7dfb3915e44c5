"""Shared subscriptions and subscription identifiers."""

from __future__ import annotations

import struct

import pytest
from conformance_broker import drop, kept, leave
from conformance_differences import observe

from raw import PUBACK, PUBLISH, PUBREC, PUBREL, SUBACK, Raw, ack_packet, packet, properties, text

TWO = ("first", "second")


async def members(near, *names: str, qos: int = 1, group: str = "$share/g/t/#") -> list[Raw]:
    found = []
    for name in names:
        raw = await near.client(name, **kept(5))
        assert await raw.subscribe(group, qos=qos) == [qos]
        found.append(raw)
    return found


async def identified(raw: Raw, number: int | None, *filters: str, qos: int = 0) -> None:
    how = {} if number is None else {"subscription_id": number}
    body = struct.pack(">H", raw.next_id()) + properties(**how)
    raw.send(packet(0x82, body + b"".join(text(filter_) + bytes([qos]) for filter_ in filters)))
    assert (await raw.expect(SUBACK)).codes == [qos] * len(filters)


# -- shared subscriptions ------------------------------------------------------------------------


async def test_connack_offers_both(broker):
    """MQTT 5, 3.2.2.3.12 and 13: absent or 1."""
    near = await broker()
    raw = await near.client("x")
    assert raw.hello.properties.get("shared", 1) == 1
    assert raw.hello.properties.get("subscription_ids", 1) == 1


async def test_mqtt_4_8_2_1_each_message_goes_to_one_member(broker):
    near = await broker()
    both = await members(near, *TWO)
    plain = await near.client("plain")
    await plain.subscribe("t/#", qos=1)
    publisher = await near.client("publisher")
    for number in range(20):
        await publisher.published(f"t/{number}", str(number), 1)
    got = [[one.topic for one in await raw.arrived()] for raw in both]
    assert sorted(got[0] + got[1]) == sorted(f"t/{number}" for number in range(20))
    assert len(await plain.arrived()) == 20


async def test_two_groups_and_two_filters_are_apart(broker):
    near = await broker()
    raws = []
    for name, group in (("a", "$share/g/t"), ("b", "$share/h/t"), ("c", "$share/g/+")):
        raws += await members(near, name, group=group)
    publisher = await near.client("publisher")
    await publisher.published("t", "x", 1)
    assert [len(await raw.arrived()) for raw in raws] == [1, 1, 1]


async def test_a_share_is_left_by_unsubscribing(broker):
    near = await broker()
    first, second = await members(near, *TWO)
    assert await first.unsubscribe("$share/g/t/#") == [0]
    assert await first.unsubscribe("$share/g/t/#") == [0x11]
    publisher = await near.client("publisher")
    for number in range(4):
        await publisher.published(f"t/{number}", "x", 0)
    assert len(await second.arrived()) == 4
    await first.nothing()


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_mqtt_4_8_2_3_the_granted_qos_of_the_member_counts(broker, qos):
    near = await broker()
    (raw,) = await members(near, "one", qos=qos)
    publisher = await near.client("publisher")
    for sent in (0, 1, 2):
        await publisher.published("t/x", "x", sent)
        assert (await raw.message()).qos == min(sent, qos)


async def test_no_retained_messages_for_a_shared_subscription(broker):
    """MQTT 5, 3.3.1.3: they are sent when a new non-shared subscription is made."""
    near = await broker()
    publisher = await near.client("publisher")
    await publisher.published("t/kept", "x", 1, retain=True)
    (raw,) = await members(near, "one")
    observe(near.name, "retained-for-a-share", "sent" if await raw.arrived() else "not sent")


async def test_mqtt_4_8_2_4_and_5_qos_2_stays_with_its_member(broker):
    near = await broker()
    first, second = await members(near, *TWO, qos=2)
    publisher = await near.client("publisher")
    chosen = found = None
    await publisher.published("t/x", "x", 2)
    for raw in (first, second):
        for one in await raw.arrived():
            chosen, found = raw, one
    assert chosen is not None
    assert found is not None
    other, name = (second, "first") if chosen is first else (first, "second")
    await drop(chosen)
    await other.nothing()
    again = await near.client(name, **kept(5))
    resent = await again.expect(PUBLISH)
    assert (resent.packet_id, resent.dup, resent.payload) == (found.packet_id, True, b"x")
    again.send(ack_packet(PUBREC, resent.packet_id))
    assert (await again.expect(PUBREL)).packet_id == resent.packet_id
    await drop(again)
    # The session ends: nobody else gets it.
    await leave(await near.client(name, clean=True))
    await other.nothing()


async def test_mqtt_4_8_2_6_a_refused_message_goes_to_nobody_else(broker):
    near = await broker()
    both = await members(near, *TWO)
    publisher = await near.client("publisher")
    await publisher.published("t/x", "x", 1)
    refused = 0
    for raw in both:
        for one in await raw.arrived():
            raw.send(ack_packet(PUBACK, one.packet_id, 0x83))
            refused += 1
    assert refused == 1
    for raw in both:
        await raw.nothing()


async def test_a_member_that_goes_leaves_its_qos_1_messages_to_the_group(isthmus):
    """Not of the specification, which allows it (MQTT 5, 4.8.2): nothing is lost with a member."""
    near = await isthmus()
    first = await near.client("first")
    second = await near.client("second")
    for raw in (first, second):
        await raw.subscribe("$share/g/t", qos=1)
    publisher = await near.client("publisher")
    for number in range(6):
        await publisher.published("t", str(number), 1)
    held = [one.payload for one in await first.arrived()]
    done = [one.payload for one in await second.arrived()]
    await drop(first)
    done += [one.payload for one in await second.arrived()]
    assert held
    assert set(done) == {str(number).encode() for number in range(6)}


async def test_an_away_member_is_skipped(isthmus):
    near = await isthmus()
    first, second = await near.client("first", **kept(5)), await near.client("second")
    for raw in (first, second):
        await raw.subscribe("$share/g/t", qos=1)
    await drop(first)
    publisher = await near.client("publisher")
    for number in range(6):
        await publisher.published("t", str(number), 1)
    assert len(await second.arrived()) == 6


async def test_3_1_1_clients_share_too(broker):
    """`$share` is a filter like any other in 3.1.1; both brokers share there too."""
    near = await broker()
    raws = []
    for name in TWO:
        raw = await near.client(name, 4)
        assert await raw.subscribe("$share/g/t", qos=1) == [1]
        raws.append(raw)
    publisher = await near.client("publisher", 4)
    for number in range(6):
        await publisher.published("t", str(number), 0)
    assert sum([len(await raw.arrived()) for raw in raws]) == 6


# -- subscription identifiers --------------------------------------------------------------------


async def test_mqtt_3_3_4_3_the_identifier_comes_with_the_message(broker):
    near = await broker()
    raw = await near.client("x")
    for number, filter_ in ((1, "a"), (127, "b"), (128, "c"), (268_435_455, "d")):
        await identified(raw, number, filter_)
        raw.publish(filter_, "x")
        assert (await raw.message()).properties["subscription_id"] == [number]
    await identified(raw, None, "e")
    raw.publish("e", "x")
    assert "subscription_id" not in (await raw.message()).properties


async def test_mqtt_3_3_4_4_and_5_overlapping_subscriptions(broker):
    near = await broker()
    raw = await near.client("x")
    await identified(raw, 1, "a/#", qos=1)
    await identified(raw, 2, "a/+", qos=2)
    await identified(raw, None, "+/b", qos=0)
    publisher = await near.client("publisher")
    await publisher.published("a/b", "x", 1)
    found = await raw.arrived()
    # One copy with all of them, or one for each.
    said = sorted(n for one in found for n in one.properties.get("subscription_id", []))
    assert said == [1, 2]
    assert max(one.qos for one in found) == 1


async def test_mqtt_3_8_4_3_subscribing_again_replaces_the_identifier(broker):
    near = await broker()
    raw = await near.client("x")
    for number in (1, 2, None):
        await identified(raw, number, "t")
        raw.publish("t", "x")
        said = (await raw.message()).properties.get("subscription_id")
        assert said == (None if number is None else [number])


async def test_an_identifier_of_a_retained_message(broker):
    near = await broker()
    raw = await near.client("x")
    await raw.published("t", "x", 1, retain=True)
    await identified(raw, 9, "t")
    assert (await raw.message()).properties["subscription_id"] == [9]


async def test_identifiers_live_as_long_as_their_session(broker):
    near = await broker()
    raw = await near.client("x", **kept(5))
    await identified(raw, 9, "t", qos=1)
    await drop(raw)
    publisher = await near.client("publisher")
    await publisher.published("t", "x", 1)
    raw = await near.client("x", **kept(5))
    assert (await raw.message()).properties["subscription_id"] == [9]


async def test_an_identifier_of_a_share(broker):
    near = await broker()
    raw = await near.client("x")
    await identified(raw, 7, "$share/g/t")
    raw.publish("t", "x")
    assert (await raw.message()).properties["subscription_id"] == [7]


@pytest.mark.parametrize("block", [b"\2\x0b\0", b"\4\x0b\1\x0b\2"], ids=["0", "twice"])
async def test_identifier_0_and_two_identifiers_are_protocol_errors(isthmus, block):
    near = await isthmus()
    raw = await near.client("x")
    raw.send(packet(0x82, b"\0\1" + block + text("a") + b"\0"))
    assert (await raw.packet()).code == 0x82
