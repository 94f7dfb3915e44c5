from __future__ import annotations

import pytest

from isthmus.net.backoff import Backoff


def test_the_ceiling_doubles_up_to_the_maximum():
    ceilings = [1, 2, 4, 8, 16, 30, 30, 30]
    drawn = [[] for _ in ceilings]
    for _ in range(2000):
        backoff = Backoff(1, 30)
        backoff.next(0)  # the outage began more than a minute ago
        backoff._ceiling_s = 1
        now = 61
        for times in drawn:
            times.append(backoff.next(now))
            now += 1
    for ceiling, times in zip(ceilings, drawn, strict=True):
        assert 0 <= min(times) < ceiling * 0.02
        assert ceiling * 0.98 < max(times) <= ceiling
        assert sum(times) / len(times) == pytest.approx(ceiling / 2, rel=0.1)


def test_reset_begins_again():
    backoff = Backoff(0.5, 60)
    for _ in range(10):
        backoff.next(100)
    backoff.reset()
    assert backoff.next(200) <= 0.5


def test_thousands_of_tries_stay_at_the_maximum():
    backoff = Backoff(1, 30)
    assert all(backoff.next(now) <= 30 for now in range(5000))


@pytest.mark.parametrize(("least", "most"), [(0, 1), (-1, 1), (2, 1)])
def test_nonsense_is_refused(least, most):
    with pytest.raises(ValueError, match="min_s"):
        Backoff(least, most)


@pytest.mark.parametrize(("least", "most", "limit"), [(1, 30, 1), (0.1, 1, 1), (5, 30, 5)])
def test_in_the_first_minute_it_stays_eager(least, most, limit):
    for _ in range(200):
        backoff = Backoff(least, most)
        waits = [backoff.next(now) for now in range(60)]
        assert max(waits) <= limit
        later = [backoff.next(now) for now in range(61, 80)]
        assert max(later) <= most
    assert max(later) > limit or most == limit


def test_each_outage_has_its_own_first_minute():
    backoff = Backoff(1, 30)
    for now in range(200):
        backoff.next(now)
    backoff.reset()
    assert all(backoff.next(now) <= 1 for now in range(1000, 1060))
