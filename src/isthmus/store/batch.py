"""A batch: records that are written together, as one row.

A row per message would cost ten times as much as a message does. Where several logs get the same
message, they refer to one record.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

FULL_BYTES = 256 << 10
"""A batch of this size is followed by another, so that reading back goes in bounded steps."""

SUMMED = 64
"""Records per checksum: what one wrong bit can cost at most."""


class Row(NamedTuple):
    """A batch as columns."""

    body: bytes
    ends: bytes
    sums: bytes


class Batch:
    """Records that are being collected; `size` is their size in bytes, `appended` how many came."""

    __slots__ = ("_ends", "_last", "_records", "appended", "size")

    def __init__(self) -> None:
        self._records: list[bytes] = []
        self._ends: list[int] = []
        self._last: bytes | None = None
        self.size = self.appended = 0

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, record: bytes) -> int:
        """Add a record; its place. One that equals the last is kept once."""
        self.appended += 1
        if record != self._last:
            self._last = record
            self._records.append(record)
            self.size += len(record)
            self._ends.append(self.size)
        return len(self._ends) - 1

    def row(self) -> Row:
        """The columns of its row; takes time with its size."""
        body = b"".join(self._records)
        ends = array("I", self._ends)
        return Row(body, ends.tobytes(), array("I", _sums(body, ends)).tobytes())


def _sums(body: bytes, ends: array[int]) -> Iterator[int]:
    view = memoryview(body)
    begin = 0
    for last in range(SUMMED - 1, len(ends) + SUMMED - 1, SUMMED):
        end = ends[min(last, len(ends) - 1)]
        yield crc32(view[begin:end])
        begin = end


def _numbers(data: bytes) -> array[int]:
    numbers = array("I")
    numbers.frombytes(data)
    return numbers


def records(row: Row, places: Iterable[int]) -> list[bytes | None]:
    """The records at `places`; None for those whose checksum is wrong, or that are not there."""
    body = row.body
    try:
        ends = _numbers(row.ends)
        sums = _numbers(row.sums)
    except ValueError:
        return [None for _ in places]
    wrong = {
        number
        for number, found in enumerate(_sums(body, ends))
        if number >= len(sums) or found != sums[number]
    }
    if not wrong and isinstance(places, range) and places and places[-1] < len(ends):
        begins = [ends[places[0] - 1] if places[0] else 0, *ends[places[0] : places[-1]]]
        return [body[begin:end] for begin, end in zip(begins, ends[places[0] :], strict=False)]
    found: list[bytes | None] = []
    for place in places:
        if place >= len(ends) or place // SUMMED in wrong:
            found.append(None)
        else:
            found.append(body[ends[place - 1] if place else 0 : ends[place]])
    return found
