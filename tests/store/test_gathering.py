"""How many commits a stream of records costs, and that nobody waits for records in vain."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from isthmus.store.gathering import ENOUGH, GATHER_S, LONGEST_GATHER_S, MANY, SELDOM, Gathering
from isthmus.store.store import Store


def gathered(gathering: Gathering, begun: float, per_look: list[int]) -> tuple[int, float]:
    """The records of the next transaction and when it begins, if so many come before each look."""
    now = begun + gathering.left_s(begun)
    records = 0
    for came in per_look:
        records += came
        if not gathering.goes_on(records, now):
            break
        now += GATHER_S
    gathering.begun(records, now)
    return records, now - begun


def test_the_first_records_and_single_ones_go_at_once() -> None:
    gathering = Gathering()
    assert gathering.left_s(100.0) == 0
    assert not gathering.goes_on(50, 100.0)
    gathering.begun(50, 100.0)
    assert 0 < gathering.left_s(100.0) < 1.01 * GATHER_S
    assert not gathering.goes_on(MANY - 1, 100.0 + GATHER_S)
    gathering.begun(MANY - 1, 100.0 + GATHER_S)
    gathering.begun(1, 200.0)
    assert gathering.left_s(200.0) == 0


def test_a_stream_is_gathered_for_as_long_as_is_allowed() -> None:
    gathering = Gathering()
    gathering.begun(10, 0.0)
    records, took_s = gathered(gathering, 0.0, [15] * 100)
    assert LONGEST_GATHER_S - GATHER_S <= took_s <= LONGEST_GATHER_S
    assert records == 15 * round(took_s / GATHER_S)


def test_enough_records_do_not_wait_for_more() -> None:
    gathering = Gathering()
    gathering.begun(10, 0.0)
    assert gathered(gathering, 0.0, [ENOUGH] * 9) == (ENOUGH, GATHER_S)
    assert gathered(gathering, GATHER_S, [ENOUGH // 2] * 9)[0] == ENOUGH


def test_a_disk_that_takes_longer_is_not_waited_for_twice() -> None:
    gathering = Gathering()
    gathering.begun(10, 0.0)
    assert gathering.left_s(LONGEST_GATHER_S) == 0
    assert not gathering.goes_on(100, LONGEST_GATHER_S)


def test_publishers_that_wait_for_their_answers_are_seldom_made_to_wait() -> None:
    gathering = Gathering()
    gathering.begun(10, 0.0)
    now = waited = 0.0
    for _ in range(SELDOM + 1):
        records, took_s = gathered(gathering, now, [100, 0])
        assert records == 100
        now += took_s
        waited += took_s - GATHER_S
    assert GATHER_S * 0.99 < waited < GATHER_S * 1.01
    # And once it is a stream, that is found out.
    assert gathered(gathering, now, [15] * 100)[1] > 2 * GATHER_S


@pytest.mark.alone
async def test_a_stream_of_records_costs_few_commits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.start()
    log = store.log("outbox/cloud")
    store.change()
    await store.settle()
    before, begun = store.commits, time.monotonic()
    for _ in range(200):
        for _ in range(5):
            log.append(b"record")
        await asyncio.sleep(0.001)
    took_s = time.monotonic() - begun
    await store.settle()
    await store.stop()
    # The first ones come before it is known to be a stream.
    assert store.commits - before < took_s / LONGEST_GATHER_S * 2 + 10


async def test_who_waits_for_a_row_does_not_wait_for_records(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.start()
    log = store.log("outbox/cloud")
    waits = []
    for _ in range(50):
        for _ in range(5):
            log.append(b"record")
        done, begun = asyncio.Event(), time.monotonic()
        store.then(done.set)
        await done.wait()
        waits.append(time.monotonic() - begun)
    await store.stop()
    assert min(waits) < LONGEST_GATHER_S / 2


async def test_what_has_to_be_recorded_does_not_wait_for_records(tmp_path: Path) -> None:
    # A peer that takes few messages at a time gets no more of them until these are recorded.
    store = Store(tmp_path)
    store.start()
    log = store.log("outbox/cloud")
    waits = []
    for _ in range(50):
        for _ in range(5):
            log.append(b"record")
        begun, before = time.monotonic(), store.commits
        store.hurry()
        while store.commits == before:
            await asyncio.sleep(0.0005)
            log.append(b"record")
        waits.append(time.monotonic() - begun)
    await store.stop()
    assert statistics.median(waits) < LONGEST_GATHER_S / 2
