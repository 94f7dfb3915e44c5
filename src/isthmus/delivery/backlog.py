"""A log on its way through memory: who waits for it to be written, and what of it can be sent.

Into the log: a record is written with the next commit, which gives back the holds on the receipts
of what is in it. Out of it: what was just written is still in memory and goes on to the lane when
it is on disk; the rest is loaded in bounded steps, as the lane has use for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from isthmus import clock
from isthmus.delivery.barrier import OPEN
from isthmus.delivery.logged_ids import MAX_AHEAD
from isthmus.delivery.owed import Owed
from isthmus.delivery.publication import DUP
from isthmus.delivery.queue import NEVER_SENT, Queued
from isthmus.delivery.record import message, record, topic_of
from isthmus.delivery.stored import Stored, stored_at
from isthmus.store.log import Part

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from isthmus.delivery.barrier import Barrier
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.receipt import Receipt
    from isthmus.store.log import Log

MEMORY_BYTES = 1 << 20
"""How much of a log is also in memory, ready to be sent."""

LOAD_BYTES = 256 << 10
"""How much of a log is loaded at a time, from four times as much on disk."""

READ_RETRY_S = 1.0
"""How long after a failed read the next attempt is made."""


class Owner(Protocol):
    """The outbox that a backlog belongs to."""

    def closing(self, backlog: Backlog) -> None:
        """The changes of its log until now are about to be written."""

    def committed(self, backlog: Backlog) -> None:
        """They are on disk."""


class Backlog:
    """What waits in `log` for the peer of `lane`.

    `end` is the first record that is not in memory, and is not done; messages that have overtaken
    it may be on their way behind it. `is_first` says that nothing
    is sent before it. `gate` is the first record that may not be sent yet, because of `barrier`.
    `maybe_sent` counts those records that the peer may have got in an earlier
    life. `allowed` says whether what comes from the disk may still be sent on a topic; None where
    nobody forbids it. `oldest_at` is the wall time at which the oldest message was written, as of
    the last `look`; 0.0 where that is not known.
    """

    __slots__ = (
        "_asking_age",
        "_before_turn",
        "_loading",
        "_loop",
        "_new",
        "_owed",
        "_rewound",
        "allowed",
        "barrier",
        "end",
        "gate",
        "is_first",
        "lane",
        "log",
        "maybe_sent",
        "oldest_at",
        "owner",
    )

    def __init__(self, lane: Lane, log: Log, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        self.lane = lane
        self.log = log
        self.owner = owner
        self._loop = loop
        self.is_first = True
        self.allowed: Callable[[bytes], bool] | None = None
        self.maybe_sent = 0
        self.end = log.done_below
        self.gate = OPEN
        self.barrier: Barrier | None = None
        # Messages that are in memory and not on disk yet.
        self._new: list[Queued] = []
        # Records from `end` on that the lane has all the same.
        self._before_turn: set[int] = set()
        self._loading = False
        self._rewound = False  # while something was being read
        self._owed = Owed()
        self._asking_age = False
        self.oldest_at = 0.0
        log.owner = self

    # -- state -----------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Messages that wait and are not in the queue of the lane."""
        return max(0, self.log.next - self.end - len(self._before_turn)) + len(self._new)

    @property
    def all_in_lane(self) -> bool:
        """Whether the lane has everything that is in the log."""
        return self.end == self.log.next and not self._new

    @property
    def loading(self) -> bool:
        """Whether something is being read."""
        return self._loading

    @property
    def ended(self) -> bool:
        """Whether everything is done, and the disk knows it."""
        return not len(self.log) and self.log.all_recorded

    # -- into the log ----------------------------------------------------------------------------

    def append(
        self,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
        expires: float | None,
    ) -> None:
        """Append a message; the arguments are those of `Queued`. A hold on the receipt is given."""
        seq = self._write(record(first, topic, properties, payload, expires), receipt)
        if seq == self.end and self._fits_in_memory(seq):
            stands = stored_at(self.log, seq, self._now())
            self._new.append(Queued(topic, first, properties, payload, stands, 0, expires))
            self.end = seq + 1

    def append_sent(
        self,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
        expires: float | None,
    ) -> Stored:
        """Append a message that is on its way; what stands for its receipt there."""
        seq = self._write(record(first, topic, properties, payload, expires), receipt)
        if seq == self.end:
            self.end = seq + 1
        else:
            self._before_turn.add(seq)
        return stored_at(self.log, seq, self._now())

    def _write(self, found: bytes, receipt: Receipt | None) -> int:
        seq = self.log.append(found)
        if receipt is not None:
            self._owed.add(receipt, seq)
        return seq

    def _fits_in_memory(self, seq: int) -> bool:
        """Whether a message that is appended now is also kept in memory, as the next one to send.

        Not so far ahead that its packet identifier could be in use.
        """
        log = self.log
        lane = self.lane
        queue = lane.queue
        return (
            self.is_first
            and lane.link is not None
            and log.unstored_bytes < MEMORY_BYTES
            and seq < self.gate
            and seq < log.done_below + MAX_AHEAD
            and (queue is None or queue.size < MEMORY_BYTES)
        )

    def _now(self) -> float:
        """When what is put into the log now was put there, where ages count."""
        return clock.wall() if self.lane.max_age_s else 0.0

    # -- the log tells ---------------------------------------------------------------------------

    def closing(self) -> None:
        """The changes until now are about to be written."""
        self._owed.close()
        self.owner.closing(self)

    def committed(self) -> None:
        """The log has reached the disk up to `log.stored`."""
        new, end = self._new, self.log.stored
        self._owed.release(end)
        count = 0
        while count < len(new) and new[count].receipt.seq < end:  # type: ignore[union-attr]
            count += 1
        if count:
            self.lane.add(new[:count])
            del new[:count]
        self.owner.committed(self)
        if self.barrier is not None:
            self.barrier.look()

    # -- out of the log --------------------------------------------------------------------------

    def load(self) -> None:
        """Load some of what is not in memory."""
        end, log = self.end, self.log
        if (
            not self._loading
            and self.lane.link is not None
            and end < log.stored
            and end < self.gate
            and end < log.done_below + MAX_AHEAD
        ):
            self._loading = True
            log.load(end, LOAD_BYTES, self._loaded)

    def _loaded(self, parts: list[Part] | None) -> None:
        if parts is None:
            self._loop.call_later(READ_RETRY_S, self._load_again)
            return
        self._loading = False
        if self._rewound:
            self._rewound = False
            self.load()
            return
        lane, log = self.lane, self.log
        newest = min(log.done_below + MAX_AHEAD, self.gate)
        ready = []
        at = self.end
        for part in parts or [Part(log.stored, 0.0, [])]:
            first, written, records = part
            old = too_old(lane, written)
            for seq in range(at, min(first, newest)):
                # What the log does not have any more was in a part that is damaged.
                self._lost(seq)
                at = seq + 1
            for seq, found in enumerate(records[at - first :], at):
                if seq >= newest:
                    break
                at = seq + 1
                if self._has(seq):
                    continue
                if found is None:
                    self._lost(seq)
                    continue
                if self.allowed is not None and not self.allowed(topic_of(found)):
                    lane.drops.add("denied", topic_of(found))
                    log.done(seq)
                    continue
                flags = 0
                if self.maybe_sent:
                    self.maybe_sent -= 1
                    flags = DUP
                stands = stored_at(log, seq, written)
                item = message(found, stands, flags)
                if old:
                    bury(lane, log, seq, found, item.topic)
                else:
                    ready.append(item)
        self._passed(at)
        lane.add(ready)
        if lane.link is not None:
            lane.look_for_room()
        elif not lane.blocks:
            self.unload()

    def _passed(self, end: int) -> None:
        """What is before `end` is in memory, or done."""
        self.end = end
        self._before_turn = {seq for seq in self._before_turn if seq >= end}

    def _has(self, seq: int) -> bool:
        """Whether record `seq` is not to be loaded: it is done, or on its way."""
        return self.log.is_done(seq) or self.log.is_taken(seq) or seq in self._before_turn

    def _load_again(self) -> None:
        self._loading = False
        self.load()

    def _lost(self, seq: int) -> None:
        if not self._has(seq):
            self.lane.drops.add("damaged", f"record {seq} of {self.log.name}")
            self.log.done(seq)

    def unload(self) -> int:
        """Forget what is in memory and not sent: many clients may be away for long.

        Returns how many of these were sent before, which the disk does not know.
        """
        items = self.lane.take(lambda item: owns(self.log, item.receipt))
        items += self._new
        self._new.clear()
        if items:
            places = {item.receipt.seq for item in items}  # type: ignore[union-attr]
            self.end = min(self.end, *places)
            self._before_turn -= places
        return sum(item.order != NEVER_SENT for item in items)

    def rewind(self, seq: int) -> int:
        """Send record `seq`, and what is behind it and not done, from disk once more.

        Returns what `unload` does.
        """
        sent = self.unload()
        self.end = min(self.end, seq)
        self._rewound = self._loading
        return sent

    # -- what is not sent ------------------------------------------------------------------------

    def drop_oldest(self) -> bool:
        """Give up the oldest message that is not on its way; whether there was one."""
        lane, log = self.lane, self.log
        queue = lane.queue
        head = None if queue is None else queue.first
        if queue is not None and head is not None and owns(log, head.receipt):
            item = queue.popleft()
        elif self._new:
            item = self._new.pop(0)
        else:
            seq = self.end
            while seq < log.next and self._has(seq):
                seq += 1
            self._passed(min(seq + 1, log.next))
            if seq >= log.next:
                return False
            log.skip(seq)
            lane.drops.add("queue_full")
            return True
        log.skip(item.receipt.seq)  # type: ignore[union-attr]
        lane.drops.add("queue_full", item.topic[2:])
        return True

    def withdraw(self, allowed: Callable[[bytes], bool]) -> None:
        """Forget what waits here in memory on topics that are not `allowed`; it is counted."""
        for item in [item for item in self._new if not allowed(item.topic[2:])]:
            self._new.remove(item)
            self.lane.drops.add("denied", item.topic[2:])
            if item.receipt is not None:
                item.receipt.release()

    def forget(self) -> None:
        """Release everybody who waits, and delete the log."""
        self._owed.release_all()
        self._new.clear()
        self.log.drop()

    # -- age -------------------------------------------------------------------------------------

    def look(self) -> None:
        """Find out how old the oldest message in the log is; to be called once a second."""
        if self.barrier is not None:
            self.barrier.look()
        if not len(self.log):
            self.oldest_at = 0.0
        elif not self._asking_age:
            self._asking_age = True
            self.log.ask_age(self._aged)

    def _aged(self, at: float) -> None:
        self._asking_age = False
        self.oldest_at = at


def owns(log: Log, receipt: Receipt | None) -> bool:
    """Whether `receipt` stands for a record of `log`."""
    return isinstance(receipt, Stored) and receipt.log is log


def too_old(lane: Lane, at: float) -> bool:
    """Whether what was written at `at` is not to be sent any more."""
    longest_s = lane.max_age_s
    return bool(longest_s and at and clock.wall() - at > longest_s)


def bury(lane: Lane, log: Log, seq: int, found: bytes, topic: bytes) -> None:
    """Record `seq` of `log`, which is `found`, has been there too long."""
    limits = lane.limits
    if limits is not None and limits.when_full == "dead_letter" and lane.dead is not None:
        lane.dead.add_record("too_old", lane.name, found, topic)
        log.move(seq, lane.dead.log)
    else:
        lane.drops.add("too_old", topic[2:])
    log.skip(seq)
