"""The log beside the file, as it was left: is everything there that had been written?

SQLite reads its log up to the first frame without its checksum, and takes that for its end. So does
the end of a log look after a crash: the last transaction may be there in part, and nobody was told
that it is safe. But what was synchronised has to be there, and two things tell of it:

- A transaction is written when the one before it has been synchronised. Where frames of a later
  one are there, and those of an earlier one are not, the log is damaged.
- The *mark*, a small file, says how many frames have been synchronised. It is written about once a
  second, and is not synchronised itself: it may be too old, and is never wrong. Before the log is
  emptied, it is set to nothing, and that is synchronised.

The format of the log: https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple, Self
from zlib import crc32

if TYPE_CHECKING:
    from pathlib import Path

MARK = "isthmus.mark"

_MARK = struct.Struct(">4s8sII")
_NAME = b"ISM1"

HEADER_BYTES = 32
FRAME_BYTES = 24
_HEADER = struct.Struct(">IIII8sII")
_FRAME = struct.Struct(">II8sII")
MAGIC = 0x377F0682
"""With this the words of a checksum are little-endian, with one more big-endian."""

WORD = 0xFFFFFFFF


class Mark(NamedTuple):
    """What was synchronised: so many frames of the log that has these salts."""

    salts: bytes
    frames: int


def log_of(path: Path) -> Path:
    """The file of the write-ahead log that belongs to the file at `path`."""
    return path.with_name(path.name + "-wal")


def read_mark(path: Path) -> Mark | None:
    """The mark that belongs to the file at `path`; None where there is none, or nothing in it."""
    try:
        data = path.with_name(MARK).read_bytes()
        name, salts, frames, checksum = _MARK.unpack(data)
    except (OSError, struct.error):
        return None
    good = name == _NAME and checksum == crc32(data[:-4])
    return Mark(salts, frames) if good and frames else None


def clear_mark(path: Path) -> None:
    """Let the mark say nothing, for certain: the log is about to be emptied.

    Raises:
        OSError: It cannot be written.
    """
    if read_mark(path) is not None:
        _write_mark(path, Mark(bytes(8), 0), synchronise=True)


def mark(path: Path) -> None:
    """Note how much there is in the log, all of which has been synchronised.

    Raises:
        OSError: It cannot be written.
    """
    with _Log(path) as log:
        frames = log.count()
        # Where the end is not that of a transaction, something has failed here.
        if frames and log.frame(frames - 1).ends:
            _write_mark(path, Mark(log.salts, frames), synchronise=False)


def _write_mark(path: Path, what: Mark, *, synchronise: bool) -> None:
    data = _MARK.pack(_NAME, what.salts, what.frames, 0)[:-4]
    # In one write, over what was there: room for it is there from the first time on.
    file = os.open(path.with_name(MARK), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, data + crc32(data).to_bytes(4, "big"), 0)
        if synchronise:
            os.fdatasync(file)
    finally:
        os.close(file)


def lost(path: Path) -> str:
    """What the log of the file at `path` has lost, in words; empty if nothing that can be known.

    To be called by who has the lock of the file, before the log is changed.

    Raises:
        OSError: It cannot be read.
    """
    found = read_mark(path)
    with _Log(path) as log:
        if not log.frames and found is not None:
            return f"is not there, or is empty, and had {found.frames} pages"
        intact, read = log.intact()
        if found is not None and log.salts == found.salts and intact < found.frames:
            return f"had at least {found.frames} pages, and can be read up to page {intact}"
        if log.goes_on(read):
            return f"is damaged behind page {intact}, and went on there"
        if log.garbled or (found is not None and log.has_no_header):
            return "has no header that can be read, and is not empty"
    return ""


class _Frame(NamedTuple):
    """The header of a frame: the page in it, and whether a transaction ends with it."""

    page: int
    ends: int
    salts: bytes
    sums: tuple[int, int]


class _Log:
    """The log of the file at `path`, to be read; it may not be there. Use it in `with`."""

    def __init__(self, path: Path) -> None:
        self._file = -1
        self.frames = 0
        self.salts = bytes(8)
        self._sums = (0, 0)
        self._page_bytes = 4096
        self._swaps = sys.byteorder == "big"
        self._good = False
        try:
            self._file = os.open(log_of(path), os.O_RDONLY)
        except FileNotFoundError:
            return
        header = os.pread(self._file, HEADER_BYTES, 0)
        if len(header) == HEADER_BYTES:
            magic, _, page_bytes, _, self.salts, *sums = _HEADER.unpack(header)
            if magic & ~1 == MAGIC:
                self._swaps = bool(magic & 1) == (sys.byteorder == "little")
            self._sums = (sums[0], sums[1])
            self._good = magic & ~1 == MAGIC and self._sum((0, 0), header[:24]) == self._sums
            if self._good:
                self._page_bytes = page_bytes
            size = os.fstat(self._file).st_size - HEADER_BYTES
            self.frames = size // (FRAME_BYTES + self._page_bytes)
        if not self._good and self.frames:
            self.salts = self.frame(0).salts

    @property
    def has_no_header(self) -> bool:
        """Whether there is something, and no header: that is synchronised before all else."""
        return not self._good and bool(self.frames)

    @property
    def garbled(self) -> bool:
        """The same, where what is there is not only room that was never written."""
        return self.has_no_header and self.salts != bytes(8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def frame(self, number: int) -> _Frame:
        """The header of a frame, counted from 0."""
        return self._parse(self._read(number, FRAME_BYTES))

    def _parse(self, data: bytes) -> _Frame:
        page, ends, salts, *sums = _FRAME.unpack(data[:FRAME_BYTES])
        return _Frame(page, ends, salts, (sums[0], sums[1]))

    def _read(self, number: int, size: int) -> bytes:
        at = HEADER_BYTES + number * (FRAME_BYTES + self._page_bytes)
        return os.pread(self._file, size, at).ljust(FRAME_BYTES, b"\0")

    def _is_ours(self, frame: _Frame) -> bool:
        return bool(frame.page) and frame.salts == self.salts

    def count(self) -> int:
        """How many frames were written since the log was last begun."""
        low, high = 0, self.frames if self._good else 0
        while low < high:
            middle = (low + high) // 2
            if self._is_ours(self.frame(middle)):
                low = middle + 1
            else:
                high = middle
        return low

    def intact(self) -> tuple[int, int]:
        """How many frames SQLite takes: whole transactions; and how many have their checksums."""
        taken = number = 0
        sums = self._sums
        while self._good and number < self.frames:
            frame = self._checked(number, sums)
            if frame is None:
                break
            number += 1
            sums = frame.sums
            if frame.ends:
                taken = number
        return taken, number

    def _checked(self, number: int, sums: tuple[int, int]) -> _Frame | None:
        """A frame that has its checksum, where the one before it has `sums`."""
        data = self._read(number, FRAME_BYTES + self._page_bytes)
        frame = self._parse(data)
        if not self._is_ours(frame):
            return None
        summed = self._sum(self._sum(sums, data[:8]), data[FRAME_BYTES:])
        return frame if summed == frame.sums else None

    def goes_on(self, number: int) -> bool:
        """Whether a transaction that has not all its frames, from this one on, has one after it."""
        for behind in range(number, self.frames - 1):
            frame = self.frame(behind)
            if frame.ends and self._is_ours(frame) and self._checked(behind + 1, frame.sums):
                return True
        return False

    def _sum(self, sums: tuple[int, int], data: bytes) -> tuple[int, int]:
        words = array("I", data[: len(data) & ~7])
        if self._swaps:
            words.byteswap()
        one, two = sums
        for first, second in zip(words[::2], words[1::2], strict=True):
            one = (one + first + two) & WORD
            two = (two + second + one) & WORD
        return one, two
