"""Durations and sizes: what people write, and what it is in seconds and bytes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.config.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("45s", 45), ("1.5s", 1.5), ("10m", 600), ("2h", 7200), ("7d", 604800),
     ("1w", 604800), (" 3 s ", 3), (5, 5), (0.25, 0.25), (0, 0), ("7", 7)],
)  # fmt: skip
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("5MiB", 5 << 20), ("1GiB", 1 << 30), ("1.5KiB", 1536), ("7B", 7), (9, 9),
     ("12", 12)],
)  # fmt: skip
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    [None, "", "s", "-1s", -1, "1 2s", "1s2", True, "1e3s", "٣s", float("inf"), float("nan"), []],
)
def test_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("5S", "did you mean 's'"), ("5 sec", "use one of ms, s, m, h, d, w"), ("5y", "unknown unit")],
)
def test_unknown_units_of_time(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_duration(text)


@pytest.mark.parametrize(("text", "hint"), [("5MB", "MiB"), ("5k", "KiB"), ("1gib", "GiB")])
def test_decimal_units_of_size_are_refused_with_the_binary_one(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{hint}'"):
        parse_size(text)


def test_half_a_byte() -> None:
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_size("0.3KiB")


@given(st.integers(0, 10**12))
def test_sizes_round_trip_and_fit_the_pattern(size: int) -> None:
    text = format_size(size)
    assert parse_size(text) == size
    assert re.search(SIZE_PATTERN, text)


@given(st.integers(0, 10**9))
def test_durations_round_trip_and_fit_the_pattern(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)
    assert parse_duration(text) == pytest.approx(milliseconds / 1000)
    assert re.search(DURATION_PATTERN, text)


def test_a_size_has_a_largest_value() -> None:
    assert parse_size("1048576TiB") == 1 << 60
    with pytest.raises(ValueError, match="must not be above 1048576TiB"):
        parse_size(1 << 70)
