"""Counted drops: every one is counted, and a flood of them is not a flood of log lines."""

from __future__ import annotations

import logging

import pytest

from isthmus import clock
from isthmus.metrics.drops import LOG_EVERY_S, Drops


class Time:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "monotonic", time)
    return time


@pytest.fixture
def drops(time: Time, caplog: pytest.LogCaptureFixture) -> Drops:
    del time
    caplog.set_level(logging.DEBUG, "isthmus.tests")
    return Drops("route out", logging.getLogger("isthmus.tests"))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_every_drop_is_counted_under_its_reason(drops):
    drops.add("expired")
    drops.add("queue_full", "a/b", 3)
    drops.add("expired", count=2)
    assert drops.counts == {"expired": 3, "queue_full": 3}
    assert drops.total == 6


def test_nothing_dropped(drops, caplog):
    assert (drops.counts, drops.total, lines(caplog)) == ({}, 0, [])


def test_the_first_drop_of_a_reason_is_logged_with_its_detail(drops, caplog):
    drops.add("too_large", "a/b")
    drops.add("expired")
    assert lines(caplog) == [
        "route out: 1 message(s) dropped: too_large (a/b)",
        "route out: 1 message(s) dropped: expired",
    ]


def test_a_flood_is_one_line_a_minute_with_the_number_since_the_last(drops, caplog, time):
    drops.add("link_down", "a")
    for _ in range(1000):
        drops.add("link_down", "b")
    assert len(lines(caplog)) == 1
    time.now += LOG_EVERY_S - 0.1
    drops.add("link_down", "c", 5)
    assert lines(caplog) == []
    time.now += 0.1
    drops.add("link_down", "d")
    assert lines(caplog) == ["route out: 1006 message(s) dropped: link_down (d)"]
    time.now += 10 * LOG_EVERY_S
    drops.add("link_down", "e")
    assert lines(caplog) == ["route out: 1 message(s) dropped: link_down (e)"]
    assert drops.total == 1008


def test_reasons_do_not_silence_each_other(drops, caplog):
    drops.add("expired")
    drops.add("expired")
    drops.add("denied")
    assert len(lines(caplog)) == 2


def test_two_places_count_apart(drops):
    other = Drops("broker", logging.getLogger("isthmus.tests"))
    drops.add("expired")
    assert other.total == 0


def test_a_detail_is_text_and_not_a_format(drops, caplog):
    drops.add("bad_topic", "100 %s %d {}")
    assert lines(caplog) == ["route out: 1 message(s) dropped: bad_topic (100 %s %d {})"]


def test_a_topic_in_bytes_is_decoded_for_the_line_only(drops, caplog):
    class Topic(bytes):
        decoded = 0

        def decode(self, *how, **more):
            Topic.decoded += 1
            return super().decode(*how, **more)

    for _ in range(1000):
        drops.add("queue_full", Topic(b"a/\xc3\xa9"))
    drops.add("expired", b"\xff")
    assert Topic.decoded == 1
    assert lines(caplog) == [
        "route out: 1 message(s) dropped: queue_full (topic a/é)",
        "route out: 1 message(s) dropped: expired (topic \\xff)",
    ]


def test_the_line_says_which_publisher_it_was(drops, caplog):
    drops.add("denied", b"a", publisher="client 'press', user 'anna'")
    drops.add("bad_topic", publisher="client 'press'")
    assert lines(caplog) == [
        "route out: 1 message(s) dropped: denied (topic a, client 'press', user 'anna')",
        "route out: 1 message(s) dropped: bad_topic (client 'press')",
    ]


def test_a_detail_that_is_text_is_no_topic(drops, caplog):
    drops.add("damaged", "record 3 of outbox/cloud/1")
    assert lines(caplog) == [
        "route out: 1 message(s) dropped: damaged (record 3 of outbox/cloud/1)"
    ]
