"""The store: what is told to be on disk is there after any end, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.errors import StoreError
from isthmus.store import database, reserve
from isthmus.store.database import FILE
from isthmus.store.reserve import Reserve
from isthmus.store.room import Room, no_room
from isthmus.store.schema import RETAINED, VERSION
from isthmus.store.statement import Row
from isthmus.store.store import Store
from isthmus.store.table import Table
from isthmus.store.transaction import FORGET_AT, Transaction
from isthmus.store.writer import Writer
from raw import until


def opened(folder: Path) -> tuple[Store, Table]:
    store = Store(folder)
    store.start()
    return store, store.table(RETAINED)


def row(topic: bytes, payload: bytes = b"x") -> Row:
    return (topic, 1, b"", payload, None, None, None, None)


async def kept(folder: Path) -> dict[bytes, bytes]:
    """What a store in `folder` has, by topic."""
    store, table = opened(folder)
    found = {topic: payload for topic, _, _, payload, *_ in table.rows()}
    await store.stop()
    return found


async def on_disk(table: Table) -> None:
    done = asyncio.Event()
    table.then(done.set)
    await done.wait()


async def test_rows_come_back_after_a_restart(tmp_path):
    store, table = opened(tmp_path)
    table.set((b"a/\xc3\xa4", 2, b"\x01\x00", b"\x00\xff", 12.5, "user", "client", "realm"))
    table.set(row(b"b"))
    await store.stop()
    store, table = opened(tmp_path)
    assert set(table.rows()) == {
        (b"a/\xc3\xa4", 2, b"\x01\x00", b"\x00\xff", 12.5, "user", "client", "realm"),
        row(b"b"),
    }
    await store.stop()


async def test_what_was_told_is_on_disk_before_the_end(tmp_path):
    store, table = opened(tmp_path)
    table.set(row(b"a", b"1"))
    await on_disk(table)
    # A copy of the files as they are now is what a crash would leave.
    other = tmp_path / "copy"
    other.mkdir()
    for suffix in ("", "-wal"):
        (other / (FILE + suffix)).write_bytes((tmp_path / (FILE + suffix)).read_bytes())
    assert await kept(other) == {b"a": b"1"}
    await store.stop()


async def test_changes_that_come_together_are_one_commit_and_the_last_one_counts(tmp_path):
    store, table = opened(tmp_path)
    for number in range(1000):
        table.set(row(b"a", b"%d" % number))
    table.set(row(b"b"))
    table.remove(b"b")
    await on_disk(table)
    assert store.commits == 1
    await store.stop()
    assert await kept(tmp_path) == {b"a": b"999"}


async def test_while_one_is_written_the_next_one_collects(tmp_path):
    store, table = opened(tmp_path)
    gate = threading.Event()
    store._writer.submit(gate.wait)
    told: list[int] = []
    table.set(row(b"a", b"1"))
    table.then(lambda: told.append(1))
    await asyncio.sleep(0.02)
    for number in range(2, 100):
        table.set(row(b"a", b"%d" % number))
        table.then(lambda number=number: told.append(number))
        await asyncio.sleep(0)
    assert told == []
    gate.set()
    await until(lambda: len(told) == 99)
    assert told == list(range(1, 100))
    assert store.commits == 2
    await store.stop()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.one_of(st.none(), st.binary(max_size=5)))
        | st.sampled_from(["wait", "restart"]),
        max_size=20,
    )
)
def test_it_is_a_dictionary_that_outlives_its_process(tmp_path_factory, steps):
    async def play() -> None:
        folder = tmp_path_factory.mktemp("store")
        store, table = opened(folder)
        model: dict[bytes, bytes] = {}
        for step in steps:
            if step == "wait":
                await on_disk(table)
            elif step == "restart":
                await store.stop()
                store, table = opened(folder)
            else:
                topic, payload = step
                if payload is None:
                    table.remove(topic)
                    model.pop(topic, None)
                else:
                    table.set(row(topic, payload))
                    model[topic] = payload
        await store.stop()
        assert await kept(folder) == model

    asyncio.run(play())


async def test_a_failed_write_is_told_to_nobody_and_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.05)
    store, table = opened(tmp_path)
    write = Writer.write
    failing = True

    def fail(self: Writer, *what: object) -> object:
        if failing:
            self.close()
            raise sqlite3.OperationalError("disk I/O error")
        return write(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "write", fail)
    told = asyncio.Event()
    table.set(row(b"a", b"1"))
    table.then(told.set)
    await until(lambda: store.failure is not None)
    table.set(row(b"b", b"2"))
    await asyncio.sleep(0.2)
    assert not told.is_set()
    assert str(tmp_path) in (store.failure or "")
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1
    failing = False
    await asyncio.wait_for(told.wait(), 5)
    assert store.failure is None
    await store.stop()
    assert await kept(tmp_path) == {b"a": b"1", b"b": b"2"}


def held(monkeypatch: pytest.MonkeyPatch, name: str, answers: threading.Event) -> threading.Event:
    """Have that method of the writer wait for `answers`; what is set when the first call waits."""
    begun = threading.Event()
    method = getattr(Writer, name)

    def wait(*what: object) -> object:
        begun.set()
        assert answers.wait(30)
        return method(*what)

    monkeypatch.setattr(Writer, name, wait)
    return begun


async def test_a_disk_that_does_not_answer_is_said_and_so_is_its_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("isthmus.store.stall.STALL_S", 0.2)
    store, table = opened(tmp_path)
    answers = threading.Event()
    held(monkeypatch, "write", answers)
    told = asyncio.Event()
    table.set(row(b"a", b"1"))
    table.then(told.set)
    await until(lambda: store.failure is not None)
    assert store.failure == f"{tmp_path / FILE}: the disk has not answered for 0.2 s"
    await asyncio.sleep(0.5)
    assert not told.is_set()
    assert [one.levelno for one in caplog.records] == [logging.ERROR]
    answers.set()
    await asyncio.wait_for(told.wait(), 5)
    assert store.failure is None
    assert "the disk answers again, after " in caplog.text
    monkeypatch.setattr("isthmus.store.stall.STALL_S", 1.0)
    for number in range(25):  # for longer than that; none of them is a stall by itself
        table.set(row(b"a", b"%d" % number))
        await on_disk(table)
        await asyncio.sleep(0.05)
    assert len(caplog.records) == 2
    await store.stop()
    assert await kept(tmp_path) == {b"a": b"24"}


async def test_a_stall_behind_a_stall_is_said_too(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("isthmus.store.stall.STALL_S", 0.2)
    store, table = opened(tmp_path)
    log = store.log("a")
    log.append(b"record")
    await on_disk(table)
    may_read, may_write, told = threading.Event(), threading.Event(), asyncio.Event()
    held(monkeypatch, "read", may_read)
    held(monkeypatch, "write", may_write)
    found = asyncio.get_running_loop().create_future()
    log.load(1, 1, found.set_result)
    table.set(row(b"a", b"1"))
    table.then(told.set)
    await until(lambda: store.failure is not None)
    may_read.set()
    assert (await found)[0].records == [b"record"]
    assert store.failure is None
    await until(lambda: store.failure is not None)
    may_write.set()
    await told.wait()
    assert store.failure is None
    assert [one.levelname for one in caplog.records] == ["ERROR", "WARNING"] * 2
    await store.stop()


async def test_the_end_of_a_stall_is_no_room_on_the_disk(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("isthmus.store.stall.STALL_S", 0.2)
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 60)
    store, table = opened(tmp_path)
    log = store.log("a")
    log.append(b"record")
    await on_disk(table)

    def fail(*_: object) -> None:
        raise no_room()

    with monkeypatch.context() as full:
        for name in ("write", "write_part", "make_room"):
            full.setattr(Writer, name, fail)
        table.set(row(b"a"))
        table.then(lambda: None)
        await until(lambda: store.failure is not None)
    why = store.failure
    assert "the disk is full" in (why or "")
    may_read = threading.Event()
    held(monkeypatch, "read", may_read)
    found = asyncio.get_running_loop().create_future()
    log.load(1, 1, found.set_result)
    await until(lambda: store.failure != why)
    assert store.failure == f"{tmp_path / FILE}: the disk has not answered for 0.2 s"
    may_read.set()
    await found
    assert store.failure == why
    assert [one.levelname for one in caplog.records] == ["ERROR", "ERROR", "WARNING"]
    await store.stop()
    assert set(await kept(tmp_path)) == {b"a"}


async def test_a_process_that_was_stopped_itself_takes_nothing_for_a_stall(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("isthmus.store.stall.STALL_S", 2.0)
    store, table = opened(tmp_path)
    answers = threading.Event()
    begun = held(monkeypatch, "write", answers)
    table.set(row(b"a"))
    table.then(lambda: None)
    await until(begun.is_set)
    time.sleep(2.5)  # noqa: ASYNC251 - nothing of the loop runs meanwhile
    # By then the loop has looked: it was due to do so during the sleep.
    asyncio.get_running_loop().call_later(0.1, answers.set)
    await on_disk(table)
    assert not caplog.records
    await store.stop()


async def test_a_callback_that_fails_does_not_stop_the_others(tmp_path, caplog):
    store, table = opened(tmp_path)

    def fail() -> None:
        raise ValueError("oops")

    table.then(fail)
    await on_disk(table)
    table.set(row(b"a"))
    await on_disk(table)
    assert "oops" in caplog.text
    await store.stop()


async def test_a_store_that_cannot_write_ends_all_the_same(tmp_path, monkeypatch):
    store, table = opened(tmp_path)

    def fail(self: Writer, *what: object) -> object:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Writer, "write", fail)
    table.set(row(b"a"))
    await until(lambda: store.failure is not None)
    async with asyncio.timeout(2):
        await store.stop()


async def test_the_reserve_is_given_up_when_the_disk_is_full_and_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.05)
    store, table = opened(tmp_path)
    kept = tmp_path / reserve.FILE
    assert kept.stat().st_size == Reserve(tmp_path).size
    held = []

    def copy(connection: sqlite3.Connection, path: Path) -> None:
        """A disk on which only the reserve leaves room for the log in the file."""
        held.append(kept.exists())
        if kept.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        database.synchronise(connection, path)

    monkeypatch.setattr("isthmus.store.room.synchronise", copy)
    monkeypatch.setattr(Room, "check", no_room_at_once)
    table.set(row(b"a"))
    await on_disk(table)
    assert held[:2] == [True, False]
    assert store.failure is None
    assert kept.exists()
    await store.stop()


async def test_a_start_without_any_room_reads_and_heals(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.05)
    store, table = opened(tmp_path)
    table.set(row(b"a"))
    await on_disk(table)
    files = {path: path.read_bytes() for path in tmp_path.glob(f"{FILE}*")}
    await store.stop()
    for path, data in files.items():
        path.write_bytes(data)
    with monkeypatch.context() as full:

        def fail(*_: object) -> None:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        full.setattr(database, "synchronise", fail)
        full.setattr("isthmus.store.room.synchronise", fail)
        store, table = opened(tmp_path)
        assert "the disk is full" in (store.failure or "")
        assert [found[0] for found in table.rows()] == [b"a"]
        told = asyncio.Event()
        table.set(row(b"b"))
        table.then(told.set)
        await asyncio.sleep(0.2)
        assert not told.is_set()
        assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1
    await asyncio.wait_for(told.wait(), 5)
    assert store.failure is None
    await store.stop()
    assert set(await kept(tmp_path)) == {b"a", b"b"}


def no_room_at_once(*_: object) -> None:
    raise no_room()


def test_without_room_there_is_no_reserve(tmp_path, monkeypatch):
    def none_left(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", none_left)
    reserve = Reserve(tmp_path)
    assert not reserve.take()
    assert not reserve.held


OPENED = """
import sys
from pathlib import Path
from isthmus.errors import StoreError
from isthmus.store.database import open_database
try:
    open_database(Path(sys.argv[1]))
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("before", ["new", "closed", "killed"])
async def test_a_second_process_is_refused(tmp_path, before):
    if before != "new":
        store, table = opened(tmp_path)
        table.set(row(b"a"))
        await on_disk(table)
        files = {path: path.read_bytes() for path in tmp_path.glob(f"{FILE}*")}
        await store.stop()
        if before == "killed":  # its log is still there
            for path, data in files.items():
                path.write_bytes(data)
    store, _ = opened(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPENED, str(tmp_path / FILE), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert "isthmus.db is in use by another process" in output.decode()
    await store.stop()


async def test_no_database_is_moved_aside(tmp_path, caplog):
    (tmp_path / FILE).write_bytes(b"this is no database, but somebody may need it\n" * 100)
    assert await kept(tmp_path) == {}
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")
    assert str(aside) in caplog.text


async def test_damaged_rows_are_moved_aside(tmp_path, caplog):
    store, table = opened(tmp_path)
    for number in range(2000):
        table.set(row(b"t/%d" % number, b"p" * 100))
    await store.stop()
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    for at in range(8192, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    path.write_bytes(data)
    assert await kept(tmp_path) == {}
    assert len(list(tmp_path.glob(f"{FILE}.damaged-*"))) == 1
    assert "is damaged" in caplog.text


async def test_a_file_of_a_later_version_is_refused_and_stays(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(StoreError, match="later version"):
        opened(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


async def test_the_file_is_for_its_owner_only(tmp_path):
    store, _ = opened(tmp_path)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    await store.stop()


# -- what befalls the file while it is in use ------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "replaced", "folder"])
async def test_a_file_that_goes_is_made_anew_from_memory(tmp_path, monkeypatch, caplog, how):
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.05)
    folder = tmp_path / "data"
    folder.mkdir()
    store, table = opened(folder)
    table.refill = lambda: [row(b"a", b"1"), row(b"b", b"2"), row(b"c", b"3")]
    table.set(row(b"a", b"1"))
    table.set(row(b"b", b"2"))
    await on_disk(table)
    if how == "deleted":
        (folder / FILE).unlink()
    elif how == "replaced":
        (folder / FILE).rename(folder / "taken")
        (folder / FILE).write_bytes(b"something else" * 1000)
    else:
        folder.rename(tmp_path / "moved")
        asyncio.get_running_loop().call_later(0.2, folder.mkdir)
    table.set(row(b"c", b"3"))
    await on_disk(table)
    assert store.failure is None
    assert "was put in its place" in caplog.text or "has gone" in caplog.text
    await store.stop()
    if how != "folder":
        # What was not copied into the file is not deleted.
        (log,) = folder.glob(f"{FILE}.damaged-*-wal")
        assert log.stat().st_size > 4096
    assert await kept(folder) == {b"a": b"1", b"b": b"2", b"c": b"3"}


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_log_that_goes_is_begun_anew_and_nothing_is_lost(tmp_path, caplog, how):
    store, table = opened(tmp_path)  # which could not be filled from memory
    table.set(row(b"a", b"1"))
    await on_disk(table)
    file = (tmp_path / FILE).stat().st_ino
    log = tmp_path / f"{FILE}-wal"
    log.unlink()
    if how == "replaced":
        log.write_bytes(b"something else" * 1000)
    table.set(row(b"b", b"2"))
    await on_disk(table)
    table.set(row(b"c", b"3"))
    await on_disk(table)
    assert store.failure is None
    (error,) = [found.getMessage() for found in caplog.records if found.levelname == "ERROR"]
    assert "has gone" in error
    assert "copied to the file" in error
    other = tmp_path / "as-a-kill-would-leave-it"
    other.mkdir()
    for path in tmp_path.glob(f"{FILE}*"):
        (other / path.name).write_bytes(path.read_bytes())
    assert await kept(other) == {b"a": b"1", b"b": b"2", b"c": b"3"}
    await store.stop()
    assert (tmp_path / FILE).stat().st_ino == file
    assert not list(tmp_path.glob("*.damaged-*"))
    assert await kept(tmp_path) == {b"a": b"1", b"b": b"2", b"c": b"3"}


@pytest.mark.parametrize("how", ["overwritten", "cut short"])
async def test_a_file_that_is_damaged_while_it_is_used_is_made_anew_from_memory(
    tmp_path, caplog, how
):
    store, table = opened(tmp_path)
    rows = [row(b"t/%04d" % number, b"p" * 200) for number in range(4000)]
    table.refill = lambda: rows
    for one in rows:
        table.set(one)
    await on_disk(table)
    await store.stop()
    store, table = opened(tmp_path)
    table.refill = lambda: rows
    path = tmp_path / FILE
    if how == "cut short":
        os.truncate(path, path.stat().st_size // 2)
    else:
        data = bytearray(path.read_bytes())
        for at in range(8192, len(data), 4096):
            data[at : at + 64] = b"\xff" * 64
        path.write_bytes(data)  # the same file, other bytes: what a bad disk does
    table.set(rows[2000])
    await on_disk(table)
    assert "is damaged" in caplog.text
    if how == "cut short":
        assert "something has cut it short" in caplog.text
    await store.stop()
    assert await kept(tmp_path) == {topic: payload for topic, _, _, payload, *_ in rows}
    assert len(list(tmp_path.glob(f"{FILE}.damaged-*"))) >= 1


async def test_after_a_failed_write_everything_is_synchronised_anew(tmp_path, monkeypatch):
    """What was in the log may not be on disk though the system calls its pages clean."""
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.01)
    store, table = opened(tmp_path)
    table.set(row(b"a", b"1"))
    await on_disk(table)
    assert (tmp_path / f"{FILE}-wal").stat().st_size > 0
    execute = Writer._execute
    sizes = []

    def fail_once(self: Writer, *what: object) -> None:
        sizes.append((tmp_path / f"{FILE}-wal").stat().st_size)
        if len(sizes) == 1:
            raise sqlite3.OperationalError("disk I/O error")
        execute(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "_execute", fail_once)
    table.set(row(b"b", b"2"))
    await on_disk(table)
    assert sizes[0] > 0
    assert sizes[1] == 0  # copied into the file, which was synchronised
    await store.stop()
    assert await kept(tmp_path) == {b"a": b"1", b"b": b"2"}


async def test_every_commit_is_synchronised_before_it_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SYNCHRONISED)
    trace = tmp_path / "trace"
    process = await asyncio.create_subprocess_exec(
        "strace", "-f", "-o", str(trace), "-e", "trace=fdatasync,fsync,access",
        sys.executable, str(script), str(tmp_path),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    calls = [line for line in trace.read_text().splitlines() if "/mark" in line or "sync(" in line]
    marks = [index for index, line in enumerate(calls) if "/mark" in line]
    assert len(marks) == 4
    for begin, end in pairwise(marks[:3]):
        assert [line for line in calls[begin:end] if "fdatasync(" in line]
    # Of what nobody waits for, many changes are one commit.
    assert len([line for line in calls[marks[2] : marks[3]] if "fdatasync(" in line]) == 1


SYNCHRONISED = """
import asyncio, os, sys
from pathlib import Path
from isthmus.store.schema import RETAINED
from isthmus.store.store import Store

async def main():
    store = Store(Path(sys.argv[1]))
    store.start()
    table = store.table(RETAINED)
    os.access("/mark1", os.F_OK)
    for number in (1, 2):
        done = asyncio.Event()
        table.set((b"a", 0, b"", b"%d" % number, None, None, None, None))
        table.then(done.set)
        await done.wait()
        os.access(f"/mark{1 + number}", os.F_OK)
    for number in range(100):
        table.set((b"a/%d" % number, 0, b"", b"1", None, None, None, None))
        await asyncio.sleep(0)
    while store.commits < 3:
        await asyncio.sleep(0.001)
    os.access("/mark4", os.F_OK)
    await store.stop()

asyncio.run(main())
"""


async def test_a_row_that_does_not_fit_is_left_out_and_the_others_are_kept(tmp_path, caplog):
    store, table = opened(tmp_path)
    for number in range(20):
        table.set(row(b"t/%d" % number))
    table.set((b"bad", 1, b"", b"", None, "lone \ud800", "c", ""))
    table.set((b"big", 1 << 70, b"", b"", None, None, None, None))
    await on_disk(table)
    assert store.failure is None
    assert len([one for one in caplog.records if "was left out" in one.message]) == 2
    await store.stop()
    assert len(await kept(tmp_path)) == 20


async def test_while_nothing_can_be_written_memory_is_bounded(tmp_path, monkeypatch):
    store, table = opened(tmp_path)
    table.set(row(b"old"))
    await on_disk(table)
    gate = threading.Event()
    store._writer.submit(gate.wait)
    table.set(row(b"first"))
    await asyncio.sleep(0.01)  # this one is on its way
    for number in range(10_000):
        table.set(row(b"t/%d" % number), known=False)
        table.remove(b"t/%d" % number)
    table.remove(b"old")
    table.remove(b"first")
    assert store.change().changes == {table: {b"old": None, b"first": None}}
    gate.set()
    await store.stop()
    assert await kept(tmp_path) == {}


async def test_a_disk_that_does_not_answer_does_not_keep_the_process(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("isthmus.store.store.LONGEST_END_S", 0.2)
    store, table = opened(tmp_path)
    gate = threading.Event()
    store._writer.submit(gate.wait)
    table.set(row(b"a"))
    async with asyncio.timeout(3):
        await store.stop()
    assert "1 change(s) were not written" in caplog.text
    assert "is left open" in caplog.text
    gate.set()


@pytest.mark.parametrize("failing", ["folder", "rename"])
async def test_a_start_that_fails_says_why_and_leaves_nothing_open(tmp_path, monkeypatch, failing):
    if failing == "folder":
        (tmp_path / FILE).mkdir()
    else:
        (tmp_path / FILE).write_bytes(b"no database" * 1000)

        def refuse(*_: object) -> None:
            raise OSError(13, "Permission denied")

        monkeypatch.setattr(Path, "rename", refuse)
    threads = threading.active_count()
    store = Store(tmp_path)
    with pytest.raises(StoreError, match=r"isthmus\.db"):
        store.start()
    await store.stop()
    assert threading.active_count() <= threads + 1  # the loop's pool has one


def test_a_reserve_that_is_too_small_is_taken_anew(tmp_path):
    (tmp_path / reserve.FILE).write_bytes(b"x")
    found = Reserve(tmp_path)
    assert not found.held
    assert found.take()
    assert found.held


def test_a_reserve_in_a_folder_that_has_gone_is_none(tmp_path):
    found = Reserve(tmp_path / "gone")
    assert not found.take()
    assert not found.give_up()


def test_a_removed_fresh_row_leaves_no_trace_in_its_transaction():
    transaction = Transaction()
    table = Table(None, RETAINED)  # type: ignore[arg-type]
    transaction.set(table, row(b"a"), fresh=True)
    transaction.set(table, row(b"a", b"2"), fresh=False)
    transaction.remove(table, b"a")
    assert transaction.changes == {table: {}}
    transaction.remove(table, b"a")
    assert transaction.changes == {table: {b"a": None}}


# -- what a second look found ----------------------------------------------------------------------


async def test_a_start_does_not_trust_the_log_of_the_process_before(tmp_path):
    """Its last synchronisation may have failed, and what comes behind it would be lost with it."""
    store, table = opened(tmp_path)
    table.set(row(b"a", b"1"))
    await on_disk(table)
    files = {path: path.read_bytes() for path in tmp_path.glob(f"{FILE}*")}
    await store.stop()
    for path, data in files.items():
        path.write_bytes(data)
    log = tmp_path / f"{FILE}-wal"
    assert log.stat().st_size > 0
    store, table = opened(tmp_path)
    assert log.stat().st_size == 0  # all of it is in the file, which was synchronised
    assert [one[0] for one in table.rows()] == [b"a"]
    await store.stop()


async def test_what_is_removed_while_a_lost_file_is_written_anew_stays_removed(
    tmp_path, monkeypatch
):
    store, table = opened(tmp_path)
    rows = {b"a": row(b"a")}
    table.refill = lambda: list(rows.values())
    table.set(rows[b"a"])
    await on_disk(table)
    gate = threading.Event()
    store._writer.submit(gate.wait)
    (tmp_path / FILE).unlink()
    table.set(rows[b"a"])
    table.then(lambda: None)
    await asyncio.sleep(0.01)  # this one is being written
    rows[b"b"] = row(b"b")
    table.set(rows[b"b"], known=False)
    begun = asyncio.Event()
    everything = Store._everything

    def refill(self: Store, transaction: Transaction) -> Transaction:
        begun.set()
        return everything(self, transaction)

    monkeypatch.setattr(Store, "_everything", refill)
    gate.set()
    await begun.wait()
    del rows[b"b"]
    table.remove(b"b")
    await on_disk(table)
    await store.stop()
    assert await kept(tmp_path) == {b"a": b"x"}


@pytest.mark.parametrize("before", ["deleted", "replaced"])
async def test_a_new_file_that_finds_no_room_is_made_when_there_is_some(
    tmp_path, monkeypatch, before
):
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.02)
    store, table = opened(tmp_path)
    table.refill = lambda: [row(b"a"), row(b"b")]
    table.set(row(b"a"))
    await on_disk(table)
    full = True
    prepare = database._prepare

    def no_room(path: Path) -> sqlite3.Connection:
        connection = prepare(path)
        if full:
            connection.close()
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return connection

    monkeypatch.setattr(database, "_prepare", no_room)
    if before == "deleted":
        (tmp_path / FILE).unlink()
    else:
        (tmp_path / FILE).rename(tmp_path / "taken")
    table.set(row(b"b"))
    told = asyncio.Event()
    table.then(told.set)
    await until(lambda: store.failure is not None)
    await asyncio.sleep(0.2)
    assert "the disk is full" in (store.failure or "")
    assert not told.is_set()
    assert not (tmp_path / reserve.FILE).exists()  # it was given up for this
    full = False
    await asyncio.wait_for(told.wait(), 5)
    # Once, however often it was tried: what was not copied into the file that has gone.
    (log,) = tmp_path.glob("*.damaged-*")
    assert log.name.endswith("-wal")
    await store.stop()
    assert set(await kept(tmp_path)) == {b"a", b"b"}


async def test_the_end_makes_a_last_attempt(tmp_path, monkeypatch):
    store, table = opened(tmp_path)
    write = Writer.write
    failing = True

    def fail(self: Writer, *what: object) -> object:
        if failing:
            raise sqlite3.OperationalError("disk I/O error")
        return write(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "write", fail)
    table.set(row(b"a"))
    table.then(lambda: None)
    await until(lambda: store.failure is not None)
    failing = False  # long before the next attempt is due
    async with asyncio.timeout(0.9):
        await store.stop()
    assert await kept(tmp_path) == {b"a": b"x"}


async def test_those_who_gave_up_waiting_are_forgotten(tmp_path):
    store, table = opened(tmp_path)
    gate = threading.Event()
    store._writer.submit(gate.wait)
    table.set(row(b"a"))
    table.then(lambda: None)
    await asyncio.sleep(0.01)
    told: list[int] = []
    for number in range(100_000):
        table.then(lambda number=number: told.append(number), needed=lambda: False)
    assert len(store._open.callbacks()) <= FORGET_AT
    table.then(lambda: told.append(-1))
    gate.set()
    await until(lambda: -1 in told)
    await store.stop()
