"""Wills of sessions that end with their connection: on disk as long as they are due."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from test_sessions_on_disk import LONG, crash, kept_in, rows
from test_share_on_disk import Killed

from isthmus.auth.passwords import create_entry
from isthmus.store.database import FILE
from mosquitto import free_port
from raw import OPEN, PUBLISH, FarSide, Raw, packet, until
from running import QUICK, out

CLEAN = {4: {"clean": True}, 5: {"clean": True, "session_expiry": 0}}
OFFLINE = ("state/dev", b"offline", 1, True)


async def retained(near, topic: str = "state/dev") -> bytes | None:
    """The retained message of a topic, as a new client sees it."""
    client = await near.client()
    await client.subscribe(topic, qos=1)
    found = await client.arrived()
    client.close()
    return found[0].payload if found else None


async def wills(near, folder) -> list[bytes]:
    """Whose wills are in the file when the broker has died now."""
    await near.app.store.settle()
    await crash(near)
    return [key.rpartition(b"\0")[0] for key, _ in rows(folder, "wills")]


@pytest_asyncio.fixture
async def killed(tmp_path) -> AsyncIterator[Killed]:
    OPEN.clear()
    process = Killed(tmp_path)
    await process.start()
    yield process
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    process.kill()


@pytest.mark.parametrize("version", [4, 5])
async def test_mqtt_3_1_2_8_a_will_is_published_though_the_process_was_killed(killed, version):
    watcher = await killed.client("watcher", **LONG)
    await watcher.subscribe("#", qos=1)
    watcher.close()
    client = await killed.client("dev", version, **CLEAN[version], will=OFFLINE)
    assert await client.published("state/dev", b"online", 1, retain=True) == 0
    await killed.again()
    watcher = await killed.client("watcher", **LONG)
    found = [await watcher.message() for _ in range(2)]
    assert [one.payload for one in found] == [b"online", b"offline"]
    reader = await killed.client("reader")
    await reader.subscribe("state/#", qos=1)
    assert (await reader.message()).payload == b"offline"
    client = await killed.client("dev", version, **CLEAN[version])
    assert await client.published("state/dev", b"online again", 1, retain=True) == 0
    await killed.again()
    reader = await killed.client("reader")
    await reader.subscribe("state/#", qos=1)
    assert (await reader.message()).payload == b"online again"


async def test_a_will_is_on_disk_no_later_than_what_its_client_retains(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", will=OFFLINE)
    assert await client.published("state/dev", b"online", 1, retain=True) == 0
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    assert await retained(near) == b"offline"


async def test_a_will_keeps_what_it_was(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    watcher = await near.client("watcher", **LONG)
    await watcher.subscribe("#", qos=2)
    await near.client(
        "dev", will=("state/dev", b"\x00\xff", 2, False),
        will_properties={"will_delay": 900, "content_type": "x/y", "user": [("a", "b")]},
    )  # fmt: skip
    await near.app.store.settle()
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    watcher = await near.client("watcher", **LONG)
    found = await watcher.message()
    assert (found.topic, found.payload, found.qos) == ("state/dev", b"\x00\xff", 2)
    assert found.properties == {"content_type": "x/y", "user": [("a", "b")]}
    assert await wills(near, tmp_path) == []


async def test_a_will_that_is_not_due_any_more_leaves_the_disk(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    polite = await near.client("polite", will=("will/polite", b"x", 1, True))
    lost = await near.client("lost", will=("will/lost", b"x", 1, True))
    quiet = await near.client("quiet", will=("will/quiet", b"x", 0, True))
    await near.client("there", will=("will/there", b"x", 1, True))
    await near.app.store.settle()
    polite.send(packet(0xE0))
    lost.reset()
    quiet.reset()
    await until(lambda: near.app.broker.connected == 1)
    assert await wills(near, tmp_path) == [b"there"]
    near = await isthmus(kept_in(tmp_path))
    assert await retained(near, "will/polite") is None


async def test_who_has_no_will_writes_nothing(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    commits = near.app.store.commits
    for version in (4, 5):
        client = await near.client("dev", version)
        await client.subscribe("a", qos=1)
        client.reset()
        await until(lambda: not near.app.broker.connected)
    await near.app.store.settle()
    assert near.app.store.commits == commits


async def test_a_take_over_leaves_the_will_of_the_new_connection(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    await near.client("dev", will=("will/old", b"old", 1, True))
    await near.app.store.settle()
    await near.client("dev", will=("will/new", b"new", 1, True))
    await near.client("lasting", will=("will/a", b"x", 1, True))
    await near.client("lasting", **LONG)
    await near.client("without", will=("will/b", b"x", 1, True))
    await near.client("without")
    assert await retained(near, "will/old") == b"old"
    assert await wills(near, tmp_path) == [b"dev"]
    near = await isthmus(kept_in(tmp_path))
    assert await retained(near, "will/new") == b"new"


async def test_rights_are_asked_when_the_will_is_published(isthmus, tmp_path):
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.write_text(create_entry("alice", b"secret", iterations=2) + "\n")
    acl.write_text("user alice\ntopic readwrite #\n")
    settings = kept_in(
        tmp_path / "data", auth={"password_file": str(passwords), "acl_file": str(acl)}
    )
    login = {"username": "alice", "password": "secret"}
    near = await isthmus(settings)
    for name in ("a", "b"):
        await near.client(name, **login, will=(f"will/{name}", b"x", 1, True))
    await near.app.store.settle()
    await crash(near)
    acl.write_text("user alice\ntopic read #\ntopic write will/b\n")
    near = await isthmus(settings)
    assert near.app.broker.drops.counts == {"denied": 1}
    client = await near.client("new", **login)
    await client.subscribe("will/#")
    assert [one.topic for one in await client.arrived()] == ["will/b"]
    client.close()
    assert await wills(near, tmp_path / "data") == []


async def test_a_will_of_a_user_whose_listener_has_gone_is_not_published(isthmus, tmp_path, caplog):
    passwords = tmp_path / "passwords"
    passwords.write_text(create_entry("alice", b"secret", iterations=2) + "\n")
    data = tmp_path / "data"
    own = {"bind": "127.0.0.1:0", "auth": {"password_file": str(passwords)}}
    near = await isthmus(kept_in(data, listeners=[own, {"bind": "127.0.0.1:0"}]))
    await near.client("dev", username="alice", password="secret", will=OFFLINE)
    await near.app.store.settle()
    await crash(near)
    near = await isthmus(kept_in(data))
    assert "1 session(s) of users whose listener" in caplog.text
    assert await retained(near) is None
    assert await wills(near, data) == []


async def test_a_will_takes_the_routes(isthmus, tmp_path, mosquitto):
    far = await mosquitto()
    there = await Raw.client(far.port, "there")
    await there.subscribe("state/#", qos=1)
    settings = kept_in(
        tmp_path,
        node="edge",
        connectors={"cloud": {"url": f"127.0.0.1:{far.port}", "reconnect": QUICK}},
        routes={"up": out("state/#")},
    )
    near = await isthmus(settings)
    await near.connected()
    client = await near.client("dev", will=OFFLINE)
    assert await client.published("state/dev", b"online", 1, retain=True) == 0
    assert (await there.message()).payload == b"online"
    await crash(near)
    near = await isthmus(settings)
    assert (await there.message()).payload == b"offline"
    await there.nothing()


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("persistence", [True, False])
async def test_wills_take_the_routes_at_a_clean_stop(
    isthmus, tmp_path, mosquitto, qos, persistence
):
    far = await mosquitto()
    there = await Raw.client(far.port, "there")
    await there.subscribe("state/#", qos=1)
    settings = kept_in(
        tmp_path,
        node="edge",
        connectors={"cloud": {"url": f"127.0.0.1:{far.port}", "reconnect": QUICK}},
        routes={"up": out("state/#")},
    )
    settings["broker"]["persistence"] = persistence
    near = await isthmus(settings)
    await near.connected()
    await near.client("dev", will=("state/dev", b"offline", qos, False))
    await near.client("kept", will=("state/kept", b"offline", qos, False), **LONG)
    await near.app.stop()
    assert {(await there.message()).topic for _ in range(2)} == {"state/dev", "state/kept"}
    near = await isthmus(settings)
    await near.connected()
    await there.nothing()


async def test_wills_wait_for_the_far_side_over_a_clean_stop(isthmus, tmp_path):
    far = FarSide()
    await far.start()
    settings = kept_in(
        tmp_path,
        node="edge",
        connectors={"cloud": {"url": f"127.0.0.1:{far.port}", "reconnect": QUICK}},
        routes={"up": out("state/#")},
    )
    await far.stop()
    near = await isthmus(settings)
    await near.client("dev", will=OFFLINE)
    await near.app.stop()
    assert rows(tmp_path, "wills") == []
    await far.start()
    near = await isthmus(settings)
    there, _ = await far.client()
    assert (await there.expect(PUBLISH)).payload == b"offline"
    await far.stop()


@pytest.mark.parametrize("most", [1, None])
@pytest.mark.parametrize("session", [{}, LONG], ids=["ending", "lasting"])
async def test_a_will_stays_on_disk_until_an_outbox_has_room(isthmus, tmp_path, most, session):
    settings = kept_in(
        tmp_path,
        node="edge",
        connectors={"cloud": {"url": f"127.0.0.1:{free_port()}", "reconnect": QUICK}},
        routes={"up": out("#", queue={"max_messages": most})},
    )
    near = await isthmus(settings)
    other = await near.client("other")
    assert await other.published("a", b"x", 1) == 0
    client = await near.client("dev", will=OFFLINE, **session)
    await near.app.store.settle()
    client.reset()
    await until(lambda: near.app.broker.connected == 1)
    await near.app.store.settle()
    assert near.cloud.stored == (most or 2)
    assert await wills(near, tmp_path) == ([b"dev"] if most else [])
    near = await isthmus(settings)
    assert near.cloud.stored == (most or 2)
    await near.client("dev", will=OFFLINE, **CLEAN[5])  # the first will is as unsafe as before
    assert await wills(near, tmp_path) == ([b"dev", b"dev"] if most else [b"dev"])


async def test_a_clean_stop_publishes_wills_and_keeps_none(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", will=OFFLINE)
    assert await client.published("state/dev", b"online", 1, retain=True) == 0
    await near.app.stop()
    assert rows(tmp_path, "wills") == []
    near = await isthmus(kept_in(tmp_path))
    assert await retained(near) == b"offline"


async def test_a_client_that_is_back_at_once_comes_after_its_will(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    await near.client("dev", will=OFFLINE)
    await near.app.store.settle()
    await crash(near)
    near = await isthmus(kept_in(tmp_path))
    client = await near.client("dev", will=OFFLINE)
    assert await client.published("state/dev", b"online", 1, retain=True) == 0
    assert await retained(near) == b"online"


async def test_a_file_that_is_lost_gets_the_wills_again(isthmus, tmp_path):
    near = await isthmus(kept_in(tmp_path))
    await near.client("dev", will=OFFLINE)
    await near.app.store.settle()
    (tmp_path / FILE).unlink()
    other = await near.client("other")
    assert await other.published("x", b"1", 1, retain=True) == 0
    assert await wills(near, tmp_path) == [b"dev"]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (None, "{"),
        (None, "[" * 100_000),
        (None, "[]"),
        ("topic", 3),
        ("topic", "state/#"),
        ("topic", ""),
        ("qos", 3),
        ("qos", "x"),
        ("retain", 7),
        ("payload", None),
        ("properties", "//8="),
    ],
)
async def test_a_damaged_will_costs_itself_only(isthmus, tmp_path, caplog, part, value):
    near = await isthmus(kept_in(tmp_path))
    await near.client("dev", will=OFFLINE)
    await near.client("other", will=("state/other", b"x", 1, True))
    await near.app.store.settle()
    await crash(near)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        if part is not None:
            query = "SELECT state FROM wills WHERE key=?"
            found = json.loads(connection.execute(query, (b"dev\0001",)).fetchone()[0])
            found["will"][part] = value
            value = json.dumps(found)
        connection.execute("UPDATE wills SET state=? WHERE key=?", (value, b"dev\0001"))
        connection.commit()
    near = await isthmus(kept_in(tmp_path))
    assert "the will of b'dev\\x001' on disk is damaged" in caplog.text
    assert await retained(near, "state/other") == b"x"
    assert await wills(near, tmp_path) == []
