"""A network connection as a source of messages: hot code, from the bytes of a read to the outlets.

A client of the broker and a connection to a far broker are both sources. One read is decoded whole,
each message is looked up in the plans of this link and handed to the outlets, and one receipt holds
the acknowledgements of the whole read. What is rare (retained messages, DUP, QoS 2, everything that
is not a PUBLISH or a plain PUBACK) leaves the loop.

Over 600 lines, as what a connection owes is settled where its packets come in.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.delivery.endpoint import Origin
from isthmus.delivery.hops import MARK
from isthmus.delivery.plan import Plan
from isthmus.delivery.receipt import PUBACK, PUBREC, Receipt, Settler, open_receipt
from isthmus.delivery.received_ids import Incoming
from isthmus.errors import MQTTError
from isthmus.metrics.traffic import Traffic
from isthmus.mqtt.packets import Puback, Pubcomp, Pubrec, Pubrel
from isthmus.mqtt.reasons import explanation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isthmus.delivery.echoes import Echoes
    from isthmus.delivery.hops import Hops, Key
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.received_ids import ReceivedIds
    from isthmus.delivery.ring_watch import RingWatch
    from isthmus.mqtt.codec import Event
    from isthmus.mqtt.connection import Connection
    from isthmus.mqtt.properties import Properties
    from isthmus.net.link import Link
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.delivery")

PLANS_PER_LINK = 16_384
"""Plans that one link remembers per generation."""

LINK_PLANS_IN_ALL = 500_000
"""Plans that all links together remember before new ones are kept to `PLANS_PER_CROWDED_LINK`."""

PLANS_PER_CROWDED_LINK = 64

REMEMBERED_BYTES = 256
"""Plans of longer topics are not remembered: they are rare, and would fill memory."""

OVERRUN = 10
"""MQTT 3 clients know no receive maximum, and some far sides exceed it: closed at so many times."""


NOWHERE = Plan()
"""The plan of messages that came in a circle."""

LONGEST_WORK_S = 0.004
"""How long one peer's packets that need more than a look-up are worked on before others' turn."""

LOOK_EVERY = 16
"""After so many of them the clock is looked at."""

ANSWER_BYTES = 64
"""What an acknowledgement that waits to be sent takes in memory, roughly."""

REMEMBERED_HOPS = 1000
"""Messages with hops that are remembered beyond those that wait for their acknowledgement."""

LONGEST_PAUSE_S = 10.0
"""How long a publisher is not read at a time; less where half its keep alive is less."""


class LinkPlans:
    """How many plans all links together remember; a bound on what random topics can cost."""

    total = 0


class Source(Settler):
    """One network connection, decoded and fanned out.

    Subclasses say where a topic goes (`find_plan`) and answer everything that is not a message
    (`handle`). `unacked` counts received QoS 1 and 2 messages whose acknowledgement has not been
    sent; `max_unacked` is the receive maximum that the peer was told. `hops` is the loop guard,
    `echoes` what was sent to a far side that may send it back, `ring_watch` looks for what goes
    round without a guard; each may be None. `entered` are the messages that carried hops, by packet
    identifier: None for a peer that passes none on. `ids`
    keeps the identifiers of `received_qos2` on disk, None where they are in memory only. `traffic`
    is where everything is counted.
    """

    __slots__ = (
        "_held",
        "_old_plans",
        "_pause_timer",
        "_pending",
        "_plans",
        "_work_until",
        "connection",
        "echoes",
        "entered",
        "hops",
        "ids",
        "lane",
        "link",
        "max_unacked",
        "max_unsent",
        "origin",
        "paused",
        "received",
        "received_qos2",
        "ring_watch",
        "traffic",
        "unacked",
    )

    def __init__(self, link: Link, connection: Connection, max_unacked: int) -> None:
        super().__init__()
        self.link = link
        self.connection = connection
        self.max_unacked = max_unacked
        self.max_unsent = 16 << 20
        self.traffic = Traffic()
        self.unacked = 0
        self.received = 0
        self.paused = False
        self.lane: Lane | None = None
        self.hops: Hops | None = None
        self.echoes: Echoes | None = None
        self.ring_watch: RingWatch | None = None
        self.entered: dict[bytes, Key] | None = None
        self.origin = Origin(self)
        self.received_qos2: dict[bytes, Incoming] | None = None
        self.ids: ReceivedIds | None = None
        self._plans: dict[bytes, Plan] = {}
        self._old_plans: dict[bytes, Plan] | None = None
        self._pending: list[Receipt] = []
        self._held: list[Event] | None = None
        self._pause_timer: Timer | None = None
        self._work_until = 0.0

    # -- the message path ------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take the bytes of one read."""
        now = self.link.reactor.now
        events = self.connection.receive(data, now)
        if self.ring_watch is not None:
            self.ring_watch.look(events, now)
        self.take(events)

    def take(self, events: list[Event]) -> None:
        """Handle what one read decoded to, now or, while this source is held, later."""
        if self._held is not None:
            self._held.extend(events)
            return
        try:
            self.process(events)
        except MQTTError as error:
            self.handle(error)

    def process(self, events: list[Event]) -> None:  # noqa: C901 - one loop, for speed
        """Fan out what one read decoded to, in order."""
        plans = self._plans
        receipt: Receipt | None = None
        count = work = size = packets = 0
        try:
            for event in events:
                if type(event) is tuple:
                    fields = event  # what has a type in the .pxd is taken apart faster
                    flags, topic, packet_id, properties, payload = fields
                    plan = plans.get(topic)
                    if plan is None or plan.stale:
                        work += 1
                        if not work % LOOK_EVERY and self._too_long(work):
                            self._put_off(events, event)
                            break
                        plan = self._find(topic)
                        plans = self._plans
                    count += 1
                    size += len(payload)
                    if (properties or self.echoes is not None) and self._guarded(properties):
                        receipt = self._publish_guarded(event, plan, receipt)
                        if self.closed:
                            break
                    elif not flags:
                        for outlet in plan.outlets:
                            outlet.send(0, properties, payload, None)
                    elif flags == 2:
                        if receipt is None:
                            receipt = open_receipt(self, PUBACK)
                            self._pending.append(receipt)
                        receipt.ids.append(packet_id)
                        for outlet in plan.outlets:
                            outlet.send(2, properties, payload, receipt)
                    else:
                        receipt = self._publish_rare(event, plan, receipt)
                        if self.closed:
                            break
                elif type(event) is list:
                    lane = self.lane
                    packets += len(event)
                    if lane is not None:
                        lane.acked(event)
                else:
                    work += 1
                    packets += 1
                    if not work % LOOK_EVERY and self._too_long(work):
                        self._put_off(events, event)
                        break
                    if isinstance(event, MQTTError):
                        raise event
                    self.handle(event)
                    plans = self._plans
                    if self._held is not None:
                        self._held = events[_place(events, event) + 1 :]
                        break
                    if self.closed:
                        break
        except MQTTError:
            # What came before is on its way; a message that failed has not gone to all its outlets.
            if receipt is not None and type(event) is not tuple:
                self._finish(receipt)
            raise
        else:
            if receipt is not None:
                self._finish(receipt)
        finally:
            self.received += count
            traffic = self.traffic
            traffic.received += count
            traffic.received_bytes += size
            traffic.packets_received += count + packets
        if self.link.blocked and not self.closed:
            self._check_answers()

    def _check_answers(self) -> None:
        """Do not let answers pile up for a peer that goes on sending and does not read them."""
        link = self.link
        if link.unsent + ANSWER_BYTES * len(link.out) > self.max_unsent:
            self.deaf()

    def _finish(self, receipt: Receipt) -> None:
        """Give back the hold that kept `receipt` open during the fan-out."""
        self.unacked += len(receipt.ids)
        holds = receipt.holds = receipt.holds - 1
        if not holds:
            self.settled(receipt)
        if self.unacked > self.max_unacked and not self.closed:
            self.over_limit()

    def _find(self, topic: bytes) -> Plan:
        """The plan of `topic` after a miss in the young generation, or a stale one there."""
        plans = self._plans
        plan = plans.get(topic)
        if plan is not None:
            # That it was there shows that this peer may publish on the topic: refusals depend on
            # nothing, so they never become stale.
            if not plan.renew():
                plan = plans[topic] = self.find_plan(topic, allowed=True)
            return plan
        old = self._old_plans
        if old is not None:
            plan = old.pop(topic, None)
            if plan is not None:
                LinkPlans.total -= 1
        if plan is None or plan.stale:
            plan = self.find_plan(topic, allowed=plan is not None)
        if len(topic) > REMEMBERED_BYTES:
            return plan
        size = PLANS_PER_LINK if LinkPlans.total < LINK_PLANS_IN_ALL else PLANS_PER_CROWDED_LINK
        if len(plans) >= size:
            if old is not None:
                LinkPlans.total -= len(old)
            self._old_plans = plans
            plans = self._plans = {}
        LinkPlans.total += 1
        plans[topic] = plan
        return plan

    def forget_plans(self) -> None:
        """Ask for every plan anew: rights or identity have changed, or the link is closed."""
        LinkPlans.total -= len(self._plans) + len(self._old_plans or ())
        self._plans = {}
        self._old_plans = None

    def _publish_rare(
        self, event: tuple[int, bytes, bytes, bytes, bytes], plan: Plan, receipt: Receipt | None
    ) -> Receipt | None:
        """A message with retain, DUP or QoS 2; returns the receipt that stays open."""
        flags, _topic, packet_id, properties, payload = event
        flags &= 0x07  # DUP says something about this hop only (MQTT-3.3.1-3)
        outlets = plan.outlets
        if flags & 1:
            outlets = plan.retaining
            writer = self.origin.writer
            for outlet in outlets:
                if outlet.retains:
                    outlet.writer = writer
        if flags & 4:
            if receipt is not None:
                self._finish(receipt)
            if not self.closed:
                self._publish_qos2(flags, packet_id, properties, payload, outlets)
            return None
        if flags & 2:
            if receipt is None:
                receipt = open_receipt(self, PUBACK)
                self._pending.append(receipt)
            receipt.ids.append(packet_id)
            for outlet in outlets:
                outlet.send(flags, properties, payload, receipt)
        else:
            for outlet in outlets:
                outlet.send(flags, properties, payload, None)
        return receipt

    def _guarded(self, properties: bytes) -> bool:
        """Whether a message may have come in a circle."""
        return self.echoes is not None or (self.hops is not None and properties.find(MARK) >= 0)

    def _publish_guarded(
        self, event: tuple[int, bytes, bytes, bytes, bytes], plan: Plan, receipt: Receipt | None
    ) -> Receipt | None:
        """A message that carries hops, or comes from where echoes are expected.

        One that came in a circle is acknowledged and goes nowhere.
        """
        flags, topic, packet_id, properties, payload = event
        hops = self.hops
        if self.echoes is not None and self.echoes.returned(topic, payload, retain=flags & 1 > 0):
            plan = NOWHERE
        elif hops is not None and properties.find(MARK) >= 0:
            found = hops.enter(topic, properties, self.origin.way)
            if found is None:
                plan = NOWHERE
            else:
                properties, hops.arrived, key = found
                if packet_id:
                    self._remember_hops(packet_id, key)
        try:
            event = flags, topic, packet_id, properties, payload
            return self._publish_rare(event, plan, receipt)
        finally:
            if hops is not None:
                hops.arrived = None

    def _remember_hops(self, packet_id: bytes, key: Key) -> None:
        """Until it is acknowledged, a message with hops may have to be let in by another way."""
        entered = self.entered
        if entered is None:
            entered = self.entered = {}
            self.bridges = True
        elif len(entered) > 2 * self.unacked + REMEMBERED_HOPS:
            owed = {found for receipt in self._pending for found in receipt.ids}
            entered = self.entered = {old: entered[old] for old in owed if old in entered}
        entered[packet_id] = key

    def _forget_hops(self, packet_ids: Iterable[bytes]) -> None:
        if self.entered is not None and self.hops is not None:
            for packet_id in packet_ids:
                key = self.entered.get(packet_id)
                if key is not None:
                    self.hops.forget(key)

    def _publish_qos2(
        self, flags: int, packet_id: bytes, properties: bytes, payload: bytes, outlets: list[Any]
    ) -> None:
        receipt = open_receipt(self, PUBREC)
        receipt.ids.append(packet_id)
        self._pending.append(receipt)
        if self.received_qos2 is None:
            self.received_qos2 = {}
        known = self.received_qos2.get(packet_id)
        if known is None:
            count = len(self.received_qos2)
            if count >= self.max_unacked and count >= self.most_unacked():
                self.refuse_excess()
                return
            self.received_qos2[packet_id] = Incoming()
            try:
                for outlet in outlets:
                    outlet.send(flags, properties, payload, receipt)
            except Exception:
                # This receipt will never settle: the repetition must not wait for it.
                self.received_qos2.pop(packet_id, None)  # where the session has ended, it is gone
                raise
            if self.ids is not None and receipt.holds - 1 == receipt.tied and receipt.codes is None:
                # All that it leads to goes to disk in the transaction that is open now.
                self.ids.add(packet_id, receipt)
        elif not known.safe:
            # A repetition of a message that is still on its way (MQTT-4.3.3-10): it must not be
            # delivered again, and PUBREC has to wait for the first one's receipt.
            alive = (found for found in known.waiting if not found.source.closed)
            known.waiting = (*alive, receipt)
            receipt.holds += 1
        self._finish(receipt)

    # -- acknowledgements ------------------------------------------------------------------------

    def settled(self, receipt: Receipt) -> None:
        """`receipt` has no holds left: send what is due, in order of arrival."""
        if receipt.prefix is PUBREC and not self._mark_safe(receipt):
            return
        pending = self._pending
        if self.closed or not pending:  # marking it safe may have settled what was behind it too
            return
        first = pending[0]
        if first.holds:
            return
        link = self.link
        out = link.out
        if not out:
            link.touch()
        while not first.holds:
            del pending[0]
            ids = first.ids
            self.unacked -= len(ids)
            self.traffic.answers += len(ids)
            if first.codes is not None:
                # Maybe none, then an empty one: a link that was touched has something in `out`.
                out.extend(self._answers(first) or (b"",))
            elif len(ids) == 1:
                out.append(first.prefix + ids[0])
            elif link.blocked:  # what waits is counted by its pieces
                prefix = first.prefix
                out.extend([prefix + packet_id for packet_id in ids])
            else:
                prefix = first.prefix
                out.append(prefix + prefix.join(ids))
            if not pending:
                break
            first = pending[0]
        if self.paused and self.unacked <= self.max_unacked // 2:
            self.go_on()

    def _mark_safe(self, receipt: Receipt) -> bool:
        """A QoS 2 message is safe, or has ended with a code; False where its identifier is not."""
        received = self.received_qos2
        packet_id = receipt.ids[0]
        known = None if received is None else received.get(packet_id)
        if received is None or known is None or known.safe:
            return True
        if receipt.codes is not None:
            # PUBREC with a code of 0x80 or above ends the exchange: the identifier is free again.
            del received[packet_id]
            if known.kept and self.ids is not None:
                self.ids.remove(packet_id)
        elif self.ids is not None and not known.kept:
            self.ids.add(packet_id, receipt)
            return False
        else:
            known.safe = True
        waiting, known.waiting = known.waiting, ()
        for repeated in waiting:
            repeated.codes = receipt.codes
            repeated.release()
        return True

    def _answers(self, receipt: Receipt) -> list[bytes]:
        """The acknowledgements of a receipt of which some messages failed.

        MQTT 3 has no code for it, so such a message gets no acknowledgement at all (MQTT-3.3.5-2
        leaves only that or closing): its publisher keeps it and sends it again after reconnecting.
        """
        codes = receipt.codes or {}
        record = Puback if receipt.prefix is PUBACK else Pubrec
        version = 5 if self.v5 else 4
        packets = []
        for index, packet_id in enumerate(receipt.ids):
            code = codes.get(index, 0)
            if code:
                self._forget_hops((packet_id,))
            if self.v5 or code < 0x80:
                answer = record(int.from_bytes(packet_id, "big"), code, self.explain(code))
                packets.append(self.connection.fitting(answer, version))
        return packets

    def explain(self, code: int) -> Properties:
        """The reason string of an acknowledgement with `code`."""
        return explanation((code,))

    def remembers(self, packet_id: bytes) -> bool:
        """Whether a repeated QoS 2 PUBLISH with this identifier would be taken for a repetition."""
        return self.received_qos2 is not None and packet_id in self.received_qos2

    def handle_flow(self, event: Event) -> bool:
        """Handle PUBACK with a code, PUBREC, PUBREL and PUBCOMP; False for everything else."""
        lane = self.lane
        assert lane is not None
        if isinstance(event, Puback):
            if event.code < 0x80:
                lane.acked([event.packet_id.to_bytes(2, "big")])
            else:
                lane.rejected(event.packet_id, event.code, qos=1)
        elif isinstance(event, Pubrec):
            lane.recorded(event.packet_id, event.code)
        elif isinstance(event, Pubcomp):
            lane.completed(event.packet_id)
        elif isinstance(event, Pubrel):
            packet_id = event.packet_id.to_bytes(2, "big")
            known = self.received_qos2.pop(packet_id, None) if self.received_qos2 else None
            answer = b"\x70\x02" + packet_id
            if known is None and self.v5:
                unknown = Pubcomp(event.packet_id, 0x92, explanation((0x92,)))
                answer = self.connection.fitting(unknown, 5)
            if self.ids is None:
                self.link.write(answer)
            else:
                if known is not None:
                    self.ids.remove(packet_id)
                self.ids.when_removed(packet_id, partial(self._write, answer))
        else:
            return False
        return True

    def _write(self, packet: bytes) -> None:
        if not self.closed:
            self.link.write(packet)

    # -- flow control ----------------------------------------------------------------------------

    def over_limit(self) -> None:
        """More than `max_unacked` messages wait for their acknowledgement.

        An MQTT 5 peer was told the limit and is closed with 0x93. An MQTT 3 peer that only
        publishes is not read for a while; any other is read on, up to `OVERRUN` times the limit,
        because what it has to acknowledge lies behind what it publishes.
        """
        if self.unacked > self.most_unacked():
            self.refuse_excess()
        else:
            self.press()

    def most_unacked(self) -> int:
        """How many messages may wait for their acknowledgement before the peer is closed."""
        return self.max_unacked if self.v5 else self.max_unacked * OVERRUN

    def press(self) -> None:
        """Read nothing more for a while, if nobody waits for what this peer sends.

        The pause ends when half of what is unacknowledged is done, and before the peer misses the
        answer to a PINGREQ.
        """
        if not self.paused and not self.closed and self.may_pause():
            self.paused = True
            self.link.pause()
            reactor = self.link.reactor
            keep_alive = self.connection.keep_alive
            longest = min(keep_alive / 2, LONGEST_PAUSE_S) if keep_alive else LONGEST_PAUSE_S
            self._pause_timer = reactor.wheel.at(reactor.now + longest, self.go_on)

    def go_on(self) -> None:
        """Read again after a pause."""
        if self.paused:
            self.paused = False
            if self._pause_timer is not None:
                self._pause_timer.cancel()
                self._pause_timer = None
            if not self.closed:
                # The silence was ours.
                self.connection.received_at = self.link.reactor.now
                self.link.resume()

    def hold(self) -> None:
        """Stop after the event that is being handled, and read no more, until `unhold`.

        What was decoded behind it stays in order.
        """
        self._held = []
        self.link.pause()

    def unhold(self) -> None:
        """Go on with what was held."""
        held, self._held = self._held, None
        if self.closed or held is None:
            return
        if not self.paused:
            self.link.resume()
        try:
            self.process(held)
        except MQTTError as error:
            self.handle(error)
        except Exception:
            log.exception(
                "%s: handling a packet failed; this connection is closed", self.link.peername
            )
            self.close_reason("internal error")

    def _too_long(self, work: int) -> bool:
        """Whether others have waited long enough; asked at every `LOOK_EVERY`th piece of work."""
        now = clock.monotonic()
        if work == LOOK_EVERY:
            self._work_until = now + LONGEST_WORK_S
        return now > self._work_until

    def _put_off(self, events: list[Event], event: Event) -> None:
        """Let others have their turn before `event` and what came behind it in the same read.

        A read can hold thousands of SUBSCRIBE packets, or messages on new topics.
        """
        self.hold()
        self._held = events[_place(events, event) :]
        self.link.reactor.loop.call_soon(self.unhold)

    def shut(self) -> None:
        """The connection has ended: nothing that is still owed will be sent on it."""
        self.closed = True
        self._held = None
        self.go_on()
        for receipt in self._pending:
            self._forget_hops(receipt.ids)
        self._pending.clear()
        self.forget_plans()

    # -- what subclasses answer ------------------------------------------------------------------

    @abstractmethod
    def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
        """Where messages of this peer on `topic` go.

        `allowed` says that its right to publish there is known already.
        """

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Answer an event that is neither a message nor a plain PUBACK."""

    @abstractmethod
    def may_pause(self) -> bool:
        """Whether reading may stop for a while without stopping what others wait for."""

    @abstractmethod
    def deaf(self) -> None:
        """The peer does not read, and more than `max_unsent` waits for it."""

    @abstractmethod
    def close_reason(self, reason: str) -> None:
        """Close the connection for `reason`, at once."""

    @abstractmethod
    def refuse_excess(self) -> None:
        """Close the connection of a peer that sent more than it may."""


def _place(events: list[Event], wanted: Event) -> int:
    """The index of this very event; records with equal fields are equal."""
    return next(index for index, event in enumerate(events) if event is wanted)
