"""What becomes of logs in one transaction: records that came, and how far each log has got."""

from __future__ import annotations

import logging
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.store import schema
from isthmus.store.batch import FULL_BYTES, Batch
from isthmus.store.log import ranges
from isthmus.store.statement import Row, Statement, plain, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from isthmus.store.log import Log, Slice, State

logger = logging.getLogger(__name__)

LAST = (1 << 63) - 1
"""Above every sequence number."""


class LogChanges:
    """Changes of logs that are being collected."""

    __slots__ = ("_again", "_batches", "_changed", "_dropped", "_slices", "_states")

    def __init__(self) -> None:
        self._again = False
        self._changed: dict[Log, None] = {}
        self._dropped: list[Log] = []
        self._batches: list[Batch] = []
        self._slices: list[Slice] = []
        self._states: dict[Log, State] = {}

    def __bool__(self) -> bool:
        return bool(self._changed or self._dropped or self._states)

    def __contains__(self, log: Log) -> bool:
        return log in self._changed

    @property
    def changed(self) -> Iterable[Log]:
        """The logs of which something changes."""
        return self._changed

    @property
    def dropped(self) -> Iterable[Log]:
        """The logs that are deleted."""
        return self._dropped

    def add(self, log: Log) -> None:
        """Write how far `log` has got."""
        self._changed[log] = None

    def drop(self, log: Log) -> None:
        """Delete `log` with all that is in it."""
        self._changed.pop(log, None)
        self._dropped.append(log)

    def batch_for(self, log: Log) -> Batch:
        """Where the next record of `log` goes."""
        self._changed[log] = None
        if not self._batches:
            self._batches.append(Batch())
        elif self._batches[-1].size >= FULL_BYTES:
            self._cut()
            self._batches.append(Batch())
        return self._batches[-1]

    def close(self) -> None:
        """Nothing is added any more: note what the logs are like now."""
        self._cut()
        self._states.update((log, log.close()) for log in self._changed)

    def add_states(self, logs: Iterable[Log]) -> None:
        """Write also how far these logs have got: the file has lost it."""
        there = {state.name for state in self._states.values()}
        for log in logs:
            if log.name not in there:
                self._states[log] = log.state()

    def try_again(self) -> None:
        """It failed. If that was only its synchronisation, the file may have it all the same."""
        self._again = True

    def refresh(self) -> None:
        """Note how far the logs have got meanwhile: the disk may know it already."""
        ends = {log: state.next for log, state in self._states.items()}
        ends.update((log, log.next) for log in self._dropped)

        def safe(other: Log) -> int:
            return max(ends.get(other, 0), other.stored)

        for log in self._states:
            self._states[log] = log.safe_state(ends[log], safe)

    def committed(self, sizes: dict[int, int]) -> None:
        """All of it is on disk; `sizes` are the bytes of the logs there, by their numbers."""
        for log in self._dropped:
            log.dropped()
        for log in self._changed:
            tell(log, partial(log.committed, self._states[log], sizes[log.id]))
        for log in self._changed:
            log.forget_moved()

    def part_committed(self, batches: range, sizes: dict[int, int]) -> None:
        """These batches are on disk, of those that are not the last ones."""
        for log, (end, size) in self._ends(batches).items():
            tell(log, partial(log.part_committed, end, size, sizes[log.id]))

    def _ends(self, batches: range) -> dict[Log, tuple[int, int]]:
        """What these batches have: by log the number behind its last record, and bytes."""
        logs = {log.id: log for log in self._states}
        found: dict[Log, tuple[int, int]] = {}
        for part in self._slices:
            if part.batch in batches and part.log_id in logs:
                log = logs[part.log_id]
                _, size = found.get(log, (0, 0))
                found[log] = (part.seq + part.length, size + part.size)
        return found

    def _cut(self) -> None:
        number = len(self._batches) - 1
        for log in self._changed:
            part = log.cut(number)
            if part is not None:
                self._slices.append(part)

    @property
    def records(self) -> int:
        """How many new records logs have got."""
        return sum(batch.appended for batch in self._batches)

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def place(self, batches: int) -> tuple[int, int]:
        """So many batches, and how many records the last one of them has."""
        return batches, len(self._batches[batches - 1]) if batches else 0

    @property
    def question(self) -> str:
        """The statement that asks for the sizes of the logs that have changed; may be empty."""
        return sizes_of(self._changed)

    def statements(self, first_batch: int, batches: range | None = None) -> list[Statement]:
        """What is to be executed; the batches are numbered from `first_batch` on.

        With `batches` only these, and what else there is with the last one.
        """
        if batches is None:
            batches = range(len(self._batches))
        slices = [part for part in self._slices if part.batch in batches]
        found: list[Statement] = []
        final = batches.stop >= len(self._batches)
        if final:
            states = self._states
            dropped = self._dropped
        else:
            states = {
                log: log.safe_state(end, attrgetter("stored"))
                for log, (end, _) in self._ends(batches).items()
            }
            # What moved out of a log before it was deleted is in no later part than what came to
            # a new one of its name.
            names = {log.name for log in states}
            dropped = [log for log in self._dropped if log.name in names]
        # The name of a log that has gone may be that of a new one.
        found += [plain(schema.DROP_LOG, log.id) for log in dropped]
        # The order is that of the triggers: a slice changes the row of its log.
        found += statements(schema.SET_LOGS, 7, list(states.values()))
        if self._again:
            firsts: dict[int, int] = {}
            for part in slices:
                firsts.setdefault(part.log_id, part.seq)
            found += [plain(schema.WITHDRAW_SLICES, *first) for first in firsts.items()]
        now = clock.wall()
        used = {part.batch for part in slices}  # less those of logs that were dropped
        rows: list[Row] = [
            (first_batch + number, now, *self._batches[number].row()) for number in sorted(used)
        ]
        found += statements(schema.ADD_BATCHES, 5, rows)
        rows = [part._replace(batch=first_batch + part.batch) for part in slices]
        found += statements(schema.ADD_SLICES, 7, rows)
        if final:
            for log, state in states.items():
                found += [plain(schema.TRIM_SPAN, *span) for span in finished(log, state)]
        found += [plain(schema.TRIM_SPAN, log.id, 0, LAST) for log in dropped]
        return found


def finished(log: Log, state: State) -> list[tuple[int, int, int]]:
    """The spans of `log` that may be deleted when `state` is on disk: number, first and end."""
    found: list[tuple[int, int, int]] = []
    if state.done:
        found += [(state.log_id, first, end) for first, end in ranges(state.done)[1]]
    if state.recorded > log.trimmed:
        found.append((state.log_id, 0, state.recorded))
    return found


def sizes_of(logs: Iterable[Log]) -> str:
    """The statement that asks for the sizes of `logs`, empty where there are none."""
    numbers = ",".join(str(log.id) for log in logs)
    # The numbers are ours.
    return f"SELECT id, bytes FROM logs WHERE id IN ({numbers})" if numbers else ""  # noqa: S608


def tell(log: Log, what: Callable[[], None]) -> None:
    """Do what concerns `log` alone: where it fails, the others go on."""
    try:
        what()
    except Exception:
        logger.exception("what keeps the log %s failed", log.name)
