"""Share groups on disk: what was acknowledged for them outlives any end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from isthmus.auth.passwords import create_entry
from isthmus.store.database import FILE
from mosquitto import free_port, listens
from raw import (
    OPEN,
    PATIENCE_S,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Packet,
    Raw,
    ack_packet,
    packet,
    text,
    until,
)

LONG = {"clean": False, "session_expiry": 3600}
SHARED = "$share/g/a/#"
QUIET_S = 0.3


class Killed:
    """`isthmus run` that is ended by SIGKILL, and started again."""

    def __init__(self, folder: Path, **broker: Any) -> None:
        self.port = free_port()
        self._file = folder / "isthmus.json"
        self._said = folder / "log"
        settings = {
            "listeners": [{"bind": f"127.0.0.1:{self.port}"}],
            "http": None,
            "broker": {"data": str(folder / "data"), **broker},
        }
        self._file.write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with self._said.open("ab") as log:
            process = self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", "isthmus", "run", str(self._file)], stdout=log, stderr=log
            )
        await until(lambda: listens(self.port) or process.poll() is not None, 30)
        assert process.poll() is None, self.said()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def again(self) -> None:
        self.kill()
        await self.start()

    async def client(self, name: str, version: int = 5, **how: Any) -> Raw:
        return await Raw.client(self.port, name, version, **how)

    async def member(self, name: str, qos: int = 1, **how: Any) -> Raw:
        raw = await self.client(name, **{**LONG, **how})
        if not raw.hello.session_present:
            assert await raw.subscribe(SHARED, qos=qos) == [qos]
        return raw

    def said(self) -> str:
        return self._said.read_text()


@pytest_asyncio.fixture
async def process(tmp_path):
    made: list[Killed] = []

    def make(**broker: Any) -> Killed:
        made.append(Killed(tmp_path, **broker))
        return made[-1]

    OPEN.clear()
    yield make
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    for one in made:
        one.kill()
        assert "Traceback" not in one.said()


def kept_in(folder: Path, **broker: Any) -> dict[str, Any]:
    return {"broker": {"data": str(folder), **broker}}


async def crash(near) -> None:
    """End as kill -9 does, in this process: what is not on disk is lost."""
    app = near.app
    store, app.store = app.store, None
    store._writer.submit = lambda job: None
    await asyncio.to_thread(store._writer.stop, 5)
    await app.close()


async def taken(*members: Raw, count: int = 0) -> list[list[Packet]]:
    """What each member gets, acknowledged to the end: `count` in all, and then nothing more."""
    loop = asyncio.get_running_loop()
    left = count
    patience: list[asyncio.Timeout] = []

    async def of(member: Raw, found: list[Packet]) -> None:
        nonlocal left
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S if left > 0 else QUIET_S) as wait:
                patience.append(wait)
                while True:
                    found.append(await member.message(resumed=True))
                    left -= 1
                    for one in patience if left == 0 else [wait] if left < 0 else []:
                        one.reschedule(loop.time() + QUIET_S)

    every: list[list[Packet]] = [[] for _ in members]
    await asyncio.gather(*(of(*one) for one in zip(members, every, strict=True)))
    return every


def numbers(found: list[Packet]) -> list[int]:
    return [int(message.payload) for message in found]


def logs(near) -> list[str]:
    return [name for name in near.app.store.names() if name.startswith("share/")]


async def on_disk(near, *names: str, qos: int = 1, **how: Any) -> list[Raw]:
    """Members with sessions on disk."""
    members = []
    for name in names:
        member = await near.client(name, **{**LONG, **how})
        await member.subscribe(SHARED, qos=qos)
        members.append(member)
    return members


# -- a process that is killed ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 5])
async def test_what_came_while_all_were_away_is_there_after_a_kill(process, version):
    near = process()
    await near.start()
    how = LONG if version == 5 else {"clean": False}
    for name in ("one", "two"):
        member = await near.client(name, version, **how)
        await member.subscribe(SHARED, qos=2)
        member.close()
    publisher = await near.client("publisher")
    for number in range(100):
        await publisher.published(f"a/{number % 3}", b"%d" % number, 1 + number % 2)
    await near.again()
    one, two = [await near.client(name, version, **how) for name in ("one", "two")]
    found = await taken(one, two, count=100)
    every = sorted(numbers(found[0]) + numbers(found[1]))
    assert every == list(range(100))
    assert all(found)  # both had some
    for part in found:
        for qos in (1, 2):
            of_qos = numbers([message for message in part if message.qos == qos])
            assert of_qos == sorted(of_qos)
        assert all(message.qos == 1 + int(message.payload) % 2 for message in part)
    await near.again()
    one, two = [await near.client(name, version, **how) for name in ("one", "two")]
    assert await taken(one, two) == [[], []]


async def test_what_finds_all_windows_full_is_there_after_a_kill(process):
    near = process()
    await near.start()
    one, two = [await near.member(name, receive_maximum=3) for name in ("one", "two")]
    publisher = await near.client("publisher")
    for number in range(50):
        await publisher.published("a/b", b"%d" % number, 1 + number % 2)
    held = [numbers(await member.arrived()) for member in (one, two)]
    assert sorted(held[0] + held[1]) == list(range(6))
    await near.again()
    one = await near.member("one", receive_maximum=3)
    assert [numbers(part) for part in await taken(one, count=50)] == [list(range(50))]


async def test_what_members_had_goes_to_whoever_comes_first(process):
    near = process()
    await near.start()
    one, two = [await near.member(name) for name in ("one", "two")]
    publisher = await near.client("publisher")
    for number in range(10):
        publisher.publish("a/b", b"%d" % number, 1)
    first = await one.arrived()
    assert len(first) == 5
    assert len(await two.arrived()) == 5
    for _ in range(10):
        await publisher.expect(PUBACK)  # though no member has acknowledged
    one.send(*(ack_packet(PUBACK, message.packet_id) for message in first[:2]))
    await one.nothing()
    await asyncio.sleep(0.5)  # until the disk knows
    await near.again()
    two = await near.member("two")
    found = (await taken(two, count=8))[0]
    assert numbers(found) == sorted(set(range(10)) - set(numbers(first[:2])))
    assert not any(message.dup for message in found)
    one = await near.member("one")
    assert await taken(one) == [[]]


async def test_mqtt_4_8_2_4_qos_2_that_has_begun_stays_with_its_member(process):
    near = process()
    await near.start()
    one = await near.member("one", qos=2)
    two = await near.member("two", qos=2)
    publisher = await near.client("publisher")
    for number in range(4):
        await publisher.published("a/b", b"%d" % number, 2)
    first, second = await one.expect(PUBLISH), await one.expect(PUBLISH)
    one.send(ack_packet(PUBREC, first.packet_id))
    await one.expect(PUBREL)
    of_one = {int(first.payload), int(second.payload)}
    assert len(await two.arrived()) == 2
    await near.again()
    two = await near.member("two")
    assert set(numbers((await taken(two, count=2))[0])) == {0, 1, 2, 3} - of_one
    one = await near.member("one")
    again = [await one.packet() for _ in range(2)]
    await one.nothing()
    assert [found.packet_id for found in again if found.kind == PUBREL] == [first.packet_id]
    assert numbers([found for found in again if found.kind == PUBLISH]) == [int(second.payload)]


async def test_the_age_of_a_message_goes_on_without_the_process(process):
    near = process()
    await near.start()
    (await near.member("one")).close()
    publisher = await near.client("publisher")
    await publisher.published("a/b", b"1", 1, expiry=1)
    await publisher.published("a/b", b"2", 1, expiry=100)
    await publisher.published("a/b", b"3", 1, user=("k", "v"))
    near.kill()
    await asyncio.sleep(1.5)
    await near.start()
    (found,) = await taken(await near.member("one"), count=2)
    assert numbers(found) == [2, 3]
    assert 90 < found[0].properties["expiry"] < 100
    assert found[1].properties == {"user": [("k", "v")]}


async def test_limits_hold_over_a_kill(process):
    near = process(limits={"queued_messages": 10})
    await near.start()
    (await near.member("one")).close()
    publisher = await near.client("publisher")
    for number in range(15):
        await publisher.published("a/b", b"%d" % number, 1)
    await near.again()
    publisher = await near.client("publisher")
    await publisher.published("a/b", b"99", 1)
    (found,) = await taken(await near.member("one"), count=10)
    assert numbers(found) == list(range(10))
    await publisher.published("a/b", b"15", 1)
    (found,) = await taken(await near.member("one"), count=1)
    assert numbers(found) == [15]


async def test_the_last_member_that_unsubscribes_takes_all_with_it(process):
    near = process()
    await near.start()
    one = await near.member("one", receive_maximum=1)
    publisher = await near.client("publisher")
    for number in range(5):
        await publisher.published("a/b", b"%d" % number, 1)
    assert await one.unsubscribe(SHARED) == [0]
    await near.again()
    one = await near.client("one", **LONG)
    assert one.hello.session_present
    await one.subscribe(SHARED, qos=1)
    assert await taken(one) == [[]]


# -- what is written, and when ---------------------------------------------------------------------


async def commits(near) -> int:
    await asyncio.sleep(0.5)  # longer than changes are collected
    return near.app.store.commits


@pytest.mark.parametrize("qos", [0, 1])
async def test_members_that_keep_up_write_nothing(isthmus, tmp_path, qos):
    near = await isthmus(kept_in(tmp_path))
    one, two = await on_disk(near, "one", "two", qos=qos)
    publisher = await near.client("publisher")
    before = await commits(near)
    for number in range(20):
        publisher.publish("a/b", b"%d" % number, 1)
        await (one, two)[1 - number % 2].message()
        await publisher.expect(PUBACK)
    assert await commits(near) == before


async def test_a_group_without_members_on_disk_writes_nothing(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    await near.client("kept", **LONG)
    one = await near.client("one")
    await one.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    before = await commits(near)
    for number in range(5):
        await publisher.published("a/b", b"%d" % number, 1)  # nobody waits for the member
    assert await commits(near) == before
    assert not logs(near)


async def test_a_publisher_waits_for_a_member_or_the_disk(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one")
    publisher = await near.client("publisher")
    fill(near)
    publisher.publish("a/b", b"1", 1)
    found = await one.expect(PUBLISH)
    await publisher.nothing()
    one.send(ack_packet(PUBACK, found.packet_id))
    await publisher.expect(PUBACK)


def no_room(*_: Any) -> Any:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


def fill(near: Any) -> None:
    """From now on the disk takes nothing new."""
    writer = near.app.store._writer
    writer.write = writer.write_part = no_room


async def test_nothing_is_acknowledged_while_the_disk_takes_nothing(isthmus, tmp_path, caplog):
    near = await isthmus(kept_in(tmp_path))
    away, slow = await on_disk(near, "away", "slow", receive_maximum=1)
    away.close()
    publisher = await near.client("publisher")
    await until(lambda: near.app.broker.connected == 2)
    fill(near)
    for number in range(3):
        publisher.publish("a/b", b"%d" % number, 1 + number % 2)
    await until(lambda: "the disk is full" in caplog.text)
    await publisher.nothing()
    del near.app.store._writer.write, near.app.store._writer.write_part
    answers = [await publisher.packet() for _ in range(3)]
    assert [answer.kind for answer in answers] == [PUBACK, PUBREC, PUBACK]
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    slow = await near.client("slow", **LONG)
    assert [numbers(part) for part in await taken(slow, count=3)] == [[0, 1, 2]]


async def test_a_message_that_becomes_a_members_own_is_not_lost_on_a_full_disk(
    isthmus, tmp_path, caplog
):
    """There what is done may be written before all else: that makes room."""
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one", qos=2, receive_maximum=1)
    publisher = await near.client("publisher")
    await publisher.published("a/b", b"1", 1)
    found = await one.expect(PUBLISH)
    await publisher.published("a/b", b"2", 2)
    await near.app.store.settle()
    fill(near)
    one.send(ack_packet(PUBACK, found.packet_id))
    await until(lambda: "the disk is full" in caplog.text)
    await one.nothing()
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    one = await near.client("one", **LONG)
    assert numbers((await taken(one, count=2))[0])[-1:] == [2]


async def test_while_the_disk_is_full_members_that_keep_up_are_served(isthmus, tmp_path, caplog):
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one")
    publisher = await near.client("publisher")
    publisher.publish("a/b", b"slow", 1)
    found = await one.expect(PUBLISH)
    await publisher.expect(PUBACK)  # from here on all is written
    fill(near)
    one.send(ack_packet(PUBACK, found.packet_id))
    await until(lambda: "the disk is full" in caplog.text)
    for number in range(5):
        publisher.publish("a/b", b"%d" % number, 1)
        assert (await one.message()).payload == b"%d" % number
        await publisher.expect(PUBACK)


async def test_messages_go_past_the_disk_again_when_members_are_quick(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one")
    publisher = await near.client("publisher")
    publisher.publish("a/b", b"0", 1)
    found = await one.expect(PUBLISH)
    await publisher.expect(PUBACK)
    one.send(ack_packet(PUBACK, found.packet_id))
    await asyncio.sleep(1.2)

    async def one_more() -> None:
        publisher.publish("a/b", b"1", 1)
        await one.message()
        await publisher.expect(PUBACK)

    await one_more()
    before = await commits(near)
    for _ in range(10):
        await one_more()
    assert await commits(near) == before


async def test_what_is_done_is_deleted_though_one_member_is_slow(isthmus, tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.broker.share_log.RENEW_AFTER", 10)
    near = await isthmus(kept_in(tmp_path))
    lazy, busy = await on_disk(near, "lazy", "busy")
    publisher = await near.client("publisher")
    for number in range(4):
        await publisher.published("a/b", b"%d" % number, 1)
    held = await lazy.arrived()
    assert len(held) == 2
    assert len((await taken(busy, count=2))[0]) == 2
    lazy.writer.transport.pause_reading()
    group = near.app.broker.shares[SHARED.encode()]
    near.app.broker.sessions["lazy"].lane.window.limit = 2
    near.app.broker.sessions["lazy"].lane.look_for_room()
    log = group.kept._log
    for number in range(4, 200):
        publisher.publish("a/b", b"%d" % number, 1)
        await busy.message()
        await publisher.expect(PUBACK)
    await until(lambda: log.all_recorded)
    assert len(log) == 2
    assert log.next - log.done_below < 50
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    busy = await near.client("busy", **LONG)
    assert numbers((await taken(busy, count=2))[0]) == numbers(held)


async def test_what_a_slow_member_has_is_given_to_nobody_else(isthmus, tmp_path, monkeypatch):
    for name, size in (("LOW_BYTES", 2000), ("MEMORY_BYTES", 4000), ("LOAD_BYTES", 3000)):
        monkeypatch.setattr(f"isthmus.broker.share_log.{name}", size)
    monkeypatch.setattr("isthmus.broker.share_log.RENEW_AFTER", 10)
    near = await isthmus(kept_in(tmp_path))
    lazy, busy = await on_disk(near, "lazy", "busy", receive_maximum=2)
    publisher = await near.client("publisher")
    for number in range(100):
        await publisher.published("a/b", b"%0200d" % number, 1)
    held = numbers(await lazy.arrived())
    assert len(held) == 2
    group = near.app.broker.shares[SHARED.encode()]
    assert group.kept.behind
    log = group.kept._log
    found = [await busy.message() for _ in range(30)]
    await until(lambda: log.all_recorded)
    assert log.done_below > 20
    assert group.kept.behind
    found += (await taken(busy, count=68))[0]
    assert numbers(found) == sorted(set(range(100)) - set(held))
    lazy.close()
    assert numbers((await taken(busy, count=2))[0]) == held


# -- what waits ------------------------------------------------------------------------------------


async def test_little_of_what_waits_is_in_memory(isthmus, tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.broker.share_log.LOW_BYTES", 4000)
    monkeypatch.setattr("isthmus.broker.share_log.MEMORY_BYTES", 8000)
    monkeypatch.setattr("isthmus.broker.share_log.LOAD_BYTES", 4000)
    near = await isthmus(kept_in(tmp_path))
    one, two = await on_disk(near, "one", "two", receive_maximum=5)
    publisher = await near.client("publisher")
    for number in range(200):
        await publisher.published("a/b", b"%0200d" % number, 1 + number % 2)
    group = near.app.broker.shares[SHARED.encode()]
    assert len(group.queue) < 60
    assert group.kept.behind
    two.close()
    await until(lambda: near.app.broker.connected == 2)
    found = (await taken(one, count=200))[0]
    assert sorted(numbers(found)) == list(range(200))
    assert numbers(found[5:]) == sorted(numbers(found[5:]))
    assert not group.kept.behind
    one.close()
    await until(lambda: near.app.broker.connected == 1)
    for number in range(200, 300):
        await publisher.published("a/b", b"%0200d" % number, 1)
    assert not group.queue
    two = await near.client("two", **LONG)
    for number in range(300, 310):
        await publisher.published("a/b", b"%d" % number, 1)
    assert numbers((await taken(two, count=110))[0]) == list(range(200, 310))


async def test_the_bytes_that_wait_on_disk_are_limited(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path, limits={"queued_bytes": 3000}))
    (one,) = await on_disk(near, "one")
    one.close()
    publisher = await near.client("publisher")
    await until(lambda: near.app.broker.connected == 1)
    for number in range(15):
        await publisher.published("a/b", b"%d" % number, 1)
    count = 3000 // 206
    assert near.app.broker.drops.counts == {"queue_full": 15 - count}
    one = await near.client("one", **LONG)
    assert numbers((await taken(one, count=count))[0]) == list(range(count))
    await publisher.published("a/b", b"0", 1)
    assert numbers((await taken(one, count=1))[0]) == [0]


async def test_rights_are_asked_when_a_member_comes(isthmus, tmp_path):
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.write_text(create_entry("alice", b"secret", iterations=2) + "\n")
    acl.write_text("user alice\ntopic readwrite #\n")
    auth = {"password_file": str(passwords), "acl_file": str(acl)}
    settings = {**kept_in(tmp_path / "data"), "auth": auth}
    login = {"username": "alice", "password": "secret"}
    near = await isthmus(settings)
    (one,) = await on_disk(near, "one", **login)
    one.close()
    other = await near.client("other", **login)
    for topic in ("a/x", "a/y", "a/x"):
        await other.published(topic, topic.encode(), 1)
    await near.app.stop()
    acl.write_text("user alice\ntopic write #\ntopic read a/y\n")
    near = await isthmus(settings)
    one = await near.client("one", **LONG, **login)
    assert [found.topic for found in (await taken(one, count=1))[0]] == ["a/y"]
    assert near.app.broker.drops.counts == {"denied": 2}
    group = near.app.broker.shares[SHARED.encode()]
    assert not len(group.kept._log)


async def test_groups_of_mount_points_are_apart(isthmus, tmp_path):
    listeners = [{"bind": "127.0.0.1:0", "mount_point": "m/"}, {"bind": "127.0.0.1:0"}]
    settings = {"listeners": listeners, **kept_in(tmp_path)}
    near = await isthmus(settings)
    for name, port in zip(("inside", "plain"), near.ports, strict=True):
        member = await Raw.client(port, name, **LONG)
        await member.subscribe(SHARED, qos=1)
        member.close()
    publisher = await Raw.client(near.ports[1], "publisher")
    await until(lambda: near.app.broker.connected == 1)
    await publisher.published("m/a/1", b"1", 1)
    await publisher.published("a/2", b"2", 1)
    assert sorted(logs(near)) == ["share/g/a/#", "share/g/m/a/#"]
    await crash(near)
    near = await isthmus(settings)
    for name, port, topic in zip(("inside", "plain"), near.ports, ("a/1", "a/2"), strict=True):
        member = await Raw.client(port, name, **LONG)
        assert [found.topic for found in (await taken(member, count=1))[0]] == [topic]


async def test_a_damaged_record_is_counted_and_the_rest_arrives(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one")
    one.close()
    publisher = await near.client("publisher")
    await until(lambda: near.app.broker.connected == 1)
    for number in range(3):
        await publisher.published("a/b", b"%d" % number, 1)
    await near.app.stop()
    with sqlite3.connect(tmp_path / FILE) as connection:
        (middle,) = connection.execute("SELECT id FROM batches ORDER BY id LIMIT 1 OFFSET 1")
        connection.execute("UPDATE batches SET body = zeroblob(9) WHERE id = ?", middle)
    connection.close()
    near = await isthmus(kept_in(tmp_path))
    one = await near.client("one", **LONG)
    assert numbers((await taken(one, count=2))[0]) == [0, 2]
    assert near.app.broker.drops.counts == {"damaged": 1}


# -- members of both kinds -------------------------------------------------------------------------


async def test_what_was_in_memory_is_on_disk_when_a_kept_member_comes(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    short = await near.client("short", receive_maximum=2)
    await short.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    for number in range(8):
        await publisher.published("a/b", b"%d" % number, 1)
    assert len(await short.arrived()) == 2
    one = await near.client("one", **LONG, receive_maximum=2)
    one.send(packet(0x82, b"\0\1\0" + text(SHARED) + b"\1"))
    found = [message for message in await one.arrived() if message.kind == PUBLISH]
    assert numbers(found) == [2, 3]
    await until(lambda: len(near.app.broker.shares[SHARED.encode()].kept._log) == 6)
    await near.app.store.settle()
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    one = await near.client("one", **LONG)
    assert numbers((await taken(one, count=6))[0]) == list(range(2, 8))


async def test_what_a_member_in_memory_leaves_is_on_disk(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    short = await near.client("short")
    await short.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    await publisher.published("a/b", b"0", 1)  # from before the group was kept
    (one,) = await on_disk(near, "one")
    one.close()
    await until(lambda: near.app.broker.connected == 2)
    for number in range(1, 4):
        await publisher.published("a/b", b"%d" % number, 1)
    assert len(await short.arrived()) == 4
    short.close()
    await until(lambda: near.app.broker.connected == 1)
    await near.app.store.settle()
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    one = await near.client("one", **LONG)
    assert sorted(numbers((await taken(one, count=4))[0])) == [0, 1, 2, 3]


async def test_qos_2_of_a_member_in_memory_ends_with_it(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    short = await near.client("short")
    await short.subscribe(SHARED, qos=2)
    (one,) = await on_disk(near, "one", qos=2)
    one.close()
    publisher = await near.client("publisher")
    await until(lambda: near.app.broker.connected == 2)
    for number in range(3):
        await publisher.published("a/b", b"%d" % number, 2)
    first, *_ = await short.arrived()
    short.send(ack_packet(PUBREC, first.packet_id))
    await short.expect(PUBREL)
    short.close()
    await until(lambda: near.app.broker.connected == 1)
    group = near.app.broker.shares[SHARED.encode()]
    assert not len(group.kept._log)
    one = await near.client("one", **LONG)
    assert await taken(one) == [[]]


async def test_when_the_last_kept_member_goes_others_get_what_waits(isthmus, tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.broker.share_log.LOAD_BYTES", 500)
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one")
    one.close()
    publisher = await near.client("publisher")
    await until(lambda: near.app.broker.connected == 1)
    for number in range(50):
        await publisher.published("a/b", b"%d" % number, 1)
    short = await near.client("short", receive_maximum=1)
    await short.subscribe(SHARED, qos=1)
    one = await near.client("one", clean=True)
    group = near.app.broker.shares[SHARED.encode()]
    await until(lambda: not logs(near))
    assert group.kept is None
    await publisher.published("a/b", b"50", 1)
    assert numbers((await taken(short, count=51))[0]) == list(range(51))


async def test_when_the_last_kept_member_goes_no_publisher_waits_for_others(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one")
    short = await near.client("short")
    await short.subscribe(SHARED, qos=1)
    publisher = await near.client("publisher")
    fill(near)
    publisher.publish("a/b", b"1", 1)
    assert (await short.expect(PUBLISH)).payload == b"1"
    await publisher.nothing()
    await asyncio.sleep(0.1)
    publisher.publish("a/b", b"2", 1)
    await publisher.nothing()
    one.send(b"\xa2\x11\0\x09\0\0\x0c$share/g/a/#")
    for _ in range(2):
        await publisher.expect(PUBACK)


async def test_a_session_that_expires_takes_the_log_with_it(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one", session_expiry=1)
    one.close()
    publisher = await near.client("publisher")
    await until(lambda: near.app.broker.connected == 1)
    await publisher.published("a/b", b"1", 1)
    assert logs(near) == ["share/g/a/#"]
    await until(lambda: not near.app.broker.shares)
    assert not logs(near)
    (one,) = await on_disk(near, "one")
    assert await taken(one) == [[]]


async def test_the_log_of_a_group_that_is_gone_is_deleted_at_the_start(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    (one,) = await on_disk(near, "one", session_expiry=1)
    one.close()
    publisher = await near.client("publisher")
    await until(lambda: near.app.broker.connected == 1)
    await publisher.published("a/b", b"1", 1)
    await near.app.stop()
    await asyncio.sleep(1.1)
    near = await isthmus(kept_in(tmp_path))
    assert not logs(near)
    (one,) = await on_disk(near, "one")
    assert await taken(one) == [[]]


async def test_a_stop_loses_nothing_that_members_had(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    one, two = await on_disk(near, "one", "two")
    publisher = await near.client("publisher")
    for number in range(6):
        publisher.publish("a/b", b"%d" % number, 1)
    assert len(await one.arrived()) == len(await two.arrived()) == 3
    await near.app.stop()
    near = await isthmus(kept_in(tmp_path))
    two = await near.client("two", **LONG)
    assert numbers((await taken(two, count=6))[0]) == list(range(6))


# -- at random -------------------------------------------------------------------------------------


class Member:
    """A member that reads, acknowledges, leaves and comes back at random; its session stays."""

    def __init__(self, name: str, qos: int, dice: random.Random) -> None:
        self.name = name
        self.qos = qos
        self.dice = dice
        self.raw: Raw | None = None
        self.got: list[int] = []
        self.once: list[int] = []  # of QoS 2
        self.held: set[int] = set()  # identifiers of QoS 2

    async def come(self, near) -> None:
        how = {**LONG, "receive_maximum": self.dice.choice((2, 5, 60))}
        self.raw = await near.client(self.name, **how)
        if not self.raw.hello.session_present:
            await self.raw.subscribe(SHARED, qos=self.qos)

    def leave(self) -> None:
        if self.raw is not None:
            self.dice.choice((self.raw.close, self.raw.reset))()
            self.raw = None

    async def work(self, likely: float = 0.7) -> int:
        """Take what has come, and answer some of it; how much came."""
        assert self.raw is not None
        found = await self.raw.arrived()
        for one in found:
            answers = self.dice.random() < likely
            if one.kind == PUBREL:
                self.held.discard(one.packet_id)
                self.raw.send(ack_packet(PUBCOMP, one.packet_id))
            elif one.kind == PUBLISH and one.qos == 1:
                self.got.append(int(one.payload))
                if answers:
                    self.raw.send(ack_packet(PUBACK, one.packet_id))
            elif one.kind == PUBLISH:
                if one.packet_id not in self.held:
                    self.got.append(int(one.payload))
                    self.once.append(int(one.payload))
                    self.held.add(one.packet_id)
                if answers:
                    self.raw.send(ack_packet(PUBREC, one.packet_id))
        return len(found)


class Load:
    """A publisher that notes which of its messages were acknowledged."""

    def __init__(self) -> None:
        self.raw: Raw | None = None
        self.next = 0
        self.acked: set[int] = set()
        self._sent: dict[int, int] = {}

    async def come(self, near) -> None:
        self.raw = await near.client("publisher")
        self._sent.clear()

    def publish(self, count: int, dice: random.Random) -> None:
        assert self.raw is not None
        for _ in range(count):
            packet_id = self.raw.publish("a/b", b"%0200d" % self.next, dice.choice((1, 2)))
            self._sent[packet_id] = self.next
            self.next += 1

    async def listen(self) -> None:
        assert self.raw is not None
        for one in await self.raw.arrived():
            if one.kind in (PUBACK, PUBREC):
                assert one.code in (0, 0x10)
                self.acked.add(self._sent.pop(one.packet_id))
                if one.kind == PUBREC:
                    self.raw.send(ack_packet(PUBREL, one.packet_id))


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_that_was_acknowledged_is_lost_at_random(
    isthmus, tmp_path, monkeypatch, seed
):
    for name, size in (("LOW_BYTES", 2000), ("MEMORY_BYTES", 4000), ("LOAD_BYTES", 3000)):
        monkeypatch.setattr(f"isthmus.broker.share_log.{name}", size)
    monkeypatch.setattr("isthmus.broker.share_log.RENEW_AFTER", 5)
    monkeypatch.setattr("isthmus.broker.share_log.STEADY_S", 0.1)
    dice = random.Random(seed)
    near = await isthmus(kept_in(tmp_path))
    members = [Member(name, qos, dice) for name, qos in (("one", 1), ("two", 2), ("three", 2))]
    load = Load()
    for member in members:
        await member.come(near)
    await load.come(near)
    for _ in range(120):
        here = [member for member in members if member.raw is not None]
        match dice.choice("pppwwwwwlsxlck"):
            case "p":
                load.publish(dice.randrange(1, 12), dice)
            case "w" if here:
                await dice.choice(here).work()
            case "l" if here:
                dice.choice(here).leave()
            case "c" | "x" if len(here) < 3:
                await next(member for member in members if member.raw is None).come(near)
            case "s":
                await asyncio.sleep(dice.random() * 0.15)
            case "k" if dice.random() < 0.3:
                load.publish(dice.randrange(12), dice)
                await load.listen()
                await crash(near)
                near = await isthmus(kept_in(tmp_path))
                for member in members:
                    member.raw = None
                await load.come(near)
        await load.listen()
    load.publish(8, dice)
    await load.listen()
    if seed % 2:
        await crash(near)
        near = await isthmus(kept_in(tmp_path))
        for member in members:
            member.raw = None
    for member in members:
        member.leave()
    await until(lambda: near.app.broker.connected < 2)
    for member in members:
        await member.come(near)
    quiet = 0
    while quiet < 6:
        came = [await member.work(1) for member in members]
        quiet = 0 if any(came) else quiet + 1
        await asyncio.sleep(0.02)
    got = {number for member in members for number in member.got}
    assert load.acked
    assert load.acked <= got
    once = [number for member in members for number in member.once]
    assert len(once) == len(set(once))
    (group,) = near.app.broker.shares.values()
    assert not len(group.kept._log)
    assert not group.queue
