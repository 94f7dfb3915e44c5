"""The lane: the ordered way to one target, a client session or one connection of a connector.

A lane owns the window of the target's session (what is in flight, under which packet identifier),
the queue behind it, and the holds on the receipts of the messages that it carries. It survives its
network connection: `attach` and `detach` say when there is one.

Two kinds differ only in settings. A connector's lane keeps the publisher's acknowledgement back
until the far side has acknowledged, so its queue is bounded by what publishers may have
unacknowledged. A session's lane counts as memory: what does not fit is dropped and counted.

Invariants: what is queued is younger than what is in flight, but for what overtakes a backlog on
disk, as its route says (`overtake`); an entry leaves the window exactly
once, and whoever takes it out releases its hold; nothing is sent again on a live connection
(MQTT-4.4.0-1).

Over 600 lines, as the window, the queue behind it and the holds change together, and every way in
or out has to keep these invariants.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from isthmus import clock
from isthmus.delivery import framing
from isthmus.delivery.publication import (
    ALIAS_BYTES,
    DUP,
    UNLIMITED_PACKET,
    again,
    aliased,
    largest_body,
    topic_of,
    unpack,
)
from isthmus.delivery.queue import NEVER_SENT, Queue, Queued, expiry, from_packet
from isthmus.errors import ProtocolViolation
from isthmus.metrics.traffic import Traffic
from isthmus.mqtt.inflight import Window
from isthmus.mqtt.properties import with_message_expiry
from isthmus.mqtt.wire import varint

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.delivery.dead_letters import DeadLetters
    from isthmus.delivery.drain_pace import DrainPace
    from isthmus.delivery.echoes import Echoes
    from isthmus.delivery.outbox import Outbox
    from isthmus.delivery.queue_limits import QueueLimits
    from isthmus.delivery.receipt import Receipt, Settler
    from isthmus.metrics.drops import Drops
    from isthmus.mqtt.aliases import OutboundAliases
    from isthmus.net.link import Link
    from isthmus.net.timers import Timer

RETRY_CODES = frozenset({0x80, 0x83, 0x97})
"""Refusals that may pass: the message is published again later, as a new publication."""

PUBREL = b"\x62\x02"

NO_PROPERTIES = b"\0"
"""The property block of MQTT 5 that has none."""

RETRY_MIN_S = 1.0
RETRY_MAX_S = 30.0

LOW_BYTES = 1 << 19
"""Below this size of the queue more of what is on disk is loaded."""


class Supplier(Protocol):
    """Where messages for several lanes wait: a shared subscription."""

    def supply(self, lane: Lane) -> None:
        """Give `lane` what it has room for."""

    def disconnected(self, lane: Lane) -> None:
        """The connection of `lane` has ended."""


Entry = tuple[bytes, "Receipt | None", int, int]
"""A message in flight: the encoded PUBLISH, the receipt that waits for it, its index there, and how
many were sent before it, the first time."""


class Lane:
    """The way to one target.

    `link` is the connection or None, `window` the QoS 1 and 2 messages in flight, `room` how many
    may be there at once (0 without a connection), `waiting` whether something is queued, which
    everything later must queue behind, `v5` whether MQTT 5 is spoken, `sent` messages of any QoS
    handed to the link, `acknowledged` those of QoS 1 and 2 that the peer took, `resent` those sent
    once more after a lost connection or a refusal that may pass, `full` that the queue is over its
    size and publishers should pause. `freed` are the QoS 2 identifiers that the peer holds for
    nothing from before, as it has sent PUBCOMP; None where its session began with us. `suppliers`
    are asked for more when there is room, None while there are none. `keeps_qos0` queues QoS 0
    messages too while there is no connection. `aliases` are the topic aliases of the connection,
    None where none are used; what is kept has its whole topic. `outbox` is what keeps messages on
    disk, None where nothing does; `queues_qos2` says that no QoS 2 message may be sent past
    `enqueue`. `limits` are those of the queue beyond its bytes, None where publishers wait and
    nothing else; `max_age_s` is how old what comes from disk may be, 0 for any age. `dead` are the
    dead letters, None where there are none, and `name` says there for whom a message was. `echoes`
    remembers what the peer may send back, None where it is trusted not to.
    """

    __slots__ = (
        "_ahead",
        "_attached",
        "_blocked_bytes",
        "_id_was_taken",
        "_left_at",
        "_max_qos",
        "_queue",
        "_resend",
        "_resting",
        "_retain",
        "_retry_s",
        "_retry_timer",
        "acknowledged",
        "aliases",
        "blocks",
        "dead",
        "drops",
        "echoes",
        "entries",
        "freed",
        "full",
        "keeps_qos0",
        "limits",
        "link",
        "max_age_s",
        "max_body",
        "max_inflight",
        "max_packet",
        "max_queued",
        "max_queued_bytes",
        "max_unsent_bytes",
        "name",
        "outbox",
        "queues_qos2",
        "refused",
        "resent",
        "room",
        "sent",
        "suppliers",
        "traffic",
        "v5",
        "waiting",
        "window",
    )

    def __init__(
        self,
        drops: Drops,
        *,
        blocks: bool,
        max_inflight: int,
        max_queued: int,
        max_queued_bytes: int,
        max_unsent_bytes: int,
        keeps_qos0: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        self.drops = drops
        self.blocks = blocks
        self.max_inflight = max_inflight
        self.max_queued = max_queued
        self.max_queued_bytes = max_queued_bytes
        self.max_unsent_bytes = max_unsent_bytes
        self.keeps_qos0 = keeps_qos0
        self.traffic = Traffic() if traffic is None else traffic
        self.window = Window(max_inflight)
        self.entries: dict[bytes, Entry] = self.window.entries
        self.room = 0
        self.link: Link | None = None
        self.aliases: OutboundAliases | None = None
        self.v5 = False
        self.max_packet = self.max_body = UNLIMITED_PACKET
        self.sent = 0
        self.acknowledged = 0
        self.resent = 0
        self.refused = 0
        self.full = False
        self.waiting = False
        self.suppliers: list[Supplier] | None = None
        self.outbox: Outbox | None = None
        self.limits: QueueLimits | None = None
        self.max_age_s = 0.0
        self.dead: DeadLetters | None = None
        self.echoes: Echoes | None = None
        self.name = ""
        self.queues_qos2 = False
        self._queue: Queue | None = None
        # What is sent before all that waits.
        self._ahead: Queue | None = None
        self._max_qos = 2
        self._retain = True
        self._attached = False
        self.freed: set[bytes] | None = None
        self._resend: deque[bytes] | None = None
        self._resting = False
        self._blocked_bytes = 0
        self._retry_s = RETRY_MIN_S
        self._retry_timer: Timer | None = None
        self._id_was_taken = False
        self._left_at = 0.0

    # -- state -----------------------------------------------------------------------------------

    @property
    def queue(self) -> Queue | None:
        """What is queued, to look at; None while nothing is."""
        return self._queue

    @property
    def queued(self) -> int:
        """Messages that wait for room in the window or for a connection."""
        outside = 0 if self.outbox is None else self.outbox.queued
        if self._ahead is not None:
            outside += len(self._ahead)
        return outside + (len(self._queue) if self._queue is not None else 0)

    @property
    def drains(self) -> bool:
        """Whether some of what an outage has left is not sent yet."""
        return self.outbox is not None and self.outbox.draining

    @property
    def queued_bytes(self) -> int:
        """The size of what is queued, with what its keeping costs."""
        if self.outbox is not None and self.outbox.logged:
            return self.outbox.queued_bytes
        return self._queue.size if self._queue is not None else 0

    @property
    def settling(self) -> bool:
        """Whether something is in flight, or waits and is on no disk."""
        if self.outbox is not None and self.outbox.logged:
            return self.inflight > 0
        return self.inflight + self.queued > 0

    @property
    def inflight(self) -> int:
        """QoS 1 and 2 messages that are sent and not done."""
        return len(self.entries) + len(self.window.releasing)

    def maybe_held(self) -> list[bytes]:
        """The packet identifiers under which the peer may have a QoS 2 message, and wait."""
        sent = [packet_id for packet_id, entry in self.entries.items() if entry[0][0] & 4]
        return [*self.window.releasing, *sent]

    def attach(
        self,
        link: Link,
        *,
        v5: bool,
        session_present: bool,
        moved: bool = False,
        receive_maximum: int,
        max_packet: int,
        max_qos: int = 2,
        retain: bool = True,
        aliases: OutboundAliases | None = None,
    ) -> None:
        """Carry messages over `link`, whose session is open.

        What is in flight goes first, in order: with the same packet identifiers and DUP where the
        peer kept the session (MQTT-4.4.0-1), as new publications where it did not, or where it was
        sent to another peer (`moved`). Then the queue.
        """
        was_v5, self.v5 = self.v5, v5
        self.link = link
        self.max_packet = max_packet
        self.max_body = largest_body(max_packet)
        self._max_qos = max_qos
        self._retain = retain
        self.aliases = aliases
        self.window.limit = min(self.max_inflight, receive_maximum)
        self._resting = False
        self._blocked_bytes = 0
        self._retry_s = RETRY_MIN_S
        if self.outbox is not None:
            self.outbox.attached(session_present=session_present, moved=moved)
        if session_present and not moved:
            self._prepare_resend(was_v5)
        else:
            self._requeue(was_v5)
        if not session_present:
            self.freed = None
        elif self.blocks and (moved or not self._attached):
            self.freed = set()
        self.queues_qos2 = self.outbox is not None or self.freed is not None
        self._attached = True
        link.on_drained = self._drained
        self._set_room()
        self.pump()

    def detach(self) -> None:
        """The connection is gone; what is in flight stays in flight until the next one."""
        if self.link is not None:
            self._left_at = clock.monotonic()
        self.link = self.aliases = None
        self.window.reserved.clear()
        self.room = 0
        self._resend = None
        self.waiting = self._queue is not None
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        if self.outbox is not None:
            self.outbox.detached()

    def clear(self) -> None:
        """The session has ended: forget everything, and release it; also what is on disk."""
        outbox, self.outbox = self.outbox, None
        self.detach()
        receipts = [entry[1] for entry in self.window.clear()]
        receipts += [item.receipt for item in self.take_ahead()]
        receipts += [item.receipt for item in self._queue or ()]
        self._queue = None
        for receipt in receipts:
            if receipt is not None:
                receipt.release()
        if outbox is not None:
            outbox.discard()
        self.waiting = False
        self.full = False

    # -- changes of what lanes there are ---------------------------------------------------------

    def rest(self) -> None:
        """Send no new message before the next connection, so that what is in flight can settle."""
        self._resting = True
        self.window.limit = 0
        self._set_room()

    def allow(self, receive_maximum: int) -> None:
        """Have so many messages in flight from now on, as `attach` says it; a lane that rests does.

        Args:
            receive_maximum: of the peer, or less.
        """
        if self._resting:
            return
        self.window.limit = min(self.max_inflight, receive_maximum)
        if self.outbox is not None:
            self.outbox.bound_window()
        self.look_for_room()

    @property
    def oldest_inflight(self) -> tuple[bytes, bytes] | None:
        """Topic and payload of the oldest message in flight."""
        for packet, *_ in self.entries.values():
            unpacked = unpack(packet, v5=self.v5)
            return unpacked[1][2:], unpacked[4]
        return None

    def condemn(self, reason: str, code: int) -> None:
        """The oldest message in flight, which there must be, ends here; without a connection.

        The peer may hold the identifier of a QoS 2 message: the next connection frees it.
        """
        packet_id = next(iter(self.entries))
        entry = self.entries[packet_id]
        if entry[0][0] & 4:
            self.window.recorded(packet_id)
        else:
            del self.entries[packet_id]
        self._fail(entry, reason, code)

    def inherit(self, other: Lane, *, inflight: bool = True) -> int:
        """Take over what waits in `other`, in order, behind what waits here; returns how many.

        With `inflight` also what was sent there, as new publications; `other` must then be without
        a connection, for good. Holds on receipts go along.
        """
        queue = other._hand_out(inflight=inflight)
        count = len(queue)
        if inflight and other.outbox is not None:
            count += other.outbox.queued
            other.outbox.move_to(self)
            other.outbox = None
        if queue:
            mine = self._open_queue()
            while queue:
                item = queue.popleft()
                other.resent += item.order != NEVER_SENT
                # The places that messages had in one lane say nothing among those of another.
                item.order = NEVER_SENT
                if self.outbox is None or not self.outbox.keeps(item):
                    mine.append(item)
            self.full = self.full or mine.size > self.max_queued_bytes
        if self.link is not None:
            self.pump()
        return count

    def replace(self, other: Lane) -> None:
        """Carry on for `other`, a lane of another kind without a connection: its window too."""
        self.window = other.window
        self.entries = self.window.entries
        self.name = other.name
        self.v5 = other.v5
        self.freed = other.freed
        self._attached = other._attached
        self._left_at = other._left_at
        self.sent, self.refused = other.sent, other.refused
        self.acknowledged, self.resent = other.acknowledged, other.resent
        self._queue, other._queue = other._queue, None
        if other.outbox is not None:
            other.outbox.move_to(self)
            other.outbox = None
        self.waiting = self._queue is not None
        self.full = other.full

    def abandon(self, reason: str, code: int) -> int:
        """Drop and count all that waits or is in flight, refused with `code`; returns how many.

        For a target that is there no more. Without a connection. What is on disk stays there.
        """
        if self.outbox is not None:
            return self.outbox.abandon(
                reason, code
            )  # all else is there, since the connection has gone
        queue = self._hand_out(inflight=True)
        count = len(queue)
        while queue:
            item = queue.popleft()
            self.drops.add(reason, item.topic[2:])
            if item.receipt is not None:
                item.receipt.refuse(item.place, code)
                item.receipt.release()
        return count

    def _hand_out(self, *, inflight: bool) -> Queue:
        if inflight:
            self._requeue(self.v5)
        queue, self._queue = self._queue, None
        self.waiting = self._resend is not None
        self.full = False
        return Queue() if queue is None else queue

    def withdraw(self, allowed: Callable[[bytes], bool]) -> None:
        """Forget what would still be sent on topics that are not `allowed` any more; it is counted.

        What went out on this connection is there already. What an earlier one may have brought is
        not sent again: QoS 1 ends here, and for QoS 2 PUBREL frees the packet identifier, whether
        the peer has the message or not.
        """
        entries = self.entries
        for packet_id in list(entries if self.link is None else self._resend or ()):
            entry = entries.get(packet_id)
            if entry is None:
                continue
            packet, receipt, _, _ = entry
            topic = topic_of(packet)
            if allowed(topic):
                continue
            self.drops.add("denied", topic)
            if packet[0] & 4:
                self.window.recorded(packet_id)
                if self.link is not None:
                    self.link.write(PUBREL + packet_id)
            else:
                del entries[packet_id]
            if receipt is not None:
                receipt.release()
        if self._resend is not None:
            self._resend = deque(packet_id for packet_id in self._resend if packet_id in entries)
        if self._queue is not None:
            self._queue.withdraw(allowed, self.drops)
        if self.outbox is not None:
            self.outbox.withdraw(allowed)
        self._set_room()
        self.pump()

    # -- sending ---------------------------------------------------------------------------------

    def enqueue(
        self,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
    ) -> None:
        """Keep a QoS 1 or 2 message until there is a connection and room in the window."""
        outbox = self.outbox
        if outbox is not None and outbox.takes(first, receipt):
            outbox.append(topic, first, properties, payload, receipt)
            return
        expires = expiry(properties) if properties else None
        index = len(receipt.ids) - 1 if receipt is not None else 0
        item = Queued(topic, first, properties, payload, receipt, index, expires)
        if self.blocks:
            if (
                self.limits is not None
                and self._at_limit(self.limits)
                and self.refuses_one_more(topic, first, properties, payload, receipt)
            ):
                return
            # Nobody waits for the acknowledgement of a message without a receipt.
            over = self.full and receipt is None
        else:
            over = self.over(item.size)
        if over:
            self.drops.add("queue_full", topic[2:])
            return
        if self.full and receipt is not None and self.queued_bytes > 2 * self.max_queued_bytes:
            self.reject(topic, receipt)
            return
        if receipt is not None:
            receipt.holds += 1
        queue = self._open_queue()
        queue.append(item)
        limits = self.limits
        if queue.size > self.max_queued_bytes or (limits is not None and self._too_many(limits)):
            when_full = "block" if limits is None else limits.when_full
            self.full = when_full != "drop_oldest"
            if when_full == "block":
                if receipt is not None:
                    receipt.source.press()
                if self.blocks:
                    queue.forget_orphans(self.drops)
        if len(self.entries) < self.room and self._retry_timer is None:
            self.pump()

    def over(self, size: int) -> bool:
        """Whether one more message of `size` bytes is more than may wait, where that is dropped."""
        queued = self.queued
        return queued >= self.max_queued or (
            queued > 0 and self.queued_bytes + size > self.max_queued_bytes
        )

    def overtake(
        self, topic: bytes, first: int, properties: bytes, payload: bytes, receipt: Receipt | None
    ) -> None:
        """Send a QoS 1 message before what an outage has left; there must be a connection.

        It is kept in memory, unacknowledged, until there is room in the window. Only so many are,
        and further ones wait in their turn.
        """
        if self._ahead is None:
            self._ahead = Queue()
        ahead = self._ahead
        if ahead.size > LOW_BYTES:
            self.enqueue(topic, first, properties, payload, receipt)
            return
        expires = expiry(properties) if properties else None
        index = 0
        if receipt is not None:
            receipt.holds += 1
            index = len(receipt.ids) - 1
        ahead.append(Queued(topic, first, properties, payload, receipt, index, expires))
        self.waiting = True
        self.pump()

    @property
    def has_ahead(self) -> bool:
        """Whether something is to be sent before all that waits, and has no room yet."""
        return bool(self._ahead)

    def take_ahead(self) -> list[Queued]:
        """Take out what was to be sent before all that waits, in order, with its holds."""
        ahead, self._ahead = self._ahead, None
        return [] if ahead is None else list(ahead)

    def away(self, topic: bytes, first: int, properties: bytes, payload: bytes) -> None:
        """Keep a QoS 0 message for later, or drop it: there is no connection."""
        if self.keeps_qos0:
            self.enqueue(topic, first, properties, payload, None)
        else:
            self.drops.add("link_down", topic[2:])

    def reject(self, topic: bytes, receipt: Receipt) -> None:
        """The queue is at twice its size, from publishers who cannot be paused: take no more.

        MQTT 5 says so with 0x97. MQTT 3 has no word for it but to close; the publisher keeps the
        message and sends it again after reconnecting.
        """
        self.count_failed("rejected", topic, receipt)
        receipt.refuse(len(receipt.ids) - 1, 0x97)
        if not receipt.source.v5:
            receipt.source.close_reason("the queue of a route is full")

    def _at_limit(self, limits: QueueLimits) -> bool:
        """Whether there is no room for one more, after what may go for it has gone."""
        queue = self._queue
        while (queue and queue.size >= limits.max_bytes) or self._too_many(limits):
            if limits.when_full != "drop_oldest":
                return True
            if not queue:
                break
            oldest = queue.popleft()
            self.drops.add("queue_full", oldest.topic[2:])
            if oldest.receipt is not None:
                oldest.receipt.release()
            self.full = False
        return False

    def _too_many(self, limits: QueueLimits) -> bool:
        most = limits.max_messages
        return most > 0 and self.queued + self.inflight >= most

    def refuses_one_more(
        self, topic: bytes, first: int, properties: bytes, payload: bytes, receipt: Receipt | None
    ) -> bool:
        """The queue is full: whether this message ends here, by what its routes want then."""
        when_full = "block" if self.limits is None else self.limits.when_full
        if when_full not in ("reject", "dead_letter"):
            return False
        if when_full == "dead_letter" and self.dead is not None and self.dead.has_room:
            self.dead.add("queue_full", self.name, first, topic, properties, payload, receipt)
            return True
        if receipt is None:
            self.drops.add("queue_full", topic[2:])
        else:
            self.count_failed("rejected", topic, receipt)
            receipt.refuse(len(receipt.ids) - 1, 0x97)
        return True

    def count_failed(self, reason: str, topic: bytes, receipt: Receipt | None) -> None:
        """Count a message that ends here as dropped, unless its dead letter stays."""
        if self.dead is None or not self.dead.keeps(receipt):
            self.drops.add(reason, topic[2:])

    def _open_queue(self) -> Queue:
        if self._queue is None:
            self._queue = Queue()
            self.waiting = True
        return self._queue

    def pump(self) -> None:
        """Send from the queue while the window has room; first what is to be sent again."""
        if self._resend is not None and not self._send_again():
            return
        if self._ahead is not None and not self._send_ahead():
            return
        queue = self._queue
        if queue is not None:
            entries = self.entries
            pace = None if self.outbox is None else self.outbox.pace
            if pace is not None and not pace.limits:
                pace = None
            while queue and len(entries) < self.room:
                if pace is not None and not self._at_pace(pace, queue):
                    break
                self._send(queue.popleft())
            if (
                self.full
                and queue.size < self.max_queued_bytes // 2
                and (self.outbox is None or not self.outbox.logged)  # else that decides
            ):
                self.full = False
            if queue:
                if self.outbox is not None and queue.size < LOW_BYTES:
                    self.outbox.more()
                return
            self._queue = None
        self.waiting = self.outbox is not None and self.outbox.more()
        for supplier in self.suppliers or ():
            supplier.supply(self)

    def _at_pace(self, pace: DrainPace, queue: Queue) -> bool:
        """Whether the first message may be sent now; those that come too late end before it."""
        while (item := queue.first) is not None:
            if not self._comes_too_late(item):
                return pace.take(item.topic[2:])
            queue.popleft()
        return False

    def _send_ahead(self) -> bool:
        """Send what overtakes a backlog, while the window has room; whether that was all.

        What was sent before comes first: it may be what keeps the rest back.
        """
        queue, ahead = self._queue, self._ahead
        pace = None if self.outbox is None else self.outbox.pace
        while queue is not None and queue.returned and len(self.entries) < self.room:
            if pace is not None and pace.limits and not self._at_pace(pace, queue):
                break
            self._send(queue.popleft())
        while ahead and len(self.entries) < self.room:
            self._send(ahead.popleft())
        if ahead:
            return False
        self._ahead = None
        return True

    # -- what is on disk; for the outbox ---------------------------------------------------------

    def add(self, items: list[Queued]) -> None:
        """Queue messages that were kept elsewhere, behind all others, with their holds."""
        queue = self._open_queue()
        for item in items:
            queue.append(item)

    def look_for_room(self) -> None:
        """What is in the window has changed: send what there is room for."""
        self._set_room()
        self.pump()

    def take(self, wanted: Callable[[Queued], bool]) -> list[Queued]:
        """Take what is `wanted` out of the queue, in order, with its holds."""
        return [] if self._queue is None else self._queue.take(wanted)

    def release(self, packet_id: bytes) -> None:
        """Send PUBREL."""
        if self.link is not None:
            self.link.write(PUBREL + packet_id)

    def has_room(self) -> bool:
        """Whether a message given now is sent at once, beside what may be on disk."""
        return len(self.entries) + self.queued < self.room and self._resend is None

    def give(self, item: Queued) -> None:
        """Send a message that waited elsewhere; there must be room."""
        if item.first >= 0x34 and self.outbox is not None and self.outbox.keeps(item):
            return
        if item.receipt is not None:
            item.receipt.holds += 1
        self._send(item)

    def give_back(self, source: Settler) -> list[Queued]:
        """Take the QoS 1 messages of `source` that are in flight out, in order, with their holds.

        For a lane without a connection: others get them. QoS 2 stays, as its exchange has begun.
        """
        found = []
        for packet_id, (packet, receipt, index, order) in list(self.entries.items()):
            if receipt is not None and receipt.source is source and not packet[0] & 4:
                del self.entries[packet_id]
                found.append(from_packet(packet, receipt, index, order, v5=self.v5))
        return found

    def _send(self, item: Queued) -> None:
        link = self.link
        assert link is not None
        expires = item.expires
        if (expires is not None or self.max_age_s) and self._comes_too_late(item):
            return
        topic, properties, payload = item.topic, item.properties, item.payload
        receipt = item.receipt
        if expires is not None:
            left = expires - clock.monotonic()
            properties = with_message_expiry(properties, max(1, int(left)))
        first = item.first
        qos = min(first >> 1 & 3, self._max_qos)
        first = 0x30 | first & DUP | qos << 1 | (first & 1 and self._retain)
        packet_id = self._packet_id(receipt) if qos else b""
        if qos == 2 and self.freed is not None:
            self._disown(link, packet_id)
        block = b""
        if self.v5:
            block = varint(len(properties)) + properties if properties else NO_PROPERTIES
        packet = framing.frame(first, topic, packet_id, block, payload)
        if len(packet) > self.max_packet:
            self.too_large(packet_id, topic, first, properties, payload, receipt, item.place)
            if receipt is not None:
                receipt.release()
            return
        if qos:
            order = item.order
            if order == NEVER_SENT:
                order = self.sent
            else:
                self.resent += 1
            self.entries[packet_id] = (packet, receipt, item.place, order)
        else:
            if receipt is not None:
                receipt.release()
            if link.blocked:
                self.send_blocked(packet, len(payload))
                return
        if self.echoes is not None:
            self.remember(packet)
        if self.aliases is not None:
            packet = self.with_alias(packet)
        if not link.out:
            link.touch()
        link.out.append(packet)
        self.count(len(payload))

    def _packet_id(self, receipt: Receipt | None) -> bytes:
        """The packet identifier to send a message with."""
        packet_id = b""
        if self.outbox is not None:
            packet_id = self.outbox.ids.of(receipt)
        return packet_id or self.window.next_id()

    def _comes_too_late(self, item: Queued) -> bool:
        """Whether a message is not to be sent any more, and has been dealt with."""
        if item.expires is not None and item.expires <= clock.monotonic():
            # An expired message has been dealt with as its publisher asked (MQTT-3.3.2-5).
            self.drops.add("expired", item.topic[2:])
            if item.receipt is not None:
                item.receipt.release()
            return True
        return self.max_age_s > 0 and self.outbox is not None and self.outbox.gives_up(item)

    def remember(self, packet: bytes) -> None:
        """A packet, with its whole topic, is sent now, and may come back; for `echoes`."""
        assert self.echoes is not None
        topic = topic_of(packet)
        if self.echoes.wants(topic):
            self.echoes.sent(topic, unpack(packet, v5=self.v5)[4], retain=packet[0] & 1 > 0)

    def with_alias(self, packet: bytes) -> bytes:
        """The packet as it goes out now, where `aliases` are used."""
        if len(packet) + ALIAS_BYTES > self.max_packet:
            return packet
        assert self.aliases is not None
        return aliased(packet, self.aliases)

    def count(self, payload_bytes: int) -> None:
        """Count a message that was handed to the link."""
        self.sent += 1
        self.traffic.sent += 1
        self.traffic.sent_bytes += payload_bytes

    def _prepare_resend(self, was_v5: bool) -> None:
        """The peer kept the session: send what it has not acknowledged again, in order."""
        link = self.link
        assert link is not None
        for packet_id in self.window.releasing:
            if self.outbox is None or not self.outbox.ids.is_untold(packet_id):
                link.write(PUBREL + packet_id)
        away_s = self._away_s()
        for packet_id, (packet, receipt, index, order) in self.entries.items():
            packet = again(packet, was_v5=was_v5, v5=self.v5, away_s=away_s)
            self.entries[packet_id] = (packet, receipt, index, order)
        if self.entries:
            self._resend = deque(self.entries)
            self.waiting = True

    def _away_s(self) -> float:
        """Seconds since the last connection ended: what is in flight has aged by it."""
        return clock.monotonic() - self._left_at if self._left_at else 0.0

    def _send_again(self) -> bool:
        """Send again as far as the peer's receive maximum allows; whether that was all."""
        link, resend = self.link, self._resend
        if link is None or resend is None:
            return False
        room = self.window.limit - len(self.window.releasing) - len(self.entries) + len(resend)
        while resend and room > 0:
            packet_id = resend.popleft()
            entry = self.entries.get(packet_id)
            if entry is None:
                continue
            packet, receipt, index, _ = entry
            if len(packet) > self.max_packet:
                del self.entries[packet_id]
                first, topic, _, properties, payload = unpack(packet, v5=self.v5)
                self.too_large(packet_id, topic, first, properties, payload, receipt, index)
                if receipt is not None:
                    receipt.release()
                continue
            if self.echoes is not None:
                self.remember(packet)
            if packet[0] & 4 and self.freed is not None:
                self._disown(link, packet_id)
            link.write(packet)
            self.resent += 1
            room -= 1
        if resend:
            return False
        self._resend = None
        return True

    def _disown(self, link: Link, packet_id: bytes) -> None:
        """Free a packet identifier that the peer may hold from before this process or connection.

        The peer would take a new QoS 2 message under it for a repetition, and drop it. PUBREL makes
        it forget. Until PUBCOMP has come, nobody knows whether it did, so PUBREL goes before the
        repetition too. Where the peer has the message already, it comes twice: better than never.
        """
        assert self.freed is not None
        if packet_id not in self.freed and (
            self.outbox is None or self.outbox.ids.may_be_held(packet_id)
        ):
            link.write(PUBREL + packet_id)

    def too_large(
        self,
        packet_id: bytes,
        topic: bytes,
        first: int,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None,
        index: int,
    ) -> None:
        """A QoS 1 or 2 message is larger than the peer takes (MQTT-3.1.2-24).

        For a client that counts as delivered (MQTT-3.1.2-25). For a far side it is a message that
        cannot be made safe: its publisher is told so, or it is a dead letter.
        """
        if packet_id and (self.outbox is None or not self.outbox.logged):
            self.window.free.append(packet_id)
        if self.dead is not None and self.dead.take(receipt):
            self.dead.add("too_large", self.name, first, topic, properties, payload, receipt)
            return
        self.count_failed("too_large", topic, receipt)
        if receipt is not None and self.blocks:
            receipt.refuse(index, 0x83)

    def send_blocked(self, packet: bytes, payload_bytes: int) -> None:
        """Send a QoS 0 packet to a peer that does not read fast enough, or drop it."""
        link = self.link
        assert link is not None
        size = self._blocked_bytes + len(packet)
        if size > self.max_unsent_bytes:
            self.drops.add("slow_consumer")
            return
        self._blocked_bytes = size
        if self.echoes is not None:
            self.remember(packet)
        self.count(payload_bytes)
        link.write(packet)

    def _drained(self) -> None:
        """The peer has read what it did not for a while."""
        self._blocked_bytes = 0
        if self.suppliers is not None:
            self.pump()

    # -- acknowledgements ------------------------------------------------------------------------

    def acked(self, packet_ids: list[bytes]) -> None:
        """The peer sent PUBACK, success, for `packet_ids`, in this order."""
        entries = self.entries
        last: Receipt | None = None
        count = 0
        self.acknowledged += len(packet_ids)
        for packet_id in packet_ids:
            entry = entries.pop(packet_id, None)
            if entry is None:
                # A PUBACK for what is not in flight: late, after a session was lost. Harmless.
                self.acknowledged -= 1
                continue
            packet = entry[0]
            if packet[0] & 4:
                self._restore(packet_id, entry)
                if last is not None:
                    last.release(count)
                raise ProtocolViolation("PUBACK for a QoS 2 message", 0x82)
            receipt = entry[1]
            if receipt is last:
                count += 1
            else:
                if last is not None:
                    last.release(count)
                last = receipt
                count = 1
        if last is not None:
            last.release(count)
        self._retry_s = RETRY_MIN_S
        self._id_was_taken = False
        if self.outbox is not None:
            self.outbox.acked()
            self._set_room()
        if (self.waiting or self.suppliers is not None) and self._retry_timer is None:
            self.pump()

    def _restore(self, packet_id: bytes, entry: Entry) -> None:
        """Put an entry that was taken out by mistake back to its place in the window."""
        self.entries[packet_id] = entry
        ordered = sorted(self.entries.items(), key=lambda item: item[1][3])
        self.entries.clear()
        self.entries.update(ordered)

    def recorded(self, packet_id: int, code: int) -> None:
        """The peer sent PUBREC: it owns the message, or refuses it."""
        wire_id = packet_id.to_bytes(2, "big")
        if code >= 0x80:
            self.rejected(packet_id, code, qos=2)
            return
        entry = self.window.recorded(wire_id)
        self._retry_s = RETRY_MIN_S
        self._set_room()
        self.acknowledged += entry is not None
        if self.outbox is not None and (
            self.outbox.ids.is_untold(wire_id)
            or (entry is not None and self.outbox.ids.take_over(wire_id, entry[1]))
        ):
            return
        if self.link is not None:
            # Also for an identifier that is not known here: the peer must be able to forget it.
            self.link.write(PUBREL + wire_id)
        if entry is not None and entry[1] is not None:
            entry[1].release()

    def completed(self, packet_id: int) -> None:
        """The peer sent PUBCOMP: the QoS 2 exchange is over, or its identifier was freed."""
        wire_id = packet_id.to_bytes(2, "big")
        self.window.completed(wire_id)
        if self.freed is not None:
            self.freed.add(wire_id)
        if self.outbox is not None:
            self.outbox.completed(wire_id)
        self._set_room()
        self.pump()

    def rejected(self, packet_id: int, code: int, *, qos: int) -> None:
        """The peer refused a publication with a reason code of 0x80 or above.

        That ends the publication (MQTT-4.4.0-2); codes that may pass are tried again as a new one,
        before its successors. 0x91 is answered with another packet identifier at once.
        """
        wire_id = packet_id.to_bytes(2, "big")
        entry = self.entries.get(wire_id)
        if entry is None:
            return
        packet, receipt, _, _ = entry
        if packet[0] >> 1 & 3 != qos:
            raise ProtocolViolation("an acknowledgement for a message of another QoS", 0x82)
        del self.entries[wire_id]
        if code in RETRY_CODES and self.blocks:
            self._put_back(entry)
            self._retry_later()
        elif code == 0x91 and self.blocks:
            if self.outbox is not None:
                self.outbox.ids.was_taken(receipt)
            self._put_back(entry)
            if self._id_was_taken:
                self._retry_later()
            self._id_was_taken = True
            self.pump()
        else:
            self._fail(entry, f"refused_0x{code:02x}", code)
            self._set_room()
            self.pump()

    def _fail(self, entry: Entry, reason: str, code: int) -> None:
        """The peer takes no such message: it is a dead letter, or its publisher is told `code`."""
        packet, receipt, index, _ = entry
        self.refused += 1
        first, topic, _, properties, payload = unpack(packet, v5=self.v5)
        if self.dead is not None and self.dead.take(receipt):
            self.dead.add(reason, self.name, first, topic, properties, payload, receipt)
        else:
            self.count_failed(reason, topic, receipt)
            # What a client says of a message is none of its publisher's.
            if receipt is not None and self.blocks:
                receipt.refuse(index, code)
        if receipt is not None:
            receipt.release()

    def _retry_later(self) -> None:
        link = self.link
        if link is not None and self._retry_timer is None:
            self._retry_timer = link.reactor.wheel.at(
                clock.monotonic() + self._retry_s, self._retry
            )
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
            self.room = 0

    def _retry(self) -> None:
        self._retry_timer = None
        self._set_room()
        self.pump()

    def _set_room(self) -> None:
        if self.link is None or self._retry_timer is not None:
            return
        outbox = self.outbox
        if outbox is None:
            self.room = self.window.limit - len(self.window.releasing)
        elif outbox.may_send:
            limit = min(self.window.limit, outbox.trust.most)
            self.room = limit - len(self.window.releasing) - outbox.unrecorded
        else:
            self.room = 0

    def _put_back(self, entry: Entry) -> None:
        """Put a publication that was refused back in front of the queue, as a new one."""
        self._open_queue().put_back(from_packet(*entry, v5=self.v5))

    def _requeue(self, v5: bool) -> None:
        """The peer has forgotten the session: what was in flight becomes new publications."""
        away_s = self._away_s()
        if self.entries:
            self._open_queue().put_back(
                *(from_packet(*entry, v5=v5, aged_s=away_s) for entry in self.entries.values())
            )
        self.window.clear()
        if self.outbox is not None:
            for item in self._queue or ():
                item.first &= ~DUP  # what may have been sent in an earlier life, to that session
            self.outbox.requeued()
