"""A log: the records for one target, in order, and how far it has got.

Records have sequence numbers from 1. All below `done_below` are done, and above it some that were
done out of turn. What is done is deleted once it is on disk that it is.

A log keeps no record in memory: it counts, and loads in bounded steps.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple, Protocol

from isthmus.store.batch import FULL_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from isthmus.store.batch import Batch
    from isthmus.store.store import Store


SPAN = 1 << 63
"""Set in a number of what is done: the first of a span of records, whose end is the next number."""


class Owner(Protocol):
    """Who keeps a log."""

    def closing(self) -> None:
        """The changes of the log until now are about to be written."""

    def committed(self) -> None:
        """Changes of the log have reached the disk; its attributes say which."""


class Part(NamedTuple):
    """Records that were written together.

    `first` is the sequence number of the first, `at` the wall time of their writing; a record that
    is damaged is None.
    """

    first: int
    at: float
    records: list[bytes | None]


class State(NamedTuple):
    """How far a log has got: a row of `logs`, without its size."""

    log_id: int
    name: str
    next: int
    recorded: int
    done: bytes = b""
    taken: bytes = b""
    begun: int = 0


class Slice(NamedTuple):
    """Records of one log in one batch of a transaction: a row of `slices`, but for the batch's id.

    `start` is the place of the first; `places` are all of them where they do not follow it.
    """

    log_id: int
    seq: int
    length: int
    size: int
    batch: int
    start: int
    places: bytes | None


class Log:
    """The records for one target.

    `next` is the sequence number that the next record gets, `stored` that of the first record that
    is not on disk; `done_below` the first that is not done. `unrecorded` counts what is done and
    not yet on disk as such, `given_up` the same for what was given up. `size` counts the bytes that
    are kept, `unstored_bytes` those of them that are not on disk yet. `begun` is 0 until records
    may have been sent, in this process or before; then it is what their sender notes of it. Below
    `trimmed` nothing is on disk any more. `owner` is told about commits.
    """

    __slots__ = (
        "_batch",
        "_closing",
        "_closing_bytes",
        "_closing_given_up",
        "_count",
        "_done",
        "_moved",
        "_noted",
        "_places",
        "_size",
        "_skipped",
        "_skipped_count",
        "_start",
        "_store",
        "_taken",
        "begun",
        "done_below",
        "given_up",
        "id",
        "name",
        "next",
        "owner",
        "size",
        "stored",
        "trimmed",
        "unrecorded",
        "unstored_bytes",
    )

    def __init__(self, store: Store, state: State, kept_bytes: int = 0) -> None:
        self._store = store
        self.id = state.log_id
        self.name = state.name
        self.next = self.stored = state.next
        self.done_below = self.trimmed = state.recorded
        self.unrecorded = self.given_up = 0
        self.begun = state.begun
        self.owner: Owner | None = None
        self._noted = False
        singles, self._skipped = ranges(state.done)
        self._done = set(singles)
        self._skipped_count = sum(end - first for first, end in self._skipped)
        self._taken = set(numbers(state.taken))
        # Records that are done as they went to another log, and their places there.
        self._moved: dict[int, tuple[Log, int]] = {}
        self.size = kept_bytes
        self.unstored_bytes = 0
        # Of the transaction that is being written.
        self._closing = self._closing_bytes = self._closing_given_up = 0
        # What the current batch has of this log.
        self._batch: Batch | None = None
        self._start = self._count = self._size = 0
        self._places: array[int] | None = None

    def __len__(self) -> int:
        """How many records are not done."""
        return self.next - self.done_below - len(self._done) - self._skipped_count

    # -- writing ---------------------------------------------------------------------------------

    def append(self, record: bytes) -> int:
        """Add a record, which is written soon; its sequence number.

        Several logs that are given equal records one after the other share one.
        """
        batch = self._batch
        if batch is None or batch.size >= FULL_BYTES:
            batch = self._batch = self._store.batch_for(self)
        place = batch.append(record)
        count = self._count
        if not count:
            self._start = place
        elif self._places is not None:
            self._places.append(place)
        elif place != self._start + count:
            self._places = array("I", range(self._start, self._start + count))
            self._places.append(place)
        self._count = count + 1
        size = len(record)
        self._size += size
        self.size += size
        self.unstored_bytes += size
        seq = self.next
        self.next = seq + 1
        return seq

    def done(self, seq: int) -> None:
        """Record number `seq` needs no delivery any more."""
        if seq == self.done_below:
            below = seq + 1
            if self._done or self._skipped:
                below = self._past_done(below)
            self.done_below = below
        elif not self.is_done(seq):
            self._done.add(seq)
        else:
            return
        if self._taken:
            self._taken.discard(seq)
        self.unrecorded += 1
        if not self._noted:
            self._noted = True
            self._store.note(self)

    def _past_done(self, below: int) -> int:
        """The first record from `below` on that is not done; what lies before it is forgotten."""
        while True:
            if below in self._done:
                self._done.discard(below)
                below += 1
            elif self._skipped and self._skipped[0][0] <= below:
                first, end = self._skipped.pop(0)
                self._skipped_count -= end - first
                below = max(below, end)
            else:
                return below

    def skip(self, seq: int) -> None:
        """Record number `seq` is given up, while others before it may still be on their way.

        Millions of them in a row are remembered as one span, and their room is given back.
        """
        if self.is_done(seq):
            return
        self.size -= self.size // (len(self) or 1)  # until the next commit says how much it was
        self.given_up += 1
        if seq == self.done_below:
            self.done(seq)
            self.unrecorded -= 1
            return
        for span in self._skipped:
            if span[1] == seq:
                span[1] = seq + 1
                break
        else:
            self._skipped.append([seq, seq + 1])
            self._skipped.sort()
        self._skipped_count += 1
        self._store.note(self)

    def drop(self) -> None:
        """Delete the log with all that is in it; it is not to be used any more."""
        self._store.drop(self)

    @property
    def all_recorded(self) -> bool:
        """Whether the disk knows of everything that is done or given up."""
        return not self.unrecorded and not self.given_up

    @property
    def failing(self) -> bool:
        """Whether nothing can be written at present."""
        return self._store.failure is not None

    def move(self, seq: int, log: Log) -> None:
        """Record number `seq` is the last one in `log` now; it is done here in this turn."""
        self._moved[seq] = (log, log.next - 1)

    def begin(self, begun: int) -> None:
        """Records may be sent, when this is on disk; `begun`, not 0, is kept there too."""
        self.begun = begun
        self._store.note(self)
        self._store.hurry()

    def hurry(self) -> None:
        """Have the changes until now written soon, and not with those that nobody waits for."""
        self._store.hurry()

    def take(self, seq: int) -> None:
        """The peer owns the message of record `seq` (PUBREC), and its exchange goes on."""
        self._taken.add(seq)
        self._store.note(self)

    def give_back(self) -> None:
        """The peer owns no message any more: those that it owned are to be delivered after all."""
        if self._taken:
            self._taken.clear()
            self._store.note(self)

    def is_done(self, seq: int) -> bool:
        """Whether record `seq` needs no delivery any more."""
        if seq < self.done_below or seq in self._done:
            return True
        return bool(self._skipped) and self._is_skipped(seq)

    def _is_skipped(self, seq: int) -> bool:
        return any(first <= seq < end for first, end in self._skipped)

    def taken(self) -> list[int]:
        """The records whose messages the peer owns, while their exchanges go on."""
        return sorted(self._taken)

    def is_taken(self, seq: int) -> bool:
        """Whether the peer owns the message of `seq`, while its exchange goes on."""
        return seq in self._taken

    # -- reading ---------------------------------------------------------------------------------

    def load(self, seq: int, max_bytes: int, callback: Callable[[list[Part] | None], None]) -> None:
        """Load records from `seq` on, at least one and then up to about `max_bytes`.

        `callback` is called in a later turn: with an empty list if there is nothing from `seq` on,
        with None if nothing can be read at present.
        """
        self._store.load(self, seq, max_bytes, callback)

    def ask_age(self, callback: Callable[[float], None]) -> None:
        """Find out when the first record that is not done was written.

        `callback` is called in a later turn, with the wall time, or 0.0 where that is not known.
        """
        self._store.ask_age(self, self.done_below, callback)

    # -- for the transaction ---------------------------------------------------------------------

    def cut(self, batch: int) -> Slice | None:
        """What batch number `batch` of the transaction has of this log; begin anew."""
        self._batch = None
        if not self._count:
            return None
        seq = self.next - self._count
        places = None if self._places is None else self._places.tobytes()
        part = Slice(self.id, seq, self._count, self._size, batch, self._start, places)
        self._count = self._size = 0
        self._places = None
        return part

    def close(self) -> State:
        """How far it has got, as it goes to disk now."""
        self._noted = False
        self._closing = self.unrecorded
        self._closing_given_up = self.given_up
        self._closing_bytes = self.unstored_bytes
        if self.owner is not None:
            self.owner.closing()
        return self.state()

    def state(self) -> State:
        """How far it has got."""
        return self.state_until(self.next)

    def state_until(self, end: int) -> State:
        """How far it has got with the records before number `end`."""
        done = taken = b""
        # Most logs have nothing of it, and one message may go to very many.
        if self._done or self._skipped:
            singles = array("Q", sorted(seq for seq in self._done if seq < end))
            skipped = [[first, min(last, end)] for first, last in self._skipped if first < end]
            done = (singles + spans(skipped)).tobytes()
        if self._taken:
            taken = array("Q", sorted(seq for seq in self._taken if seq < end)).tobytes()
        recorded = min(self.done_below, end)
        return State(self.id, self.name, end, recorded, done, taken, self.begun)

    def step(self, deleted: Container[Log]) -> Step:
        """How far it has got, to be written before the new records of any log.

        What went to another log counts only when it is on disk there, or that log is one of
        `deleted`, which are deleted with it.
        """
        self.forget_moved()
        if self.owner is not None:
            self.owner.closing()
        left = [seq for seq, (log, _) in self._moved.items() if log not in deleted]
        state = without(self.state_until(self.stored), sorted(left))
        return Step(state, max(0, self.unrecorded - len(left)), self.given_up)

    def moves(self, deleted: Container[Log]) -> bool:
        """Whether something of it is on its way to another log, which is not one of `deleted`."""
        moved = self._moved.values()
        return any(place >= log.stored and log not in deleted for log, place in moved)

    def forget_moved(self) -> None:
        """What has reached the disk in another log needs not be known here any more."""
        if self._moved:
            moved = self._moved.items()
            self._moved = {seq: (log, at) for seq, (log, at) in moved if at >= log.stored}

    def stepped(self, written: Step, kept_bytes: int) -> None:
        """What `step` said is on disk, and of the records there `kept_bytes` are left."""
        self.trimmed = max(self.trimmed, written.state.recorded)
        self.unrecorded -= written.unrecorded
        self.given_up -= written.given_up
        self._closing = min(self._closing, self.unrecorded)
        self._closing_given_up = min(self._closing_given_up, self.given_up)
        self.size = kept_bytes + self.unstored_bytes
        if self.owner is not None:
            self.owner.committed()

    def part_committed(self, stored: int, size: int, kept_bytes: int) -> None:
        """The records before number `stored` are on disk: by this commit `size` bytes of them."""
        self.stored = max(self.stored, stored)
        self.unstored_bytes -= size
        self._closing_bytes -= size
        self.size = kept_bytes + self.unstored_bytes
        if self.owner is not None:
            self.owner.committed()

    def safe_state(self, end: int, safe: Callable[[Log], int]) -> State:
        """How far it has got with the records before number `end`.

        What went to another log counts if it is there before the record that `safe` says.
        """
        state = self.state_until(end)
        moved = sorted(seq for seq, (log, place) in self._moved.items() if place >= safe(log))
        return without(state, moved)

    def dropped(self) -> None:
        """It is deleted on disk: what has come from other logs is not waited for."""
        self.stored = self.next

    def committed(self, state: State, kept_bytes: int) -> None:
        """`state` is on disk, and with it `kept_bytes` of records."""
        self.stored = max(self.stored, state.next)
        self.trimmed = state.recorded
        self.unrecorded -= self._closing
        self.given_up -= self._closing_given_up
        self.unstored_bytes -= self._closing_bytes
        self._closing = self._closing_bytes = self._closing_given_up = 0
        self.size = kept_bytes + self.unstored_bytes
        if self.owner is not None:
            self.owner.committed()


class Step(NamedTuple):
    """What is written of a log ahead of new records, and how many of its numbers that settles."""

    state: State
    unrecorded: int
    given_up: int


def check_state(state: State, size: object) -> None:
    """Raise ValueError where a row of the file is none that was ever written."""
    numbers_of = (state.log_id, state.next, state.recorded, state.begun, size)
    if not all(isinstance(number, int) for number in numbers_of):
        raise ValueError("a log has no numbers")
    if not (isinstance(state.name, str) and state.log_id > 0 < state.recorded <= state.next):
        raise ValueError("a log ends before it begins")
    if not (isinstance(state.done, bytes) and isinstance(state.taken, bytes)):
        raise ValueError("a log has no list of what is done")
    listed = len(state.done) // 8 - len(ranges(state.done)[0])
    if listed % 2 or len(state.taken) % 8:
        raise ValueError("a log has a list of what is done that is cut off")


def without(state: State, moved: list[int]) -> State:
    """`state` where the records `moved`, in order, are not done."""
    if not moved:
        return state
    singles, found = ranges(state.done)
    recorded = min(state.recorded, moved[0])
    parts = []
    for first, end in [[recorded, state.recorded], *found]:
        begin = first
        for seq in moved:
            if begin <= seq < end:
                parts.append([begin, seq])
                begin = seq + 1
        parts.append([begin, end])
    left = array("Q", sorted(set(singles).difference(moved)))
    done = left + spans([part for part in parts if part[0] < part[1]])
    return state._replace(recorded=recorded, done=done.tobytes())


def ranges(data: bytes) -> tuple[list[int], list[list[int]]]:
    """What is done, from its bytes: single records, and spans as first and end."""
    singles, found = [], []
    rest = iter(numbers(data))
    for number in rest:
        if number & SPAN:
            found.append([number & ~SPAN, next(rest)])
        else:
            singles.append(number)
    return singles, found


def spans(skipped: list[list[int]]) -> array[int]:
    """Spans as they are written behind the single records."""
    return array("Q", [number for first, end in skipped for number in (SPAN | first, end)])


def numbers(data: bytes) -> array[int]:
    """Sequence numbers from their bytes."""
    found = array("Q")
    found.frombytes(data)
    return found
