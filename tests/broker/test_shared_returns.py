"""Shared subscriptions: what a member left unacknowledged goes on as it was published."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from pathlib import Path
from typing import Any

from isthmus.auth.passwords import create_entry
from isthmus.broker.share_group import Held
from raw import PUBACK, PUBLISH, Packet, Raw, ack_packet, packet, text, until

AS_PUBLISHED = 0x08
SHARED = "$share/g/a/#"


async def payloads(raw: Raw) -> list[str]:
    return [found.payload.decode() for found in await raw.arrived() if found.kind == PUBLISH]


async def lazy_and(near, *names: str, **left: Any) -> list[Raw]:
    """A member "lazy", which `left` describes, and clients that have not subscribed yet."""
    lazy = await near.client("lazy", left.pop("version", 5), **left.pop("connect", {}))
    await lazy.subscribe(SHARED, **left)
    return [lazy, *[await near.client(name) for name in names]]


async def joined(raw: Raw, options: int) -> list[Packet]:
    """Subscribe, and return the messages that waited; they may come before the SUBACK."""
    body = struct.pack(">H", raw.next_id()) + b"\0" + text(SHARED) + bytes([options])
    raw.send(packet(0x82, body))
    return [found for found in await raw.arrived() if found.kind == PUBLISH]


def held(near) -> list[Held]:
    """What the one group keeps of messages that members have."""
    (group,) = near.app.broker.shares.values()
    return [one for one in gc.get_objects() if type(one) is Held and one.source is group]


def waits(near) -> int:
    (group,) = near.app.broker.shares.values()
    return len(group.queue)


async def waiting(near, count: int) -> None:
    """Until `count` messages wait in the one group."""
    await until(lambda: waits(near) == count)


async def test_mqtt_3_3_4_3_a_message_that_came_back_has_the_identifiers_of_its_new_member(
    isthmus,
) -> None:
    near = await isthmus()
    lazy, busy, third = await lazy_and(near, "busy", "third", qos=1, subscription_id=11)
    await third.published("a/b", "x", 1, user=("k", "v"))
    await third.published("a/b", "bare", 1)
    await third.published("a/b", "long", 1, user=("k", "v" * 1000))
    assert len(await payloads(lazy)) == 3
    await busy.subscribe(SHARED, qos=1, subscription_id=22)
    lazy.close()
    found = await busy.arrived()
    assert [one.properties["subscription_id"] for one in found] == [[22], [22], [22]]
    assert found[0].properties["user"] == [("k", "v")]
    await third.subscribe(SHARED, qos=1)
    busy.close()
    found = [await third.message() for _ in range(3)]
    assert [one.payload for one in found] == [b"x", b"bare", b"long"]
    assert [one.properties for one in found] == [
        {"user": [("k", "v")]},
        {},
        {"user": [("k", "v" * 1000)]},
    ]


async def test_properties_survive_a_member_that_speaks_mqtt_3(isthmus) -> None:
    near = await isthmus()
    lazy, busy = await lazy_and(near, "busy", version=4, qos=1)
    await busy.published("a/b", "x", 1, user=("k", "v"), expiry=50)
    assert len(await payloads(lazy)) == 1
    await busy.subscribe(SHARED, qos=1, subscription_id=22)
    lazy.close()
    found = await busy.message()
    assert found.properties.pop("expiry") in (49, 50)
    assert found.properties == {"user": [("k", "v")], "subscription_id": [22]}


async def test_a_message_grows_old_while_a_member_has_it(isthmus) -> None:
    near = await isthmus()
    lazy, busy = await lazy_and(near, "busy", qos=1)
    await busy.published("a/b", "old", 1, expiry=1)
    await busy.published("a/b", "young", 1, expiry=50)
    assert len(await payloads(lazy)) == 2
    await asyncio.sleep(1.2)
    await busy.subscribe(SHARED, qos=1)
    lazy.close()
    found = await busy.message()
    assert found.payload == b"young"
    assert found.properties["expiry"] in (47, 48)
    await busy.nothing()
    assert near.app.broker.drops.counts == {"expired": 1}


async def test_mqtt_4_8_2_3_a_message_that_came_back_has_the_qos_of_its_new_member(isthmus) -> None:
    near = await isthmus()
    lazy, busy = await lazy_and(near, "busy", qos=1)
    await busy.published("a/b", "x", 2, retain=True)
    await busy.published("a/b", "y", 1)
    assert len(await payloads(lazy)) == 2
    await busy.subscribe(SHARED, qos=2, options=AS_PUBLISHED)
    lazy.close()
    found = [await busy.message() for _ in range(2)]
    assert [(one.payload, one.qos, one.retain) for one in found] == [
        (b"x", 2, True),
        (b"y", 1, False),
    ]


async def test_a_message_that_came_back_keeps_its_flags_while_it_waits(isthmus) -> None:
    """Also where it waits for a second time, and a member of QoS 0 gets it in the end."""
    near = await isthmus()
    lazy, last = await lazy_and(near, "last", qos=1, connect={"session_expiry": 60})
    await last.published("a/b", "x", 2, retain=True)
    assert len(await payloads(lazy)) == 1
    lazy.close()
    await waiting(near, 1)
    again = await near.client("lazy", clean=False, session_expiry=60)
    assert not (await again.expect(PUBLISH)).retain
    again.close()
    await waiting(near, 1)
    (found,) = await joined(last, AS_PUBLISHED)
    assert (found.qos, found.retain) == (0, True)
    await waiting(near, 0)


async def test_a_message_passes_from_a_mounted_member_to_one_that_is_not(isthmus) -> None:
    listeners = [{"bind": "127.0.0.1:0", "mount_point": "a/"}, {"bind": "127.0.0.1:0"}]
    near = await isthmus({"listeners": listeners, "broker": {"sys_interval": 0}})
    inside = await Raw.client(near.ports[0], "inside", session_expiry=60)
    plain = await Raw.client(near.ports[1], "plain")
    await inside.subscribe("$share/g/#", qos=1)
    await plain.published("a/b", "x", 1)
    assert [found.topic for found in await inside.arrived()] == ["b"]
    await plain.subscribe(SHARED, qos=1)
    inside.close()
    assert (await plain.expect(PUBLISH)).topic == "a/b"
    await Raw.client(near.ports[0], "inside", clean=False, session_expiry=60)
    plain.close()
    await until(lambda: near.app.broker.sessions["inside"].lane.inflight)


async def test_what_several_members_leave_is_in_the_order_of_publication(isthmus) -> None:
    near = await isthmus()
    publisher = await near.client("publisher")
    one, two = members = [
        await near.client(f"member{room}", receive_maximum=room, session_expiry=60)
        for room in (2, 3)
    ]
    for member in members:
        await member.subscribe(SHARED, qos=1)
    for number in range(1, 8):
        await publisher.published("a/b", str(number), 1)
    assert sorted(await payloads(one) + await payloads(two)) == ["1", "2", "3", "4", "5"]
    two.close()
    await waiting(near, 5)
    one.close()
    await waiting(near, 7)
    third = await near.client("third", receive_maximum=2, session_expiry=60)
    assert [found.payload for found in await joined(third, 1)] == [b"1", b"2"]
    third.close()
    await waiting(near, 7)
    fourth = await near.client("fourth")
    assert [int(found.payload) for found in await joined(fourth, 1)] == [1, 2, 3, 4, 5, 6, 7]


async def test_nothing_is_kept_of_what_is_acknowledged(isthmus, monkeypatch) -> None:
    monkeypatch.setattr("isthmus.broker.share_group.RUN", 2)
    near = await isthmus()
    one, publisher = await near.client("one"), await near.client("publisher")
    await one.subscribe(SHARED, qos=1)
    for number in range(6):
        await publisher.published("a/b", str(number), 1)
    found = await one.arrived()
    marks = held(near)
    assert len(marks) == 3
    marks.clear()
    one.send(*(ack_packet(PUBACK, message.packet_id) for message in found))
    await one.nothing()
    assert len(held(near)) == 1  # for the next messages


# -- members that hold up the others ---------------------------------------------------------------


async def test_what_an_unsubscribed_member_had_goes_to_another_when_it_leaves(isthmus) -> None:
    near = await isthmus()
    lazy, busy, third = await lazy_and(near, "busy", "third", qos=1)
    await third.published("a/b", "x", 1)
    assert await payloads(lazy) == ["x"]
    await busy.subscribe(SHARED, qos=1)
    assert await lazy.unsubscribe(SHARED) == [0]
    lazy.reset()
    assert (await busy.message()).payload == b"x"


async def test_a_member_that_does_not_read_gets_what_waits_when_it_reads_again(isthmus) -> None:
    near = await isthmus()
    slow = await near.client("slow")
    slow.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    await slow.subscribe(SHARED)
    slow.writer.transport.pause_reading()
    third = await near.client("third")
    for number in range(120):
        assert await third.published("a/b", b"%d " % number + bytes(50_000), 1) == 0
    assert waits(near)
    slow.writer.transport.resume_reading()
    for number in range(120):
        assert (await slow.message()).payload.startswith(b"%d " % number)
    await third.published("a/b", "later", 1)
    assert (await slow.message()).payload == b"later"


async def test_what_one_member_may_not_read_does_not_hold_up_what_it_may(
    isthmus, tmp_path: Path
) -> None:
    users, rights = tmp_path / "users", tmp_path / "acl"
    users.write_text("".join(f"{create_entry(name, b'pw', iterations=2)}\n" for name in "abp"))
    rights.write_text(
        "user p\ntopic write a/#\n"
        "user a\ntopic read a/x\ntopic read a/z\nuser b\ntopic read a/y\ntopic read a/z\n"
    )
    for path in (users, rights):
        path.chmod(0o600)
    near = await isthmus(
        {"auth": {"password_file": str(users), "acl_file": str(rights), "allow_anonymous": False}}
    )

    async def client(name: str) -> Raw:
        how = {"receive_maximum": 1, "session_expiry": 100, "clean": False}
        return await near.client(name, username=name, password="pw", **how)

    first, second = await client("a"), await client("b")
    publisher = await near.client("p", username="p", password="pw")
    for member in (first, second):
        await member.subscribe(SHARED, qos=1)
        member.reset()
    await until(lambda: near.app.broker.connected == 1)
    for topic in "yxyxzz":
        await publisher.published(f"a/{topic}", topic, 1)
    await waiting(near, 6)
    got = []
    first = await client("a")
    second = await client("b")
    for _ in range(3):
        for member in (first, second):
            found = [one for one in await member.arrived() if one.kind == PUBLISH]
            got += [one.topic for one in found]
            member.send(*(ack_packet(PUBACK, one.packet_id) for one in found))
    await waiting(near, 0)
    assert sorted(got) == ["a/x", "a/x", "a/y", "a/y", "a/z", "a/z"]
