"""A client comes back to its session while nothing can be written: what it acknowledges makes room.

So it is let in at once, unless something that it relies on from then on is not on disk.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from test_sessions_on_disk import LONG, crash, kept_in

from isthmus.store.writer import Writer
from raw import CONNACK, PUBACK, Raw, connect_packet, packet, properties, until, within


def refuse_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Writer, *what: object) -> object:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        self.close()
        raise error

    for name in ("write", "write_part", "make_room"):
        monkeypatch.setattr(Writer, name, write)


async def with_session(isthmus: Any, folder: Any) -> Any:
    """A process with the session `dev`, whose client is away, on disk."""
    near = await isthmus(kept_in(folder))
    client = await near.client("dev", **LONG)
    await client.subscribe("a", qos=1)
    client.close()
    await until(lambda: near.app.broker.connected == 0)
    await near.app.store.settle()
    return near


async def fail(near: Any, monkeypatch: pytest.MonkeyPatch) -> Raw:
    """Have nothing written from now on; the publisher of the first message that waits for it."""
    refuse_to_write(monkeypatch)
    other = await near.client("other")
    other.publish("a", b"first", 1)
    await until(lambda: near.app.store.failure is not None)
    return other


async def connect(near: Any, client_id: str, **how: Any) -> Raw:
    raw = await Raw.open(near.port)
    raw.send(connect_packet(client_id, **how))
    return raw


async def waits(raw: Raw) -> bool:
    try:
        await within(raw.expect(CONNACK), 0.3)
    except TimeoutError:
        return True
    return False


async def test_a_client_comes_back_and_goes_and_comes_back(isthmus, tmp_path, monkeypatch):
    near = await with_session(isthmus, tmp_path)
    other = await fail(near, monkeypatch)
    for _ in range(2):  # the second time its goodbye has not been written either
        client = await connect(near, "dev", **LONG)
        hello = await client.expect(CONNACK)
        assert (hello.code, hello.session_present) == (0, True)
        client.close()
        await until(lambda: near.app.broker.connected == 1)
    client = await connect(near, "dev", **LONG)
    await client.expect(CONNACK)
    other.publish("a", b"second", 1)
    monkeypatch.undo()
    assert [(await client.message()).payload for _ in range(2)] == [b"first", b"second"]
    for _ in range(2):
        assert (await other.expect(PUBACK)).code in (None, 0)


async def test_after_a_crash_the_session_is_there(isthmus, tmp_path, monkeypatch):
    near = await with_session(isthmus, tmp_path)
    await fail(near, monkeypatch)
    client = await connect(near, "dev", **LONG)
    assert (await client.expect(CONNACK)).session_present
    await crash(near)
    monkeypatch.undo()
    near = await isthmus(kept_in(tmp_path))
    assert set(near.app.broker.sessions["dev"].subscriptions) == {b"a"}


@pytest.mark.parametrize(
    ("client_id", "how"),
    [
        ("new", LONG),
        ("dev", {"clean": False, "session_expiry": 7200}),
        ("dev", {"clean": False, "session_expiry": 60}),
        ("dev", {"clean": True, "session_expiry": 3600}),
    ],
)
async def test_what_is_not_on_disk_is_waited_for(isthmus, tmp_path, monkeypatch, client_id, how):
    near = await with_session(isthmus, tmp_path)
    await fail(near, monkeypatch)
    for _ in range(2):  # that it is in memory since the first time is not enough
        client = await connect(near, client_id, **how)
        assert await waits(client)
        client.reset()
        await until(lambda: near.app.broker.connected == 1)
    client = await connect(near, client_id, **how)
    assert await waits(client)
    monkeypatch.undo()
    assert (await client.expect(CONNACK)).code == 0


async def test_a_goodbye_with_another_expiry_is_waited_for(isthmus, tmp_path, monkeypatch):
    near = await with_session(isthmus, tmp_path)
    await fail(near, monkeypatch)
    client = await connect(near, "dev", **LONG)
    await client.expect(CONNACK)
    client.send(packet(0xE0, b"\0" + properties(session_expiry=60)))
    assert await client.closed() is not None
    client = await connect(near, "dev", **LONG)
    assert await waits(client)
    monkeypatch.undo()
    assert (await client.expect(CONNACK)).session_present


async def test_a_file_that_is_lost_has_no_session(isthmus, tmp_path, monkeypatch):
    near = await with_session(isthmus, tmp_path)
    store = near.app.store
    (tmp_path / "isthmus.db").unlink()
    # The file is missed by the next write, and then nothing can be written to the new one.
    write = Writer.write

    def once(self: Writer, *what: Any) -> Any:
        refuse_to_write(monkeypatch)
        return write(self, *what)

    monkeypatch.setattr(Writer, "write", once)
    other = await near.client("other")
    other.publish("a", b"first", 1)
    await until(lambda: store.failure is not None)
    client = await connect(near, "dev", **LONG)
    assert await waits(client)
    monkeypatch.undo()
    assert (await client.expect(CONNACK)).session_present
    assert (await client.message()).payload == b"first"
    await other.expect(PUBACK)
