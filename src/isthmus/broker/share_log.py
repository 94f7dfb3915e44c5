"""What a share group has on disk: no message is lost with the process that its publisher counts on.

A group is kept while one of its members is. Its messages are the group's until a member has taken
them, so they are in a log of the group's own and not in those of its members. As with an outbox
(`delivery/outbox.py`) nothing is written while members keep up: a publisher is acknowledged when a
member has acknowledged. What stays unacknowledged for `SPILL_AFTER_S`, or finds no member
connected, goes to the log in one transaction with all that is unacknowledged, which releases the
publishers. From then on (*logged*) every message is written at once, until members have been quick
for a second and nothing waits.

It differs from an outbox where a group differs from a lane. Messages are acknowledged by several
peers in any order, and each goes to a member without waiting for the disk: there are no packet
identifiers that follow from a place in the log, and what is in memory overtakes nothing, as what
waits goes first. A message of QoS 2 for a kept member leaves this log and comes into that member's
in one transaction (MQTT-4.8.2-4): from then on it is the member's. As it is written before it is
sent, one of QoS 1 may overtake it; to wait would be to send one of each for each commit.

Only the first of what waits is in memory; the rest is loaded as members take it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.broker.shared import Shared
from isthmus.delivery.owed import Owed
from isthmus.delivery.publication import unpack
from isthmus.delivery.queue import ENTRY_OVERHEAD_BYTES, Queued, expiry
from isthmus.delivery.receipt import PUBACK, PUBREC, Receipt
from isthmus.delivery.record import message, record
from isthmus.store.log import Part

if TYPE_CHECKING:
    import asyncio

    from isthmus.broker.share_group import ShareGroup
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.outlet import LaneOutlet
    from isthmus.store.log import Log

SPILL_AFTER_S = 0.02
"""How long a message may be unacknowledged before it goes to disk: as for sessions."""

STEADY_S = 1.0
"""So long members have to be quick before messages go past the log again."""

MEMORY_BYTES = 1 << 20
"""How much of what waits is in memory at least, where there is a member to take it."""

LOAD_BYTES = 256 << 10
"""How much of the log is loaded at a time."""

LOW_BYTES = 1 << 19
"""When less than this waits in memory, more is loaded."""

READ_RETRY_S = 1.0
"""How long after a failed read the next attempt is made."""

RENEW_AFTER = 1000
"""So many records that are done may lie behind one that is not, and take room on the disk."""

NO_IDS: list[bytes] = []


class ShareLog:
    """Keeps the messages of `group` in `log`, which has what an earlier process left.

    `ending` says that no member is kept any more, and the log goes when all that is in it is in
    memory; `behind` that some of it is not.
    """

    __slots__ = (
        "_ahead",
        "_end",
        "_group",
        "_head",
        "_head_ticks",
        "_lanes",
        "_loading",
        "_log",
        "_logged",
        "_loop",
        "_outside_bytes",
        "_over",
        "_owed",
        "_slow_at",
        "_ticking",
        "_unsafe",
        "ending",
    )

    def __init__(self, group: ShareGroup, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._group = group
        self._log = log
        self._loop = loop
        self._logged = bool(len(log))
        self._slow_at = clock.monotonic()
        # Messages that are not in the log, in the order in which they came here.
        self._unsafe: dict[Shared, None] = {}
        # Connected lanes that have had messages of the group.
        self._lanes: set[Lane] = set()
        # The first record that is not in memory; from there on, those that are all the same; and
        # about how many bytes those take that are not.
        self._end = log.done_below
        self._ahead: set[int] = set()
        self._outside_bytes = log.size + ENTRY_OVERHEAD_BYTES * len(log)
        self._loading = False
        self._owed = Owed()
        self._ticking = False
        self._head: Shared | None = None
        self._head_ticks = 0
        self._over = False
        self.ending = False
        log.owner = self
        queue = group.queue
        waiting = [queue.popleft() for _ in range(len(queue))]
        queue.put_back(*(self.adopt(item) for item in waiting))

    @property
    def behind(self) -> bool:
        """Whether the log has messages that are not in memory, which go before new ones."""
        return self._end < self._log.next

    @property
    def _waiting(self) -> int:
        """How many messages wait for a member."""
        return len(self._group.queue) + self._log.next - self._end - len(self._ahead)

    # -- messages come ---------------------------------------------------------------------------

    def send(
        self,
        way: LaneOutlet,
        topic: bytes,
        flags: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
    ) -> None:
        """Send a new message `way`, to a member that has room; `topic` has its length in front."""
        first = way.first[flags]
        if first < 0x32:
            way.send(flags, properties, payload, None)
            return
        lane = way.lane
        expires = expiry(properties) if properties else None
        if _is_taken_over(lane, first):
            if receipt is not None:
                receipt.holds += 1
                receipt.tied += 1
            own = properties + way.stamp
            lane.give(Queued(way.topic, first, own, payload, receipt, 0, expires))
            return
        mark = self._mark(topic, 0x30 | flags, properties, expires)
        self._secure(mark, payload, receipt, direct=True)
        self._note_given(lane, mark)
        if lane.waiting:
            # What it has on disk for itself need not go before this.
            own = properties + way.stamp
            lane.give(Queued(way.topic, first, own, payload, mark, 0, expires))
        else:
            way.send(flags, properties, payload, mark)
        mark.release()

    def enqueue(
        self, topic: bytes, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None
    ) -> None:
        """Keep a message that no member has room for; `topic` has its length in front."""
        group = self._group
        queue, limits = group.queue, group.limits
        waiting = self._waiting
        size = len(topic) + len(properties) + len(payload) + ENTRY_OVERHEAD_BYTES
        if waiting >= limits.queued_messages or (
            waiting and queue.size + self._outside_bytes + size > limits.queued_bytes
        ):
            group.drops.add("queue_full", topic[2:])
            return
        first = 0x30 | flags
        expires = expiry(properties) if properties else None
        if not self._logged and not self._lanes:
            self._spill()
        if self._logged and (self.behind or not self._lanes or queue.size >= MEMORY_BYTES):
            if receipt is not None:
                receipt.holds += 1
                receipt.tied += 1
            self._outside_bytes += size
            self._append(record(first, topic, properties, payload, expires), receipt)
            return
        mark = self._mark(topic, first, properties, expires)
        self._secure(mark, payload, receipt, direct=False)
        queue.append(mark.queued(payload))

    def adopt(self, item: Queued) -> Queued:
        """Keep a message from now on that the group had in memory."""
        mark = self._mark(item.topic, item.first, item.properties, item.expires)
        mark.number = item.order
        self._secure(mark, item.payload, None, direct=False)
        return mark.queued(item.payload)

    def _mark(self, topic: bytes, first: int, properties: bytes, expires: float | None) -> Shared:
        """What stands for a message; it has one hold, of whoever made it."""
        mark = Shared.__new__(Shared)
        mark.source = self._group
        mark.prefix = PUBACK
        mark.ids = NO_IDS
        mark.holds = 1
        mark.tied = 0
        mark.codes = None
        mark.keeper = self
        mark.topic = topic
        mark.first = first
        mark.properties = properties
        mark.expires = expires
        mark.number = self._group.next_number()
        mark.seq = 0
        mark.receipt = None
        mark.given_at = 0.0
        return mark

    def _secure(
        self, mark: Shared, payload: bytes, receipt: Receipt | None, *, direct: bool
    ) -> None:
        """Write a message, or have its publisher wait for a member; `direct`: one gets it now.

        What came with QoS 2 is written, to be on disk together with its packet identifier. While
        the disk takes nothing, members are the quicker way.
        """
        came_qos2 = receipt is not None and receipt.prefix is PUBREC
        if came_qos2 and not self._logged:
            self._spill()
        if receipt is not None:
            receipt.holds += 1
        if self._logged and (came_qos2 or not (direct and self._log.failing)):
            if receipt is not None:
                receipt.tied += 1
            self._write(mark, payload, receipt)
        else:
            mark.receipt = receipt
            self._unsafe[mark] = None
            self._arm()

    # -- members take them -----------------------------------------------------------------------

    def give(
        self,
        lane: Lane,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        mark: Shared,
    ) -> None:
        """Give a member with room what `mark` stands for, as it is for this one."""
        if _is_taken_over(lane, first):
            receipt, mark.receipt = mark.receipt, None
            lane.give(Queued(topic, first, properties, payload, receipt, 0, mark.expires))
            if mark.seq:
                assert lane.outbox is not None
                self._log.move(mark.seq, lane.outbox.log)
                self._log.done(mark.seq)
        else:
            self._note_given(lane, mark)
            lane.give(Queued(topic, first, properties, payload, mark, 0, mark.expires))
        mark.release()

    def _note_given(self, lane: Lane, mark: Shared) -> None:
        self._lanes.add(lane)
        if self._logged:
            mark.given_at = clock.monotonic()

    def settled(self, mark: Shared) -> None:
        """A message needs no delivery any more."""
        if not mark.seq:
            self._unsafe.pop(mark, None)
            receipt, mark.receipt = mark.receipt, None
            if receipt is not None:
                receipt.release()
            return
        self._log.done(mark.seq)
        if self._logged:
            now = clock.monotonic()
            if now - mark.given_at > SPILL_AFTER_S / 2:
                self._slow_at = now
            elif now - self._slow_at > STEADY_S and not self._group.queue and not self.behind:
                self._logged = False

    def disconnected(self, lane: Lane) -> None:
        """The connection of `lane` has ended, and the group has back what it had not acknowledged.

        Where nobody is left, all of it goes to disk: members may be away for long.
        """
        self._lanes.discard(lane)
        if self._lanes or self._over or self._group.connected:
            return
        if self._unsafe:
            self._spill()
        queue = self._group.queue
        self._outside_bytes += queue.size
        queue.take(lambda item: True)
        self._end = self._log.done_below
        self._ahead.clear()
        self._logged = self._logged or self.behind

    # -- the end ---------------------------------------------------------------------------------

    def wind_up(self) -> None:
        """No member is kept any more: what is on disk comes into memory, then the log goes."""
        self.ending = True
        if self.behind:
            self.more()
        else:
            self.finish()

    def finish(self) -> None:
        """Delete the log, and release who waits for it: from now on the group is memory."""
        self._over = True
        self._group.kept = None
        self._owed.release_all()
        for mark in self._unsafe:
            if mark.receipt is not None:
                mark.receipt.release()
                mark.receipt = None
        self._unsafe.clear()
        self._log.drop()

    # -- into the log ----------------------------------------------------------------------------

    def _arm(self) -> None:
        """Look in a while whether the oldest message was acknowledged."""
        if not self._ticking:
            self._ticking = True
            self._head = None
            self._loop.call_later(SPILL_AFTER_S / 2, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        head = next(iter(self._unsafe), None)
        if head is None:
            self._head = None
            return
        if head is not self._head:
            self._head = head
            self._head_ticks = 0
        else:
            self._head_ticks += 1
            if self._head_ticks == 2:
                self._head = None
                self._spill()
                return
        self._ticking = True
        self._loop.call_later(SPILL_AFTER_S / 2, self._tick)

    def _spill(self) -> None:
        """Write all that is unacknowledged, in order; publishers wait for the disk."""
        self._logged = True
        self._slow_at = clock.monotonic()
        payloads: dict[Receipt | None, bytes] = dict(self._on_their_way())
        payloads.update((item.receipt, item.payload) for item in self._group.queue)
        # QoS 2 of a member whose session ends just now is nobody's any more.
        found = [mark for mark in self._unsafe if mark in payloads]
        for mark in found:
            del self._unsafe[mark]
            receipt, mark.receipt = mark.receipt, None
            self._write(mark, payloads[mark], receipt)

    def _on_their_way(self) -> list[tuple[Shared, bytes]]:
        """What members have and have not acknowledged, in the order of publication."""
        found = [
            (receipt, unpack(packet, v5=lane.v5)[4])
            for lane in self._lanes
            for packet, receipt, _, _ in lane.entries.values()
            if isinstance(receipt, Shared) and receipt.keeper is self
        ]
        found.sort(key=lambda one: one[0].number)
        return found

    def _write(self, mark: Shared, payload: bytes, receipt: Receipt | None) -> None:
        """Append a message that is in memory; a hold on the receipt is given."""
        found = record(mark.first, mark.topic, mark.properties, payload, mark.expires)
        seq = mark.seq = self._append(found, receipt)
        if seq == self._end:
            self._end = seq + 1
        else:
            self._ahead.add(seq)

    def _append(self, found: bytes, receipt: Receipt | None) -> int:
        """Append a record; the receipt is released when it is on disk."""
        seq = self._log.append(found)
        if receipt is not None:
            self._owed.add(receipt, seq)
        return seq

    def closing(self) -> None:
        """The changes of the log until now are about to be written."""
        self._owed.close()

    def committed(self) -> None:
        """The log has reached the disk up to `stored`."""
        self._owed.release(self._log.stored)
        self._renew()
        self.more()

    def _renew(self) -> None:
        """Append anew what slow members have had for long, with all that members have.

        A log is deleted from its beginning: one record there keeps the room of all behind it.
        """
        log, limits = self._log, self._group.limits
        live = len(log)
        done = log.next - log.done_below - live
        allowed = RENEW_AFTER if log.size < 2 * limits.queued_bytes else 0
        if done <= allowed + live - self._waiting:
            return
        given = [(mark, payload) for mark, payload in self._on_their_way() if mark.seq]
        if log.done_below in (mark.seq for mark, _ in given):
            for mark, payload in given:
                seq = mark.seq
                self._write(mark, payload, None)
                log.move(seq, log)
                log.done(seq)

    # -- out of the log --------------------------------------------------------------------------

    def more(self) -> None:
        """Load more of the log, if it has any and a member may take it."""
        if self._end >= self._log.stored or self._loading or self._over:
            return
        group = self._group
        if self.ending or (group.queue.size < LOW_BYTES and group.connected):
            self._loading = True
            self._log.load(self._end, LOAD_BYTES, partial(self._loaded, self._end))

    def _loaded(self, begin: int, parts: list[Part] | None) -> None:
        if parts is None:
            self._loop.call_later(READ_RETRY_S, self._load_again)
            return
        self._loading = False
        group, log = self._group, self._log
        if self._over or not (self.ending or group.connected):
            return
        if begin == self._end:
            at = begin
            for first, _, records in parts or [Part(log.stored, 0.0, [])]:
                # What the log does not have any more was in a part that is damaged.
                gap: list[bytes | None] = [None] * (first - at)
                for found in (*gap, *records[max(0, at - first) :]):
                    self._take(at, found)
                    at += 1
            self._end = at
            if not self.behind:
                self._outside_bytes = 0
            group.supply_all()
        self.more()
        if self.ending and not self.behind:
            self.finish()

    def _load_again(self) -> None:
        self._loading = False
        self.more()

    def _take(self, seq: int, found: bytes | None) -> None:
        """Queue record `seq`, if it is not in memory and not done; None if it is damaged."""
        log, group = self._log, self._group
        if seq in self._ahead:
            self._ahead.discard(seq)
        elif log.is_done(seq):
            pass
        elif found is None:
            group.drops.add("damaged", f"record {seq} of {log.name}")
            log.done(seq)
        else:
            item = message(found, None)
            mark = self._mark(item.topic, item.first, item.properties, item.expires)
            mark.seq = seq
            self._outside_bytes = max(0, self._outside_bytes - item.size)
            group.queue.append(mark.queued(item.payload))


def _is_taken_over(lane: Lane, first: int) -> bool:
    """Whether a message becomes the member's own as it is given: then its session has it on disk.

    QoS 2 never goes to anybody else (MQTT-4.8.2-4).
    """
    return first >= 0x34 and lane.outbox is not None
