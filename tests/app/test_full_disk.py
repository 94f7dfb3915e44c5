"""A disk that is full, or cannot be written: nothing is lost, and everything else goes on.

The disk is a small one of its own where this system mounts it; else the writer is made to fail.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.store.writer import Writer
from isthmus.web.readiness import readiness
from raw import CONNACK, PUBACK, PUBLISH, FarSide, Raw, ack_packet, connect_packet, until
from running import Isthmus, bridge, out

DISK_BYTES = 24 << 20
PAYLOAD = "x" * 300_000


def failing(monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    def write(self: Writer, *what: object) -> object:
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        self.close()
        raise error

    for name in ("write", "write_part", "make_room"):
        monkeypatch.setattr(Writer, name, write)


class Disk:
    """A data folder whose disk can be filled, and has room again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, real: bool) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self.real = real
        self._filler = folder / "filler"

    def fill(self) -> None:
        if not self.real:
            failing(self._monkeypatch, sqlite3.SQLITE_FULL, "database or disk is full")
            return
        with self._filler.open("ab", buffering=0) as file:
            while free := shutil.disk_usage(self.folder).free:
                file.write(bytes(min(free, 1 << 20)))

    def free(self) -> None:
        if not self.real:
            self._monkeypatch.undo()
            return
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder],
        capture_output=True, check=False,
    ).returncode  # fmt: skip
    yield Disk(folder, monkeypatch, real=mounted)
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def config(port: int, disk: Disk, qos: Any = "keep", **queue: Any) -> dict[str, Any]:
    routes = {"out": out("out/#", queue=queue, qos=qos)}
    found = bridge(port, routes=routes, client_id="edge-1")
    return {**found, "broker": {"data": str(disk.folder)}}


async def published_until_full(near: Isthmus, disk: Disk, here: Any, topic: str) -> int:
    """Publish until the disk is full of that; how many were acknowledged."""
    for number in range(2 * DISK_BYTES // len(PAYLOAD)):
        if number == 3 and not disk.real:
            disk.fill()
        here.publish(topic, f"{number:04}{PAYLOAD}", 1)
        found = asyncio.ensure_future(here.expect(PUBACK))
        await until(lambda found=found: found.done() or near.app.store.failure is not None)
        if not found.done():
            found.cancel()
            await asyncio.gather(found, return_exceptions=True)
            return number
        assert (await found).code in (None, 0)
    raise AssertionError("the disk takes more than it can hold")


async def filled(near: Isthmus, disk: Disk, here: Any) -> int:
    """Publish until the disk takes no more; how many were acknowledged before."""
    assert near.app.store is not None
    for number in range(20):
        disk.fill()
        here.publish("out/a", f"{number:04}{PAYLOAD}", 1)
        found = asyncio.ensure_future(here.expect(PUBACK))
        await until(lambda found=found: found.done() or near.app.store.failure is not None)
        if not found.done():
            await asyncio.sleep(0.05)
        if not found.done():
            found.cancel()
            await asyncio.gather(found, return_exceptions=True)
            return number
        assert (await found).code in (None, 0)
    raise AssertionError("the disk takes more than it can hold")


async def others_are_served(near: Isthmus) -> None:
    one, two = await near.client("one"), await near.client("two", 4)
    await one.subscribe("local/#", qos=1)
    for number in range(20):
        two.publish("local/a", str(number), 1)
        await two.expect(PUBACK)
        got = await one.expect(PUBLISH)
        assert got.payload == b"%d" % number
        one.send(ack_packet(PUBACK, got.packet_id))


async def received(there: Any, count: int) -> list[int]:
    found = []
    for _ in range(count):
        got = await there.expect(PUBLISH)
        there.send(ack_packet(PUBACK, got.packet_id))
        found.append(int(got.payload[:4]))
    return found


def lines(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


async def test_publishers_are_held_back_until_there_is_room(
    isthmus: Any, far: FarSide, disk: Disk, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("isthmus.store.store.QUIET_S", 0.1)
    near = await isthmus(config(far.port, disk))
    here = await near.client("here", 4)
    safe = await filled(near, disk, here)
    for number in range(safe + 1, safe + 5):
        here.publish("out/a", f"{number:04}", 1)
    await others_are_served(near)
    assert near.app.status.read()["broker"]["store"]["failure"].endswith(
        "the disk is full: free space there, or move the data folder"
    )
    said = lines(caplog, "the disk is full")
    again = lines(caplog, "can be written again")
    await asyncio.sleep(2.2)  # it is tried again each second
    assert lines(caplog, "the disk is full") == said == again + 1 <= 3
    disk.free()
    for _ in range(5):
        await here.expect(PUBACK)
    assert near.app.store.failure is None
    await until(lambda: lines(caplog, "can be written again") == said)
    there, _ = await far.client()
    assert await received(there, safe + 5) == list(range(safe + 5))
    await until(lambda: not near.cloud.unsettled)
    assert not near.cloud.drops.counts


async def test_publishers_are_refused_where_the_route_says_so(
    isthmus: Any, far: FarSide, disk: Disk
) -> None:
    near = await isthmus(config(far.port, disk, when_full="reject"))
    here = await near.client("here")
    safe = await filled(near, disk, here)
    other = await near.client("other")
    for number in range(3):
        other.publish("out/a", str(number), 1)
        assert (await other.expect(PUBACK)).code == 0x97
    assert near.cloud.drops.counts == {"rejected": 3}
    await others_are_served(near)
    disk.free()
    await here.expect(PUBACK)
    other.publish("out/a", f"{safe + 1:04}", 1)
    assert (await other.expect(PUBACK)).code in (None, 0)
    there, _ = await far.client()
    assert await received(there, safe + 2) == list(range(safe + 2))


async def test_what_nobody_waits_for_is_dropped_counted_and_said_once(
    isthmus: Any, far: FarSide, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    near = await isthmus(config(far.port, disk, qos=1, max_bytes="8MiB"))
    here = await near.client("here")
    await filled(near, disk, here)
    for _ in range(100):
        here.publish("out/a", PAYLOAD, 0)
    await until(lambda: near.cloud.drops.counts.get("queue_full", 0) > 50)
    assert near.cloud.unsettled < 60
    assert lines(caplog, "dropped: queue_full") == 1
    await others_are_served(near)


async def test_a_sender_goes_on_while_the_disk_is_full(
    isthmus: Any, far: FarSide, disk: Disk
) -> None:
    """What is stored goes to the far side, and that makes room, before there is any other."""
    near = await isthmus(config(far.port, disk))
    here = await near.client("here")
    safe = await filled(near, disk, here)
    there, _ = await far.client()
    assert await received(there, safe) == list(range(safe))
    disk.free()
    await here.expect(PUBACK)
    assert await received(there, 1) == [safe]
    await until(lambda: not near.cloud.unsettled)


async def test_a_client_that_starts_clean_on_a_full_disk_is_served_when_there_is_room(
    isthmus: Any, far: FarSide, disk: Disk
) -> None:
    """Its old session and its new one have logs of one name."""
    near = await isthmus(config(far.port, disk))
    old = await near.client("kept", clean=False, session_expiry=3600)
    await old.subscribe("for/kept", qos=1)
    old.close()
    here = await near.client("here", 4)
    here.publish("for/kept", "old", 1)
    await here.expect(PUBACK)
    safe = await filled(near, disk, here)
    new = await Raw.open(near.port)
    new.send(connect_packet("kept", session_expiry=3600))
    await asyncio.sleep(2.2)  # it is tried again each second
    disk.free()
    assert (await new.expect(CONNACK)).code == 0
    await new.subscribe("for/kept", qos=1)
    await here.expect(PUBACK)
    here.publish("for/kept", "new", 1)
    assert (await new.expect(PUBLISH)).payload == b"new"
    there, _ = await far.client()
    assert await received(there, safe + 1) == list(range(safe + 1))
    assert near.app.store.failure is None


@pytest.mark.parametrize("filter_", ["for/kept", "$share/group/for/kept"])
async def test_a_disk_full_of_what_waits_for_a_client_is_healed_by_it(
    isthmus: Any, disk: Disk, filter_: str
) -> None:
    near = await isthmus({"broker": {"data": str(disk.folder)}})
    how = {"clean": False, "session_expiry": 3600}
    kept = await near.client("kept", **how)
    await kept.subscribe(filter_, qos=1)
    kept.close()
    here = await near.client("here", 4)
    count = await published_until_full(near, disk, here, "for/kept")
    assert count
    kept = await near.client("kept", **how)
    for number in range(count + 1):
        assert (await kept.message()).payload[:4] == b"%04d" % number
    if not disk.real:
        disk.free()
    await here.expect(PUBACK)
    await until(lambda: near.app.store.failure is None)


async def test_a_folder_that_cannot_be_written_any_more(
    isthmus: Any, far: FarSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    near = await isthmus(config(far.port, Disk(tmp_path, monkeypatch, real=False)))
    here = await near.client("here")
    failing(monkeypatch, sqlite3.SQLITE_READONLY, "attempt to write a readonly database")
    here.publish("out/a", "0000", 1)
    await until(lambda: near.app.store.failure is not None)
    assert "cannot be written: check the rights" in near.app.store.failure
    await others_are_served(near)
    await here.nothing()
    monkeypatch.undo()
    await here.expect(PUBACK)
    assert lines(caplog, "cannot be written") == 1
    there, _ = await far.client()
    assert await received(there, 1) == [0]


async def test_a_disk_that_does_not_answer_refuses_where_the_route_says_so(
    isthmus: Any, far: FarSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that is busy with itself: what waits for it waits, and nobody else does."""
    monkeypatch.setattr("isthmus.store.stall.STALL_S", 0.8)
    routes = {
        "out": out("out/#"),
        "now": out("now/#", queue={"when_full": "reject"}),
    }
    found = bridge(far.port, routes=routes, client_id="edge-1")
    near = await isthmus({**found, "broker": {"data": str(tmp_path / "data")}})
    answers = threading.Event()
    write = Writer.write

    def wait(self: Writer, *what: object) -> object:
        assert answers.wait(30)
        return write(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "write", wait)
    here, other = await near.client("here"), await near.client("other")
    here.publish("out/a", "0000", 1)
    await until(lambda: near.app.store.failure is not None)
    assert readiness(near.app)["store"] is False
    other.publish("now/a", "refused", 1)
    assert (await other.expect(PUBACK)).code == 0x97
    await others_are_served(near)
    answers.set()
    assert (await here.expect(PUBACK)).code in (None, 0)
    assert readiness(near.app)["store"] is True
    other.publish("now/a", "0001", 1)
    assert (await other.expect(PUBACK)).code in (None, 0)
    there, _ = await far.client()
    assert sorted(await received(there, 2)) == [0, 1]
