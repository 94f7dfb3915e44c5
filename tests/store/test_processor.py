"""The thread that writes does not run where the event loop runs, if there is another processor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isthmus.store import processor
from isthmus.store.processor import Processor
from isthmus.store.store import Store


@pytest.fixture
def where(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processor that the loop is said to be on: the last of the list."""
    numbers = [min(os.sched_getaffinity(0))]
    monkeypatch.setattr(processor, "_asker", lambda: lambda: numbers[-1])
    return numbers


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """One thread, in which all that is submitted runs."""
    with ThreadPoolExecutor(1) as found:
        yield found


def after(thread: ThreadPoolExecutor, action: Callable[[], None]) -> set[int]:
    """Where the thread may run after `action`."""
    thread.submit(action).result()
    return thread.submit(os.sched_getaffinity, 0).result()


def test_a_thread_leaves_the_processor_of_the_loop_and_nothing_else(
    where: list[int], thread: ThreadPoolExecutor
) -> None:
    allowed = os.sched_getaffinity(0)
    seen = Processor()
    seen.note()
    assert after(thread, seen.avoid) == (allowed - {where[-1]} or allowed)
    assert os.sched_getaffinity(0) == allowed, "the loop itself may run anywhere"


def test_it_follows_the_loop(where: list[int], thread: ThreadPoolExecutor) -> None:
    allowed = os.sched_getaffinity(0)
    seen = Processor()
    for number in (min(allowed), max(allowed)):
        where.append(number)
        seen.note()
        assert after(thread, seen.avoid) == (allowed - {number} or allowed)


def test_where_there_is_one_processor_nothing_changes(
    where: list[int], thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _thread: {where[-1]})
    set_to: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _thread, found: set_to.append(found))
    seen = Processor()
    seen.note()
    after(thread, seen.avoid)
    assert set_to == []


def test_processors_that_are_taken_away_meanwhile_do_no_harm(
    where: list[int], thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = 1 << 9
    monkeypatch.setattr(os, "sched_getaffinity", lambda _thread: {where[-1], gone})
    tried: list[set[int]] = []

    def refuse(_thread: int, found: set[int]) -> None:
        tried.append(found)
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    seen = Processor()
    seen.note()
    after(thread, seen.avoid)
    assert tried == [{gone}]


def test_a_system_that_cannot_tell_is_left_alone(
    thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_asker", lambda: processor._unknown)
    allowed = os.sched_getaffinity(0)
    seen = Processor()
    seen.note()
    assert after(thread, seen.avoid) == allowed


def test_this_system_tells_on_which_processor_its_caller_runs() -> None:
    assert processor._asker()() in os.sched_getaffinity(0)


async def test_the_writer_of_a_store_keeps_off_the_loop(tmp_path: Path, where: list[int]) -> None:
    allowed = os.sched_getaffinity(0)
    store = Store(tmp_path)
    store.start()
    log = store.log("one")
    log.append(b"record")
    await store.settle()
    assert store.commits
    (writer,) = (one for one in threading.enumerate() if one.name == "isthmus-store")
    assert writer.native_id is not None
    assert os.sched_getaffinity(writer.native_id) == (allowed - {where[-1]} or allowed)
    await store.stop()
