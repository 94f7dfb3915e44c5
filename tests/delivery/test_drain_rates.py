"""How fast what an outage has left is sent: rates for all, and for the topics of routes."""

from __future__ import annotations

import pytest

from isthmus import clock
from isthmus.delivery.drain_rates import DrainRates


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: found[0])
    return found


def test_without_a_rate_nothing_has_to_ask(now: list[float]) -> None:
    rates = DrainRates()
    assert not rates
    rates.limit(1.0)
    assert rates
    rates.limit(None)
    rates.limit_routes([((b"a/#",), 1.0)])
    assert rates


def test_a_rate_for_all_counts_every_topic(now: list[float]) -> None:
    rates = DrainRates()
    rates.limit(2.0)
    assert rates.take(b"a") == 0.0
    assert rates.take(b"b") == pytest.approx(0.5)
    now[0] += 0.5
    assert rates.take(b"b") == 0.0


def test_the_rate_of_a_route_counts_its_topics_only(now: list[float]) -> None:
    rates = DrainRates()
    rates.limit_routes([((b"a/+", b"b/#"), 1.0), ((b"+/x",), 4.0)])
    assert rates.take(b"b/c/d") == 0.0
    assert rates.take(b"c") == 0.0
    assert rates.take(b"c") == 0.0
    assert rates.take(b"a/y") == pytest.approx(1.0)
    # One that two routes publish counts for both, and waits for the slower one.
    assert rates.take(b"a/x") == pytest.approx(1.0)
    assert rates.take(b"c/x") == 0.0
    now[0] += 0.25
    assert rates.take(b"c/x") == 0.0


def test_what_has_to_wait_for_one_rate_takes_nothing_from_another(now: list[float]) -> None:
    rates = DrainRates()
    rates.limit(1.0)
    rates.limit_routes([((b"a",), 0.1)])
    assert rates.take(b"a") == 0.0
    now[0] += 1.0
    assert rates.take(b"a") == pytest.approx(9.0)
    assert rates.take(b"b") == 0.0


def test_topics_that_begin_with_a_dollar_match_wildcards_too(now: list[float]) -> None:
    rates = DrainRates()
    rates.limit_routes([((b"#",), 1.0)])
    assert rates.take(b"$SYS/a") == 0.0
    assert rates.take(b"$SYS/a") > 0.0


def test_equal_rules_spend_no_more(now: list[float]) -> None:
    rates = DrainRates()
    for _ in range(2):
        rates.limit(1.0)
        rates.limit_routes([((b"a",), 1.0)])
        rates.take(b"a")
    assert rates.take(b"a") > 0.0
    assert rates.take(b"b") > 0.0
