"""Durations and sizes as people write them: `20ms`, `45s`, `7d`, `64KiB`, `1GiB`.

The settings hold plain numbers (float seconds, int bytes), so that no code below has to know that
they were ever text. A plain number in the file means seconds or bytes. Sizes are written with
binary units only, as `MB` means two different things to two readers.
"""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
BYTES_PER_UNIT = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

DURATION_PATTERN = r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d|w)\s*$"
SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*(B|KiB|MiB|GiB|TiB)\s*$"

RATE_PATTERN = r"^\s*\d+(\.\d+)?\s*/\s*(s|m|h)\s*$"

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*", re.ASCII)

_RATE = re.compile(RATE_PATTERN, re.ASCII)
MAX_SIZE_BYTES = 1 << 60
"""More than any disk has, and within what 64 bits count."""

_PER_S = {"s": 1.0, "m": 60.0, "h": 3600.0}

_DURATION_UNITS = "one of ms, s, m, h, d, w"
_SIZE_UNITS = "one of B, KiB, MiB, GiB, TiB"


def parse_duration(value: object) -> float:
    """Return the seconds of a text such as `1.5s`, or of a plain number of seconds.

    Raises:
        ValueError: it is neither, is negative, or is not finite. The text never holds the value,
            as it may have come from a secret.
    """
    number, unit = _split(value, "a duration such as 20ms, 45s, 10m or 7d")
    factor = SECONDS_PER_UNIT.get(unit or "s")
    if factor is None:
        lower = unit.lower()
        hint = f"; did you mean '{lower}'?" if lower in SECONDS_PER_UNIT else ""
        raise ValueError(f"unknown unit of time, use {_DURATION_UNITS}{hint}")
    return number * factor


def parse_size(value: object) -> int:
    """Return the bytes of a text such as `64KiB`, or of a plain whole number of bytes.

    Raises:
        ValueError: it is neither, is negative, is no whole number of bytes, or above 1048576TiB.
    """
    number, unit = _split(value, "a size such as 64KiB, 5MiB or 1GiB")
    factor = BYTES_PER_UNIT.get(unit or "B")
    if factor is None:
        hint = _binary_unit(unit)
        raise ValueError(f"unknown unit of size, use {_SIZE_UNITS}{hint}")
    size = number * factor
    if size != int(size):
        raise ValueError("must be a whole number of bytes")
    if size > MAX_SIZE_BYTES:
        raise ValueError("must not be above 1048576TiB")
    return int(size)


def parse_rate(value: object) -> float:
    """Return how many per second `100/s`, `30/m` or `10/h` is, or a plain number per second.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str) or _RATE.match(value) is None:
        raise ValueError("must be a number per time, such as 100/s, 30/m or 10/h")
    number, _, unit = value.partition("/")
    return float(number) / _PER_S[unit.strip()]


def format_duration(seconds: float) -> str:
    """Return the shortest exact text of a duration: `90.0` is `90s`, `604800.0` is `7d`."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / SECONDS_PER_UNIT[unit]
        if count == int(count) and (count or unit == "s"):
            return f"{int(count)}{unit}"
    return f"{seconds * 1000:.10g}ms"


def format_size(size: int) -> str:
    """Return the shortest exact text of a size: `1048576` is `1MiB`, `1500` is `1500B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % BYTES_PER_UNIT[unit] == 0:
            return f"{size // BYTES_PER_UNIT[unit]}{unit}"
    return f"{size}B"


def format_rate(per_s: float) -> str:
    """Return the text of a rate: `1000.0` is `1000/s`, `0.5` is `30/m`."""
    for unit, seconds in _PER_S.items():
        count = per_s * seconds
        if count == int(count):
            return f"{int(count)}/{unit}"
    return f"{per_s:.10g}/s"


def _split(value: object, expected: str) -> tuple[float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"must be {expected}, not negative and not infinite")
        return float(value), ""
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be {expected}")
    return float(match[1]), match[2]


def _binary_unit(unit: str) -> str:
    """Hint for `mb`, `M`, `kb`, `mib`: the binary unit that begins with the same letter."""
    for known in ("KiB", "MiB", "GiB", "TiB"):
        if unit.upper() in (known[0], known[0] + "B", known.upper()):
            return f"; did you mean '{known}'?"
    return ""


def _never(value: object) -> object:
    if value == "never":
        return None
    return value if value is None else parse_duration(value)


def _schema(kind: str, pattern: str, number: str, examples: list[str]) -> dict[str, Any]:
    return {
        "anyOf": [{"type": "string", "pattern": pattern}, {"type": number, "minimum": 0}],
        "examples": examples,
        "x-unit": kind,
    }


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(_schema("duration", DURATION_PATTERN, "number", ["20ms", "45s", "10m", "7d"])),
]
"""Float seconds; in files `20ms 45s 10m 2h 7d`, a plain number is seconds."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(_schema("size", SIZE_PATTERN, "integer", ["64KiB", "5MiB", "1GiB"])),
]
"""Int bytes; in files `64KiB 5MiB 1GiB`, a plain whole number is bytes."""

DURATION_OR_NEVER_SCHEMA = _schema("duration", DURATION_PATTERN, "number", ["7d", "never"])
DURATION_OR_NEVER_SCHEMA["anyOf"] = [
    *DURATION_OR_NEVER_SCHEMA["anyOf"],
    {"const": "never"},
    {"type": "null"},
]
"""JSON Schema of a duration that may also be `never`."""

DurationOrNever = Annotated[
    float | None, BeforeValidator(_never), WithJsonSchema(DURATION_OR_NEVER_SCHEMA)
]
"""Float seconds, or None for `never`."""

Rate = Annotated[
    float,
    BeforeValidator(parse_rate),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": RATE_PATTERN},
                {"type": "number", "exclusiveMinimum": 0},
            ],
            "examples": ["100/s", "30/m"],
            "x-unit": "rate",
        }
    ),
    Field(gt=0, le=10_000_000),
]
"""Float per second; in files `100/s 30/m 10/h`, a plain number is per second."""
