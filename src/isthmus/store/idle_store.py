"""The store of a process that does not run, for commands: read as it is, from the file itself.

Nothing is loaded as a whole: a store may hold more than the memory.
"""

from __future__ import annotations

import os
import sqlite3
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from isthmus.errors import StoreError
from isthmus.store import schema
from isthmus.store.batch import FULL_BYTES
from isthmus.store.database import (
    FILE,
    close_database,
    explain,
    find_lost,
    open_idle_database,
)
from isthmus.store.log import State, numbers, ranges, spans
from isthmus.store.reader import read
from isthmus.store.wal import log_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGS_SINCE = 2
"""The version of the tables that has logs."""


class Stored(NamedTuple):
    """A record of a log: its number, the wall time of its writing, its bytes; None if damaged."""

    seq: int
    at: float
    record: bytes | None


class KeptLog:
    """A log in the file, of `bytes` there; `done_below` is the first record that is not done."""

    def __init__(self, state: State, size: int) -> None:
        self.id = state.log_id
        self.name = state.name
        self.next = state.next
        self.done_below = state.recorded
        self.bytes = size
        self.taken = set(numbers(state.taken))
        singles, self.skipped = ranges(state.done)
        self.done = set(singles)

    def __len__(self) -> int:
        """How many records are not done."""
        given_up = sum(end - first for first, end in self.skipped)
        return self.next - self.done_below - len(self.done) - given_up

    def is_done(self, seq: int) -> bool:
        """Whether record `seq` needs no delivery any more."""
        return (
            seq < self.done_below
            or seq in self.done
            or any(first <= seq < end for first, end in self.skipped)
        )

    def waits(self, seq: int) -> bool:
        """Whether record `seq` still has to be delivered; not what the peer owns by PUBREC."""
        return not self.is_done(seq) and seq not in self.taken


class IdleStore:
    """To be used in a `with` statement, during which no process can open the store.

    Errors of SQLite come out as StoreError. `path` is the file, `version` that of its tables;
    `lost` says what its log has lost, if anything.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`, or the file itself, if it was moved aside.

        Raises:
            StoreError: There is none, a process has it open, it cannot be read, or it was written
                by a later version.
        """
        self.path = folder if folder.is_file() else folder / FILE
        folder = self.path.parent
        # What stands beside a file that was moved aside belongs to the one that was made then.
        self._moved = self.path.name != FILE
        if self.path.exists() and not os.access(folder, os.W_OK):
            raise StoreError(
                f"{folder} cannot be written by this user, and SQLite has to lock the file there: "
                "use the user that Isthmus runs as, or a copy of the folder"
            )
        self.connection = open_idle_database(self.path)
        self.lost = "" if self._moved else find_lost(self.path)
        try:
            (self.version,) = self.connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            self.connection.close()
            raise StoreError(explain(error, self.path)) from error
        if self.version > schema.VERSION:
            self.connection.close()
            raise StoreError(
                f"{self.path} was written by a later version of Isthmus (tables of version "
                f"{self.version}, this one knows {schema.VERSION}): use that version"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._moved:
            self.connection.close()
        else:
            close_database(self.connection, self.path)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors in here are said as StoreError."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(explain(error, self.path)) from error

    @property
    def size(self) -> int:
        """Bytes of the file and of its log."""
        parts = (self.path, log_of(self.path))
        return sum(part.stat().st_size for part in parts if part.exists())

    def logs(self) -> list[KeptLog]:
        """All logs, by name.

        Raises:
            StoreError: They cannot be read.
        """
        if self.version < LOGS_SINCE:
            return []
        with self.explained():
            rows = self.connection.execute(f"{schema.LOGS} ORDER BY name").fetchall()
        return [KeptLog(State(*values), size) for *values, size in rows]

    def waiting(self, log: KeptLog) -> Iterator[Stored]:
        """What waits in `log`, in order.

        Raises:
            StoreError: It cannot be read.
        """
        seq = log.done_below
        while seq < log.next:
            with self.explained():
                parts = read(self.connection, log.id, seq, FULL_BYTES)
            if not parts:
                return
            for part in parts:
                for seq, record in enumerate(part.records, part.first):
                    if log.waits(seq):
                        yield Stored(seq, part.at, record)
            seq += 1

    def retained(self) -> Iterator[tuple[Any, ...]]:
        """The rows of retained messages, by topic.

        Raises:
            StoreError: They cannot be read.
        """
        with self.explained():
            yield from self.connection.execute(f"{schema.RETAINED.rows} ORDER BY topic")

    def finish(self, log: KeptLog, wanted: set[int]) -> None:
        """Delete these records of `log`, on disk when this returns.

        Raises:
            StoreError: They cannot be deleted.
        """
        log.done |= {seq for seq in wanted if log.waits(seq)}
        while log.done_below < log.next and log.is_done(log.done_below):
            log.done.discard(log.done_below)
            log.done_below += 1
        log.skipped = [[first, end] for first, end in log.skipped if end > log.done_below]
        done = array("Q", sorted(log.done)) + spans(log.skipped)
        with self.explained():
            execute = self.connection.execute
            execute("PRAGMA synchronous=FULL")
            execute("BEGIN IMMEDIATE")
            execute(
                "UPDATE logs SET recorded=?, done=? WHERE id=?",
                (log.done_below, done.tobytes(), log.id),
            )
            execute(schema.TRIM_SPAN, (log.id, 0, log.done_below))
            execute("COMMIT")

    def compact(self) -> tuple[int, int]:
        """Give the room of what was deleted back to the disk; bytes before and after.

        Takes room for a second copy while it works.

        Raises:
            StoreError: It is damaged, or there is no room; nothing has changed.
        """
        before = self.size
        with self.explained():
            (answer,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
            if answer != "ok":
                raise StoreError(
                    f"{self.path} is damaged ({answer}); it stays as it is: see what "
                    "'isthmus store check' says, and save what 'isthmus store export' can read"
                )
            # What does not fit into memory stands beside the file, not in /tmp.
            os.environ["SQLITE_TMPDIR"] = str(self.path.parent.absolute())
            self.connection.execute("VACUUM")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, self.size
