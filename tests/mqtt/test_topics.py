"""Topic names and filters: validation, matching, covering."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt_strategies import filters, names, unfit

from isthmus.errors import MQTTError
from isthmus.mqtt import topics
from isthmus.mqtt.topics import (
    check_filter,
    check_name,
    covers,
    is_wildcard,
    levels,
    matches,
    split_shared,
)


def naive(filter_: str, topic: str) -> bool:
    """Section 4.7 read aloud, level by level from the left."""
    wanted, found = filter_.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    while wanted:
        level = wanted.pop(0)
        if level == "#":
            return True
        if not found:
            return False
        have = found.pop(0)
        if level not in ("+", have):
            return False
        if not found and wanted == ["#"]:
            return True
    return not found


MATCHES = [  # the examples of section 4.7
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/#", "sport", True),
    ("#", "a/b", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    ("a", "A", False),
    ("a//b", "a//b", True),
    ("a/+/b", "a//b", True),
    ("#", "$SYS/x", False),
    ("+/x", "$SYS/x", False),
    ("$SYS/#", "$SYS/x", True),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    ("$SYS/#", "$SYS", True),
    ("ä/+", "ä/ö", True),
]


@pytest.mark.parametrize(("filter_", "topic", "expected"), MATCHES)
def test_mqtt_4_7_examples(filter_: str, topic: str, expected: bool) -> None:
    assert matches(filter_.encode(), topic.encode()) is expected
    assert naive(filter_, topic) is expected


@settings(max_examples=300)
@given(filters(shared=False), names)
def test_matches_like_the_naive_reading(filter_: bytes, topic: bytes) -> None:
    check_filter(filter_)
    check_name(topic)
    assert matches(filter_, topic) == naive(filter_.decode(), topic.decode())


def test_covers_is_exact() -> None:
    """Against every topic of a small world with a letter that no filter names."""
    letters = (b"a", b"$", b"z", b"")
    world = [b"/".join(topic) for size in (1, 2, 3, 4) for topic in product(letters, repeat=size)]
    world = [topic for topic in world if topic]
    known = [b"/".join(f) for size in (1, 2) for f in product((b"a", b"$", b"+", b""), repeat=size)]
    known += [b"#", b"+/+/+", b"+/+/+/#", b"a/+/a"] + [f + b"/#" for f in known]
    known = [f for f in known if f]
    matched = {f: frozenset(topic for topic in world if matches(f, topic)) for f in known}
    for a, b in product(known, repeat=2):
        assert covers(a, b) == (matched[b] <= matched[a]), (a, b)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        (b"", 0x90),
        (b"a+", 0x90),
        (b"#", 0x90),
        (b"a\0", 0x81),
        (b"\xff", 0x81),
        (b"\xed\xa0\x80", 0x81),
        (b"x" * 65_536, 0x90),
    ],
)
def test_mqtt_4_7_0_1_illegal_names(topic: bytes, reason: int) -> None:
    for _ in range(2):  # an illegal name is not remembered
        with pytest.raises(MQTTError) as caught:
            check_name(topic)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("filter_", "reason"),
    [
        (b"", 0x8F),
        (b"a#", 0x8F),
        (b"#/a", 0x8F),
        (b"a/#/b", 0x8F),
        (b"##", 0x8F),
        (b"a+", 0x8F),
        (b"+a/b", 0x8F),
        (b"a/++", 0x8F),
        (b"\xff", 0x81),
        (b"a\0b", 0x81),
        (b"x" * 65_536, 0x8F),
        (b"$share/g", 0x8F),
        (b"$share/g/", 0x8F),
        (b"$share//a", 0x8F),
        (b"$share/+/a", 0x8F),
        (b"$share/g#/a", 0x8F),
        (b"$share/g/a#", 0x8F),
    ],
)
def test_mqtt_4_7_1_illegal_filters(filter_: bytes, reason: int) -> None:
    with pytest.raises(MQTTError) as caught:
        check_filter(filter_)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "filter_", [b"#", b"+", b"/", b"+/+/#", b"/#", b"$share/g/#", b"$share", b"$SYS/#", b"a b/c"]
)
def test_legal_filters(filter_: bytes) -> None:
    check_filter(filter_)


def test_mqtt_4_8_2_shared() -> None:
    assert split_shared(b"$share/g/a/#") == (b"g", b"a/#")
    assert split_shared(b"$share/g//a") == (b"g", b"/a")
    assert split_shared(b"$shared/g/a") == (None, b"$shared/g/a")
    assert split_shared(b"a") == (None, b"a")


def test_small_questions() -> None:
    assert [levels(topic) for topic in (b"a", b"/", b"a/b/c")] == [1, 2, 3]
    assert [is_wildcard(topic) for topic in (b"a", b"+", b"a/#")] == [False, True, True]


def test_mqtt_1_5_4_3_bom_is_kept() -> None:
    check_name(b"\xef\xbb\xbfa")
    assert not matches(b"a", b"\xef\xbb\xbfa")


def test_remembered_names_are_bounded() -> None:
    for number in range(topics.REMEMBERED_NAMES * 2 + 10):
        check_name(b"bounded/%d" % number)
        check_name(b"bounded/0")  # in use, so it stays
    assert len(topics.VALID_NAMES) <= topics.REMEMBERED_NAMES
    assert len(topics._OLD_NAMES) <= topics.REMEMBERED_NAMES
    assert b"bounded/0" in {*topics.VALID_NAMES, *topics._OLD_NAMES}
    long = b"x" * (topics.REMEMBERED_BYTES + 1)
    check_name(long)
    assert long not in topics.VALID_NAMES


@settings(max_examples=100)
@given(st.binary(max_size=8))
def test_any_bytes_are_a_name_or_an_error(raw: bytes) -> None:
    reason = 0
    try:
        check_name(raw)
    except MQTTError as error:
        reason = error.reason
    legal = b"\0" not in raw and raw and not set(raw) & set(b"+#")
    try:
        legal = legal and not unfit(raw.decode())
    except UnicodeDecodeError:
        legal = False
    assert reason in ((0,) if legal else (0x81, 0x90))
