"""Times and sizes as people read them: rounded, in the unit that fits."""

from __future__ import annotations

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """A time in its two largest units: `2 h 5 min`, or with one digit below ten seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = int(seconds)
    for index, (length, unit) in enumerate(_UNITS):
        if left >= length:
            smaller_s, smaller = _UNITS[index + 1] if index + 1 < len(_UNITS) else (1, "s")
            rest = left % length // smaller_s
            return f"{left // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{left} s"


def size(count: int) -> str:
    """Bytes in the unit that fits: `3.4 KiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
