"""`isthmus store`: the data folder of a process that is not running, looked at and packed."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from isthmus.delivery.record import record
from isthmus.store.database import FILE
from isthmus.store.log import Log, State, ranges
from isthmus.store.schema import RETAINED
from isthmus.store.store import Store


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isthmus", "store", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


def aside(folder: Path) -> list[Path]:
    return list(folder.glob("*damaged-*"))


def topic(name: str) -> bytes:
    return len(name).to_bytes(2, "big") + name.encode()


async def settled(store: Store) -> None:
    done = asyncio.Event()
    store.then(done.set)
    await done.wait()


async def filled(folder: Path) -> None:
    """Two logs, of which one shares a record with the other, and a retained message."""
    store = Store(folder)
    store.start()
    first, second = store.log("outbox/cloud/a"), store.log("outbox/cloud/b")
    for number in range(100):
        first.append(record(0x32, topic("sensor/1"), b"", b"%d" % number, None))
        if number % 40 == 39:
            await settled(store)
    shared = record(0x35, topic("both"), b"\x01\x01\x26\x00\x01k\x00\x01v", b"\xff\xfe", None)
    first.append(shared)
    second.append(shared)
    first.done(1)
    first.done(3)
    table = store.table(RETAINED)
    table.set((b"state/1", 1, b"", "grün".encode(), None, None, None, None), known=False)
    await settled(store)
    await store.stop()


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    await filled(tmp_path)
    return tmp_path


def exported(*arguments: object) -> list[dict[str, Any]]:
    found = command("export", *arguments)
    assert (found.returncode, found.stderr) == (0, "")
    return [json.loads(line) for line in found.stdout.splitlines()]


async def test_a_check_counts_what_is_there(folder: Path) -> None:
    found = command("check", folder)
    assert (found.returncode, found.stderr) == (0, "")
    assert "log outbox/cloud/a: 99 message(s)" in found.stdout
    assert "log outbox/cloud/b: 1 message(s)" in found.stdout
    assert "retained: 1 message(s)" in found.stdout
    assert "everything is there" in found.stdout


async def test_everything_is_exported(folder: Path) -> None:
    lines = exported(folder)
    assert len(lines) == 101
    assert lines[0] | {"written_at": ""} == {
        "log": "outbox/cloud/a", "seq": 2, "topic": "sensor/1", "payload": "1",
        "payload_encoding": "text", "qos": 1, "retain": False, "properties": {}, "written_at": "",
    }  # fmt: skip
    assert lines[0]["written_at"].endswith("Z")
    assert lines[1]["seq"] == 4
    both = [line for line in lines if line["topic"] == "both"]
    assert [line["log"] for line in both] == ["outbox/cloud/a", "outbox/cloud/b"]
    assert both[1]["properties"] == {
        "payload_format_indicator": 1, "user_properties": [["k", "v"]],
    }  # fmt: skip
    assert (both[1]["payload"], both[1]["payload_encoding"]) == ("//4=", "base64")
    assert (both[1]["qos"], both[1]["retain"]) == (2, True)
    assert lines[-1] == {
        "log": "retained", "topic": "state/1", "payload": "grün", "payload_encoding": "text",
        "qos": 1, "retain": True, "properties": {},
    }  # fmt: skip


async def test_one_log_is_exported_to_a_file_for_its_owner_alone(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    found = command("export", folder, "--log", "outbox/cloud/b", "--output", output)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert [json.loads(line)["topic"] for line in output.read_text().splitlines()] == ["both"]
    assert output.stat().st_mode & 0o777 == 0o600
    found = command("export", folder, "--output", tmp_path / "none" / "out.jsonl")
    assert found.returncode == 2
    assert "none/out.jsonl: cannot be written: No such file or directory" in found.stderr
    found = command("export", folder, "--log", "outbox/nobody")
    assert found.returncode == 2
    assert "no log outbox/nobody; there are outbox/cloud/a, outbox/cloud/b, retained" in (
        found.stderr
    )


@pytest.mark.parametrize("name", ["check", "compact", "export"])
async def test_the_store_of_a_running_process_is_left_alone(folder: Path, name: str) -> None:
    store = Store(folder)
    store.start()
    try:
        found = await asyncio.to_thread(command, name, folder)
        assert found.returncode == 1
        assert "in use by another process" in found.stderr
        store.log("outbox/cloud/a").append(b"x")
        await settled(store)
    finally:
        await store.stop()


@pytest.mark.parametrize("name", ["check", "compact", "export"])
def test_a_folder_without_a_store_stays_without(tmp_path: Path, name: str) -> None:
    found = command(name, tmp_path)
    assert found.returncode == 1
    assert "there is no store in" in found.stderr
    assert list(tmp_path.iterdir()) == []


DAMAGES = {
    "DELETE FROM batches WHERE id=(SELECT min(id) FROM batches)": "their batch 1 is not there; ",
    "UPDATE batches SET body=zeroblob(length(body)) WHERE id=2": "do not have their checksum",
    "DELETE FROM logs WHERE name='outbox/cloud/b'": "log number 2, which does not exist",
    "DROP TRIGGER slice_went; DELETE FROM slices WHERE log=2": "outbox/cloud/b: 1 record(s) are",
    "UPDATE logs SET bytes=bytes+1 WHERE id=1": "bytes and has",
}


@pytest.mark.parametrize("statement", DAMAGES)
async def test_a_check_finds_what_is_wrong(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE)) as database:
        database.executescript(statement)
    before = (folder / FILE).read_bytes()
    found = command("check", folder)
    assert found.returncode == 1
    assert DAMAGES[statement] in found.stderr
    assert (folder / FILE).read_bytes() == before


async def test_what_is_damaged_is_said_in_the_export_and_the_rest_is_there(folder: Path) -> None:
    with closing(sqlite3.connect(folder / FILE)) as database, database:
        database.execute("UPDATE batches SET body=zeroblob(length(body)) WHERE id=2")
    found = command("export", folder, "--log", "outbox/cloud/a")
    assert found.returncode == 1
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert lines[39] == {"log": "outbox/cloud/a", "seq": 42, "damaged": True} or (
        sum("damaged" in line for line in lines) == 40
    )
    assert len(lines) == 99
    assert "40 message(s) could not be read" in found.stderr


async def test_a_damaged_file_is_neither_moved_nor_packed(folder: Path) -> None:
    file = folder / FILE
    data = bytearray(file.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 200] = bytes(range(200))
    file.write_bytes(data)
    for name in ("check", "compact"):
        found = command(name, folder)
        assert found.returncode == 1, name
        assert "damaged" in found.stderr or "malformed" in found.stderr
    assert file.read_bytes() == data
    assert not aside(folder)
    file.write_bytes(b"no database at all, but long enough to be one" * 100)
    found = command("check", folder)
    assert found.returncode == 1
    assert "is damaged" in found.stderr
    assert file.read_bytes().startswith(b"no database")


async def test_compacting_gives_room_back_and_keeps_everything(folder: Path) -> None:
    store = Store(folder)
    store.start()
    log = store.log("outbox/cloud/c")
    for number in range(2000):
        log.append(number.to_bytes(4, "big") * 500)
    await settled(store)
    for seq in range(1, 2001):
        log.done(seq)
    await settled(store)
    await store.stop()
    lines = exported(folder)
    before = (folder / FILE).stat().st_size
    assert before > 4_000_000
    found = command("compact", folder)
    assert (found.returncode, found.stderr) == (0, "")
    assert "MiB given back" in found.stdout
    assert (folder / FILE).stat().st_size < 200_000
    assert exported(folder) == lines
    assert command("check", folder).returncode == 0


async def test_a_file_of_a_later_version_is_left_alone(folder: Path) -> None:
    with closing(sqlite3.connect(folder / FILE)) as database:
        database.execute("PRAGMA user_version=99")
    found = command("check", folder)
    assert found.returncode == 1
    assert "later version" in found.stderr


async def test_what_is_given_up_behind_others_is_deleted_and_stays_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.start()
    log = store.log("a")
    for number in range(1000):
        log.append(b"x" * 100)
        if number % 100 == 99:
            await settled(store)
    for seq in range(101, 901):
        log.skip(seq)
    log.skip(500)
    assert (len(log), log.given_up, log.done_below) == (200, 800, 1)
    assert log.is_done(101)
    assert log.is_done(900)
    assert not log.is_done(901)
    await settled(store)
    assert (log.size, log.all_recorded) == (20_000, True)
    await store.stop()
    assert command("check", tmp_path).returncode == 0
    store = Store(tmp_path)
    store.start()
    log = store.log("a")
    assert (len(log), log.size, log.is_done(500)) == (200, 20_000, True)
    for seq in range(1, 101):
        log.done(seq)
    assert (len(log), log.done_below) == (100, 901)
    await store.stop()
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("SELECT recorded, length(done) FROM logs").fetchone() == (901, 0)


def test_spans_are_written_and_read() -> None:
    class Nowhere:
        def note(self, log: Log) -> None:
            pass

    log = Log(Nowhere(), State(1, "a", 100, 1, b"", b""))  # type: ignore[arg-type]
    for seq in (50, 51, 52, 10, 11, 3):
        log.skip(seq)
    log.done(20)
    state = log.state()
    assert ranges(state.done) == ([20], [[3, 4], [10, 12], [50, 53]])
    again = Log(Nowhere(), state)  # type: ignore[arg-type]
    assert len(again) == len(log) == 99 - 7
    for seq in [seq for seq in range(1, 60) if not again.is_done(seq)]:
        again.done(seq)
    assert (again.done_below, len(again)) == (60, 40)


def test_the_file_is_where_it_is_looked_for(tmp_path: Path) -> None:
    asyncio.run(filled(tmp_path))
    other = tmp_path / "copy"
    other.mkdir()
    shutil.copy(tmp_path / FILE, other / FILE)
    assert command("check", other).returncode == 0
