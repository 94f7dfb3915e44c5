"""Sessions on disk: they come back after any end, with what waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from isthmus.auth.passwords import create_entry
from isthmus.store.database import FILE
from raw import (
    CONNACK,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    Raw,
    ack_packet,
    connect_packet,
    packet,
    text,
    until,
)

LONG = {"clean": False, "session_expiry": 3600}


def kept_in(folder: Path, **configuration: Any) -> dict[str, Any]:
    return {"broker": {"data": str(folder), **configuration.pop("broker", {})}, **configuration}


def rows(folder: Path, table: str) -> list[tuple[Any, ...]]:
    """What is in the file, once nobody has it open."""
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


async def crash(near) -> None:
    """End as kill -9 does: what is not on disk is lost, and nobody hears of it."""
    app = near.app
    store, app.store = app.store, None
    store._writer.submit = lambda job: None
    await asyncio.to_thread(store._writer.stop, 5)
    await app.close()


async def test_a_session_comes_back_with_its_subscriptions(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    assert await client.subscribe("a/#", qos=1, subscription_id=7) == [1]
    assert await client.subscribe("b", qos=2, options=0x1C) == [2]
    assert await client.subscribe("c", "d", qos=0) == [0, 0]
    assert await client.unsubscribe("d") == [0]
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    session = near.app.broker.sessions["dev"]
    assert set(session.subscriptions) == {b"a/#", b"b", b"c"}
    found = session.subscriptions[b"b"].options
    assert (found.qos, found.no_local, found.retain_as_published, found.retain_handling) == (
        2, True, True, 1,
    )  # fmt: skip
    client = await near.client("dev", **LONG)
    assert client.hello.session_present
    other = await near.client("other")
    await other.published("a/1", b"x", 1)
    message = await client.message()
    assert (message.payload, message.properties["subscription_id"]) == (b"x", [7])
    await other.published("c", b"y", 0)
    assert (await client.message()).payload == b"y"
    await other.published("d", b"z", 1)
    await client.nothing()


@pytest.mark.parametrize("version", [3, 4])
async def test_clean_session_0_comes_back(isthmus, tmp_path, version):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", version, clean=False)
    await client.subscribe("a", qos=1)
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    other = await near.client("other")
    await other.published("a", b"x", 1)
    client = await near.client("dev", version, clean=False)
    if version == 4:
        assert client.hello.session_present
    assert (await client.message()).payload == b"x"


async def test_what_waits_comes_back_in_order(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a/+", qos=2)
    client.close()
    other = await near.client("other")
    for number in range(50):
        await other.published(f"a/{number % 3}", b"%d" % number, 1 + number % 2)
    await other.published("a/expires", b"no", 1, expiry=1)
    await crash(near)
    await asyncio.sleep(1.1)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    found = [await client.message() for _ in range(50)]
    assert [int(message.payload) for message in found] == list(range(50))
    assert [message.qos for message in found] == [1, 2] * 25
    await client.nothing()


async def test_what_was_acknowledged_does_not_come_again(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=2)
    client.close()
    other = await near.client("other")
    for number in range(6):
        await other.published("a", b"%d" % number, 1 + number % 2)
    client = await near.client("dev", **LONG)
    for number in range(4):
        assert (await client.message()).payload == b"%d" % number
    assert len(await client.arrived()) == 2
    await until(lambda: not near.app.broker.sessions["dev"].lane.outbox.log.unrecorded)
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    assert [(await client.message()).payload for _ in range(2)] == [b"4", b"5"]
    await client.nothing()


async def test_qos_2_goes_on_with_the_same_identifier(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=2)
    other = await near.client("other")
    await other.published("a", b"1", 2)
    await other.published("a", b"2", 2)
    first = await client.expect(PUBLISH)
    second = await client.expect(PUBLISH)
    client.send(ack_packet(PUBREC, first.packet_id))
    await client.expect(PUBREL)
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    found = {(one.kind, one.packet_id) for one in [await client.packet(), await client.packet()]}
    assert found == {(PUBREL, first.packet_id), (PUBLISH, second.packet_id)}


async def test_answers_wait_for_the_disk_where_the_session_is_kept(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    kept = await near.client("kept", **LONG)
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    short = await near.client("short")
    assert await short.subscribe("a", qos=1) == [1]
    kept.send(packet(0x82, b"\0\1\0" + text("a") + b"\1"))
    kept.send(packet(0x82, b"\0\2\0" + text("b") + b"\1"))
    waiting = await Raw.open(near.port)
    waiting.send(connect_packet("other", **LONG))
    await asyncio.sleep(0.1)
    await kept.nothing()
    gate.set()
    assert [(await kept.expect(SUBACK)).packet_id for _ in range(2)] == [1, 2]
    assert (await waiting.expect(CONNACK)).code == 0


async def test_a_publisher_hears_of_it_when_it_is_on_disk_or_acknowledged(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=1)
    other = await near.client("other")
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    other.publish("a", b"1", 1)
    assert (await client.message()).payload == b"1"
    await other.expect(PUBACK)
    other.publish("a", b"2", 1)
    await client.expect(PUBLISH)
    await asyncio.sleep(0.1)
    await other.nothing()
    gate.set()
    await other.expect(PUBACK)


async def test_a_clean_start_and_the_end_delete_everything(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    for name in ("anew", "ends"):
        client = await near.client(name, clean=False, session_expiry=1)
        await client.subscribe("a", qos=1)
        client.close()
    other = await near.client("other")
    await until(lambda: near.app.broker.connected == 1)
    await other.published("a", b"x", 1)
    client = await near.client("anew", clean=True, session_expiry=1)
    assert not client.hello.session_present
    await client.nothing()
    client.close()
    again = await near.client("anew", **LONG)
    assert again.hello.session_present
    await again.subscribe("b", qos=1)
    again.close()
    await until(lambda: "ends" not in near.app.broker.sessions)
    await other.published("b", b"y", 1)
    await near.app.stop()
    assert [key for key, _ in rows(tmp_path, "sessions")] == [b"anew"]
    assert [key for key, *_ in rows(tmp_path, "subscriptions")] == [b"anew\0b"]
    assert [name for _, name, *_ in rows(tmp_path, "logs")] == ["session//anew"]
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("anew", **LONG)
    assert (await client.message()).payload == b"y"
    await client.nothing()


async def test_expiry_goes_on_without_the_process(isthmus, tmp_path, monkeypatch):
    near = await isthmus(kept_in(tmp_path))
    for name, expiry in (("short", 60), ("long", 3600), ("ever", 0xFFFFFFFF)):
        client = await near.client(name, clean=False, session_expiry=expiry)
        await client.subscribe("a", qos=1)
        client.close()
    await near.client("there", clean=False, session_expiry=60)
    await until(lambda: near.app.broker.connected == 1)
    near.app.store.then(lambda: None)
    await near.app.store.settle()
    await crash(near)
    later = time.time() + 600
    monkeypatch.setattr("isthmus.clock.wall", lambda: later)
    near = await isthmus(kept_in(tmp_path))
    sessions = near.app.broker.sessions
    assert set(sessions) == {"long", "ever", "there"}
    assert 2900 < sessions["long"].expires.deadline - time.monotonic() < 3001
    assert sessions["ever"].expires is None
    assert 55 < sessions["there"].expires.deadline - time.monotonic() < 61
    assert near.app.broker.expired == 1


async def test_a_wall_clock_that_is_set_ends_no_session(isthmus, tmp_path, monkeypatch):
    real = time.time
    monkeypatch.setattr("isthmus.clock.wall", lambda: real() - 1e9)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    client.close()
    await until(lambda: near.app.broker.connected == 0)
    monkeypatch.setattr("isthmus.clock.wall", real)
    await near.app.stop()
    near = await isthmus(kept_in(tmp_path))
    assert (await near.client("dev", **LONG)).hello.session_present


async def test_rights_are_asked_again(isthmus, tmp_path):
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.write_text(create_entry("alice", b"secret", iterations=2) + "\n")
    acl.write_text("user alice\ntopic readwrite #\n")
    settings = kept_in(
        tmp_path / "data", auth={"password_file": str(passwords), "acl_file": str(acl)}
    )
    login = {"username": "alice", "password": "secret"}
    near = await isthmus(settings)
    client = await near.client("dev", **LONG, **login)
    await client.subscribe("#", qos=1)
    client.close()
    other = await near.client("other", **login)
    for topic in ("a", "b", "a"):
        await other.published(topic, topic.encode(), 1)
    await near.app.stop()
    acl.write_text("user alice\ntopic write #\ntopic read b\n")
    near = await isthmus(settings)
    client = await near.client("dev", **LONG, **login)
    assert (await client.message()).topic == "b"
    await client.nothing()
    assert near.app.broker.drops.counts == {"denied": 2}
    other = await near.client("other", **login)
    await other.published("a", b"x", 1)
    await other.published("b", b"y", 1)
    assert (await client.message()).payload == b"y"


async def test_nobody_else_takes_it_over(isthmus, tmp_path):
    passwords = tmp_path / "passwords"
    entries = [create_entry(name, b"secret", iterations=2) for name in ("alice", "bob")]
    passwords.write_text("\n".join(entries) + "\n")
    settings = kept_in(tmp_path / "data", auth={"password_file": str(passwords)})
    near = await isthmus(settings)
    await near.client("dev", **LONG, username="alice", password="secret")
    await crash(near)
    near = await isthmus(settings)
    thief = await Raw.open(near.port)
    thief.send(connect_packet("dev", **LONG, username="bob", password="secret"))
    assert (await thief.expect(CONNACK)).code == 0x87
    client = await near.client("dev", **LONG, username="alice", password="secret")
    assert client.hello.session_present


async def test_sessions_of_a_listener_that_has_gone_end(isthmus, tmp_path, caplog):
    passwords = tmp_path / "passwords"
    passwords.write_text(create_entry("alice", b"secret", iterations=2) + "\n")
    data = tmp_path / "data"
    own = {"bind": "127.0.0.1:0", "auth": {"password_file": str(passwords)}}
    near = await isthmus(kept_in(data, listeners=[own, {"bind": "127.0.0.1:0"}]))
    client = await Raw.client(near.port, "dev", username="alice", password="secret", **LONG)
    await client.subscribe("a", qos=1)
    await near.app.stop()
    near = await isthmus(kept_in(data))
    assert not near.app.broker.sessions
    assert "1 session(s) of users whose listener" in caplog.text
    client = await near.client("dev", **LONG)
    assert not client.hello.session_present
    await near.app.stop()
    assert rows(data, "subscriptions") == []


async def test_shared_subscriptions_come_back(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    for name in ("one", "two"):
        client = await near.client(name, **LONG)
        await client.subscribe("$share/g/a/+", qos=1)
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    one, two = [await near.client(name, **LONG) for name in ("one", "two")]
    other = await near.client("other")
    for number in range(4):
        await other.published("a/x", b"%d" % number, 1)
    found = [(await client.message()).payload for client in (one, two) for _ in range(2)]
    assert sorted(found) == [b"0", b"1", b"2", b"3"]


async def test_a_shared_message_goes_to_others_though_the_session_is_kept(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    one = await near.client("one", **LONG)
    await one.subscribe("$share/g/a", qos=1)
    other = await near.client("other")
    await other.published("a", b"1", 1)
    await one.expect(PUBLISH)
    await asyncio.sleep(0.1)  # longer than a message of its own would stay out of the log
    two = await near.client("two", **LONG)
    await two.subscribe("$share/g/a", qos=1)
    one.close()
    assert (await two.message()).payload == b"1"


async def test_members_that_are_behind_on_disk_get_shared_messages(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    one = await near.client("one", **LONG)
    await one.subscribe("own", qos=1)
    await one.subscribe("$share/g/a", qos=2)
    other = await near.client("other")
    await other.published("own", b"1", 1)
    await one.expect(PUBLISH)
    assert near.app.broker.sessions["one"].lane.outbox.logged
    for qos in (1, 2):
        await other.published("a", b"%d" % qos, qos)
        found = await one.message()
        assert (found.payload, found.qos) == (b"%d" % qos, qos)


async def test_the_limits_of_a_session_drop_and_hold_nobody_back(isthmus, tmp_path):
    limits = {"queued_messages": 10, "queued_bytes": 3000}
    near = await isthmus(kept_in(tmp_path, broker={"limits": limits}))
    client = await near.client("dev", **LONG)
    await client.subscribe("#", qos=1)
    client.close()
    await until(lambda: near.app.broker.connected == 0)
    other = await near.client("other")
    for number in range(15):
        await other.published("a", b"%d" % number, 1)
    assert near.app.broker.drops.counts == {"queue_full": 5}
    await crash(near)
    near = await isthmus(kept_in(tmp_path, broker={"limits": limits}))
    client = await near.client("dev", **LONG)
    for number in range(10):
        assert (await client.message()).payload == b"%d" % number
    client.close()
    other = await near.client("other")
    await until(lambda: near.app.broker.connected == 1)
    for _ in range(3):
        await other.published("a", bytes(1400), 1)
    assert near.app.broker.drops.counts == {"queue_full": 1}


async def test_equal_messages_of_many_sessions_are_one_body(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    for number in range(50):
        client = await near.client(f"dev{number}", **LONG)
        await client.subscribe("a", qos=1)
        client.close()
    other = await near.client("other")
    await until(lambda: near.app.broker.connected == 1)
    await other.published("a", bytes(1000), 1)
    await near.app.stop()
    bodies = [len(row[2]) for row in rows(tmp_path, "batches")]
    assert len(bodies) == 1
    assert bodies[0] < 1100
    assert len(rows(tmp_path, "slices")) == 50


async def test_a_will_is_published_when_its_time_has_come(isthmus, tmp_path, monkeypatch):
    near = await isthmus(kept_in(tmp_path))
    watcher = await near.client("watcher", **LONG)
    await watcher.subscribe("will/#", qos=1)
    for name, delay, expiry in (("now", 0, 60), ("delayed", 30, 60), ("ended", 50, 20)):
        await near.client(
            name, clean=False, session_expiry=expiry,
            will=(f"will/{name}", b"\x00\xff", 1, False), will_properties={"will_delay": delay},
        )  # fmt: skip
    for name in ("away", "gone"):
        client = await near.client(
            name, clean=False, session_expiry=60,
            will=(f"will/{name}", b"x", 1, False),
            will_properties={"will_delay": 20 if name == "gone" else 900},
        )  # fmt: skip
        client.reset()
    polite = await near.client("polite", **LONG, will=("will/polite", b"x", 1, False))
    polite.send(packet(0xE0))
    await until(lambda: near.app.broker.connected == 4)
    await near.app.store.settle()
    await crash(near)
    later = time.time() + 25
    monkeypatch.setattr("isthmus.clock.wall", lambda: later)
    near = await isthmus(kept_in(tmp_path))
    watcher = await near.client("watcher", **LONG)
    found = [await watcher.message() for _ in range(2)]
    assert {one.topic: one.payload for one in found} == {"will/now": b"\x00\xff", "will/gone": b"x"}
    await watcher.nothing()
    sessions = near.app.broker.sessions
    left = {
        name: session.will_timer.deadline - time.monotonic()
        for name, session in sessions.items()
        if session.will_timer is not None
    }
    assert set(left) == {"delayed", "ended", "away"}
    assert 28 < left["delayed"] < 31
    assert 18 < left["ended"] < 21
    assert 30 < left["away"] < 36
    await near.client("delayed", **LONG)
    assert sessions["delayed"].will is None
    await near.app.store.settle()
    await crash(near)
    state = {key: json.loads(value) for key, value in rows(tmp_path, "sessions")}
    assert "will" not in state[b"delayed"]
    assert "will" not in state[b"now"]
    assert "will" in state[b"ended"]


async def test_the_will_of_a_session_that_ended_meanwhile_is_published(
    isthmus, tmp_path, monkeypatch
):
    near = await isthmus(kept_in(tmp_path))
    watcher = await near.client("watcher", **LONG)
    await watcher.subscribe("will", qos=1)
    client = await near.client(
        "dev", clean=False, session_expiry=60,
        will=("will", b"x", 1, False), will_properties={"will_delay": 100},
    )  # fmt: skip
    client.reset()
    await until(lambda: near.app.broker.connected == 1)
    await near.app.store.settle()
    await crash(near)
    later = time.time() + 3000
    monkeypatch.setattr("isthmus.clock.wall", lambda: later)
    near = await isthmus(kept_in(tmp_path))
    assert set(near.app.broker.sessions) == {"watcher"}
    watcher = await near.client("watcher", **LONG)
    assert (await watcher.message()).payload == b"x"
    await near.app.stop()
    assert [key for key, _ in rows(tmp_path, "sessions")] == [b"watcher"]


async def test_a_received_identifier_comes_back(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    reader = await near.client("reader", **LONG)
    await reader.subscribe("a", qos=2)
    reader.close()
    client = await near.client("dev", **LONG)
    client.publish("a", b"1", 2, packet_id=7)
    await client.expect(PUBREC)
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    client.publish("a", b"1", 2, packet_id=7, dup=True)
    assert (await client.expect(PUBREC)).code == 0
    client.send(ack_packet(PUBREL, 7))
    assert (await client.expect(PUBCOMP)).code == 0
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    client.send(ack_packet(PUBREL, 7))
    assert (await client.expect(PUBCOMP)).code == 0x92
    assert await client.published("a", b"2", 2, packet_id=7) == 0
    reader = await near.client("reader", **LONG)
    assert [(await reader.message()).payload for _ in range(2)] == [b"1", b"2"]
    await reader.nothing()


async def test_pubrec_and_pubcomp_wait_for_the_disk(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    short = await near.client("short")
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    assert await short.published("a", b"1", 2) in (0, 0x10)
    client.publish("a", b"1", 2, packet_id=7)
    await asyncio.sleep(0.1)
    await client.nothing()
    gate.set()
    await client.expect(PUBREC)
    gate.clear()
    near.app.store._writer.submit(gate.wait)
    client.send(ack_packet(PUBREL, 7))
    client.send(ack_packet(PUBREL, 7))
    await asyncio.sleep(0.1)
    await client.nothing()
    gate.set()
    assert [(await client.expect(PUBCOMP)).code for _ in range(2)] == [0, 0x92]


async def test_an_identifier_is_not_on_disk_without_its_message(isthmus, tmp_path, mosquitto):
    """A message that waits in memory is sent again by its publisher, and must not be dropped."""
    far = await mosquitto()
    near = await isthmus({
        **kept_in(tmp_path),
        "node": "edge",
        "connectors": {"cloud": {"url": f"127.0.0.1:{far.port}", "version": "3.1.1"}},
        "routes": {"out": {"from": "local", "to": "cloud", "topics": ["#"],
                           "queue": {"max_bytes": 1024}}},
    })  # fmt: skip
    await near.connected()
    far.pause()
    client = await near.client("dev", **LONG)
    for number in range(1, 5):
        client.publish("a", bytes(900), 2, packet_id=number)
    await asyncio.sleep(0.3)
    answered = len(await client.arrived())
    assert 1 <= answered < 4
    await crash(near)
    assert len(rows(tmp_path, "received")) == answered
    far.resume()


async def test_many_subscriptions_at_once_wait_in_bounds_and_are_answered_in_order(
    isthmus, tmp_path
):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    for number in range(1, 301):
        filter_ = text(f"a/{number}")
        client.send(packet(0x82, number.to_bytes(2, "big") + b"\0" + filter_ + b"\1"))
    client.send(packet(0xE0))
    session = near.app.broker.sessions["dev"]
    await until(lambda: session.subscriptions)
    await asyncio.sleep(0.1)
    assert len(session.subscriptions) == 100
    gate.set()
    assert [(await client.expect(SUBACK)).packet_id for _ in range(300)] == list(range(1, 301))
    assert await client.closed() == b""
    await near.app.stop()
    assert len(rows(tmp_path, "subscriptions")) == 300


async def test_a_take_over_while_the_disk_is_waited_for(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=1)
    client.close()
    await until(lambda: near.app.broker.connected == 0)
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    waiting = []
    for _ in range(2):
        waiting.append(await Raw.open(near.port))
        waiting[-1].send(connect_packet("dev", **LONG))
        await until(lambda: near.app.broker.connected == 1)
        await asyncio.sleep(0.05)
    assert (await waiting[0].expect(CONNACK)).code >= 0x80
    gate.set()
    hello = await waiting[1].expect(CONNACK)
    assert (hello.code, hello.session_present) == (0, True)
    other = await near.client("other")
    await other.published("a", b"x", 1)
    assert (await waiting[1].message()).payload == b"x"


async def test_a_disk_that_does_not_answer_keeps_out_only_sessions_that_need_it(isthmus, tmp_path):
    settings = kept_in(tmp_path, broker={"limits": {"connect_timeout": "300ms"}})
    near = await isthmus(settings)
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    kept = await Raw.open(near.port)
    kept.send(connect_packet("kept", **LONG))
    other = await near.client("other")
    assert await other.published("a", b"x", 1) in (0, 0x10)
    assert await kept.closed() == b""
    gate.set()


async def test_a_file_that_is_lost_gets_the_sessions_again(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=1)
    client.publish("b", b"x", 2, packet_id=3)
    await client.expect(PUBREC)
    (tmp_path / FILE).unlink()
    other = await near.client("other", **LONG)
    await other.subscribe("b", qos=1)
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    sessions = near.app.broker.sessions
    assert {name: set(found.subscriptions) for name, found in sessions.items()} == {
        "dev": {b"a"},
        "other": {b"b"},
    }
    assert set(sessions["dev"].received_qos2) == {b"\0\3"}


async def test_qos_0_that_is_kept_for_a_client_that_is_away_is_on_disk(isthmus, tmp_path):
    settings = kept_in(tmp_path, broker={"queue_qos0": True})
    near = await isthmus(settings)
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=1)
    client.close()
    other = await near.client("other")
    await until(lambda: near.app.broker.connected == 1)
    for number in range(3):
        await other.published("a", b"%d" % number, 0)
    await near.app.store.settle()
    await crash(near)
    near = await isthmus(settings)
    client = await near.client("dev", **LONG)
    assert [(await client.message()).payload for _ in range(3)] == [b"0", b"1", b"2"]


async def test_a_client_that_takes_one_at_a_time_gets_all_in_order(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=2)
    client.close()
    other = await near.client("other")
    for number in range(20):
        await other.published("a", b"%d" % number, 1 + number % 2)
    client = await near.client("dev", **LONG, receive_maximum=1)
    for number in range(20):
        assert (await client.message()).payload == b"%d" % number


async def test_a_code_from_a_reader_is_none_of_the_publishers(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=1)
    other = await near.client("other")
    packet_id = other.publish("a", b"1", 1)
    found = await client.expect(PUBLISH)
    client.send(ack_packet(PUBACK, found.packet_id, 0x83))
    answer = await other.expect(PUBACK)
    assert (answer.packet_id, answer.code) == (packet_id, 0)
    assert near.app.broker.drops.counts == {"refused_0x83": 1}


async def test_a_session_that_ends_holds_no_publisher_back(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", clean=False, session_expiry=1)
    await client.subscribe("a", qos=1)
    other = await near.client("other")
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    other.publish("a", b"1", 1)
    await client.expect(PUBLISH)
    client.close()
    await until(lambda: "dev" not in near.app.broker.sessions)
    await other.expect(PUBACK)
    gate.set()


async def test_a_damaged_row_costs_one_session(isthmus, tmp_path, caplog):
    near = await isthmus(kept_in(tmp_path))
    for name in ("bad", "good"):
        client = await near.client(name, **LONG)
        await client.subscribe("a", qos=1)
    names = [name for name in near.app.store.names() if name.startswith("session/")]
    await near.app.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("UPDATE sessions SET state='{' WHERE client_id=?", (b"bad",))
        for name in names:
            connection.execute("INSERT INTO received VALUES (?)", (name.encode() + b"\0\0\1",))
        connection.commit()
    near = await isthmus(kept_in(tmp_path))
    assert set(near.app.broker.sessions) == {"good"}
    assert "the session of b'bad' on disk is damaged" in caplog.text
    await near.app.stop()
    assert [key for key, *_ in rows(tmp_path, "subscriptions")] == [b"good\0a"]
    (received,) = rows(tmp_path, "received")
    assert received[0].endswith(b"/good\0\0\1")


async def test_what_was_loaded_for_a_client_that_leaves_again_is_not_kept_in_memory(
    isthmus, tmp_path
):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=2)
    client.close()
    await until(lambda: near.app.broker.connected == 0)
    other = await near.client("other")
    for number in range(200):
        await other.published("a", b"%d" % number, 1 + number % 2)
    lane = near.app.broker.sessions["dev"].lane
    for begin in range(0, 200, 50):
        client = await near.client("dev", **LONG)
        for number in range(begin, begin + 50):
            assert (await client.message()).payload == b"%d" % number
        client.close()
        await until(lambda: lane.link is None)
        assert not lane.queue
        assert lane.queued + len(lane.entries) == 150 - begin
    client = await near.client("dev", **LONG)
    await client.nothing()
