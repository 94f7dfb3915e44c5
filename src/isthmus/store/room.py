"""The room that is left on the disk, and how the file is written while there is little.

What is committed is in the log beside the file, and its room there is free again only when all of
it has been copied into the file, which may have to grow for it. A disk that the store itself has
filled would stay full for ever: deletions give free pages inside the file, not room on the disk. So
three things hold at any time:

- What is in the log and would let the file grow is less than the reserve. So the log can always be
  copied, and be cut to nothing, after which the reserve is there again.
- With little room left, one part after the other is written, small enough for the log to fit into
  the reserve. One for which the file has to grow is only committed while there is room for that
  beside the reserve. One that finds free pages in the file may use the reserve for the log.
- What deletes may use the reserve always.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from math import inf
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.store.database import is_full, synchronise
from isthmus.store.reserve import FRAME_BYTES, Reserve
from isthmus.store.wal import log_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from isthmus.store.statement import Statement

TIGHT_BYTES = 256 << 20
"""With so much room nobody asks how much a transaction takes."""

ASKED_S = 0.1
"""So often it is asked how much room there is, while there is so much: hardly a disk takes that in
this time, and if one does, writing fails and is tried again in parts."""

ROW_BYTES = 256
MARGIN_BYTES = 128 << 10
"""What rows and a transaction take beside their values, about: parts of pages, and indexes."""


class Room:
    """The room for the file at `path`. For the thread of the writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = log_of(path)
        self._folder = str(path.parent)
        self.reserve = Reserve(path.parent)
        self._lacks_reserve = False
        self._ask_at = -inf

    @property
    def trimmed_at_once(self) -> int:
        """How many slices are deleted in one transaction: each changes a few pages."""
        return self.reserve.size // (4 * FRAME_BYTES)

    def check(self, statements: list[Statement]) -> None:
        """See that there is room for these at once, in the log and in the file.

        Raises:
            OSError: There is too little.
        """
        now = clock.monotonic()
        if now < self._ask_at:
            return
        free = self._free()
        if free >= TIGHT_BYTES:
            self._ask_at = now + ASKED_S
        else:
            wanted = 2 * _size(statements) + _file_size(self._log)
            if free < wanted:
                raise no_room()
            free -= wanted
        if self._lacks_reserve and free > self.reserve.size:
            self._take()

    def clear(self, connection: sqlite3.Connection) -> None:
        """Copy all of the log into the file, synchronise that, and cut the log to nothing.

        Raises:
            sqlite3.Error, StoreError, OSError: That did not work.
        """
        try:
            synchronise(connection, self._path)
        except (sqlite3.Error, OSError) as error:
            if not (is_full(error) and self.reserve.give_up()):
                raise
            synchronise(connection, self._path)
        self._take()

    def _take(self) -> None:
        self._lacks_reserve = not self.reserve.take()

    def write(
        self,
        connection: sqlite3.Connection,
        statements: list[Statement],
        question: str,
        execute: Callable[[sqlite3.Connection, Statement], None],
        *,
        deletes: bool = False,
    ) -> list[tuple[Any, ...]]:
        """Write what belongs together, one by `execute` each; the rows of `question`.

        `deletes` says that it makes room. When this has raised, nothing of it is written.

        Raises:
            OSError, sqlite3.Error: There is no room, or something else was wrong.
        """
        self.clear(connection)
        size = _size(statements)
        if self._free() < size:
            self.reserve.give_up()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                execute(connection, statement)
            rows = connection.execute(question).fetchall() if question else []
            if not deletes:
                growth = self._growth(connection)
                if growth > 0 and not (self.reserve.held and self._free() >= growth + size):
                    raise no_room()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        return rows

    def _growth(self, connection: sqlite3.Connection) -> int:
        """By how many bytes the file would grow with what is in the log and in the transaction."""
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        ((page_bytes,),) = connection.execute("PRAGMA page_size").fetchall()
        return int(pages * page_bytes) - _file_size(self._path)

    def _free(self) -> int:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return TIGHT_BYTES  # the write itself says what is wrong
        return disk.f_bavail * disk.f_frsize


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _size(statements: list[Statement]) -> int:
    """About how many bytes these put into the log."""
    size = MARGIN_BYTES
    for statement in statements:
        size += ROW_BYTES * len(statement.rows)
        size += sum(len(value) for value in statement.values if isinstance(value, bytes))
    return size * 33 // 32


def no_room() -> OSError:
    """What is raised where the disk is full, or nearly."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
