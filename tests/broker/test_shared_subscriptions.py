"""Shared subscriptions (MQTT 5, 4.8.2) and subscription identifiers (3.3.2.3.8)."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from mosquitto import command
from raw import PUBACK, PUBLISH, PUBREC, Raw, ack_packet, publish_packet

NO_LOCAL, AS_PUBLISHED = 0x04, 0x08
SHARED = "$share/g/a/#"


async def payloads(raw: Raw) -> list[str]:
    return [found.payload.decode() for found in await raw.arrived() if found.kind == PUBLISH]


# -- shared subscriptions --------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_each_message_goes_to_one_member_in_turn(isthmus, qos: int) -> None:
    near = await isthmus()
    members = [await near.client(f"m{number}") for number in range(3)]
    plain = await near.client("plain")
    await plain.subscribe("a/b", qos=qos)
    for member in members:
        assert await member.subscribe(SHARED, qos=qos) == [qos]
    publisher = await near.client("publisher")
    for number in range(12):
        await publisher.published("a/b", str(number), qos)
    found = [await payloads(member) for member in members]
    assert [len(one) for one in found] == [4, 4, 4]
    every = [text for one in found for text in one]
    assert sorted(every, key=int) == [str(number) for number in range(12)]
    assert all(one == sorted(one, key=int) for one in found)  # each in order
    assert len(await payloads(plain)) == 12


async def test_groups_and_filters_share_apart(isthmus) -> None:
    near = await isthmus()
    one, two, other = [await near.client(name) for name in ("one", "two", "other")]
    await one.subscribe("$share/g/a/+")
    await two.subscribe("$share/h/a/+")
    await other.subscribe("$share/g/a/#")
    publisher = await near.client("publisher")
    for number in range(4):
        publisher.publish("a/b", str(number))
    await publisher.nothing()
    for raw in (one, two, other):
        assert len(await payloads(raw)) == 4


async def test_a_session_may_hold_both_a_shared_and_a_plain_subscription(isthmus) -> None:
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe(SHARED, "a/b")
    raw.publish("a/b", "1")
    assert await payloads(raw) == ["1", "1"]
    assert await raw.unsubscribe(SHARED) == [0]
    raw.publish("a/b", "2")
    assert await payloads(raw) == ["2"]
    assert await raw.unsubscribe(SHARED) == [0x11]


async def test_each_member_gets_the_qos_that_it_was_granted(isthmus) -> None:
    """MQTT-4.8.2-3."""
    near = await isthmus()
    low, high = await near.client("low"), await near.client("high")
    await low.subscribe(SHARED, qos=0)
    await high.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    for number in range(4):
        await publisher.published("a/b", str(number), 2)
    assert {found.qos for found in await low.arrived()} == {0}
    assert {found.qos for found in await high.arrived()} == {1}


async def test_mqtt_3_1_1_clients_share_too(isthmus) -> None:
    near = await isthmus()
    old, new = await near.client("old", 4), await near.client("new")
    await old.subscribe(SHARED)
    await new.subscribe(SHARED, subscription_id=7)
    for number in range(4):
        new.publish("a/b", str(number), user=("k", "v"))
    assert len(await payloads(new)) == 2
    assert len(await payloads(old)) == 2


async def test_retained_messages_are_not_sent(isthmus) -> None:
    """MQTT 5, 4.8.2: a shared subscription gets no retained messages when it is made."""
    near = await isthmus()
    raw = await near.client("x")
    await raw.published("a/b", "kept", 1, retain=True)
    await raw.subscribe(SHARED)
    await raw.nothing()


async def test_a_member_that_is_full_is_left_out(isthmus) -> None:
    near = await isthmus()
    narrow = await near.client("narrow", receive_maximum=1)
    wide = await near.client("wide")
    await narrow.subscribe(SHARED, qos=1)
    await wide.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    for number in range(9):
        await publisher.published("a/b", str(number), 1)
    assert len(await payloads(narrow)) == 1
    assert len(await payloads(wide)) == 8


async def test_what_nobody_has_room_for_goes_to_who_has_room_first(isthmus) -> None:
    near = await isthmus()
    one = await near.client("one", receive_maximum=1)
    two = await near.client("two", receive_maximum=1)
    for raw in (one, two):
        await raw.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    for number in range(6):
        await publisher.published("a/b", str(number), 1)
    first, second = await one.expect(PUBLISH), await two.expect(PUBLISH)
    assert {first.payload, second.payload} == {b"0", b"1"}
    for expected in (b"2", b"3", b"4", b"5"):  # one alone gets all the rest
        one.send(ack_packet(PUBACK, first.packet_id))
        first = await one.expect(PUBLISH)
        assert first.payload == expected
    await two.nothing()


async def test_mqtt_4_8_2_5_what_a_member_leaves_unacknowledged_goes_to_another(isthmus) -> None:
    near = await isthmus()
    lazy, busy = await near.client("lazy", session_expiry=60), await near.client("busy")
    await lazy.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    for number in range(3):
        await publisher.published("a/b", str(number), 1)
    assert len(await payloads(lazy)) == 3
    await busy.subscribe(SHARED, qos=1)
    await publisher.published("a/b", "3", 1)
    await publisher.published("a/b", "4", 1)
    lazy.close()
    found = [await busy.message() for _ in range(5)]
    assert sorted(one.payload for one in found) == [b"0", b"1", b"2", b"3", b"4"]
    assert not any(one.dup for one in found)  # a new publication each
    again = await near.client("lazy", clean=False, session_expiry=60)
    assert again.hello.session_present
    await again.nothing()


async def test_mqtt_4_8_2_4_qos_2_stays_with_its_member(isthmus) -> None:
    near = await isthmus()
    lazy, busy = await near.client("lazy", session_expiry=60), await near.client("busy")
    await lazy.subscribe(SHARED, qos=2)
    publisher = await near.client("publisher")
    await publisher.published("a/b", "x", 2)
    sent = await lazy.expect(PUBLISH)
    await busy.subscribe(SHARED, qos=2)
    lazy.close()
    await busy.nothing()
    again = await near.client("lazy", clean=False, session_expiry=60)
    repeated = await again.message()
    assert (repeated.payload, repeated.dup, repeated.packet_id) == (b"x", True, sent.packet_id)
    await busy.nothing()


async def test_mqtt_4_8_2_6_a_refused_message_is_discarded(isthmus) -> None:
    near = await isthmus()
    one, two = await near.client("one"), await near.client("two")
    await one.subscribe(SHARED, qos=2)
    publisher = await near.client("publisher")
    await publisher.published("a/b", "x", 2)
    sent = await one.expect(PUBLISH)
    await two.subscribe(SHARED, qos=2)
    one.send(ack_packet(PUBREC, sent.packet_id, 0x83))
    await one.nothing()
    await two.nothing()
    assert near.app.broker.drops.counts == {"refused_0x83": 1}


async def test_messages_wait_while_no_member_is_there(isthmus) -> None:
    near = await isthmus()
    for name in ("one", "two"):
        raw = await near.client(name, session_expiry=60)
        await raw.subscribe(SHARED, qos=1)
        raw.close()
    publisher = await near.client("publisher")
    await publisher.published("a/b", "lost", 0)
    for number in range(3):
        await publisher.published("a/b", str(number), 1, expiry=100)
    two = await near.client("two", clean=False, session_expiry=60)
    found = [await two.message() for _ in range(3)]
    assert [one.payload for one in found] == [b"0", b"1", b"2"]
    assert all(99 <= one.properties["expiry"] <= 100 for one in found)
    one = await near.client("one", clean=False, session_expiry=60)
    await one.nothing()
    assert near.app.broker.drops.counts == {"link_down": 1}


async def test_an_expired_message_is_not_delivered(isthmus) -> None:
    near = await isthmus()
    raw = await near.client("one", session_expiry=60)
    await raw.subscribe(SHARED, qos=1)
    raw.close()
    publisher = await near.client("publisher")
    await publisher.published("a/b", "old", 1, expiry=1)
    await publisher.published("a/b", "young", 1)
    await asyncio.sleep(1.2)
    again = await near.client("one", clean=False)
    assert (await again.message()).payload == b"young"
    await again.nothing()
    assert near.app.broker.drops.counts == {"expired": 1}


async def test_the_queue_of_a_group_is_bounded(isthmus) -> None:
    near = await isthmus({"broker": {"limits": {"queued_messages": 2}}})
    raw = await near.client("one", session_expiry=60)
    await raw.subscribe(SHARED, qos=1)
    raw.close()
    publisher = await near.client("publisher")
    for number in range(5):
        await publisher.published("a/b", str(number), 1)
    again = await near.client("one", clean=False)
    assert [(await again.message()).payload for _ in range(2)] == [b"0", b"1"]
    assert near.app.broker.drops.counts == {"queue_full": 3}


async def test_a_group_ends_with_its_last_member(isthmus) -> None:
    near = await isthmus()
    raw = await near.client("one")
    await raw.subscribe(SHARED, "$share/h/b")
    assert len(near.app.broker.shares) == 2
    await raw.unsubscribe(SHARED)
    assert len(near.app.broker.shares) == 1
    raw.close()
    publisher = await near.client("publisher")
    await publisher.published("b", "x", 1)
    assert not near.app.broker.shares
    assert not len(near.app.broker.exchange)


async def test_rights_hold_for_each_member(isthmus, tmp_path) -> None:
    """A share is checked by its bare filter, and each topic by each member."""
    users = tmp_path / "users"
    for name, create in (("may", True), ("maynot", False)):
        how = ["-c", "-b"] if create else ["-b"]
        assert (await command("mosquitto_passwd", *how, str(users), name, "pw"))[0] == 0
    rights = tmp_path / "acl"
    rights.write_text("user may\ntopic a/#\nuser maynot\ntopic a/b\n")
    near = await isthmus({"auth": {"password_file": str(users), "acl_file": str(rights)}})
    may = await near.client("1", username="may", password="pw")
    maynot = await near.client("2", username="maynot", password="pw")
    assert await may.subscribe(SHARED) == [0]
    assert await maynot.subscribe("$share/g/other") == [0x87]
    assert await maynot.subscribe(SHARED) in ([0], [0x87])
    for number in range(4):
        may.publish("a/secret", str(number))
    assert len(await payloads(may)) == 4
    await maynot.nothing()


async def test_a_member_over_its_window_loses_nothing_under_load(isthmus) -> None:
    near = await isthmus()
    members = [await near.client(f"m{number}", receive_maximum=5) for number in range(3)]
    for member in members:
        await member.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    publisher.send(*(publish_packet("a/b", str(number), 1, number + 1) for number in range(600)))
    found: Counter[bytes] = Counter()
    while sum(found.values()) < 600:
        for member in members:
            for message in await member.arrived():
                if message.kind == PUBLISH:
                    found[message.payload] += 1
                    member.send(ack_packet(PUBACK, message.packet_id))
    assert len(found) == 600
    assert set(found.values()) == {1}


# -- subscription identifiers ----------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_mqtt_3_3_4_3_identifiers_come_with_the_message(isthmus, qos: int) -> None:
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe("a/#", qos=qos, subscription_id=1)
    await raw.subscribe("a/b", qos=qos, subscription_id=268_435_455)
    await raw.subscribe("a/+", qos=qos)
    publisher = await near.client("publisher")
    await publisher.published("a/b", "x", qos)
    await publisher.published("a/b", "y", qos, user=("k", "v"), expiry=60)
    first, second = [await raw.message() for _ in range(2)]
    assert sorted(first.properties["subscription_id"]) == [1, 268_435_455]
    assert sorted(second.properties["subscription_id"]) == [1, 268_435_455]
    assert (second.properties["user"], second.properties["expiry"]) == ([("k", "v")], 60)


async def test_a_new_subscribe_replaces_the_identifier(isthmus) -> None:
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe("a", subscription_id=1)
    await raw.subscribe("a", subscription_id=2)
    raw.publish("a", "x")
    assert (await raw.message()).properties["subscription_id"] == [2]
    await raw.subscribe("a")
    raw.publish("a", "x")
    assert "subscription_id" not in (await raw.message()).properties


async def test_identifiers_wait_with_the_message_and_it_ages(isthmus) -> None:
    near = await isthmus()
    raw = await near.client("x", session_expiry=60)
    await raw.subscribe("a", qos=1, subscription_id=9)
    raw.close()
    publisher = await near.client("publisher")
    await publisher.published("a", "x", 1, expiry=50, user=("k", "v"))
    again = await near.client("x", clean=False)
    found = await again.message()
    assert found.properties["subscription_id"] == [9]
    assert found.properties["user"] == [("k", "v")]
    assert found.properties["expiry"] in (49, 50)


async def test_retained_and_shared_messages_carry_the_identifier_too(isthmus) -> None:
    near = await isthmus()
    raw = await near.client("x")
    await raw.published("a/b", "kept", 1, retain=True)
    await raw.subscribe("a/+", subscription_id=5)
    assert (await raw.message()).properties["subscription_id"] == [5]
    await raw.unsubscribe("a/+")
    await raw.subscribe(SHARED, qos=1, subscription_id=6)
    raw.publish("a/b", "x", 1)
    assert [found.properties.get("subscription_id") for found in await raw.arrived()] == [[6], None]


async def test_identifiers_of_many_subscribers_stay_apart(isthmus) -> None:
    near = await isthmus()
    clients = [await near.client(f"c{number}") for number in range(4)]
    for number, raw in enumerate(clients):
        await raw.subscribe("a", subscription_id=1 + number % 2)
    old = await near.client("old", 4)
    await old.subscribe("a")
    clients[0].publish("a", "x")
    assert [(await raw.message()).properties["subscription_id"] for raw in clients] == [
        [1],
        [2],
        [1],
        [2],
    ]
    assert (await old.message()).payload == b"x"
