from __future__ import annotations

import random

from isthmus.net.timers import RESOLUTION_S, Wheel


class Times:
    """A wheel with a clock of its own."""

    def __init__(self, now=1000.0):
        self.now = now
        self.wakes = []
        self.wheel = Wheel(now, self.wakes.append)
        self.fired = []

    def at(self, delay, name=None):
        return self.wheel.at(self.now + delay, lambda: self.fired.append((name, self.now)))

    def run(self, until):
        """Move on to `until` as the reactor does: only waking when the wheel asks for it."""
        wakes = 0
        while (following := self.wheel.next()) is not None and following <= until:
            self.now = max(self.now, following)
            self.wheel.expire(self.now, 10.0)
            wakes += 1
        self.now = until
        return wakes


def test_timers_fire_in_time_and_never_early():
    times = Times()
    delays = [0.0, 0.01, 0.1, 0.35, 1.0, 7.77, 59.99, 61.5, 3600.0, 20_000.0, 7 * 86_400.0]
    for delay in delays:
        times.at(delay, delay)
    times.run(1000 + 8 * 86_400)
    assert [name for name, _ in times.fired] == delays
    for delay, when in times.fired:
        assert delay <= when - 1000 <= delay + 2 * RESOLUTION_S


def test_random_deadlines_from_any_start():
    random.seed(7)
    for _ in range(20):
        times = Times(random.uniform(0, 1e6))
        start = times.now
        delays = sorted(random.uniform(0, 10 ** random.uniform(-2, 6)) for _ in range(200))
        for delay in random.sample(delays, len(delays)):
            times.at(delay, delay)
        times.run(start + 2e6)
        assert len(times.fired) == 200
        for delay, when in times.fired:
            assert delay - 1e-6 <= when - start <= delay + 2 * RESOLUTION_S


def test_the_wheel_asks_to_be_woken_only_when_that_is_earlier():
    times = Times()
    times.at(5)
    times.at(6)
    times.at(2)
    assert [round(wake, 3) for wake in times.wakes] == [1005, 1002]
    assert times.wheel.next() == times.wakes[-1]


def test_an_empty_wheel_sleeps():
    times = Times()
    assert times.wheel.next() is None
    times.at(0.5).cancel()
    assert times.run(1010) <= 1
    assert times.wheel.next() is None
    assert times.fired == []


def test_far_timers_cost_few_wakes_and_few_buckets():
    times = Times()
    for n in range(20_000):
        times.at(3600 + n * 30.0, n)  # spread over a week
    assert len(times.wheel._buckets) < 500
    assert times.run(1000 + 3000) < 300
    assert times.fired == []


def test_a_timer_that_comes_and_goes_leaves_nothing_behind():
    times = Times()
    for n in range(10_000):
        times.now += 0.01
        times.at(86_400 * 7).cancel()
        times.at(60).cancel()
        if n % 100 == 0:
            times.wheel.expire(times.now, 10.0)
    assert len(times.wheel) == 0
    assert len(times.wheel._ticks) < 500


def test_moving_later_is_lazy_and_exact():
    times = Times()
    timer = times.at(1.0, "keep alive")
    for n in range(1, 100):
        timer.move(1000 + 1.0 + n)
    assert times.run(1099.9) < 20
    assert times.fired == []
    times.run(1110)
    assert [(name, round(when)) for name, when in times.fired] == [("keep alive", 1100)]
    assert not timer.active


def test_moving_earlier():
    times = Times()
    timer = times.at(100, "soon")
    timer.move(1001)
    times.run(1002)
    assert [name for name, _ in times.fired] == ["soon"]
    assert len(times.wheel) == 0


def test_a_fired_timer_can_be_armed_again_and_a_cancelled_one_cannot():
    times = Times()
    timer = times.at(1, "again")
    times.run(1002)
    timer.move(1005)
    times.run(1006)
    assert len(times.fired) == 2
    timer.cancel()
    timer.move(1010)
    times.run(1020)
    assert len(times.fired) == 2
    assert not timer.active


def test_callbacks_may_cancel_move_and_add_timers():
    times = Times()
    victim = times.at(1.001, "victim")
    moved = times.at(1.002, "moved")

    def first():
        times.fired.append(("first", times.now))
        victim.cancel()
        moved.move(1050)
        times.at(0, "added")

    # In the bucket of the others, and before them.
    for timer in (victim, moved):
        times.wheel.remove(timer)
    times.wheel.at(1001.0, first)
    for timer in (victim, moved):
        times.wheel.add(timer)
    times.run(1040)
    assert [name for name, _ in times.fired] == ["first", "added"]
    times.run(1051)
    assert times.fired[-1][0] == "moved"


def test_an_exception_harms_no_other_timer(caplog):
    times = Times()
    times.wheel.at(1001, lambda: 1 // 0)
    times.at(1, "fine")
    times.run(1002)
    assert [name for name, _ in times.fired] == ["fine"]
    assert "ZeroDivisionError" in caplog.text


def test_thousands_in_one_bucket_are_fired_in_pieces():
    times = Times()
    for n in range(5000):
        times.at(1, n)
    times.now = 1002
    times.wheel.expire(times.now, 0.0)
    assert 0 < len(times.fired) < 5000
    assert times.wheel.next() == 0.0  # at once
    while times.wheel.next() is not None:
        times.wheel.expire(times.now, 0.0)
    assert sorted(name for name, _ in times.fired) == list(range(5000))
