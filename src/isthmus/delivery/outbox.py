"""The outbox: what a lane owes to its target, on disk when it has to be.

While the peer keeps up nothing touches the disk (*through*): a publisher is acknowledged when the
peer has acknowledged, as on every lane. When something stays unacknowledged for `spill_after`, or
the link goes down, all that is unacknowledged goes to the log in one commit, which releases the
publishers; from then on (*logged*) every message joins the next commit at once. It is back to
*through* when all is acknowledged and recorded as such, and acknowledgements come quickly again;
what comes in between is *held*, unacknowledged, in memory.

A logged message is sent when it is on disk, so nothing in memory overtakes the disk, unless its
route says that it may overtake what an outage has left. In its lane it
is as any other: `Stored` stands where the receipt of its publisher was. How many messages may be on
their way is bounded by what is sent and not *recorded* as acknowledged: that is what a crash can
repeat at most.

QoS 2 is never through: its message is on disk before the first byte of it is sent, and its PUBREC
before PUBREL.

A log that is full holds its publishers back, or does what its `QueueLimits` say.

Over 600 lines, as through, logged and held are one state, and each way between them has to keep the
order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.backlog import Backlog, bury, too_old
from isthmus.delivery.drain_pace import DrainPace
from isthmus.delivery.keeper import Keeper
from isthmus.delivery.logged_ids import THROUGH_CHUNKS, LoggedIds
from isthmus.delivery.publication import unpack
from isthmus.delivery.queue import Queued, expiry
from isthmus.delivery.receipt import PUBREC, Receipt
from isthmus.delivery.record import record
from isthmus.delivery.spill_timer import SpillTimer, spills
from isthmus.delivery.stored import Stored
from isthmus.delivery.trust import Trust
from isthmus.mqtt.inflight import Window

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from isthmus.delivery.lane import Lane
    from isthmus.delivery.queue_limits import QueueLimits
    from isthmus.store.log import Log

MAX_INFLIGHT = 4000
"""More than this cannot be on the way at a time, whatever the settings say."""

STEADY_S = 1.0
"""So long acknowledgements have to be quick before messages go past the log again."""

ON_DISK, BEING_WRITTEN, NOTED = range(3)
UNLIMITED = 1 << 62


class Outbox(Keeper):
    """What goes to disk of `lane`, which is empty as yet: to `log`.

    `logged` says that messages go there. `backlog` is what waits in the log. `ids` are the packet
    identifiers of what is there. `spill_after_s` is how long a message may be unacknowledged before
    it goes to disk, `max_bytes` and `max_messages` how much may be there before it is full; what
    happens then, `limit` says. A lane that drops what is over its limits holds none back. `pace`
    says when what an outage has left is sent.
    """

    __slots__ = (
        "_beginning",
        "_closing",
        "_held",
        "_held_bytes",
        "_inherited",
        "_lane",
        "_looks_again",
        "_loop",
        "_probe",
        "_probed_at",
        "_resumed",
        "_slow_at",
        "_timer",
        "_when_full",
        "backlog",
        "ids",
        "log",
        "logged",
        "max_bytes",
        "max_messages",
        "pace",
        "spill_after_s",
        "trust",
    )

    def __init__(
        self,
        lane: Lane,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        *,
        spill_after_s: float,
        limits: QueueLimits,
    ) -> None:
        self._lane = lane
        self._loop = loop
        self.log = log
        self.ids = LoggedIds(log)
        self.backlog = Backlog(lane, log, loop, self)
        # What lanes that are gone have left on disk, which goes first.
        self._inherited: list[Backlog] = []
        self.spill_after_s = spill_after_s
        self.logged = bool(len(log))
        # What comes while the log is being left, or is full.
        self._closing = False
        self._held: list[Queued] = []
        self._held_bytes = 0
        # Nothing is sent before it is on disk that something may have been.
        self._beginning = ON_DISK
        self._resumed = False
        self._looks_again = False
        self.pace = DrainPace(loop, self.send_more)
        self._timer = SpillTimer(self, lane, loop)
        self.trust = Trust(lane, loop)
        # How quick the peer is with what is on disk.
        self._probe: bytes | None = None
        self._probed_at = 0.0
        self._slow_at = clock.monotonic()
        self.limit(limits)
        lane.outbox = self
        lane.window = Window(chunks=THROUGH_CHUNKS)
        lane.entries = lane.window.entries
        lane.queues_qos2 = True
        lane.waiting = lane.waiting or self.logged

    # -- state -----------------------------------------------------------------------------------

    @property
    def may_send(self) -> bool:
        """Whether the disk knows that something may have been sent."""
        return self._beginning == ON_DISK

    @property
    def unrecorded(self) -> int:
        """Messages that the peer has acknowledged, and of which the disk does not know it."""
        if not self.logged:
            return 0
        if not self._inherited:
            return self.log.unrecorded
        return sum(backlog.log.unrecorded for backlog in self.backlogs)

    @property
    def backlogs(self) -> list[Backlog]:
        """What is on disk, in the order in which it is sent."""
        return [*self._inherited, self.backlog]

    @property
    def stored(self) -> int:
        """Messages that are on disk, or about to be, and not done."""
        if not self._inherited:
            return len(self.log)
        return sum(len(backlog.log) for backlog in self.backlogs)

    @property
    def stored_bytes(self) -> int:
        """The size of what is on disk, or about to be."""
        if not self._inherited:
            return self.log.size
        return sum(backlog.log.size for backlog in self.backlogs)

    @property
    def queued(self) -> int:
        """Messages that wait and are not in the queue of the lane."""
        if not self._inherited:
            return len(self._held) + self.backlog.queued
        return len(self._held) + sum(backlog.queued for backlog in self.backlogs)

    @property
    def queued_bytes(self) -> int:
        """The size of what is on disk, or held."""
        return self.stored_bytes + self._held_bytes

    @property
    def holding(self) -> bool:
        """Whether messages wait in memory for their place in the log."""
        return bool(self._held)

    @property
    def oldest_at(self) -> float:
        """When the oldest message was written, as of the last `look`; 0.0 if not known."""
        found = (backlog.oldest_at for backlog in self.backlogs if len(backlog.log))
        return min(filter(None, found), default=0.0)

    def look(self) -> None:
        """Find out how old the oldest message on disk is; to be called once a second."""
        if self._beginning != ON_DISK and self.log.failing and self._lane.link is not None:
            self._beginning = ON_DISK  # as when it is attached
            self._lane.look_for_room()
        for backlog in self.backlogs:
            backlog.look()

    @property
    def draining(self) -> bool:
        """Whether some of what an outage has left is not sent yet."""
        return self.logged and self.pace.draining

    # -- into the log ----------------------------------------------------------------------------

    def takes(self, first: int, receipt: Receipt | None) -> bool:
        """Whether a message goes to the log, or is held, rather than in the queue of the lane.

        What came with QoS 2 does, so that it is on disk together with its packet identifier.
        """
        if self.logged:
            return True
        came_qos2 = receipt is not None and receipt.prefix is PUBREC
        if self._lane.link is None or first >= 0x34 or came_qos2:
            self.spill()
            return True
        return False

    def append(
        self,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
    ) -> None:
        """Append a message to the log, or hold it while the log is being left."""
        lane, log = self._lane, self.log
        if not lane.blocks:
            if lane.over(len(topic) + len(properties) + len(payload)):
                lane.drops.add("queue_full", topic[2:])
                return
        elif lane.full and not self._fits(topic, receipt):
            return
        if self._closing and receipt is not None and receipt.prefix is PUBREC:
            self.spill()
        full = self._full()
        blocks = self._when_full == "block"
        if not blocks and not self._has_room(full, topic, first, properties, payload, receipt):
            return
        expires = expiry(properties) if properties else None
        if first >= 0x34:
            self._slow_at = clock.monotonic()
        if receipt is not None:
            receipt.holds += 1
        if self._closing or self._held or (full and blocks):
            index = 0 if receipt is None else len(receipt.ids) - 1
            self._hold(Queued(topic, first, properties, payload, receipt, index, expires))
            self._look_at_size()
            return
        if receipt is not None:
            receipt.tied += 1
        self.backlog.append(topic, first, properties, payload, receipt, expires)
        if log.unstored_bytes > lane.max_queued_bytes and lane.blocks:
            lane.full = True
            if receipt is not None:
                receipt.source.press()

    def keeps(self, item: Queued) -> bool:
        """Append what has waited elsewhere, with its hold, if it has to go to the log."""
        if not spills(item.receipt) or not self.takes(item.first, item.receipt):
            return False
        if self._closing:
            self.spill()
        self._hold(item)
        self._keep_held()
        return True

    def _hold(self, item: Queued) -> None:
        """Keep a message in memory, behind all that is held, until there is room for it."""
        self._held.append(item)
        self._held_bytes += item.size

    def _keep(self, item: Queued) -> None:
        """Append what has waited in memory."""
        self.backlog.append(
            item.topic, item.first, item.properties, item.payload, item.receipt, item.expires
        )

    def spill(self) -> None:
        """Write all that is unacknowledged to the log, in order; publishers wait for the disk."""
        lane, backlog = self._lane, self.backlog
        if not self.logged:
            backlog.end = self.log.next
        self.logged = lane.waiting = True
        self.trust.doubt(self.unrecorded)
        self._closing = False
        self._slow_at = clock.monotonic()
        for packet_id, (packet, receipt, _, order) in lane.entries.items():
            if not spills(receipt):
                continue
            first, topic, _, properties, payload = unpack(packet, v5=lane.v5)
            expires = expiry(properties) if properties else None
            stands = backlog.append_sent(topic, first, properties, payload, receipt, expires)
            lane.entries[packet_id] = (packet, stands, 0, order)
        for item in lane.take(lambda item: spills(item.receipt)):
            self._keep(item)
        if lane.link is None:
            for item in lane.take_ahead():
                self._keep(item)
        self._keep_held()

    def _keep_held(self) -> None:
        """Append what was held, as far as there is room."""
        count = 0
        for item in self._held:
            if self._when_full == "block" and self._full():
                break
            self._held_bytes -= item.size
            self._keep(item)
            count += 1
        del self._held[:count]
        self._look_at_size()

    # -- limits ----------------------------------------------------------------------------------

    def limit(self, limits: QueueLimits) -> None:
        """Keep to other limits from now on."""
        self.max_bytes = limits.max_bytes
        self.max_messages = limits.max_messages or UNLIMITED
        self._when_full = limits.when_full
        self._lane.limits = limits
        self._lane.max_age_s = limits.max_age_s
        if self.logged and self._held and not self._closing:
            self._keep_held()

    def _full(self) -> bool:
        """Whether there is as much on disk as may be."""
        if self._inherited:
            return self.stored_bytes >= self.max_bytes or self.stored >= self.max_messages
        log = self.log
        return log.size >= self.max_bytes or (
            log.next - log.done_below >= self.max_messages and len(log) >= self.max_messages
        )

    def _has_room(
        self,
        full: bool,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
    ) -> bool:
        """Whether a message is taken where publishers are not held back."""
        if self._when_full == "drop_oldest":
            while full and any(backlog.drop_oldest() for backlog in self.backlogs):
                full = self._full()
            return True
        # What was not taken while the disk is full cannot be refused any more.
        if not full and not (self._when_full == "reject" and self.log.failing):
            return True
        return not self._lane.refuses_one_more(topic, first, properties, payload, receipt)

    def _fits(self, topic: bytes, receipt: Receipt | None) -> bool:
        """Whether one more may be taken while the disk does not keep up."""
        lane = self._lane
        if receipt is None:
            # Nobody waits for its acknowledgement.
            lane.drops.add("queue_full", topic[2:])
            return False
        receipt.source.press()
        if self.log.unstored_bytes + self._held_bytes > 2 * lane.max_queued_bytes:
            lane.reject(topic, receipt)
            return False
        return True

    def _look_at_size(self) -> None:
        """Publishers pause while the log is full, or the disk does not keep up."""
        lane = self._lane
        if self.logged and lane.blocks:
            most = lane.max_queued_bytes // 2 if lane.full else lane.max_queued_bytes
            log_full = bool(self._held) and not self._closing
            lane.full = log_full or self.log.unstored_bytes + self._held_bytes > most

    def gives_up(self, item: Queued) -> bool:
        """Whether a message that is about to be sent is too old; then it is done."""
        receipt = item.receipt
        if not isinstance(receipt, Stored) or not too_old(self._lane, receipt.at):
            return False
        found = record(item.first, item.topic, item.properties, item.payload, item.expires)
        bury(self._lane, receipt.log, receipt.seq, found, item.topic)
        return True

    # -- the log has reached the disk ------------------------------------------------------------

    def closing(self, backlog: Backlog) -> None:
        """A transaction is about to be written."""
        if backlog is self.backlog:
            if self._beginning == NOTED:
                self._beginning = BEING_WRITTEN
            self.ids.closing()

    def committed(self, backlog: Backlog) -> None:
        """It is on disk, with the changes of `backlog`."""
        lane = self._lane
        if backlog is not self.backlog:
            if backlog.ended:
                self._inherited.remove(backlog)
                backlog.log.drop()
                self.backlogs[0].is_first = True
            self._keep_held()  # there may be room
        else:
            if self._beginning == BEING_WRITTEN:
                self._beginning = ON_DISK
            for packet_id in self.ids.told():
                if packet_id in lane.window.releasing:
                    lane.release(packet_id)
            if self._closing:
                self._look_at_size()
            else:
                self._keep_held()
            self._leave_log()
        if lane.link is not None:
            lane.look_for_room()

    # -- back to through -------------------------------------------------------------------------

    def _leave_log(self) -> None:
        """Go past the log again, if the peer is quick and has all but what is on its way."""
        lane, log = self._lane, self.log
        now = clock.monotonic()
        if self._probe is None:
            if lane.entries:
                self._probe = next(reversed(lane.entries))
                self._probed_at = now
        elif now - self._probed_at > self.spill_after_s / 2:
            self._slow_at = now
        if not self.logged or lane.link is None:
            return
        if not self._closing:
            backlog = self.backlog
            if backlog.end < log.next or backlog.barrier or self._inherited or self._held:
                return
            steady_s = now - self._slow_at
            if steady_s < STEADY_S:
                if not len(log) and not self._looks_again:
                    self._looks_again = True
                    self._loop.call_later(STEADY_S - steady_s, self._look_again)
                return
            self._closing = True
            self._loop.call_later(self.spill_after_s, self._stay)
        if self.backlog.ended:
            self._closing = self.logged = False
            self.trust.restore()
            self.pace.end()
            lane.add(self._take_held())

    def _look_again(self) -> None:
        """Nothing has come for a while."""
        self._looks_again = False
        self._leave_log()
        self.send_more()

    def _stay(self) -> None:
        """The log could not be left in time: what was held goes there."""
        if self._closing:
            self.spill()
            self.send_more()

    def send_more(self) -> None:
        """Send what may be sent now, if there is a connection."""
        if self._lane.link is not None:
            self._lane.look_for_room()

    # -- out of the log --------------------------------------------------------------------------

    def more(self) -> bool:
        """Have more of what is on disk loaded; whether messages still go there."""
        if not self.logged:
            return False
        waits = False
        for backlog in self.backlogs:
            if backlog.end < backlog.gate and not backlog.all_in_lane:
                backlog.load()
                return True
            # What waits at its gate waits for what comes after it here, among others.
            waits = waits or not backlog.all_in_lane
        if self._lane.queue is None and not waits:
            self.pace.end()
        return True

    # -- the connection --------------------------------------------------------------------------

    def attached(self, *, session_present: bool, moved: bool) -> None:
        """There is a connection; the peer may have kept the session. `moved`: see `Lane.attach`."""
        lane = self._lane
        resumes = session_present and not moved
        if lane.blocks:
            must_wait = moved or not self.log.begun
            self.ids.opened(session_present=session_present, moved=moved)
            # It could not be known for long where the disk fails: better twice than not at all.
            if must_wait and not self.log.failing:
                self._beginning = NOTED
        if self.logged:
            self.pace.begin()
        if not self._resumed:
            self._resumed = True
            self.ids.resume(lane.window)
            if resumes and self.logged:
                # In an earlier life the peer may have got as many as may be on their way.
                self.backlog.maybe_sent = lane.max_inflight
        if not resumes:
            self.backlog.maybe_sent = 0
        assert lane.link is not None
        self.bound_window()
        if self.logged:
            self.trust.doubt(self.unrecorded)
        lane.link.on_touch = self._timer.arm

    def bound_window(self) -> None:
        """Keep to the identifiers that there are, whatever the peer takes."""
        window = self._lane.window
        window.limit = min(window.limit, MAX_INFLIGHT)

    def requeued(self) -> None:
        """What was in flight waits in the lane again, for another session.

        What the session that is gone owned of it is sent again too.
        """
        again = len(self.ids.taken)
        first = self.ids.give_back()
        if first:
            again += self.backlog.rewind(first)
        self._lane.resent += again

    def detached(self) -> None:
        """The connection is gone: what was on its way goes to disk."""
        lane = self._lane
        self._probe = None
        if self._closing or self._in_memory() or (not self.logged and lane.queued):
            self.spill()
        lane.waiting = lane.waiting or self.logged
        if not lane.blocks and self.logged and not self.backlog.loading:
            self.backlog.unload()

    def _in_memory(self) -> bool:
        """Whether the lane has something that is not in the log, and may go there."""
        lane = self._lane
        return (
            lane.has_ahead
            or any(spills(entry[1]) for entry in lane.entries.values())
            or any(spills(item.receipt) for item in lane.queue or ())
        )

    def acked(self) -> None:
        """The peer has acknowledged something."""
        if not self.logged:
            return
        self.trust.answered()
        lane = self._lane
        if self._probe is not None and self._probe not in lane.entries:
            now = clock.monotonic()
            if now - self._probed_at > self.spill_after_s / 2:
                self._slow_at = now
            self._probe = None
        self._record_soon()

    def completed(self, packet_id: bytes) -> None:
        """The peer sent PUBCOMP: the QoS 2 exchange is over."""
        self.ids.completed(packet_id)
        self.trust.answered()
        self._record_soon()

    def _record_soon(self) -> None:
        """Have it written what is acknowledged, before it fills the window."""
        if self._closing or 2 * self.unrecorded >= self._lane.window.limit:
            self.log.hurry()

    # -- changes of what lanes there are ---------------------------------------------------------

    def move_to(self, lane: Lane) -> None:
        """Belong to `lane` instead, whose own outbox, if it has one, sends what is here first."""
        if lane.outbox is not None:
            if self.logged:
                lane.outbox.inherit(self)
            else:
                self.log.drop()
            return
        self._lane = self._timer.lane = self.trust.lane = lane
        for backlog in self.backlogs:
            backlog.lane = lane
        lane.outbox = self

    def inherit(self, other: Outbox) -> None:
        """Send what the outbox of a lane that is gone has, before all that comes now."""
        held = other._take_held()
        self.spill()
        for backlog in other.backlogs:
            self._send_first(backlog)
        for item in held:
            self._hold(item)
        self._keep_held()

    def send_first(self, log: Log) -> None:
        """Send what is in `log`, which is nobody's, before all that comes now."""
        log.give_back()
        backlog = Backlog(self._lane, log, self._loop, self)
        self.spill()
        self._send_first(backlog)

    def _send_first(self, backlog: Backlog) -> None:
        backlog.lane = self._lane
        backlog.owner = self
        backlog.is_first = not self._inherited
        self.backlog.is_first = False
        self._inherited.append(backlog)
        if len(backlog.log):
            self.pace.begin()
        self.committed(backlog)

    def abandon(self, reason: str, code: int) -> int:
        """Drop and count what waits for room, refused with `code`; returns how many."""
        held = self._take_held()
        for item in held:
            self._lane.drops.add(reason, item.topic[2:])
            if item.receipt is not None:
                item.receipt.refuse(item.place, code)
                item.receipt.release()
        return len(held)

    def discard(self) -> None:
        """Forget what is here, with the logs: the session that it was for has ended."""
        self._closing = False
        for item in self._take_held():
            if item.receipt is not None:
                item.receipt.release()
        for backlog in self.backlogs:
            backlog.forget()

    def _take_held(self) -> list[Queued]:
        held, self._held = self._held, []
        self._held_bytes = 0
        return held

    def withdraw(self, allowed: Callable[[bytes], bool]) -> None:
        """Forget what is in memory on topics that are not `allowed` any more; it is counted."""
        self.backlog.withdraw(allowed)
        for item in [item for item in self._held if not allowed(item.topic[2:])]:
            self._held.remove(item)
            self._held_bytes -= item.size
            self._lane.drops.add("denied", item.topic[2:])
            if item.receipt is not None:
                item.receipt.release()
