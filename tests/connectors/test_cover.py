"""The cover: what a connector asks its far side for, whatever routes asked for."""

from __future__ import annotations

import random
import time

import pytest

from isthmus.connectors.subscriptions import Subscriptions
from isthmus.mqtt.topics import covers, matches


def cover(*asked: str | tuple[str, int]) -> dict[str, int]:
    subscriptions = Subscriptions()
    for index, one in enumerate(asked):
        filter_, qos = one if isinstance(one, tuple) else (one, 1)
        subscriptions.add(filter_.encode(), index, qos)
    return {filter_.decode(): qos for filter_, qos in subscriptions.cover().items()}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a"], ["a"]),
        (["a/b", "a/+", "a/#", "#"], ["#"]),
        (["#", "a/b"], ["#"]),
        (["#", "$SYS/#"], ["#", "$SYS/#"]),
        (["a/+", "+/b"], ["a/+", "+/b"]),
        (["a/+/c", "a/b/#"], ["a/+/c", "a/b/#"]),
        (["a/#", "a"], ["a/#"]),
        (["a", "a/#"], ["a/#"]),
        (["+/#", "#"], ["+/#"]),
        (["#", "+/#"], ["#"]),
        (["/#", "/+/#"], ["/#"]),
    ],
)
def test_what_is_asked_for(asked, expected):
    assert list(cover(*asked)) == expected


def test_the_highest_qos_of_what_is_covered():
    assert cover(("a/#", 0), ("a/b", 2), ("c", 1)) == {"a/#": 2, "c": 1}
    assert cover(("a/b", 2), ("a/+", 1), ("a/#", 0)) == {"a/#": 2}


@pytest.mark.parametrize("seed", range(30))
def test_every_topic_is_covered_and_no_filter_includes_another(seed):
    rng = random.Random(seed)
    levels = ["a", "b", "+", "+", "", "$x"]

    def make() -> str:
        parts = [rng.choice(levels) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.3:
            parts[-1] = "#"
        return "/".join(parts) or "a"

    asked = [(make(), rng.randint(0, 2)) for _ in range(12)]
    found = cover(*asked)
    for one in found:
        for other in found:
            assert one == other or not covers(one.encode(), other.encode())
    for _ in range(300):
        topic = "/".join(rng.choice(["a", "b", "", "$x"]) for _ in range(rng.randint(1, 4)))
        if not topic:
            continue
        wanted = [qos for filter_, qos in asked if matches(filter_.encode(), topic.encode())]
        given = [qos for filter_, qos in found.items() if matches(filter_.encode(), topic.encode())]
        assert bool(wanted) == bool(given)
        if wanted:
            assert max(given) >= max(wanted)


def test_thousands_of_filters_do_not_stop_the_loop():
    subscriptions = Subscriptions()
    for number in range(3000):
        subscriptions.add(f"site/{number % 50}/{number}/#".encode(), number, 1)
    start = time.perf_counter()
    assert len(subscriptions.cover()) == 3000
    assert time.perf_counter() - start < 0.5
