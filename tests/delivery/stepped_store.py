"""A store that writes when the test says so, and a loop whose timers the test fires.

What is on disk is an SQLite database in memory, written with the statements of the real store, and
read with its reader. A crash forgets everything else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from delivery_peers import TIME

from isthmus.delivery.record import message
from isthmus.delivery.stored import stored_at
from isthmus.store.batch import Batch
from isthmus.store.log import Log, Part, State
from isthmus.store.log_changes import LogChanges
from isthmus.store.schema import LOGS, STEPS
from isthmus.store.writer import Writer


def new_disk() -> sqlite3.Connection:
    disk = sqlite3.connect(":memory:", isolation_level=None)
    for step in STEPS:
        disk.executescript(step)
    return disk


class SteppedStore:
    """As much of a store as logs ask for."""

    def __init__(self, disk: sqlite3.Connection) -> None:
        self.disk = disk
        self.open = LogChanges()
        self.writing: LogChanges | None = None
        self.wanted = 0
        self.failure: str | None = None
        self.loads: list[tuple[int, int, int, Callable[[list[Part] | None], None]]] = []
        self.logs: dict[str, Log] = {}
        for *values, size in disk.execute(LOGS):
            state = State(*values)
            self.logs[state.name] = Log(self, state, size)  # type: ignore[arg-type]
        ((last,),) = disk.execute("SELECT coalesce(max(id), 0) FROM batches")
        self.next_batch = last + 1

    def log(self, name: str) -> Log:
        if name not in self.logs:
            state = State(len(self.logs) + 1, name, 1, 1)
            self.logs[name] = Log(self, state)  # type: ignore[arg-type]
            self.open.add(self.logs[name])
        return self.logs[name]

    # -- for logs --------------------------------------------------------------------------------

    def batch_for(self, log: Log) -> Batch:
        return self.open.batch_for(log)

    def note(self, log: Log) -> None:
        self.open.add(log)

    def hurry(self) -> None:
        self.wanted += 1

    def load(self, log: Log, seq: int, max_bytes: int, callback: Any) -> None:
        self.loads.append((log.id, seq, max_bytes, callback))

    def drop(self, log: Log) -> None:
        del self.logs[log.name]
        log.owner = None
        self.open.drop(log)

    # -- steps -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Hand what there is to the writer."""
        if self.writing is None and self.open:
            self.writing, self.open = self.open, LogChanges()
            self.writing.close()

    def finish(self) -> None:
        """The writer has synchronised the disk, and the loop hears of it."""
        writing = self.writing
        if writing is not None:
            sizes = self._write(writing)
            self.writing = None
            writing.committed(sizes)

    def serve(self, *, fail: bool = False) -> None:
        """Answer what is to be loaded."""
        loads, self.loads = self.loads, []
        for log_id, seq, max_bytes, callback in loads:
            callback(None if fail else self._read(log_id, seq, max_bytes))

    def crash(self, *, written: bool) -> SteppedStore:
        """What the next process finds; with `written` the last transaction reached the disk."""
        if written and self.writing is not None:
            self._write(self.writing)
        return SteppedStore(self.disk)

    def _write(self, changes: LogChanges) -> dict[int, int]:
        self.disk.execute("BEGIN")
        for statement in changes.statements(self.next_batch):
            self.disk.execute(statement.text, statement.values)
        sizes = dict(self.disk.execute(changes.question).fetchall()) if changes.question else {}
        self.disk.execute("COMMIT")
        self.next_batch += changes.batches
        return sizes

    def _read(self, log_id: int, seq: int, max_bytes: int) -> list[Part]:
        reader: Any = SimpleNamespace(open=lambda: self.disk, _damaged=None)
        return Writer.read(reader, log_id, seq, max_bytes)

    def kept(self) -> list[str]:
        """The payloads that the disk has and that are not done."""
        found = []
        for *values, _ in self.disk.execute(LOGS).fetchall():
            log = Log(self, State(*values))  # type: ignore[arg-type]
            at = log.done_below
            while parts := self._read(log.id, at, 1 << 20):
                for part in parts:
                    for seq, record in enumerate(part.records, part.first):
                        if not log.is_done(seq):
                            assert record is not None
                            item = message(record, stored_at(log, seq))
                            found.append(item.payload.decode())
                        at = seq + 1
        return found


class Timers:
    """The part of an event loop that calls back later."""

    def __init__(self) -> None:
        self._due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self._due.append((TIME.now + delay, callback))

    def fire(self) -> None:
        """Call what is due by now, and what becomes due by that."""
        while ready := [entry for entry in self._due if entry[0] <= TIME.now]:
            self._due = [entry for entry in self._due if entry[0] > TIME.now]
            for _, callback in sorted(ready, key=lambda entry: entry[0]):
                callback()
