"""The log of the file, damaged while the process was away: what was lost is said, and kept."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from pathlib import Path

import pytest
from test_logs import loaded, opened, settled

from isthmus.store import wal
from isthmus.store.check import check
from isthmus.store.database import FILE
from isthmus.store.idle_store import IdleStore
from isthmus.store.store import Store

LOG = f"{FILE}-wal"
FRAME = 4096 + wal.FRAME_BYTES


async def written(store: Store) -> None:
    """Wait until the writer has nothing left to do."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    store._writer.submit(lambda: loop.call_soon_threadsafe(done.set) and None)
    await done.wait()


@pytest.fixture
async def crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders as a crash leaves them: with four commits; with three, and the mark of the third."""
    monkeypatch.setattr("isthmus.store.writer.MARK_S", 0.0)
    folder = tmp_path / "store"
    folder.mkdir()
    store = await opened(folder)
    log = store.log("a")
    await settled(store)
    found = []
    for number in range(3):
        log.append(b"%d" % number * 10_000)
        await settled(store)
        await written(store)
        if number:
            found.append(shutil.copytree(folder, tmp_path / f"crash-{number}"))
    await store.stop()
    assert wal.read_mark(folder / FILE) is None
    return found[::-1]


def frames(folder: Path) -> int:
    return ((folder / LOG).stat().st_size - wal.HEADER_BYTES) // FRAME


def flip(folder: Path, at: int) -> None:
    data = bytearray((folder / LOG).read_bytes())
    data[at] ^= 1
    (folder / LOG).write_bytes(data)


async def restarted(folder: Path, caplog: pytest.LogCaptureFixture) -> tuple[int, list[str]]:
    """How many records are there after a start, and what errors it logged."""
    caplog.clear()
    store = await opened(folder)
    count = len((await loaded(store.log("a")))[1])
    await store.stop()
    return count, [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


def kept(folder: Path) -> list[Path]:
    return list(folder.glob(f"{LOG}.damaged-*"))


async def test_a_crash_is_no_damage(crashed: list[Path], caplog) -> None:
    found = wal.read_mark(crashed[0] / FILE)
    assert found is not None
    assert found.frames == frames(crashed[0])
    assert await restarted(crashed[0], caplog) == (3, [])
    assert wal.read_mark(crashed[0] / FILE) is None
    assert await restarted(crashed[0], caplog) == (3, [])


async def test_a_wrong_bit_in_what_was_synchronised_is_said(crashed: list[Path], caplog) -> None:
    folder = crashed[0]
    old = wal.read_mark(crashed[1] / FILE)
    assert old is not None
    before = (folder / LOG).read_bytes()
    flip(folder, wal.HEADER_BYTES + (old.frames - 2) * FRAME + 100)  # in the second record
    damaged = (folder / LOG).read_bytes()
    assert before != damaged
    count, (error,) = await restarted(folder, caplog)
    assert count == 1
    assert "what was acknowledged there is lost" in error
    (copy,) = kept(folder)
    assert str(copy) in error
    assert copy.read_bytes() == damaged
    assert copy.stat().st_mode & 0o77 == 0
    assert await restarted(folder, caplog) == (1, [])


@pytest.mark.parametrize("part", ["page", "header of the frame", "header"])
async def test_it_is_noticed_without_a_mark_where_something_was_written_behind_it(
    crashed: list[Path], caplog, part: str
) -> None:
    folder = crashed[0]
    (folder / wal.MARK).unlink()
    at = {"page": 100, "header of the frame": 9, "header": -wal.HEADER_BYTES + 17}[part]
    flip(folder, wal.HEADER_BYTES + at)
    count, (error,) = await restarted(folder, caplog)
    assert count == 0
    assert "went on there" in error
    assert kept(folder)


async def test_the_last_transaction_is_missed_only_where_the_mark_has_it(
    crashed: list[Path], caplog
) -> None:
    folder = crashed[0]
    flip(folder, (folder / LOG).stat().st_size - 10)
    unmarked = shutil.copytree(folder, folder.with_name("unmarked"))
    (unmarked / wal.MARK).unlink()
    count, (error,) = await restarted(folder, caplog)
    assert count == 2
    assert "can be read up to page" in error
    assert await restarted(unmarked, caplog) == (2, [])


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut"])
async def test_a_log_that_is_gone_is_said(crashed: list[Path], caplog, how: str) -> None:
    folder = crashed[0]
    if how == "deleted":
        (folder / LOG).unlink()
    else:
        with (folder / LOG).open("r+b") as file:
            file.truncate(0 if how == "emptied" else wal.HEADER_BYTES + 4 * FRAME)
    _, (error,) = await restarted(folder, caplog)
    assert "is lost" in error
    assert bool(kept(folder)) == (how == "cut")


@pytest.mark.parametrize("size", [32, 56, 4096, None])
async def test_a_log_that_begins_with_zeros_is_said(
    crashed: list[Path], caplog, size: int | None
) -> None:
    folder = crashed[0]
    data = (folder / LOG).read_bytes()
    size = len(data) if size is None else size
    damaged = bytes(size) + data[size:]
    (folder / LOG).write_bytes(damaged)
    with IdleStore(shutil.copytree(folder, folder.with_name("checked"))) as store:
        (problem,) = check(store).problems
    said = "can be read up to page 0" if size == wal.HEADER_BYTES else "has no header"
    assert said in problem
    count, (error,) = await restarted(folder, caplog)
    assert count == 0
    assert "what was acknowledged there is lost" in error
    (copy,) = kept(folder)
    assert copy.read_bytes() == damaged


async def test_room_that_was_never_written_is_no_damage(crashed: list[Path], caplog) -> None:
    folder = crashed[0]
    (folder / wal.MARK).unlink()
    (folder / LOG).write_bytes(bytes(40_000))
    assert (await restarted(folder, caplog))[1] == []


async def test_what_a_loss_of_power_leaves_of_the_last_transaction_is_no_damage(
    crashed: list[Path], tmp_path: Path
) -> None:
    """Any part of it may be on disk, in any order: it was not synchronised."""
    newer, older = crashed
    mark = wal.read_mark(older / FILE)
    assert mark is not None
    data = (newer / LOG).read_bytes()
    begin = wal.HEADER_BYTES + mark.frames * FRAME
    choose = random.Random(1)
    folder = tmp_path / "power"
    folder.mkdir()
    shutil.copy(older / wal.MARK, folder)
    for _ in range(60):
        tail = bytearray(data[begin:])
        for sector in range(0, len(tail), 512):
            if choose.random() < choose.choice((0.05, 0.5)):
                tail[sector : sector + 512] = bytes(512)
        (folder / LOG).write_bytes(data[:begin] + tail[: choose.randrange(len(tail) + 1)])
        assert wal.lost(folder / FILE) == ""


async def test_a_check_says_the_same_and_keeps_a_copy(crashed: list[Path]) -> None:
    folder = crashed[0]
    flip(folder, wal.HEADER_BYTES + 5 * FRAME + 100)
    with IdleStore(folder) as store:
        (problem,) = check(store).problems
    assert "what was acknowledged there is lost" in problem
    assert kept(folder)
    with IdleStore(folder) as store:
        assert not check(store).problems


async def test_a_log_without_its_file_is_moved_aside(crashed: list[Path], caplog) -> None:
    folder = crashed[0]
    (folder / FILE).unlink()
    data = (folder / LOG).read_bytes()
    count, (error,) = await restarted(folder, caplog)
    assert count == 0
    assert "is not there, and its log is" in error
    (moved,) = folder.glob(f"{FILE}.damaged-*-wal")
    assert moved.read_bytes() == data
