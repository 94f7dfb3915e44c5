"""A paced load follows the clock, not the acknowledgements of the broker that it measures."""

from __future__ import annotations

from itertools import pairwise

import pytest
from bench.publisher import due


@pytest.mark.parametrize("rate", [1_000, 3_000, 5_000, 100_000])
def test_all_of_a_load_is_sent_in_its_time(rate: int) -> None:
    assert due(0.0, rate)[0] == 0
    for seconds in (1, 60):
        assert due(seconds + 1e-6, rate)[0] == seconds * rate


@pytest.mark.parametrize(("rate", "least_s"), [(1_000, 0.001), (5_000, 0.0002), (100_000, 0.001)])
def test_each_message_has_its_own_moment_up_to_a_rate(rate: int, least_s: float) -> None:
    elapsed_s, moments = 0.0, []
    while elapsed_s < 0.1:
        count, pause_s = due(elapsed_s, rate)
        moments.append(count)
        assert 0 < pause_s <= least_s + 1e-9
        elapsed_s += pause_s + 1e-7  # a sleep ends a little late
    steps = {after - before for before, after in pairwise(moments)}
    assert steps == {max(1, round(least_s * rate))}


def test_who_was_late_catches_up() -> None:
    assert due(0.0101, 5_000)[0] == 50
