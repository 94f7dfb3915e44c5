"""A transaction that is written in parts, as the disk is full, and what is written ahead of it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_logs import loaded, opened, settled

from isthmus.store import room
from isthmus.store.batch import FULL_BYTES
from isthmus.store.database import FILE
from isthmus.store.log import SPAN, State, ranges, without
from isthmus.store.schema import RECEIVED
from isthmus.store.transaction import Transaction
from isthmus.store.writer import Writer
from raw import until


class Disk:
    """Takes `parts` parts of transactions, and whatever deletes; whole transactions never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
        self.parts = parts
        self.taken: list[list[Any]] = []
        write = Writer.write_part

        def write_part(writer: Writer, statements: list[Any], question: str = "") -> Any:
            if not self.parts:
                raise room.no_room()
            self.parts -= 1
            self.taken.append(statements)
            return write(writer, statements, question)

        def check(*_: object) -> None:
            raise room.no_room()

        monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.02)
        monkeypatch.setattr(Writer, "write_part", write_part)
        monkeypatch.setattr(room.Room, "check", check)


def on_disk(folder: Path, query: str) -> list[Any]:
    """What a crash would leave now: the files as they were at one moment, though they change."""
    copy = folder / "copy"
    copy.mkdir(exist_ok=True)

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob(f"{FILE}*")}

    found = files()
    while (again := files()) != found:
        found = again
    for name, data in found.items():
        (copy / name).write_bytes(data)
    connection = sqlite3.connect(copy / FILE)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_as_much_is_on_disk_as_there_is_room_for_and_the_rest_follows(tmp_path, monkeypatch):
    store = await opened(tmp_path)
    log = store.log("a")
    disk = Disk(monkeypatch, 2)
    told = asyncio.Event()
    for number in range(4):
        log.append(b"%d" % number + bytes(FULL_BYTES))
    store.then(told.set)
    await until(lambda: store.failure is not None)
    assert log.stored == 3
    assert (await loaded(log))[1] == [b"%d" % n + bytes(FULL_BYTES) for n in range(2)]
    assert log.unstored_bytes == 2 * (FULL_BYTES + 1)
    assert log.size == 4 * (FULL_BYTES + 1)
    assert on_disk(tmp_path, "SELECT next FROM logs") == [(3,)]
    # What is done is recorded, and deleted, before there is room for anything new.
    log.done(1)
    await until(lambda: not log.unrecorded)
    assert on_disk(tmp_path, "SELECT recorded FROM logs") == [(2,)]
    assert on_disk(tmp_path, "SELECT seq FROM slices") == [(2,)]
    assert not told.is_set()
    log.done(2)
    disk.parts = 2
    await told.wait()
    assert store.failure is None
    disk.parts = 1
    await settled(store)  # what was done meanwhile
    assert (log.stored, log.unrecorded, log.unstored_bytes) == (5, 0, 0)
    await store.stop()
    store = await opened(tmp_path)
    log = store.log("a")
    assert (log.done_below, log.next) == (3, 5)
    assert (await loaded(log, 3))[1] == [b"%d" % n + bytes(FULL_BYTES) for n in (2, 3)]
    await store.stop()


async def test_a_row_is_written_with_the_records_of_its_turn(tmp_path, monkeypatch):
    """An identifier of QoS 2 is on disk with all of its message, or not at all."""
    store = await opened(tmp_path)
    received = store.table(RECEIVED)
    one, two = store.log("one"), store.log("two")
    await settled(store)
    disk = Disk(monkeypatch, 0)
    for number in range(4):
        one.append(b"first %d" % number + bytes(FULL_BYTES))
        two.append(b"second %d" % number + bytes(FULL_BYTES))  # another batch
        received.set((b"client\0%02d" % number,))
        await asyncio.sleep(0)
    await until(lambda: store.failure is not None)
    for parts in range(1, 4):
        disk.parts = 1
        await until(lambda: not disk.parts)
        await until(lambda parts=parts: one.stored == parts + 1)
        rows = on_disk(tmp_path, "SELECT count(*) FROM received")[0][0]
        assert on_disk(tmp_path, "SELECT next FROM logs") == [(rows + 1,), (rows + 1,)]
    disk.parts = 9
    await settled(store)
    assert len(received.rows()) == 4
    await store.stop()


async def test_rows_that_come_and_go_while_there_is_no_room_leave_nothing(tmp_path, monkeypatch):
    """Else who connects again and again would fill the memory."""
    store = await opened(tmp_path)
    received, log = store.table(RECEIVED), store.log("a")
    await settled(store)
    Disk(monkeypatch, 0)
    log.append(bytes(FULL_BYTES))
    store.then(lambda: None)
    await until(lambda: store.failure is not None)
    for _ in range(2):
        log.append(bytes(FULL_BYTES))
    for number in range(100):
        received.set((b"client\0%02d" % number,), known=False)
        received.remove(b"client\0%02d" % number)
    assert not store.change()._places
    assert not store.change().changes[received]
    await store.stop()


async def test_what_has_moved_is_not_done_before_it_is_there(tmp_path, monkeypatch):
    """A dead letter leaves its outbox and comes to the others in one transaction, or not at all."""
    store = await opened(tmp_path)
    outbox, dead = store.log("outbox"), store.log("dead")
    for number in range(5):
        outbox.append(b"%d" % number)
    await settled(store)
    disk = Disk(monkeypatch, 0)
    dead.append(b"1")
    outbox.move(2, dead)
    for seq in (1, 2, 3, 5):
        outbox.done(seq)
    await until(lambda: on_disk(tmp_path, "SELECT recorded FROM logs WHERE id=1") == [(2,)])
    (done,) = on_disk(tmp_path, "SELECT done FROM logs WHERE id=1")[0]
    assert ranges(done) == ([5], [[3, 4]])
    assert outbox.unrecorded
    disk.parts = 9
    await settled(store)
    assert not outbox.unrecorded
    state, copies = on_disk(tmp_path, "SELECT recorded, next FROM logs ORDER BY id")
    assert state == (4, 6)
    assert copies == (1, 2)
    await store.stop()


async def test_a_log_that_is_deleted_makes_room_first(tmp_path, monkeypatch):
    store = await opened(tmp_path)
    gone, other = store.log("gone"), store.log("other")
    gone.append(bytes(FULL_BYTES))
    await settled(store)
    disk = Disk(monkeypatch, 0)
    other.append(bytes(FULL_BYTES))
    await until(lambda: store.failure is not None)
    gone.drop()
    await until(lambda: on_disk(tmp_path, "SELECT count(*) FROM batches") == [(0,)])
    disk.parts = 1
    await until(lambda: store.failure is None)
    monkeypatch.undo()
    await settled(store)
    assert on_disk(tmp_path, "SELECT name FROM logs") == [("other",)]
    await store.stop()


async def test_a_log_that_is_deleted_and_made_anew_does_not_stop_the_store(tmp_path, monkeypatch):
    """A client starts clean while the disk is full, or a share group ends and begins again."""
    store = await opened(tmp_path)
    gone, other = store.log("gone"), store.log("other")
    gone.append(bytes(FULL_BYTES))
    await settled(store)
    disk = Disk(monkeypatch, 0)
    other.append(bytes(FULL_BYTES))
    await until(lambda: store.failure is not None)
    gone.drop()
    again = store.log("gone")
    again.append(b"new")
    await until(lambda: on_disk(tmp_path, "SELECT count(*) FROM batches") == [(0,)])
    disk.parts = 9
    async with asyncio.timeout(20):
        await settled(store)
    assert store.failure is None
    assert on_disk(tmp_path, "SELECT name, next FROM logs ORDER BY id") == [
        ("other", 2),
        ("gone", 2),
    ]
    assert (await loaded(again))[1] == [b"new"]
    await store.stop()


async def test_the_first_part_with_a_new_log_deletes_the_old_one_of_its_name(tmp_path, monkeypatch):
    store = await opened(tmp_path)
    gone, other = store.log("gone"), store.log("other")
    gone.append(bytes(FULL_BYTES))
    await settled(store)
    disk = Disk(monkeypatch, 0)
    other.append(bytes(FULL_BYTES))
    await until(lambda: store.failure is not None)
    gone.drop()
    again = store.log("gone")
    for number in range(2):
        again.append(b"%d" % number + bytes(FULL_BYTES))
    disk.parts = 2  # one for what has waited first, the other for the first record of the new log
    await until(lambda: not disk.parts and store.failure is not None and again.stored == 2)
    assert on_disk(tmp_path, "SELECT name, next FROM logs ORDER BY id") == [
        ("other", 2),
        ("gone", 2),
    ]
    assert on_disk(tmp_path, "SELECT DISTINCT log FROM slices ORDER BY log") == [(2,), (3,)]
    disk.parts = 9
    async with asyncio.timeout(20):
        await settled(store)
    assert (await loaded(again))[1] == [b"%d" % n + bytes(FULL_BYTES) for n in range(2)]
    await store.stop()


async def test_what_cannot_be_written_ahead_does_not_keep_the_rest_back(
    tmp_path, monkeypatch, caplog
):
    store = await opened(tmp_path)
    log = store.log("a")
    log.append(b"one")
    await settled(store)
    disk = Disk(monkeypatch, 0)
    tries = 0

    def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise sqlite3.IntegrityError("something is wrong")

    monkeypatch.setattr(Writer, "make_room", fail)
    log.append(bytes(FULL_BYTES))
    await until(lambda: tries > 2)
    # Two reasons in turn, and each is said once.
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 2
    disk.parts = 9
    async with asyncio.timeout(20):
        await settled(store)
    assert store.failure is None
    await store.stop()


@pytest.mark.parametrize("failure", [sqlite3.IntegrityError("wrong"), room.no_room()])
async def test_after_a_write_ahead_that_failed_nothing_is_tried_before_the_pause_is_over(
    tmp_path, monkeypatch, failure
):
    store = await opened(tmp_path)
    log = store.log("a")
    for _ in range(50):
        log.append(b"message")
    await settled(store)
    Disk(monkeypatch, 0)
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 60.0)
    tries = 0

    def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise failure

    monkeypatch.setattr(Writer, "make_room", fail)
    log.append(bytes(FULL_BYTES))
    await until(lambda: store.failure is not None and store._retry is not None)
    for seq in range(1, 50):
        log.done(seq)
        store.hurry()
        await asyncio.sleep(0.005)
    await until(lambda: store._ahead is None and store._retry is not None)
    assert tries == 1
    monkeypatch.undo()
    await store.settle()
    assert store.failure is None
    await store.stop()


async def test_what_moves_to_a_log_that_is_deleted_does_not_keep_the_room_of_others(
    tmp_path, monkeypatch
):
    """A share group gives a message to a session, and that ends: no copy of it will come."""
    store = await opened(tmp_path)
    group, gone, other = store.log("group"), store.log("gone"), store.log("other")
    for _ in range(2):
        group.append(b"message")
    gone.append(bytes(FULL_BYTES))
    await settled(store)
    disk = Disk(monkeypatch, 0)
    other.append(bytes(FULL_BYTES))
    group.done(1)
    await until(lambda: store.failure is not None)
    gone.append(b"message")
    group.move(2, gone)
    group.done(2)
    recorded = "SELECT recorded FROM logs WHERE name='group'"
    await until(lambda: on_disk(tmp_path, recorded) == [(2,)])
    gone.drop()
    await until(lambda: on_disk(tmp_path, "SELECT count(*) FROM batches") == [(0,)])
    assert on_disk(tmp_path, recorded) == [(3,)]
    # What was to be written before the log was deleted does not take that back.
    commits = store.commits
    disk.parts = 1
    await until(lambda: store.commits == commits + 1)
    assert on_disk(tmp_path, recorded) == [(3,)]
    disk.parts = 9
    async with asyncio.timeout(20):
        await settled(store)
    assert (len(group), group.unrecorded) == (0, 0)
    await store.stop()


async def test_what_was_written_though_its_synchronisation_failed_is_written_once(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("isthmus.store.store.RETRY_S", 0.02)
    store = await opened(tmp_path)
    log = store.log("a")
    write = Writer.write
    failures = 1

    def fail(writer: Writer, *what: Any) -> Any:
        nonlocal failures
        found = write(writer, *what)
        if failures:
            failures -= 1
            writer.close()
            raise sqlite3.OperationalError("disk I/O error")
        return found

    monkeypatch.setattr(Writer, "write", fail)
    log.append(b"one")
    log.append(b"two")
    async with asyncio.timeout(5):
        await settled(store)
    assert (await loaded(log))[1] == [b"one", b"two"]
    assert log.size == 6
    await store.stop()


def test_the_parts_of_a_transaction_are_all_of_it():
    transaction = Transaction()
    transaction.split()
    assert list(transaction.parts or ()) == [range(0)]
    assert transaction.statements(1) == []


@given(
    recorded=st.integers(1, 12),
    done=st.sets(st.integers(1, 30)),
    first=st.integers(12, 20),
    length=st.integers(0, 8),
    moved=st.sets(st.integers(1, 30), min_size=1),
)
def test_without_some_records_the_others_stay_done(recorded, done, first, length, moved):
    span = [SPAN | first, first + length] if length else []
    data = b"".join(n.to_bytes(8, "little") for n in [*sorted(done), *span])
    state = State(1, "a", 40, recorded, data)

    def those_of(found: State) -> set[int]:
        singles, spans = ranges(found.done)
        return {
            seq
            for seq in range(1, 40)
            if seq < found.recorded or seq in singles or any(a <= seq < b for a, b in spans)
        }

    assert those_of(without(state, sorted(moved))) == those_of(state) - moved
