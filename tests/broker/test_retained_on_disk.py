"""Retained messages on disk: acknowledged when they are there, and back after any end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from isthmus.auth.passwords import create_entry
from isthmus.errors import ConfigError
from isthmus.store.database import FILE
from isthmus.store.writer import Writer
from mosquitto import free_port
from raw import PUBACK, PUBREC, Raw, until


def stored(folder: Path) -> set[bytes]:
    """The topics in the file, once nobody has it open."""
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        return {topic for (topic,) in connection.execute("SELECT topic FROM retained")}


def kept_in(folder: Path, **configuration: Any) -> dict[str, Any]:
    return {"broker": {"data": str(folder), **configuration.pop("broker", {})}, **configuration}


async def retained(port: int, *filters: str, **how: Any) -> dict[str, bytes]:
    """What a new client gets for `filters`."""
    client = await Raw.client(port, "", 5, **how)
    for filter_ in filters or ("#",):
        await client.subscribe(filter_, qos=2)
    found: dict[str, bytes] = {}
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.3):
                message = await client.message()
            found[message.topic] = message.payload
    client.close()
    return found


async def test_they_come_back_as_they_were(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    await client.published("a", b"1", 0, retain=True)
    await client.published("b", b"\x00\xff", 1, retain=True, user=[("k", "v")])
    await client.published("c", b"3", 2, retain=True)
    await client.published("gone", b"4", 1, retain=True)
    await client.published("gone", b"", 1, retain=True)
    await client.published("not", b"5", 1)
    await near.app.stop()
    assert stored(tmp_path) == {b"a", b"b", b"c"}
    near = await isthmus(kept_in(tmp_path))
    reader = await near.client("reader")
    await reader.subscribe("#", qos=2)
    found = {(await reader.message()).topic: None for _ in range(3)}
    assert set(found) == {"a", "b", "c"}
    again = await near.client("again")
    await again.subscribe("b", qos=2)
    message = await again.message()
    assert (message.payload, message.qos, message.retain) == (b"\x00\xff", 1, True)
    assert message.properties["user"] == [("k", "v")]


async def test_without_persistence_or_a_folder_they_are_in_memory(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path, broker={"persistence": False}))
    client = await near.client("writer")
    await client.published("a", b"1", 1, retain=True)
    await near.app.stop()
    assert not (tmp_path / FILE).exists()


async def test_what_the_broker_says_of_itself_is_not_kept(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path, broker={"sys_interval": "1s"}))
    await until(lambda: near.app.broker.retained.get(b"$SYS/broker/uptime") is not None)
    client = await near.client("writer")
    await client.published("a", b"1", 1, retain=True)
    await near.app.stop()
    assert stored(tmp_path) == {b"a"}


@pytest.mark.parametrize("qos", [1, 2])
async def test_the_acknowledgement_waits_for_the_disk_and_nobody_else_does(isthmus, tmp_path, qos):
    near = await isthmus(kept_in(tmp_path))
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    client = await near.client("writer")
    other = await near.client("other")
    client.publish("a", b"1", qos, retain=True)
    await asyncio.sleep(0.05)
    await client.nothing()
    assert await other.published("b", b"2", qos) in (0, 0x10)
    gate.set()
    answer = await client.expect(PUBACK if qos == 1 else PUBREC)
    assert answer.code < 0x80


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_a_full_disk_holds_the_acknowledgement_back_until_there_is_room(
    isthmus, tmp_path, monkeypatch, caplog, version
):
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.05)
    near = await isthmus(kept_in(tmp_path))
    write = Writer.write
    full = True

    def fail(self: Writer, *what: Any) -> object:
        if full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return write(self, *what)

    monkeypatch.setattr(Writer, "write", fail)
    monkeypatch.setattr(Writer, "write_part", fail)
    client = await near.client("writer", version)
    client.publish("a", b"1", 1, retain=True)
    await until(lambda: "the disk is full" in caplog.text)
    await asyncio.sleep(0.1)
    await client.nothing()
    other = await near.client("other")
    assert await other.published("b", b"2", 1) in (0, 0x10)
    full = False
    await client.expect(PUBACK)
    await near.app.stop()
    assert stored(tmp_path) == {b"a"}


async def test_expiry_goes_on_over_a_restart(isthmus, tmp_path, monkeypatch):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    await client.published("short", b"1", 1, retain=True, expiry=60)
    await client.published("long", b"2", 1, retain=True, expiry=3600)
    await client.published("ever", b"3", 1, retain=True)
    await near.app.stop()
    later = time.time() + 600
    monkeypatch.setattr("isthmus.clock.wall", lambda: later)
    near = await isthmus(kept_in(tmp_path))
    assert near.app.broker.retained.get(b"short") is None
    reader = await near.client("reader")
    await reader.subscribe("long", qos=1)
    left = (await reader.message()).properties["expiry"]
    assert 2990 <= left <= 3000
    assert await retained(near.port) == {"long": b"2", "ever": b"3"}
    await near.app.stop()
    assert stored(tmp_path) == {b"long", b"ever"}


async def test_the_longest_retention_goes_on_over_a_restart(isthmus, tmp_path, monkeypatch):
    near = await isthmus(kept_in(tmp_path, broker={"retain_expiry": "1h"}))
    client = await near.client("writer")
    await client.published("a", b"1", 1, retain=True)
    await near.app.stop()
    later = time.time() + 3601
    monkeypatch.setattr("isthmus.clock.wall", lambda: later)
    near = await isthmus(kept_in(tmp_path, broker={"retain_expiry": "1h"}))
    assert await retained(near.port) == {}


async def test_what_expires_while_it_runs_leaves_the_disk(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    await client.published("a", b"1", 1, retain=True, expiry=1)
    await asyncio.sleep(1.1)
    assert near.app.broker.retained.get(b"a") is None
    await near.app.stop()
    assert stored(tmp_path) == set()


async def test_a_publisher_that_lost_its_right_meanwhile_is_not_heard(isthmus, tmp_path):
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    entries = [create_entry(name, b"secret", iterations=2) for name in ("alice", "bob")]
    passwords.write_text("\n".join(entries) + "\n")
    acl.write_text("user alice\ntopic readwrite #\nuser bob\ntopic readwrite #\n")
    settings = kept_in(
        tmp_path / "data",
        auth={"password_file": str(passwords), "acl_file": str(acl)},
    )
    near = await isthmus(settings)
    for name in ("alice", "bob"):
        client = await near.client(name, username=name, password=b"secret")
        await client.published(name, b"1", 1, retain=True)
    await near.app.stop()
    acl.write_text("user alice\ntopic read #\nuser bob\ntopic readwrite #\n")
    near = await isthmus(settings)
    assert await retained(near.port, username="bob", password=b"secret") == {"bob": b"1"}


async def test_a_publisher_of_a_realm_that_has_gone_is_not_heard(isthmus, tmp_path):
    passwords = tmp_path / "passwords"
    passwords.write_text(create_entry("alice", b"secret", iterations=2) + "\n")
    data = tmp_path / "data"
    own = {"bind": "127.0.0.1:0", "auth": {"password_file": str(passwords)}}
    near = await isthmus(kept_in(data, listeners=[own, {"bind": "127.0.0.1:0"}]))
    client = await Raw.client(near.port, "writer", username="alice", password=b"secret")
    await client.published("a", b"1", 1, retain=True)
    await near.app.stop()
    near = await isthmus(kept_in(data))
    assert await retained(near.port) == {}
    await near.app.stop()
    near = await isthmus(kept_in(data, broker={"check_retain_source": False}))
    assert await retained(near.port) == {"a": b"1"}


async def test_what_changes_nothing_is_acknowledged_without_the_disk(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    gate = threading.Event()
    near.app.store._writer.submit(gate.wait)
    client = await near.client("writer")
    async with asyncio.timeout(2):
        assert await client.published("none", b"", 1, retain=True) in (0, 0x10)
    client.publish("a", b"1", 1, retain=True)
    await asyncio.sleep(0.02)
    client.publish("a", b"", 1, retain=True)
    await asyncio.sleep(0.02)
    client.publish("a", b"", 1, retain=True)  # says the same again, and it is not yet so on disk
    await asyncio.sleep(0.1)
    await client.nothing()
    gate.set()
    for _ in range(3):
        await client.expect(PUBACK)
    await near.app.stop()
    assert stored(tmp_path) == set()


async def test_a_clock_that_was_set_back_makes_no_message_older_than_it_may_get(
    isthmus, tmp_path, monkeypatch
):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    await client.published("a", b"1", 1, retain=True, expiry=60)
    await client.published("long", b"1", 1, retain=True, expiry=0xFFFFFFFF)
    await near.app.stop()
    earlier = time.time() - 400 * 86400
    monkeypatch.setattr("isthmus.clock.wall", lambda: earlier)
    near = await isthmus(kept_in(tmp_path))
    reader = await near.client("reader")
    await reader.subscribe("a", qos=1)
    assert 55 <= (await reader.message()).properties["expiry"] <= 60
    await reader.subscribe("long", qos=1)
    assert (await reader.message()).properties["expiry"] > 0xFFFFFF00


async def test_lower_limits_lose_nothing_that_is_stored(isthmus, tmp_path, caplog):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    for number in range(5):
        await client.published(f"t/{number}", b"x" * 1000, 1, retain=True)
    await near.app.stop()
    limits = {"limits": {"retained_messages": 2, "retained_bytes": 3000}}
    near = await isthmus(kept_in(tmp_path, broker=limits))
    assert "5 retained messages" in caplog.text
    client = await near.client("writer")
    assert await client.published("t/1", b"y" * 900, 1, retain=True) in (0, 0x10)
    assert await client.published("new", b"z", 1, retain=True) == 0x97
    found = await retained(near.port)
    assert len(found) == 5
    assert found["t/1"] == b"y" * 900


async def test_a_file_that_goes_while_it_is_used_comes_back_with_everything(
    isthmus, tmp_path, caplog
):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    for number in range(300):
        await client.published(f"t/{number}", b"1", 1 if number == 299 else 0, retain=True)
    (tmp_path / FILE).unlink()
    await client.published("after", b"1", 1, retain=True)
    assert "while it was in use" in caplog.text
    await near.app.stop()
    assert len(stored(tmp_path)) == 301


async def test_one_folder_is_for_one_process(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    with pytest.raises(ConfigError, match=r"broker\.data: .* in use by another process"):
        await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    assert await client.published("a", b"1", 1, retain=True) in (0, 0x10)


async def test_a_damaged_file_is_moved_aside_and_said(isthmus, tmp_path, caplog):
    (tmp_path / FILE).write_bytes(b"damaged" * 1000)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    assert await client.published("a", b"1", 1, retain=True) in (0, 0x10)
    assert len(list(tmp_path.glob(f"{FILE}.damaged-*"))) == 1
    assert "is damaged" in caplog.text


DAMAGED_ROWS = {
    "topic": "X'c328'",
    "qos": "7",
    "properties": "X'02'",
    "payload": "17",
    "expires": "'soon'",
    "client_id": "'text'",
}


@pytest.mark.parametrize("column", DAMAGED_ROWS)
async def test_a_damaged_row_costs_one_message(isthmus, tmp_path, caplog, column: str):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    for topic in ("bad", "good"):
        await client.published(topic, b"1", 1, retain=True)
    await near.app.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute(
            f"UPDATE retained SET {column}={DAMAGED_ROWS[column]} WHERE topic=?",
            (b"bad",),
        )
        connection.commit()
    for errors in (1, 0):
        caplog.clear()
        near = await isthmus(kept_in(tmp_path))
        said = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
        assert said == ["1 retained message(s) on disk are damaged, and are forgotten"] * errors
        client = await near.client("reader")
        await client.subscribe("+")
        assert (await client.message()).topic == "good"
        await near.app.stop()


async def run(file: Path, port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-m", "isthmus", "run", str(file)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return process
    raise AssertionError("it did not start")


async def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    port = free_port()
    file = tmp_path / "isthmus.yaml"
    file.write_text(
        json.dumps(
            {
                "listeners": [{"bind": f"127.0.0.1:{port}"}],
                "http": None,
                "broker": {"data": str(tmp_path / "data")},
            }
        )
    )
    acknowledged: dict[str, int] = {}
    number = 0
    for round_ in range(4):
        process = await run(file, port)
        try:
            found = await retained(port)
            for topic, least in acknowledged.items():
                assert int(found[topic]) >= least, f"round {round_}: {topic} went back"
            client = await Raw.client(port, "writer", 5)
            sent: dict[int, tuple[str, int]] = {}
            for _ in range(300):
                number += 1
                topic = f"t/{number % 20}"
                packet_id = client.publish(topic, str(number).encode(), 1, retain=True)
                sent[packet_id] = topic, number
            # In the middle of the acknowledgements.
            for _ in range(50 + 60 * round_):
                answer = await client.expect(PUBACK)
                topic, value = sent[answer.packet_id]
                acknowledged[topic] = value
            process.send_signal(signal.SIGKILL)
            client.close()
        finally:
            process.kill()
            process.wait()
    process = await run(file, port)
    try:
        found = await retained(port)
        assert len(acknowledged) == 20
        for topic, least in acknowledged.items():
            assert int(found[topic]) >= least
    finally:
        process.kill()
        process.wait()


async def test_a_clock_that_is_set_forward_while_it_runs_ends_no_life_early(
    isthmus, tmp_path, monkeypatch
):
    wrong = time.time() - 300 * 86400  # no battery: the time of the last file, or 1970
    monkeypatch.setattr("isthmus.clock.wall", lambda: wrong)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    await client.published("a", b"1", 1, retain=True, expiry=86400)
    monkeypatch.setattr("isthmus.clock.wall", time.time)
    await client.published("b", b"1", 1, retain=True, expiry=86400)
    files = {path.name: path.read_bytes() for path in tmp_path.glob(f"{FILE}*")}
    await near.app.stop()
    for folder in (tmp_path, tmp_path / "killed"):
        if folder != tmp_path:
            folder.mkdir()
            for name, data in files.items():
                (folder / name).write_bytes(data)
        near = await isthmus(kept_in(folder))
        assert await retained(near.port) == {"a": b"1", "b": b"1"}
        await near.app.stop()


async def test_the_longest_retention_begins_once(isthmus, tmp_path, monkeypatch):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("writer")
    await client.published("a", b"1", 1, retain=True)
    await near.app.stop()
    settings = kept_in(tmp_path, broker={"retain_expiry": "1h"})
    now = time.time()
    for later_s, there in ((0, True), (2000, True), (4000, False)):
        monkeypatch.setattr("isthmus.clock.wall", lambda later_s=later_s: now + later_s)
        near = await isthmus(settings)
        assert bool(await retained(near.port)) == there
        await near.app.stop()
