"""Which runs of the benchmark count, and what a bar needs to be passed."""

from __future__ import annotations

import pytest
from bench.measure import RunError, figures
from bench.runner import Outcome, Series, judge
from bench.scenarios import BY_NAME, SCENARIOS, Bar

QOS1 = BY_NAME["qos1"]


def outcome(own: Series, other: Series) -> Outcome:
    return Outcome(QOS1, {"isthmus": own, "mosquitto": other})


def series(*values: float, errors: int = 0) -> Series:
    return Series([{"cpu_us": value} for value in values], ["99 arrived, 100 had to"] * errors)


@pytest.mark.parametrize("delivered", [99, 101, 0])
def test_a_run_counts_only_if_everything_arrived(delivered: int) -> None:
    with pytest.raises(RunError, match=f"{delivered} messages arrived, 100 had to"):
        figures(100, delivered, cpu_s=1, seconds=1, generators_s=1)


def test_cpu_is_that_per_message_that_arrived() -> None:
    found = figures(100, 100, cpu_s=0.001, seconds=2, generators_s=0.0005)
    assert (found["cpu_us"], found["generator_us"]) == (10, 5)
    assert (found["messages_per_s"], found["delivered"]) == (50, 100)


@pytest.mark.parametrize(
    ("own", "other", "passed"),
    [
        (series(1, 1, 9), series(5, 5, 5), True),  # medians
        (series(2, 2, 2), series(5, 5, 5), False),
        (series(1, 1, errors=1), series(5, 5, 5), False),
        (series(errors=2), series(5, 5, 5), False),
        (series(1, 1, 1), series(5, 5, errors=1), True),  # said in the note
        (series(1, 1, 1), series(5, errors=2), False),
        (series(1, 1, 1), series(errors=2), False),
    ],
)
def test_a_bar_needs_both_sides(own: Series, other: Series, passed: bool) -> None:
    verdict = judge(Bar("cpu_us", "ratio", 0.2), "isthmus", outcome(own, other), {})
    assert verdict.passed is passed
    assert bool(verdict.note) is bool(own.errors or other.errors)


def test_every_scenario_that_a_bar_names_exists() -> None:
    assert len(BY_NAME) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert not scenario.baseline or not BY_NAME[scenario.baseline].baseline
