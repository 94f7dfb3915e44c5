"""The store as the event loop sees it.

Changes go into the open transaction. When somebody waits for it and the writer is free, the writer
gets it at the end of the turn, or after a while where many records come (see `gathering`), in steps
between which the loop serves others; while it writes, the next transaction collects. So there is
one commit at a time, as large as the load is. What nobody waits for is collected for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import StoreError
from isthmus.store.database import (
    FILE,
    explain,
    find_missing,
    is_damage,
    is_full,
    move_aside,
)
from isthmus.store.gathering import Gathering
from isthmus.store.log import Log, Part, State, check_state
from isthmus.store.processor import Processor
from isthmus.store.progress import Progress
from isthmus.store.schema import LOGS, Statements
from isthmus.store.stall import StallWatch
from isthmus.store.statement import Statement
from isthmus.store.table import Table
from isthmus.store.transaction import Transaction
from isthmus.store.writer import FileLost, Writer

if TYPE_CHECKING:
    from isthmus.store.batch import Batch

log = logging.getLogger(__name__)

COLLECT_S = 0.2
"""How long changes that nobody waits for are collected."""

RETRY_S = 1.0
"""How long after a failed write the next attempt is made."""

QUIET_S = 5.0
"""So long all has to be well before it is said again that it is not: a disk that is nearly full may
be so many times a second."""

LONGEST_END_S = 5.0
"""How long the end of the process waits for a disk that does not answer."""


class Store:
    """The store in a data folder, to be used inside a running event loop; `commits` counts."""

    def __init__(self, folder: Path, share: Callable[[int], None] = lambda change: None) -> None:
        """Prepare to use `folder`, which exists.

        `share` is called with 1 when the writer begins and -1 when it is done; see `Reactor.share`.
        """
        self._path = folder / FILE
        self._writer = Writer(self._path)
        self._loop = asyncio.get_running_loop()
        self._tables: list[Table] = []
        self._logs: dict[str, Log] = {}
        self._next_log = self._next_batch = 1
        self._open = Transaction()
        self._writing: Transaction | None = None
        self._share = share
        self._processor = Processor()
        self._watch = StallWatch(self._loop, self._stalled)
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._ahead: asyncio.Handle | None = None
        self._gathering = Gathering()
        # What logs have got done that was written ahead of the transaction, last.
        self._progress = Progress()
        # It could not be written: the next attempt is the timer's, whatever is done meanwhile.
        self._ahead_failed = False
        # Why the last write failed, and for how long the disk does not answer: the one may come
        # while the other lasts, and end before it.
        self._refused: Exception | None = None
        self._stalled_s = 0.0
        self._said: set[str] = set()
        self._lost = False
        self.commits = 0

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the file; of what it holds only how far each log has got is read.

        Raises:
            StoreError: The file cannot be used.
        """
        find_missing(self._path)
        self._writer.start()
        if self._writer.behind is not None:
            # What is there can be read and sent meanwhile.
            self._writing = Transaction()
            self._wait(self._writing, self._writer.behind)
        try:
            self._take_logs(self.query(LOGS))
        except ValueError as error:
            self._begin_anew(f"is damaged ({error})", logs_are_known=False)
        ((last,),) = self.query("SELECT coalesce(max(id), 0) FROM batches")
        self._next_batch = last + 1

    def _take_logs(self, rows: list[tuple[Any, ...]]) -> None:
        """How far each log has got, from the rows of the file.

        Raises:
            ValueError: Such a row was never written.
        """
        found = {}
        for *values, size in rows:
            state = State(*values)
            check_state(state, size)
            found[state.name] = Log(self, state, size)
        self._logs = found
        self._next_log = max((one.id for one in found.values()), default=0) + 1

    def table(self, statements: Statements) -> Table:
        """The table that these statements are about."""
        table = Table(self, statements)
        self._tables.append(table)
        return table

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows, read at once, for the start: before the first change.

        A file whose rows are damaged is moved aside, and has none.

        Raises:
            StoreError: They cannot be read.
        """
        try:
            return self._writer.open().execute(statement).fetchall()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise StoreError(explain(error, self._path)) from error
            self._begin_anew(f"is damaged ({error})", logs_are_known=statement != LOGS)
            return self.query(statement)

    def _begin_anew(self, why: str, *, logs_are_known: bool) -> None:
        """At the start: move the file aside, and make a new one.

        Where the logs of the old one are not known, the new ones have other numbers, and no record
        of the old file may be taken for one of theirs.
        """
        self._writer.stop(LONGEST_END_S)
        moved = move_aside(self._path, why)
        self._writer = Writer(self._path, moved if logs_are_known else None)
        self._writer.start()
        # What was read before is in memory only.
        self._loop.call_soon(self._refill)

    def _refill(self) -> None:
        if self._writing is not None:
            self._loop.call_later(COLLECT_S, self._refill)
            return
        transaction, self._open = self._open, Transaction()
        transaction.logs.close()
        self._begin(self._everything(transaction))

    async def stop(self) -> None:
        """Write what is open, then close the file; at most `LONGEST_END_S` for each."""
        await self.settle()
        unwritten = [part for part in (self._writing, self._open) if part]
        if unwritten:
            changes = sum(len(rows) for part in unwritten for rows in part.changes.values())
            log.error(
                "%s: %d change(s) were not written: %s. %s",
                self._path,
                changes,
                self.failure or "the disk does not answer",
                "Among them are those that the lost file had"
                if self._lost
                else "None of them was acknowledged",
            )
        self._watch.stop()
        if not await asyncio.to_thread(self._writer.stop, LONGEST_END_S):
            log.error("%s: the disk does not answer; it is left open", self._path)

    async def settle(self) -> None:
        """Wait until all changes until now are written, or cannot be; `LONGEST_END_S` at most."""
        until = self._loop.time() + LONGEST_END_S
        if self._retry is not None and self._writing is not None:
            self._retry.cancel()
            self._again(self._writing)
        elif self._writing is None:
            self._submit()
        while (self._open or self._writing is not None) and self._retry is None:
            if self._loop.time() > until:
                return
            await asyncio.sleep(0.001)

    @property
    def failure(self) -> str | None:
        """Why nothing can be written at present, None while all is well."""
        if self._stalled_s:
            return f"{self._path}: the disk has not answered for {self._stalled_s:g} s"
        return None if self._refused is None else explain(self._refused, self._path)

    @property
    def left_out(self) -> int:
        """Rows that could not be kept, as they have a value that no table takes."""
        return self._writer.unfit

    # -- changes ---------------------------------------------------------------------------------

    def change(self) -> Transaction:
        """The open transaction, for a change, which will be written in a while."""
        if self._later is None and self._writing is None:
            self._later = self._loop.call_later(COLLECT_S, self._submit)
        return self._open

    def then(self, callback: Callable[[], None], needed: Callable[[], bool] = lambda: True) -> bool:
        """Call back when all changes until now are on disk, and write them soon.

        False where `callback` is the last one that waits for them already. One of which `needed`
        says no may be forgotten: while nothing can be written, many may come and go.
        """
        added = self._open.then(callback, needed)
        self._submit_soon()
        return added

    def _submit_soon(self) -> None:
        if self._soon is None and self._writing is None:
            self._look_later()

    def _look_later(self) -> None:
        left_s = self._gathering.left_s(self._loop.time())
        self._soon = self._loop.call_later(left_s, self._look)

    def _look(self) -> None:
        """What is open goes to the writer, or waits for more of its kind where only logs wait."""
        records = self._open.logs.records
        if self._open.awaited or not self._gathering.goes_on(records, self._loop.time()):
            self._submit()
        else:
            self._look_later()

    def pending(self, table: Table, key: bytes) -> bool:
        """Whether a change of a row is not on disk yet."""
        writing = self._writing
        return self._open.has(table, key) or (writing is not None and writing.has(table, key))

    # -- logs ------------------------------------------------------------------------------------

    def log(self, name: str) -> Log:
        """The log of this name, a new one if there is none."""
        found = self._logs.get(name)
        if found is None:
            found = self._logs[name] = Log(self, State(self._next_log, name, 1, 1))
            self._next_log += 1
            self.change().logs.add(found)
        return found

    def names(self) -> list[str]:
        """The names of all logs."""
        return list(self._logs)

    def drop(self, found: Log) -> None:
        """Delete a log with all that is in it."""
        del self._logs[found.name]
        found.owner = None
        self.change().logs.drop(found)

    def batch_for(self, found: Log) -> Batch:
        """Where the next record of this log goes; it is written soon."""
        batch, begun = self._open.batch_for(found)
        if begun:
            self._loop.call_soon(self._open.turned)
        self._submit_soon()
        self._ask_ahead()
        return batch

    def note(self, found: Log) -> None:
        """Write how far this log has got, in a while."""
        if found not in self._open.logs and self._logs.get(found.name) is found:
            self.change().logs.add(found)

    def hurry(self) -> None:
        """Write what is open when the writer is free, without gathering more."""
        self._open.hurried = True
        self._submit_soon()
        self._ask_ahead()

    def _ask_ahead(self) -> None:
        """Have it looked soon, where the disk is full, whether what is done can go first."""
        refused = self._refused
        if self._retry is not None and refused is not None and is_full(refused):
            self._ahead = self._ahead or self._loop.call_soon(self._go_ahead)

    def load(
        self, found: Log, seq: int, max_bytes: int, callback: Callable[[list[Part] | None], None]
    ) -> None:
        """See `Log.load`."""
        self._job_begins()
        self._writer.submit(partial(self._read, found.id, seq, max_bytes, callback))

    def ask_age(self, found: Log, seq: int, callback: Callable[[float], None]) -> None:
        """See `Log.ask_age`."""

        def ask() -> None:
            try:
                at = self._writer.written_at(found.id, seq)
            except Exception as error:  # noqa: BLE001 - the next write or load says what to do
                log.debug("%s", explain(error, self._path))
                at = 0.0
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                self._loop.call_soon_threadsafe(callback, at)

        self._writer.submit(ask)

    # -- the writer ------------------------------------------------------------------------------

    def _submit(self) -> None:
        for scheduled in (self._soon, self._later):
            if scheduled is not None:
                scheduled.cancel()
        self._soon = self._later = None
        if self._writing is None and self._open:
            transaction = self._open
            self._open = Transaction()
            transaction.logs.close()
            self._gathering.begun(transaction.logs.records, self._loop.time())
            self._begin(transaction)

    def _begin(self, transaction: Transaction) -> None:
        self._writing = transaction
        self._retry = None
        # In steps, as all of it at once would keep others waiting. A timer comes before what is
        # ready is served, and so does what it calls soon.
        soon = self._loop.call_soon
        soon(soon, self._state, transaction)

    def _state(self, transaction: Transaction) -> None:
        # Before the thread gets it, as what is in memory may change meanwhile.
        statements = transaction.statements(self._next_batch)
        self._next_batch += transaction.logs.batches
        self._loop.call_soon(self._give, transaction, statements)

    def _give(self, transaction: Transaction, statements: list[Statement]) -> None:
        self._job_begins()
        self._processor.keep_off(self._writer.thread_id)
        self._writer.submit(partial(self._write, transaction, statements))

    def _write(self, transaction: Transaction, statements: list[Statement]) -> None:
        """In the thread: write, and tell the loop."""
        failure: Exception | None = None
        sizes: dict[int, int] = {}
        write = self._writer.write if transaction.parts is None else self._writer.write_part
        try:
            sizes = dict(write(statements, transaction.logs.question))
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the answer
            failure = error.with_traceback(None)
        try:
            self._loop.call_soon_threadsafe(self._written, transaction, sizes, failure)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            log.warning("%s: a change was written after the end", self._path)

    def _written(
        self, transaction: Transaction, sizes: dict[int, int], failure: Exception | None
    ) -> None:
        self._job_ends()
        if failure is not None:
            self._failed(transaction, failure)
            return
        self.commits += 1
        if transaction.parts is not None and len(transaction.parts) > 1:
            transaction.part_written(sizes)
            self._begin(transaction)
            return
        if self._refused is not None:
            self._refused = None
            self._loop.call_later(QUIET_S, self._say_well)
        self._lost = False
        self._progress = Progress()
        self._writing = None
        transaction.logs.committed(sizes)
        for callback in transaction.callbacks():
            try:
                callback()
            except Exception:
                log.exception("a part that waited for the store failed")
        if self._open.urgent:
            self._submit_soon()
        elif self._open:
            self._later = self._loop.call_later(COLLECT_S, self._submit)

    def _failed(self, transaction: Transaction, failure: Exception) -> None:
        """Nothing of the transaction is on disk: try again, with nobody told that it is safe."""
        if isinstance(failure, FileLost):
            log.error("%s while it was in use. What is in memory is written to a new one", failure)
            self._lost = True
            self._begin(self._everything(transaction))
            return
        transaction.logs.try_again()
        if is_full(failure) and transaction.parts is None:
            transaction.split()
            self._again(transaction)
            return
        self._wait(transaction, failure)

    def _job_begins(self) -> None:
        self._share(1)
        self._watch.begun()

    def _job_ends(self) -> None:
        self._share(-1)
        took_s = self._watch.ended()
        if self._stalled_s:
            self._stalled_s = 0.0
            log.warning("%s: the disk answers again, after %.0f s", self._path, took_s)

    def _stalled(self, seconds: float) -> None:
        """The writer does not get on."""
        self._stalled_s = seconds
        self._say(self.failure)

    def _wait(self, transaction: Transaction, failure: Exception) -> None:
        """Try to write it in a while, and say why not now."""
        self._refuse(failure)
        self._retry = self._loop.call_later(RETRY_S, self._again, transaction)

    def _refuse(self, failure: Exception) -> None:
        """It was not written. Where the reasons take turns, each is said once."""
        self._refused = failure
        why = explain(failure, self._path)
        if why not in self._said:
            self._said.add(why)
            self._say(why)

    def _say(self, why: str | None) -> None:
        log.error("%s. Until then nothing is acknowledged that has to be kept", why)

    def _say_well(self) -> None:
        if self._refused is None and self._said:
            self._said.clear()
            log.warning("%s can be written again", self._path)

    def _again(self, transaction: Transaction) -> None:
        """Write it, after what is done where the disk is full: that makes room."""
        self._retry = None
        self._ahead_failed = False
        transaction.logs.refresh()
        if transaction.parts is None or not self._write_progress(transaction):
            self._begin(transaction)

    def _go_ahead(self) -> None:
        """Something may be done, which need not wait until there is room for what is new."""
        self._ahead = None
        if self._ahead_failed:
            return
        retry = self._retry
        if retry is not None and self._writing is not None and self._write_progress(self._writing):
            retry.cancel()
            self._retry = None

    def _write_progress(self, transaction: Transaction) -> bool:
        """Have it written what is done, and then the transaction; whether anything is."""
        if not self._progress.note((transaction.logs, self._open.logs)):
            return False
        self._job_begins()
        self._writer.submit(partial(self._make_room, transaction, self._progress))
        return True

    def _make_room(self, transaction: Transaction, progress: Progress) -> None:
        """In the thread: write how far logs have got, if that can be written; tell the loop."""
        failure: Exception | None = None
        sizes: dict[int, int] = {}
        try:
            sizes = dict(
                self._writer.make_room(progress.statements(), progress.spans(), progress.question)
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the answer
            failure = error.with_traceback(None)
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._room_made, transaction, sizes, failure)

    def _room_made(
        self, transaction: Transaction, sizes: dict[int, int], failure: Exception | None
    ) -> None:
        self._job_ends()
        if isinstance(failure, FileLost):
            self._failed(transaction, failure)
            return
        if failure is None:
            self._progress.committed(sizes)
        else:
            self._progress = Progress()
            self._ahead_failed = True
            if is_full(failure):
                self._wait(transaction, failure)
                return
            self._refuse(failure)  # what is new may be written all the same
        transaction.logs.refresh()
        self._begin(transaction)

    def _everything(self, transaction: Transaction) -> Transaction:
        """What an empty file needs before anything of `transaction` is acknowledged.

        The rows of the open transaction go with it: what they change is in memory already. Records
        that were on disk are lost; who keeps a log finds gaps there.
        """
        found = Transaction()
        for table in self._tables:
            for row in table.refill():
                found.set(table, row, fresh=False)
        found.wait_with(transaction)
        found.logs = transaction.logs
        found.logs.add_states(self._logs.values())
        self._open.forget_rows()
        return found

    def _read(
        self, log_id: int, seq: int, max_bytes: int, callback: Callable[[list[Part] | None], None]
    ) -> None:
        """In the thread: load, and tell the loop."""
        found: list[Part] | None
        try:
            found = self._writer.read(log_id, seq, max_bytes)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the answer
            log.error("%s", explain(error, self._path))
            found = None
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._loaded, callback, found)

    def _loaded(
        self, callback: Callable[[list[Part] | None], None], found: list[Part] | None
    ) -> None:
        self._job_ends()
        callback(found)
