"""How many commits a stream of records costs, and that nobody waits for records in vain."""

from __future__ import annotations

import asyncio
import heapq
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from isthmus.store.gathering import ENOUGH, JUDGED_S, LOOK_S, LOST, SPACINGS_S, Gathering
from isthmus.store.store import Store

LONGEST_S = SPACINGS_S[-1]
COMMIT_S = 0.0007


class Disk:
    """Publishers, and a disk that takes `COMMIT_S` for a transaction, in time that is counted."""

    def __init__(self, *, gathers: bool = True) -> None:
        self.now = 0.0
        self.commits = 0
        self.random = random.Random(7)
        self._gathering = Gathering() if gathers else None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._open: list[Callable[[], None]] = []
        self._busy = self._looks = False

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + seconds, self._order, what))

    def write(self, written: Callable[[], None]) -> None:
        """Have a record written."""
        self._open.append(written)
        self._look_later()

    def run(self, seconds: float) -> None:
        """Let time go by."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    def _look_later(self) -> None:
        if not self._busy and not self._looks:
            self._looks = True
            left_s = 0.0 if self._gathering is None else self._gathering.left_s(self.now)
            self.later(left_s + 0.00005, self._look)

    def _look(self) -> None:
        self._looks = False
        gathering = self._gathering
        if gathering is not None:
            if gathering.goes_on(len(self._open), self.now):
                self._look_later()
                return
            gathering.begun(len(self._open), self.now)
        self._busy = True
        records, self._open = self._open, []
        self.later(COMMIT_S, lambda: self._written(records))

    def _written(self, records: list[Callable[[], None]]) -> None:
        self._busy = False
        self.commits += 1
        for written in records:
            written()
        if self._open:
            self._look_later()


class Publishers:
    """So many at `disk`, each of which sends as soon as its message was answered."""

    def __init__(self, disk: Disk, count: int, think_s: float) -> None:
        self.sent = 0
        self._disk = disk
        self._think_s = think_s
        for _ in range(count):
            disk.later(disk.random.random() * 0.01, self._send)

    def _send(self) -> None:
        self.sent += 1
        self._disk.write(self._answered)

    def _answered(self) -> None:
        self._disk.later(self._think_s * (0.5 + self._disk.random.random()), self._send)


class Stream:
    """A stream to `disk`, of so many messages per second, each or some at a time at random.

    No more than `window` of them are unanswered; the others wait.
    """

    def __init__(self, disk: Disk, rate: float, at_once: int = 1, window: int = 1 << 30) -> None:
        self.sent = 0
        self._disk = disk
        self._rate = rate / at_once
        self._at_once = at_once
        self._room = window
        self._wait = 0
        self._tick()

    def _tick(self) -> None:
        self._disk.later(self._disk.random.expovariate(self._rate), self._tick)
        self._wait += self._at_once
        self._send()

    def _send(self) -> None:
        while self._wait and self._room:
            self._wait -= 1
            self._room -= 1
            self.sent += 1
            self._disk.write(self._answered)

    def _answered(self) -> None:
        self._room += 1
        self._disk.later(0.0001, self._send)


@pytest.mark.parametrize("at_once", [1, 5, 20])
@pytest.mark.parametrize("rate", [300, 1_000, 5_000, 10_000])
def test_a_stream_is_gathered(rate: int, at_once: int) -> None:
    disk = Disk()
    Stream(disk, rate, at_once)
    disk.run(10)
    before = disk.commits
    disk.run(10)
    # Now and then a shorter time is tried, and one that comes to nothing begins another try.
    assert (disk.commits - before) / 10 < 1.6 / LONGEST_S


@pytest.mark.parametrize(("count", "think_ms"), [(1, 0.2), (2, 0.2), (5, 0.2), (20, 0.2), (5, 5)])
def test_publishers_that_wait_for_their_answers_are_not_made_to_wait(
    count: int, think_ms: float
) -> None:
    sent = []
    for gathers in (True, False):
        disk = Disk(gathers=gathers)
        publishers = Publishers(disk, count, think_ms / 1000)
        disk.run(5)
        before = publishers.sent
        disk.run(10)
        sent.append(publishers.sent - before)
    # A loss that is too small to be seen, at most once for each of two longer times.
    assert sent[0] > LOST**2 * sent[1]


@pytest.mark.parametrize(("rate", "window"), [(1_000, 20), (5_000, 20), (5_000, 100)])
def test_a_window_that_fills_meanwhile_is_not_waited_for(rate: int, window: int) -> None:
    disk = Disk()
    stream = Stream(disk, rate, window=window)
    disk.run(20)
    assert stream.sent > 0.95 * rate * 20


def test_what_began_as_a_stream_and_waits_for_answers_now_is_found_out() -> None:
    disk = Disk()
    stream = Stream(disk, 1_000)
    disk.run(60)
    publishers = Publishers(disk, 20, 0.0002)
    disk.run(3)
    before = publishers.sent
    disk.run(1)
    assert publishers.sent - before > 2_000
    assert stream.sent > 0.95 * 64 * 1_000


def test_after_a_pause_the_first_ones_go_at_once() -> None:
    disk = Disk()
    for number in range(2_000):
        disk.later(number / 1000, lambda: disk.write(lambda: None))
    disk.run(2 + 1.1 * JUDGED_S)
    before = disk.now
    answered: list[float] = []
    disk.write(lambda: answered.append(disk.now))
    disk.run(1)
    assert answered[0] - before < 2 * COMMIT_S


def test_single_messages_go_at_once() -> None:
    disk = Disk()
    waits: list[float] = []

    def send() -> None:
        begun = disk.now
        disk.write(lambda: waits.append(disk.now - begun))
        disk.later(0.25, send)

    send()
    disk.run(60)
    assert len(waits) > 200
    assert max(waits) < 2 * COMMIT_S


def test_enough_records_do_not_wait_for_more() -> None:
    disk = Disk()
    Stream(disk, 1_000)
    disk.run(20)
    waits: list[float] = []
    for at_ms in range(100):

        def send() -> None:
            begun = disk.now
            for _ in range(ENOUGH):
                disk.write(lambda: waits.append(disk.now - begun))

        disk.later(at_ms / 1000, send)
    disk.run(1)
    assert len(waits) == 100 * ENOUGH
    assert max(waits) < LOOK_S + 3 * COMMIT_S


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.000_001, 0.000_5, 0.003, 0.02, 0.3, 5.0]),
            st.sampled_from([0, 1, 2, 20, ENOUGH - 1, ENOUGH, 5_000]),
            st.integers(1, 60),
        )
    )
)
def test_no_record_waits_longer_than_the_longest_spacing(
    steps: list[tuple[float, int, int]],
) -> None:
    gathering, now = Gathering(), 1_000.0
    for pause_s, records, times in steps:
        for _ in range(times):
            now += pause_s
            came = now
            while gathering.goes_on(records, now):
                assert 0 < gathering.left_s(now) <= LOOK_S
                now += gathering.left_s(now)
            assert now - came <= LONGEST_S + 0.000_001
            gathering.begun(records, now)


def test_a_disk_that_takes_longer_is_not_waited_for_twice() -> None:
    gathering = Gathering()
    for number in range(2_000):
        gathering.begun(20, number * LONGEST_S)
    now = 2_000 * LONGEST_S + 0.000_001
    assert gathering.left_s(now) == 0
    assert not gathering.goes_on(100, now)


@pytest.mark.alone
async def test_a_stream_of_records_costs_few_commits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.start()
    log = store.log("outbox/cloud")
    store.change()
    await store.settle()
    before, begun = store.commits, time.monotonic()
    for number in range(2_000):
        if number == 1_000:  # the first ones come before it is known to be a stream
            before, begun = store.commits, time.monotonic()
        for _ in range(5):
            log.append(b"record")
        await asyncio.sleep(0.001)
    took_s = time.monotonic() - begun
    commits = store.commits - before
    await store.stop()
    assert commits < 2 * took_s / LONGEST_S


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_looking_takes_few_turns_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    # uvloop calls at once what is due in less than half a millisecond.
    looks: list[float] = []
    look = Store._look

    def counted(store: Store) -> None:
        looks.append(time.monotonic())
        look(store)

    monkeypatch.setattr(Store, "_look", counted)

    async def stream() -> int:
        store = Store(tmp_path)
        store.start()
        log = store.log("outbox/cloud")
        await store.settle()
        first = asyncio.get_running_loop().time() - 2_000 * LONGEST_S
        for number in range(2_000):
            store._gathering.begun(20, first + number * LONGEST_S)
        before = store.commits
        looks.clear()
        for _ in range(300):
            log.append(b"record")
            await asyncio.sleep(0.001)
        commits = store.commits - before
        await store.stop()
        return commits

    with asyncio.Runner(loop_factory=loop) as runner:
        commits = runner.run(stream())
    assert 5 <= commits <= len(looks) <= (LONGEST_S / LOOK_S + 3) * commits


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
    assert min(waits) < LONGEST_S / 2


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
    assert statistics.median(waits) < LONGEST_S / 2
