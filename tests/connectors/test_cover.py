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


@pytest.mark.alone
def test_thousands_of_filters_do_not_stop_the_loop():
    subscriptions = Subscriptions()
    for number in range(3000):
        subscriptions.add(f"site/{number % 50}/{number}/#".encode(), number, 1)
    start = time.perf_counter()
    assert len(subscriptions.cover()) == 3000
    assert time.perf_counter() - start < 0.5


# -- refusals --------------------------------------------------------------------------------------

REFUSED = 0x87


def settled(subscriptions: Subscriptions, refuses, members: int = 1) -> list[tuple[int, str]]:
    """Ask a far side that `refuses` what it says, until all is said; what was unsubscribed."""
    gone = []
    for _ in range(50):
        moved = False
        for member in range(members):
            for filter_, qos in subscriptions.missing(member, again=False).items():
                code = REFUSED if refuses(member, filter_.decode(), qos) else qos
                subscriptions.answered(member, filter_, qos, code)
                moved = True
            gone += [(member, filter_.decode()) for filter_ in subscriptions.surplus(member)]
        if not moved:
            return gone
    raise AssertionError("it never comes to rest")


def subscribed(subscriptions: Subscriptions) -> dict[str, int]:
    return {filter_.decode(): code for filter_, code in subscriptions.answers.items()}


def asked(*filters: tuple[str, int], members: int = 1, **how: bool) -> Subscriptions:
    subscriptions = Subscriptions(members, **how)
    for index, (filter_, qos) in enumerate(filters):
        subscriptions.add(filter_.encode(), index, qos)
    return subscriptions


def test_what_a_refused_filter_covers_is_asked_for_itself():
    subscriptions = asked(("#", 0), ("alarm/#", 2), ("alarm/fire", 1), ("b", 1))
    assert settled(subscriptions, lambda _, filter_, __: filter_ == "#") == []
    # The refused one is asked for again with the QoS of all that it would stand for.
    assert subscriptions.cover() == {b"#": 2, b"alarm/#": 2, b"b": 1}
    assert subscribed(subscriptions) == {"#": REFUSED, "alarm/#": 2, "b": 1}
    assert subscriptions.missing(0, again=True) == {b"#": 2}


def test_refusals_are_followed_down_to_what_is_granted():
    subscriptions = asked(("a/b/c", 1), ("a/#", 1), ("a/b/#", 1), ("#", 1), ("a/x", 1))
    settled(subscriptions, lambda _, filter_, __: filter_.endswith("#"))
    found = subscribed(subscriptions)
    assert [filter_ for filter_, code in found.items() if code == 1] == ["a/b/c", "a/x"]
    assert sum(code == REFUSED for code in found.values()) == 3


def test_a_filter_that_is_granted_at_last_takes_its_place_again():
    subscriptions = asked(("#", 0), ("a/#", 2), ("b", 1))
    settled(subscriptions, lambda _, filter_, __: filter_ == "#")
    subscriptions.answered(0, b"#", 2, 2)
    assert settled(subscriptions, lambda *_: False) == [(0, "a/#"), (0, "b")]
    assert subscribed(subscriptions) == {"#": 2}


@pytest.mark.parametrize("code", [1, REFUSED])
def test_what_is_subscribed_stays_until_what_covers_it_is_granted(code):
    subscriptions = asked(("a/#", 1), ("b", 1))
    settled(subscriptions, lambda *_: False)
    subscriptions.add(b"#", "new", 1)
    assert subscriptions.missing(0, again=False) == {b"#": 1}
    assert subscriptions.surplus(0) == []
    assert subscriptions.moving
    subscriptions.answered(0, b"#", 1, code)
    assert subscriptions.missing(0, again=False) == {}
    assert subscriptions.surplus(0) == ([b"a/#", b"b"] if code == 1 else [])


def test_a_new_session_begins_with_the_widest_filters():
    subscriptions = asked(("#", 1), ("a", 1))
    settled(subscriptions, lambda _, filter_, __: filter_ == "#")
    subscriptions.forget(0)
    assert subscriptions.missing(0, again=False) == {b"#": 1}


def test_where_nothing_is_joined_each_is_asked_for_in_order_with_its_own_qos():
    subscriptions = asked(("a/b", 0), ("#", 1), ("a/#", 2), joined=False)
    assert list(subscriptions.cover().items()) == [(b"a/b", 0), (b"#", 1), (b"a/#", 2)]
    settled(subscriptions, lambda _, filter_, __: filter_ == "#")
    assert subscribed(subscriptions) == {"a/b": 0, "#": REFUSED, "a/#": 2}
    subscriptions.join(joined=True)
    assert settled(subscriptions, lambda *_: False) == [(0, "a/b")]
    assert subscribed(subscriptions) == {"#": REFUSED, "a/#": 2}


@pytest.mark.parametrize("seed", range(40))
def test_every_filter_is_served_as_far_as_it_is_granted(seed):
    """Whatever a service grants, also where it grants other things to each member of a pool."""
    rng = random.Random(seed)
    members = rng.randint(1, 3)

    def make() -> str:
        parts = [rng.choice(["a", "b", "+", "", " "]) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.4:
            parts[-1] = "#"
        text = "/".join(parts) or "a"
        return f"$share/g/{text}" if rng.random() < 0.15 else text

    filters = {make(): rng.randint(0, 2) for _ in range(14)}
    denied = {(rng.randrange(members), rng.choice(list(filters))) for _ in range(20)}
    subscriptions = asked(*filters.items(), members=members)
    settled(subscriptions, lambda member, filter_, _: (member, filter_) in denied, members)
    found = subscribed(subscriptions)
    for filter_, qos in filters.items():
        # For shared filters the highest code is shown, though other members may have it.
        granted = [
            one
            for one, code in found.items()
            if code < 0x80 and code >= qos and covers(one.encode(), filter_.encode())
        ]
        assert granted or found.get(filter_) == REFUSED or filter_.startswith("$share")
    # And nothing twice: what is granted does not include another.
    plain = [one for one, code in found.items() if code < 0x80 and not one.startswith("$share")]
    for one in plain:
        for other in plain:
            assert one == other or not covers(one.encode(), other.encode())
