"""The writer: the one thread that touches the file.

It takes one job at a time; a job tells the event loop by itself that it is done.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.errors import StoreError
from isthmus.store.database import (
    NO_FILE,
    close_database,
    explain,
    file_at,
    is_damage,
    is_full,
    move_aside,
    open_database,
    open_moved_database,
    reopen_database,
)
from isthmus.store.log import Part
from isthmus.store.processor import give_way
from isthmus.store.reader import read, written_at
from isthmus.store.room import Room
from isthmus.store.schema import TRIM_SPAN
from isthmus.store.statement import plain
from isthmus.store.wal import clear_mark, log_of, mark

if TYPE_CHECKING:
    from isthmus.store.statement import Statement

log = logging.getLogger(__name__)

GONE = "has gone, or another file was put in its place"

NEXT_SLICES = (
    "SELECT max(after) FROM (SELECT seq+count AS after FROM slices"
    " WHERE log=?1 AND seq>=?2 AND seq<?3 AND seq+count<=?3 ORDER BY seq LIMIT ?4)"
)

MARK_S = 1.0
"""So often it is noted at most how much of the log has been synchronised."""

UNFIT = (
    UnicodeError,
    OverflowError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
)
"""Errors that say that a row has a value which no table takes: trying again would not help."""


class FileLost(StoreError):
    """The file is damaged, or no longer where it was; a new one has been made, which is empty."""


class Writer:
    """Runs jobs on the file of `path`, in order, in a thread of its own.

    `unfit` counts rows that were left out, as they have a value that the store cannot take;
    `behind` is why what was in the log at the start is not in the file yet: the disk is full.
    """

    def __init__(self, path: Path, damaged: Path | None = None) -> None:
        """Use `path`; `damaged` is where its file was moved to, if some may still be read there."""
        self.unfit = 0
        self.behind: Exception | None = None
        self._path = path
        self._name, self._log_name = str(path), str(log_of(path))
        self._room = Room(path)
        self._connection: sqlite3.Connection | None = None
        # Where the last file was moved to, and the last one of which some may still be read.
        self._aside: Path | None = None
        self._damaged = damaged
        self._file = self._log_file = NO_FILE
        self._size = 0
        # Whether there is more in the log than the mark says, when it may be written again, and
        # whether it may be at all: behind what has failed, the log has remains of it.
        self._unmarked = False
        self._mark_at = 0.0
        self._markable = True
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="isthmus-store", daemon=True)

    def start(self) -> None:
        """Open the file and start the thread.

        Raises:
            StoreError: The file cannot be used.
        """
        self._begin()
        self._thread.start()

    def _begin(self) -> None:
        """Open the file, made if need be."""
        try:
            connection = open_database(self._path)
        except StoreError as error:
            if not (is_full(error) and self._room.reserve.give_up()):
                raise
            connection = open_database(self._path)  # with the room that was kept for this
        self._use(connection)
        try:
            self._synchronise(connection)
        except sqlite3.Error as error:
            self.close()
            raise StoreError(explain(error, self._path)) from error

    def stop(self, longest_s: float) -> bool:
        """Finish the jobs there are, end the thread, close the file.

        False where a job does not end within `longest_s` seconds: the thread is left to itself, and
        ends with the process.
        """
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join(longest_s)
            if self._thread.is_alive():
                return False
        self.close()
        return True

    @property
    def thread_id(self) -> int:
        """The number of the thread, which has been started, with the system."""
        assert self._thread.native_id is not None
        return self._thread.native_id

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` in the thread; it must not raise."""
        self._jobs.put(job)

    def open(self) -> sqlite3.Connection:
        """The open file, opened again if need be: for the thread, and before the first job.

        Raises:
            FileLost: It has gone, or was damaged: there is a new one.
            sqlite3.Error, StoreError: It cannot be opened again, yet.
        """
        connection = self._connection
        if connection is None:
            try:
                connection = reopen_database(self._path)
            except (sqlite3.Error, StoreError) as error:
                if is_damage(error):
                    raise self._replace(error) from error
                if self._own_size() is None:
                    raise self._renew(GONE) from error
                raise
            if self._own_size() is None:
                connection.close()
                raise self._renew(GONE)
            self._use(connection)
            try:
                self._synchronise(connection)
            except BaseException as error:
                self.close()
                if is_damage(error):
                    raise self._replace(error) from error
                raise
        return connection

    def _synchronise(self, connection: sqlite3.Connection) -> None:
        """Have everything that is in the log in the file too, or note that there is no room."""
        self.behind = None
        self._unmarked = False
        try:
            self._room.clear(connection)
            self._markable = True
        except (sqlite3.Error, StoreError, OSError) as error:
            if not is_full(error):
                raise
            self.behind = error

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._unmarked = False
        if self._connection is not None:
            close_database(self._connection, self._path)
            self._connection = None

    def write(self, statements: list[Statement], question: str = "") -> list[tuple[Any, ...]]:
        """Write what belongs together, and have it synchronised with the disk.

        Returns the rows of `question`, asked at the end of the transaction.

        Raises:
            FileLost: Nothing was written, and what was written before is lost too.
            sqlite3.Error, StoreError, OSError: Nothing of it was written.
        """
        with self._writing() as connection:
            if self.behind is not None:
                raise self.behind
            self._room.check(statements)
            give_way()
            # Each return to Python may have to wait for the event loop: one statement is a
            # transaction by itself.
            together = len(statements) > 1 or bool(question)
            if together:
                connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                self._execute(connection, statement)
            rows = connection.execute(question).fetchall() if question else []
            if together:
                give_way()
                connection.execute("COMMIT")
            self._unmarked = self._markable
            return rows

    def write_part(self, statements: list[Statement], question: str = "") -> list[tuple[Any, ...]]:
        """The same where there is little room: what is no more than a part of a transaction.

        Raises:
            FileLost: Nothing was written, and what was written before is lost too.
            sqlite3.Error, StoreError, OSError: Nothing of it was written.
        """
        with self._writing() as connection:
            rows = self._room.write(connection, statements, question, self._execute)
            self._synchronise(connection)
            return rows

    def make_room(
        self, statements: list[Statement], spans: list[tuple[int, int, int]], question: str
    ) -> list[tuple[Any, ...]]:
        """Write how far logs have got, and then delete `spans`: of which log, first and end.

        Raises:
            FileLost: Nothing was written, and what was written before is lost too.
            sqlite3.Error, StoreError, OSError: Not all of it was written.
        """
        with self._writing() as connection:
            self._room.write(connection, statements, "", self._execute, deletes=True)
            for span in spans:
                self._trim(connection, *span)
            self._synchronise(connection)
            return connection.execute(question).fetchall()

    def _trim(self, connection: sqlite3.Connection, log_id: int, first: int, end: int) -> None:
        """Delete the records of a log from `first` to `end`, a few slices at a time."""
        at_once = self._room.trimmed_at_once
        while True:
            wanted = (log_id, first, end, at_once)
            (after,) = connection.execute(NEXT_SLICES, wanted).fetchone()
            if after is None:
                return
            trim = plain(TRIM_SPAN, log_id, first, after)
            try:
                self._room.write(connection, [trim], "", self._execute, deletes=True)
            except (sqlite3.Error, OSError) as error:
                if at_once == 1 or not is_full(error):
                    raise
                at_once //= 2

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The open file, to be written; if that fails, it is closed unless the disk is full."""
        connection = self.open()
        size = self._own_size()
        if size is None:
            self.close()
            raise self._renew(GONE)
        known, self._size = self._size, size
        if size < known:  # the store itself never shortens it
            self.close()
            raise self._replace(StoreError("something has cut it short"))
        try:
            if self._log_gone():
                connection = self._begin_log(connection)
            yield connection
        except BaseException as error:
            self._unmarked = self._markable = False
            if is_full(error):
                # Nothing of it is in the file, and what is there can be read and sent meanwhile:
                # to open the file again would need room, too.
                with suppress(sqlite3.Error):
                    connection.rollback()
                raise
            self.close()
            if is_damage(error):
                raise self._replace(error) from error
            raise

    def read(self, log_id: int, seq: int, max_bytes: int) -> list[Part]:
        """Records of a log; see `reader.read`.

        Raises:
            sqlite3.Error, StoreError: They cannot be read.
        """
        found = read(self.open(), log_id, seq, max_bytes)
        if self._damaged is None or (found and found[0].first <= seq):
            return found
        try:
            # Only for a moment: somebody may want to export it.
            with closing(open_moved_database(self._damaged)) as damaged:
                before = read(damaged, log_id, seq, max_bytes)
        except sqlite3.Error as error:
            log.debug("%s", error)
            return found
        if not found:
            return before
        # What both have was written to the new one again.
        end = found[0].first
        return [
            part._replace(records=part.records[: end - part.first])
            for part in before
            if part.first < end
        ] or found

    def written_at(self, log_id: int, seq: int) -> float:
        """When a record was written; see `reader.written_at`.

        Raises:
            sqlite3.Error, StoreError: It cannot be read.
        """
        return written_at(self.open(), log_id, seq)

    def _execute(self, connection: sqlite3.Connection, statement: Statement) -> None:
        try:
            connection.execute(statement.text, statement.values)
        except UNFIT as error:
            if len(statement.rows) > 1:
                for single in statement.singles():
                    self._execute(connection, single)
            else:
                self.unfit += 1
                log.error("%s: a row cannot be kept, and was left out: %s", self._path, error)

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._file, self._size = file_at(self._name)
        self._log_file, _ = file_at(self._log_name)

    def _own_size(self) -> int | None:
        """The size of our file; None where another one stands there, or none.

        What is written then would be lost.
        """
        try:
            found, size = file_at(self._name)
        except OSError:
            return self._size
        # A file in use has its first page at least.
        return size if size and found == self._file else None

    def _log_gone(self) -> bool:
        """Whether another log, or none, stands where ours was, which the first write makes."""
        try:
            found, _ = file_at(self._log_name)
        except OSError:
            return False
        if self._log_file == NO_FILE:
            self._log_file = found
        return found != self._log_file

    def _begin_log(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Begin another log, as ours stands no more where it was.

        What it has is not lost: the open file still reads it.
        """
        what = "what it had is copied to the file, and another one is begun"
        log.error("%s %s: %s", self._log_name, GONE, what)
        self._room.clear(connection)
        self.close()
        return self.open()

    def _replace(self, error: BaseException) -> FileLost:
        """Begin a new file, as this one is damaged; records are read from both from now on."""
        lost = self._renew(f"is damaged ({error})")
        self._damaged = self._aside or self._damaged
        log.warning("What can be read of %s is sent as long as this process runs", self._damaged)
        return lost

    def _renew(self, what: str) -> FileLost:
        """Begin a new file; what stands in its place is moved aside."""
        self.close()
        self._file = NO_FILE  # until there is one, none is ours
        self._aside = None
        # Of a file that has gone, the log has what was not copied into it.
        if self._path.exists() or file_at(self._log_name)[1]:
            self._aside = move_aside(self._path, what)
        log_of(self._path).unlink(missing_ok=True)
        with suppress(OSError):
            clear_mark(self._path)
        self._begin()
        return FileLost(f"{self._path} {what}")

    def _run(self) -> None:
        while True:
            pause_s = max(0.0, self._mark_at - clock.monotonic()) if self._unmarked else None
            try:
                job = self._jobs.get(timeout=pause_s)
            except Empty:
                self._mark()
                continue
            if job is None:
                return
            try:
                job()
            except Exception:
                log.exception("a job of the store failed")
            if self._unmarked and clock.monotonic() >= self._mark_at:
                self._mark()

    def _mark(self) -> None:
        self._unmarked = False
        self._mark_at = clock.monotonic() + MARK_S
        try:
            mark(self._path)
        except OSError as error:
            log.debug("%s: the mark cannot be written: %s", self._path, error.strerror)
