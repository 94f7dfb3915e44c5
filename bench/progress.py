"""How many messages have come to the end, told by the process that counts to the one that sends.

A QoS 0 publisher hears nothing from a broker. With this it keeps at most a burst of messages under
way from end to end, so that whatever is measured works at full speed and has no reason to drop.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_COUNT = struct.Struct("=Q")


class Progress:
    """A counter in a file that both processes have in memory; `path` "" counts for nobody."""

    __slots__ = ("_memory",)

    def __init__(self, path: str) -> None:
        self._memory: mmap.mmap | None = None
        if path:
            with Path(path).open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), _COUNT.size)

    @property
    def count(self) -> int:
        """Messages that arrived so far, warm-up included."""
        if self._memory is None:
            return 0
        found: int = _COUNT.unpack_from(self._memory)[0]
        return found

    @count.setter
    def count(self, messages: int) -> None:
        if self._memory is not None:
            _COUNT.pack_into(self._memory, 0, messages)


def make(path: Path) -> str:
    """A new counter; returns what `Progress` takes."""
    path.write_bytes(bytes(_COUNT.size))
    return str(path)
