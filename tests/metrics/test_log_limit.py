"""Lines about peers: one for each, a number for the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from isthmus.metrics.log_limit import LINES, WINDOW_S, LogLimit


class Wheel:
    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def at(self, deadline: float, callback: Callable[[], None]) -> None:
        self.timers.append((deadline, callback))

    def fire(self) -> None:
        ((_, callback),) = self.timers
        self.timers.clear()
        callback()


@pytest.fixture
def wheel() -> Wheel:
    return Wheel()


@pytest.fixture
def limit(wheel: Wheel, caplog: pytest.LogCaptureFixture) -> LogLimit:
    caplog.set_level(logging.INFO, "isthmus.tests")
    return LogLimit(logging.getLogger("isthmus.tests"), wheel.at)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_one_line_per_cause_and_identity_then_a_number(limit, wheel, caplog):
    for _ in range(1000):
        limit.line("wrong password", "10.0.0.1", "10.0.0.1:77 closed: wrong password")
        limit.line("wrong password", "10.0.0.2", "10.0.0.2:78 closed: wrong password")
    limit.line("taken over", "10.0.0.1", "x closed: taken over")
    assert lines(caplog) == [
        "10.0.0.1:77 closed: wrong password",
        "10.0.0.2:78 closed: wrong password",
        "x closed: taken over",
    ]
    wheel.fire()
    assert lines(caplog) == [f"1998 more in the last {WINDOW_S:.0f} s: wrong password"]


def test_after_a_minute_there_is_a_line_again(limit, wheel, caplog):
    limit.line("a", "x", "1")
    limit.line("a", "x", "2")
    wheel.fire()
    limit.line("a", "x", "3")
    assert lines(caplog) == ["1", "1 more in the last 60 s: a", "3"]
    wheel.fire()
    assert (lines(caplog), wheel.timers) == ([], [])


def test_made_up_identities_do_not_help(limit, wheel, caplog):
    for number in range(10_000):
        limit.line("a", str(number), "100 %s %d {}")
    assert len(lines(caplog)) == LINES
    wheel.fire()
    assert lines(caplog) == [f"{10_000 - LINES} more in the last 60 s: a"]
