"""A transaction: all changes that go to disk together."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from isthmus.store.log_changes import LogChanges
from isthmus.store.statement import statements

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.store.batch import Batch
    from isthmus.store.log import Log
    from isthmus.store.statement import Row, Statement
    from isthmus.store.table import Table


FORGET_AT = 1024
"""So many wait when they are first looked through for those that do not wait any more."""


class Transaction:
    """Changes that are being collected, and whom to tell when they are on disk.

    `changes` has by table and key the row, or None where it is deleted; `logs` what becomes of logs
    and their records. `hurried` says that what becomes of a log is not to wait for more records.

    On a full disk it is written in `parts`, each with some of the batches, and with the rows that
    came together with these: what comes in one turn of the loop stays together, as the identifier
    of a message and its record. Who waits for it is told after the last one.
    """

    __slots__ = (
        "_forget_at", "_fresh", "_joined", "_left", "_noted", "_places", "_turn", "_waiting",
        "changes", "hurried", "logs", "parts",
    )  # fmt: skip

    def __init__(self) -> None:
        self.changes: dict[Table, dict[bytes, Row | None]] = {}
        self.logs = LogChanges()
        self.hurried = False
        self._waiting: list[tuple[Callable[[], None], Callable[[], bool]]] = []
        self._forget_at = FORGET_AT
        self._fresh: set[tuple[Table, bytes]] = set()
        # Which rows came with a batch that is not the first, and the place of the last row among
        # the records; the batches that are written with the one before them, and those that were
        # begun in this turn, perhaps by what the next row belongs to.
        self._places: dict[tuple[Table, bytes], int] = {}
        self._noted = (0, 0)
        self._joined: set[int] = set()
        self._turn: list[int] = []
        self.parts: deque[range] | None = None
        self._left: dict[Table, dict[bytes, Row | None]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self.logs) or any(self.changes.values())

    def set(self, table: Table, row: Row, *, fresh: bool) -> None:
        """Set a row; of several changes of one key the last counts.

        `fresh` says that nothing has this key, on disk or on its way there.
        """
        key = row[0]
        self.changes.setdefault(table, {})[key] = row
        if fresh:
            self._fresh.add((table, key))
        self._place(table, key)

    def remove(self, table: Table, key: bytes) -> None:
        """Delete a row. What never got to the disk leaves nothing to delete there."""
        if (table, key) in self._fresh:
            self._fresh.remove((table, key))
            self._places.pop((table, key), None)
            del self.changes[table][key]
        else:
            self.changes.setdefault(table, {})[key] = None
            self._place(table, key)

    def _place(self, table: Table, key: bytes) -> None:
        self._noted = self.logs.place(self.logs.batches)
        if self._noted[0] > 1:
            self._places[table, key] = self._noted[0] - 1
            self._joined.update(self._turn)
            self._turn.clear()

    def batch_for(self, log: Log) -> tuple[Batch, bool]:
        """Where the next record of `log` goes; and whether `turned` is to be called soon."""
        logs = self.logs
        count = logs.batches
        batch = logs.batch_for(log)
        if not 0 < count < logs.batches:
            return batch, False
        # Where the last record before it has its row, what comes is another message.
        split = logs.place(count) != self._noted
        if split:
            self._turn.append(count)
        return batch, split

    def turned(self) -> None:
        """The turn of the loop is over."""
        self._turn.clear()

    def forget_rows(self) -> None:
        """Change no table after all."""
        self.changes.clear()
        self._fresh.clear()

    def has(self, table: Table, key: bytes) -> bool:
        """Whether the row of `key` changes."""
        rows = self.changes.get(table)
        return rows is not None and key in rows

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for more than that new records are safe."""
        return self.hurried or bool(self._waiting)

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for it."""
        return self.awaited or self.logs.records > 0

    def then(self, callback: Callable[[], None], needed: Callable[[], bool]) -> bool:
        """Call back when this is on disk; see `Store.then`."""
        waiting = self._waiting
        if waiting and waiting[-1][0] == callback:
            return False
        waiting.append((callback, needed))
        if len(waiting) >= self._forget_at:
            waiting[:] = [waiter for waiter in waiting if waiter[1]()]
            self._forget_at = max(2 * len(waiting), FORGET_AT)
        return True

    def wait_with(self, other: Transaction) -> None:
        """Who waits for `other` waits for this instead."""
        self._waiting += other._waiting

    def callbacks(self) -> list[Callable[[], None]]:
        """Whom to tell, in order."""
        return [callback for callback, _ in self._waiting]

    def split(self) -> None:
        """Write it in parts from now on; it is closed."""
        begins = [number for number in range(1, self.logs.batches) if number not in self._joined]
        ends = [*begins, self.logs.batches]
        self.parts = deque(range(*part) for part in zip([0, *begins], ends, strict=True))
        self._left = {table: dict(rows) for table, rows in self.changes.items()}

    def part_written(self, sizes: dict[int, int]) -> None:
        """The first of the parts, of several, is on disk; `sizes` as for `LogChanges.committed`."""
        assert self.parts is not None
        part = self.parts.popleft()
        for table, key in self._rows_until(part):
            del self._left[table][key]
        self.logs.part_committed(part, sizes)

    def _rows_until(self, part: range) -> list[tuple[Table, bytes]]:
        places = self._places
        return [
            (table, key)
            for table, rows in self._left.items()
            for key in rows
            if places.get((table, key), 0) < part.stop
        ]

    def statements(self, first_batch: int) -> list[Statement]:
        """What is to be executed; batches are numbered from `first_batch` on.

        Where it is written in parts, what belongs to the first of those that are left.
        """
        part = None
        changes = self.changes
        if self.parts is not None:
            part = self.parts[0]
            changes = self._left
            if len(self.parts) > 1:
                changes = {}
                for table, key in self._rows_until(part):
                    changes.setdefault(table, {})[key] = self._left[table][key]
        found: list[Statement] = []
        for table, rows in changes.items():
            wanted = table.statements
            removed: list[Row] = [(key,) for key, row in rows.items() if row is None]
            found += statements(wanted.remove_rows, 1, removed)
            changed = [row for row in rows.values() if row is not None]
            found += statements(wanted.set_rows, wanted.columns, changed)
        return found + self.logs.statements(first_batch, part)
