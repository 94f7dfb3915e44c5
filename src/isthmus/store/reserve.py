"""The reserve: room on the disk for the store when there is no other left."""

from __future__ import annotations

import os
from pathlib import Path

FILE = "isthmus.reserve"
"""A file that is given up when the disk is full, so that deletions still find room."""

RESERVE_BYTES = 8 << 20
"""As much as the log of the file may have that is not in the file yet: see `Room`."""

LEAST_BYTES = 1 << 20

PART = 8
"""Of a small disk one part in so many."""

FRAME_BYTES = 4096 + 24
"""A page in the log of the file."""


class Reserve:
    """Bytes on the disk that are given up when it is full, and taken again later. Never raises.

    `size` is how many: `RESERVE_BYTES`, less on a small disk.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        try:
            disk = os.statvfs(folder)
        except OSError:
            self.size = RESERVE_BYTES
        else:
            capacity = disk.f_blocks * disk.f_frsize
            self.size = max(LEAST_BYTES, min(RESERVE_BYTES, capacity // PART))

    @property
    def log_pages(self) -> int:
        """With how many pages the log is copied into the file, which has to fit in here."""
        return self.size * 7 // 8 // FRAME_BYTES

    @property
    def held(self) -> bool:
        """Whether all of it is there."""
        try:
            return self._path.stat().st_size >= self.size
        except OSError:
            return False

    def take(self) -> bool:
        """Allocate it; whether there was room."""
        if self.held:
            return True
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.posix_fallocate(file, 0, self.size)
            finally:
                os.close(file)
        except OSError:
            self.give_up()
            return False
        return True

    def give_up(self) -> bool:
        """Free its room for the store; whether there was any to free."""
        held = self.held
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return False
        return held
