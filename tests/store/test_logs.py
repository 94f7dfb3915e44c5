"""Logs of the store: what is told to be on disk is there after any end, and in order."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.errors import StoreError
from isthmus.store.batch import SUMMED
from isthmus.store.database import FILE, open_database
from isthmus.store.log import Log, Part
from isthmus.store.store import Store
from raw import until


async def opened(folder: Path) -> Store:
    store = Store(folder)
    store.start()
    return store


async def parts(log: Log, seq: int, max_bytes: int) -> list[Part]:
    future: asyncio.Future[list[Part] | None] = asyncio.get_running_loop().create_future()
    log.load(seq, max_bytes, future.set_result)
    found = await future
    assert found is not None
    return found


async def loaded(log: Log, seq: int = 1, max_bytes: int = 1 << 20) -> tuple[int, list]:
    """The number of the first record from `seq` on, and the records."""
    found = await parts(log, seq, max_bytes)
    records: list = []
    for part in found:
        assert part.first == found[0].first + len(records)
        records += part.records
    return found[0].first if found else 0, records


async def settled(store: Store) -> None:
    done = asyncio.Event()
    store.then(done.set)
    await done.wait()


def copied(folder: Path, name: str) -> Path:
    """A copy of what is on disk now, in a folder of its own."""
    copy = folder / name
    copy.mkdir()
    for path in folder.glob(f"{FILE}*"):
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


async def left_in(folder: Path) -> dict[str, int]:
    """How many records each log has."""
    store = await opened(folder)
    found = {name: len(store.log(name)) for name in store.names()}
    await store.stop()
    return found


async def test_records_come_back_in_order_after_a_restart(tmp_path):
    store = await opened(tmp_path)
    log = store.log("a")
    assert [log.append(b"r%d" % n) for n in range(5)] == [1, 2, 3, 4, 5]
    assert log.stored == 1
    await settled(store)
    assert log.stored == 6
    await store.stop()
    store = await opened(tmp_path)
    log = store.log("a")
    assert (len(log), log.next, log.size) == (5, 6, 10)
    assert await loaded(log) == (1, [b"r0", b"r1", b"r2", b"r3", b"r4"])
    assert await loaded(log, 4) == (4, [b"r3", b"r4"])
    assert (await loaded(log, 6))[1] == []
    await store.stop()


async def test_what_is_done_is_deleted(tmp_path):
    store = await opened(tmp_path)
    log = store.log("a")
    for number in range(10):
        log.append(b"x" * 100)
        if number % 3 == 2:
            await settled(store)
    await settled(store)
    assert log.size == 1000
    for seq in (1, 2, 4, 3, 3):
        log.done(seq)
    assert (log.done_below, len(log), log.unrecorded) == (5, 6, 4)
    await settled(store)
    assert (log.unrecorded, log.size) == (0, 700)
    for seq in range(5, 11):
        log.done(seq)
    await store.stop()
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        assert database.execute("SELECT count(*) FROM batches").fetchone() == (0,)
        assert database.execute("SELECT next, recorded, bytes FROM logs").fetchone() == (11, 11, 0)


async def test_a_record_of_several_logs_is_kept_once_and_until_the_last_is_done(tmp_path):
    store = await opened(tmp_path)
    first, second = store.log("a"), store.log("b")
    first.append(b"only a")
    first.append(b"both")
    second.append(b"both")
    first.append(b"a again")
    first.append(b"both 2")
    second.append(b"both 2")
    second.append(b"both 2")
    await settled(store)
    assert await loaded(first) == (1, [b"only a", b"both", b"a again", b"both 2"])
    assert await loaded(second) == (1, [b"both", b"both 2", b"both 2"])
    for seq in (1, 2, 3, 4):
        first.done(seq)
    await settled(store)
    assert await loaded(second, 2) == (2, [b"both 2", b"both 2"])
    for seq in (1, 2, 3):
        second.done(seq)
    await store.stop()
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        assert database.execute("SELECT count(*) FROM batches").fetchone() == (0,)
        assert database.execute("SELECT sum(bytes) FROM logs").fetchone() == (0,)


async def test_a_file_that_is_lost_while_in_use_has_what_comes_from_then_on(tmp_path, caplog):
    store = await opened(tmp_path)
    log = store.log("a")
    log.append(b"lost")
    await settled(store)
    (tmp_path / FILE).rename(tmp_path / "elsewhere")
    log.append(b"kept")
    await settled(store)
    assert "while it was in use" in caplog.text
    await store.stop()
    store = await opened(tmp_path)
    assert (len(store.log("a")), store.log("a").next) == (2, 3)
    assert await loaded(store.log("a")) == (2, [b"kept"])
    await store.stop()


async def test_changes_during_a_commit_make_the_next_one(tmp_path):
    store = await opened(tmp_path)
    log = store.log("a")
    await settled(store)
    before = store.commits
    for number in range(100):
        log.append(b"%d" % number)
        if number % 10 == 0:
            await asyncio.sleep(0)
    await until(lambda: log.stored == 101)
    assert store.commits - before <= 10
    await store.stop()


async def test_large_transactions_load_in_steps(tmp_path):
    store = await opened(tmp_path)
    log = store.log("a")
    for number in range(40):
        log.append(number.to_bytes(2, "big") * 50_000)
    await settled(store)
    seen, seq = 0, 1
    while seq < log.stored:
        first, found = await loaded(log, seq, 300_000)
        assert first == seq
        assert sum(map(len, found)) <= 2_000_000
        assert [record[:2] for record in found] == [
            (seq - 1 + n).to_bytes(2, "big") for n in range(len(found))
        ]
        seq += len(found)
        seen += len(found)
    assert seen == 40
    await store.stop()


async def test_a_dropped_log_leaves_nothing(tmp_path):
    store = await opened(tmp_path)
    log, other = store.log("a"), store.log("b")
    log.append(b"1")
    other.append(b"2")
    await settled(store)
    log.append(b"3")
    store.drop(log)
    await settled(store)
    assert store.names() == ["b"]
    assert len(store.log("a")) == 0
    assert await loaded(other) == (1, [b"2"])
    await store.stop()


def remembered_moves(log: Log) -> int:
    """How many records a log remembers as those of another log: its one dictionary."""
    return sum(len(one) for one in gc.get_referents(log) if isinstance(one, dict))


async def test_what_has_moved_is_remembered_until_it_is_on_disk(tmp_path):
    """Else each dead letter would take memory for ever, and keep the log that it went to."""
    store = await opened(tmp_path)
    outbox, dead, session = store.log("outbox"), store.log("dead"), store.log("session")

    def move(target: Log) -> None:
        for _ in range(100):
            seq = outbox.append(b"x")
            target.append(b"x")
            outbox.move(seq, target)
            outbox.done(seq)

    for target in (dead, outbox, session):
        for _ in range(3):
            move(target)
            assert remembered_moves(outbox) == 100
            await settled(store)
            assert not remembered_moves(outbox)
    # What comes while another transaction is written stays until its own is on disk.
    move(dead)
    store.then(lambda: None)
    await until(lambda: not store.change())
    move(dead)
    await settled(store)
    assert not remembered_moves(outbox)
    # A log that is deleted has it, as far as it ever will.
    move(session)
    session.drop()
    await settled(store)
    assert not remembered_moves(outbox)
    await store.stop()
    store = await opened(tmp_path)
    assert {name: len(store.log(name)) for name in store.names()} == {"outbox": 300, "dead": 500}
    await store.stop()


async def test_one_wrong_bit_costs_what_shares_its_checksum_and_is_told(tmp_path):
    store = await opened(tmp_path)
    log = store.log("a")
    for number in range(3 * SUMMED):
        log.append(b"%06d" % number)
    await store.stop()
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        (body,) = database.execute("SELECT body FROM batches").fetchone()
        wrong = bytearray(body)
        wrong[SUMMED * 6 + 10] ^= 4
        database.execute("UPDATE batches SET body=?", (bytes(wrong),))
    store = await opened(tmp_path)
    _, found = await loaded(store.log("a"))
    assert [number for number, record in enumerate(found) if record is None] == list(
        range(SUMMED, 2 * SUMMED)
    )
    assert found[0] == b"000000"
    assert found[-1] == b"%06d" % (3 * SUMMED - 1)
    await store.stop()


async def read_all(log: Log) -> tuple[list[bytes | None], int]:
    """All records of a log, and in how many loads they came."""
    found: list[bytes | None] = []
    loads = 0
    while len(found) < log.stored - 1:
        loads += 1
        for part in await parts(log, len(found) + 1, 1 << 20):
            assert part.first == len(found) + 1
            found += part.records
    return found, loads


async def test_a_page_that_is_damaged_costs_one_load_and_its_batch_alone(tmp_path):
    store = await opened(tmp_path)
    log = store.log("a")
    batches = [[b"%d" % batch * 297 + b"%03d" % n for n in range(1000)] for batch in (1, 2, 3)]
    for batch in batches:
        for record in batch:
            log.append(record)
        await settled(store)
    await store.stop()
    data = bytearray((tmp_path / FILE).read_bytes())
    # Where a page of the second batch says which one is next.
    at = next(at for at in range(0, len(data), 4096) if data[at : at + 4096].count(b"2") > 3900)
    data[at : at + 4] = b"\xff" * 4
    (tmp_path / FILE).write_bytes(data)
    store = await opened(tmp_path)
    found, loads = await read_all(store.log("a"))
    assert loads <= 8
    lost = [number for number, record in enumerate(found) if record is None]
    assert lost[0] >= 1000
    assert lost[-1] < 2000
    assert found[:1000] == batches[0]
    assert found[2000:] == batches[2]
    await store.stop()


async def test_slices_that_are_damaged_are_passed_in_a_few_loads(tmp_path):
    store = await opened(tmp_path)
    store.log("a").append(b"x")
    await store.stop()
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        rows = [(seq,) for seq in range(2, 2001)]
        database.executemany("INSERT INTO slices VALUES (1, ?, 1, 1, 1, 0, NULL)", rows)
        database.execute("UPDATE logs SET next=2001")
        query = "SELECT rootpage FROM sqlite_master WHERE name='slices'"
        (root,) = database.execute(query).fetchone()
    data = bytearray((tmp_path / FILE).read_bytes())
    page = (root - 1) * 4096
    assert data[page] == 2  # the inner page of an index: where its third cell points to
    cell = page + int.from_bytes(data[page + 16 : page + 18], "big")
    data[(int.from_bytes(data[cell : cell + 4], "big") - 1) * 4096] = 0xFF
    (tmp_path / FILE).write_bytes(data)
    store = await opened(tmp_path)
    found, loads = await read_all(store.log("a"))
    lost = [number for number, record in enumerate(found) if record is None]
    assert 50 < len(lost) < 500
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert loads < 20
    await store.stop()


async def test_a_file_that_is_no_database_is_moved_aside(tmp_path, caplog):
    (tmp_path / FILE).write_bytes(b"not a database" * 1000)
    store = await opened(tmp_path)
    assert store.names() == []
    await store.stop()
    (kept,) = tmp_path.glob(FILE + ".damaged-*")
    assert kept.read_bytes().startswith(b"not a database")
    assert "was moved to" in caplog.text


async def test_a_folder_in_use_is_refused(tmp_path):
    store = await opened(tmp_path)
    store.log("a").append(b"x")
    await settled(store)
    with pytest.raises(StoreError, match="in use by another process"):
        open_database(tmp_path / FILE)
    await store.stop()


async def test_a_later_version_is_refused(tmp_path):
    open_database(tmp_path / FILE).execute("PRAGMA user_version=1000").connection.close()
    with pytest.raises(StoreError, match="later version"):
        await opened(tmp_path)
    assert not list(tmp_path.glob("*.damaged*"))


ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 2), st.binary(max_size=6)),
    st.tuples(st.just("done"), st.integers(0, 2), st.integers(1, 12)),
    st.tuples(st.just("share"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.just("settle"), st.just(0), st.just(0)),
    st.tuples(st.just("restart"), st.just(0), st.just(0)),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=40))
def test_it_does_what_three_lists_do(tmp_path_factory, actions):
    folder = tmp_path_factory.mktemp("store")

    async def run() -> None:
        store = await opened(folder)
        model: dict[int, dict[int, bytes]] = {0: {}, 1: {}, 2: {}}
        following = dict.fromkeys(model, 1)
        for action, which, value in [*actions, ("restart", 0, 0)]:
            log = store.log(str(which))
            if action == "append":
                seq = log.append(value)
                assert seq == following[which]
                model[which][seq] = value
                following[which] += 1
            elif action == "share" and value != which:
                for number in (which, value):
                    model[number][store.log(str(number)).append(b"shared")] = b"shared"
                    following[number] += 1
            elif action == "done" and value < following[which]:
                log.done(value)
                model[which].pop(value, None)
            elif action == "settle":
                await settled(store)
            elif action == "restart":
                await store.stop()
                store = await opened(folder)
                for number, records in model.items():
                    log = store.log(str(number))
                    assert len(log) == len(records)
                    await settled(store)
                    first, found = await loaded(log, log.done_below)
                    there = {first + n: record for n, record in enumerate(found)}
                    assert {
                        seq: record for seq, record in there.items() if not log.is_done(seq)
                    } == records
        await store.stop()

    asyncio.run(run())
