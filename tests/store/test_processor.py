"""The thread that writes leaves the processor to the event loop, as far as it can."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.store import processor, writer
from isthmus.store.processor import Processor, give_way
from isthmus.store.store import Store


@pytest.fixture
def where(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processor that the loop is said to be on: the last of the list."""
    numbers = [min(os.sched_getaffinity(0))]
    monkeypatch.setattr(processor, "_asker", lambda: lambda: numbers[-1])
    return numbers


@pytest.fixture
def thread() -> Iterator[int]:
    """A thread that sleeps, by its number with the system."""
    wake = threading.Event()
    found = threading.Thread(target=wake.wait)
    found.start()
    assert found.native_id is not None
    yield found.native_id
    wake.set()
    found.join()


def test_a_thread_leaves_the_processor_of_the_loop_and_nothing_else(
    where: list[int], thread: int
) -> None:
    allowed = os.sched_getaffinity(0)
    Processor().keep_off(thread)
    assert os.sched_getaffinity(thread) == (allowed - {where[-1]} or allowed)
    assert os.sched_getaffinity(0) == allowed, "the loop itself may run anywhere"


def test_it_follows_the_loop(where: list[int], thread: int) -> None:
    allowed = os.sched_getaffinity(0)
    seen = Processor()
    for number in (min(allowed), max(allowed)):
        where.append(number)
        seen.keep_off(thread)
        assert os.sched_getaffinity(thread) == (allowed - {number} or allowed)


def test_nothing_is_asked_of_the_system_while_the_loop_stays(
    where: list[int], thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Processor()
    seen.keep_off(thread)
    monkeypatch.delattr(os, "sched_setaffinity")
    monkeypatch.delattr(os, "sched_getaffinity")
    seen.keep_off(thread)


def test_where_there_is_one_processor_nothing_changes(
    where: list[int], thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _thread: {where[-1]})
    set_to: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _thread, found: set_to.append(found))
    Processor().keep_off(thread)
    assert set_to == []


def test_processors_that_are_taken_away_meanwhile_do_no_harm(
    where: list[int], thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = 1 << 9
    monkeypatch.setattr(os, "sched_getaffinity", lambda _thread: {where[-1], gone})
    tried: list[tuple[int, set[int]]] = []

    def refuse(thread: int, found: set[int]) -> None:
        tried.append((thread, found))
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    Processor().keep_off(thread)
    assert tried == [(thread, {gone})]


def test_a_system_that_cannot_tell_is_left_alone(
    thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_asker", lambda: processor._unknown)
    allowed = os.sched_getaffinity(0)
    Processor().keep_off(thread)
    assert os.sched_getaffinity(thread) == allowed


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
    assert os.sched_getaffinity(store._writer.thread_id) == (allowed - {where[-1]} or allowed)
    await store.stop()


async def test_the_loop_goes_first_before_the_writer_does_what_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(writer, "give_way", lambda: done.append("give way"))
    store = Store(tmp_path)
    store.start()
    store._writer.open().set_trace_callback(done.append)
    log = store.log("one")
    log.append(b"record")
    await store.settle()
    commits = [number for number, what in enumerate(done) if what in {"BEGIN IMMEDIATE", "COMMIT"}]
    assert commits
    assert all(done[number - 1] == "give way" for number in commits)
    await store.stop()


def test_who_gives_way_gives_back_the_lock_of_the_interpreter() -> None:
    turns = 0
    ended = False

    def take_turns() -> None:
        nonlocal turns
        while not ended:
            turns += 1
            give_way()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody gets the lock who is not given it
    other = threading.Thread(target=take_turns)
    try:
        other.start()
        until = time.monotonic() + 10
        while turns < 100 and time.monotonic() < until:
            give_way()
    finally:
        ended = True
        sys.setswitchinterval(interval_s)
        other.join()
    assert turns >= 100


def test_a_system_where_nobody_can_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_yield")
    give_way()
