"""One network connection to a far broker, from CONNECT to close."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from isthmus import clock
from isthmus.connectors.hello import hello
from isthmus.delivery.source import OVERRUN, Source
from isthmus.errors import ConnectError, LocalProtocolError, MQTTError, ProtocolViolation
from isthmus.mqtt.connection import Connection, State
from isthmus.mqtt.inflight import MAX_RECEIVE_MAXIMUM
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    SubscribeOptions,
    Unsuback,
    Unsubscribe,
)
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.reasons import ReasonCode, describe
from isthmus.mqtt.topics import split_shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.connectors.dialects import Dialect
    from isthmus.connectors.member import Member
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.plan import Plan
    from isthmus.mqtt.codec import Event
    from isthmus.mqtt.packets import Will
    from isthmus.net.link import Link
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.connectors")

LOOKS_PER_TIMEOUT = 4
"""How often in an acknowledgement time-out the oldest message is looked at."""

MEASURE_EVERY_S = 10.0
"""How often the round trip is measured while messages pass. A connection without any is measured by
the pings of its keep alive, so that nothing is sent over an idle one for the figures alone."""

MOST_REQUESTS = 64
"""SUBSCRIBE and UNSUBSCRIBE packets without an answer at a time. Beside messages that are on disk
there are not many more identifiers: see `MAX_INFLIGHT` in `delivery/outbox.py`."""

MOST_IN_FLIGHT = MAX_RECEIVE_MAXIMUM - MOST_REQUESTS - 1
"""Messages in flight at most: it leaves identifiers for requests and a notification."""

_PING = 0
"""The key of a PINGREQ among packet identifiers, of which none is 0."""


class Request(NamedTuple):
    """Filters to subscribe to in one packet, with their QoS; or to unsubscribe from (`ends`)."""

    filters: dict[bytes, int]
    ends: bool


class FarClient(Source):
    """A client of a far broker at `address`, which is as `Address.shown`.

    `opened` becomes its CONNACK, `ended` the reason why it ended. `round_trip_s` is the time from a
    PINGREQ or SUBSCRIBE to its answer when it was last measured, None before. `told` is the code of
    the far side's DISCONNECT, None without one.
    """

    __slots__ = (
        "_answer_timer",
        "_asked_at",
        "_clean_start",
        "_measure_timer",
        "_measured_at",
        "_member",
        "_notice_id",
        "_oldest",
        "_requests",
        "_timer",
        "_unasked",
        "address",
        "ended",
        "opened",
        "round_trip_s",
        "told",
    )

    def __init__(self, member: Member, link: Link, address: str) -> None:
        settings = member.connector.settings
        connection = Connection(
            Role.CLIENT,
            max_packet_size=settings.max_packet_size,
            topic_alias_maximum=settings.topic_alias_maximum,
            topic_aliases_out=settings.topic_aliases_out,
            now=link.reactor.now,
            out=link.out,
        )
        super().__init__(link, connection, settings.receive_maximum)
        self._member = member
        self._clean_start = False
        # What has been asked for and has no answer, by packet identifier; and what is to be then.
        self._requests: dict[int, Request] = {}
        self._unasked: deque[Request] = deque()
        self._timer: Timer | None = None
        self._answer_timer: Timer | None = None
        self._measure_timer: Timer | None = None
        self._measured_at = 0  # messages that had passed
        self._asked_at: dict[int, float] = {}
        self.round_trip_s: float | None = None
        self._oldest: dict[str, tuple[object, float]] = {}
        self._notice_id = 0
        self.told: int | None = None
        self.address = address
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[Connack] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.lane: Lane = member.lane
        self.hops = member.connector.hops
        self.echoes = member.connector.echoes
        self.ring_watch = member.connector.ring_watch
        self.traffic = member.connector.traffic
        self.origin = member.connector.origin
        self.ids = member.ids(address)
        self.received_qos2 = member.received_qos2.get(address)
        link.on_close = self.link_closed
        link.on_data = self.receive

    def connect(
        self, dialect: Dialect, *, clean_start: bool, session_expiry_s: int, will: Will | None
    ) -> None:
        """Send CONNECT."""
        self.v5 = dialect.version == 5
        self._clean_start = clean_start
        self._send(
            hello(
                self._member.connector.settings,
                self._member.identity,
                dialect,
                clean_start=clean_start,
                session_expiry_s=session_expiry_s,
                will=will,
            )
        )

    # -- events ----------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Answer everything that is neither a message nor a plain PUBACK."""
        if isinstance(event, MQTTError):
            self.fail(event)
        elif isinstance(event, Connack):
            self._connected(event)
        elif isinstance(event, Suback | Unsuback):
            self._answered(event)
        elif isinstance(event, Pingresp):
            self._round_trip(_PING)
        elif isinstance(event, Puback) and event.packet_id == self._notice_id:
            if event.code >= 0x80:
                log.warning(
                    "connector %s: the far side refused the notification: %s; give "
                    "'notifications' a topic that it allows, or set 'local_only'",
                    self._member.connector.name,
                    describe(event.code),
                )
        elif isinstance(event, Disconnect):
            self.told = event.code
            self.leave(f"the far side disconnected: {describe(event.code)}")
        elif not self.handle_flow(event):
            self.fail(ProtocolViolation(f"{type(event).__name__} is not supported here"))

    def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
        """Where the routes send messages of `topic`; a far side needs no rights."""
        del allowed
        return self._member.connector.exchange.plan_for(topic, self.origin)

    def may_pause(self) -> bool:
        """A connector is always read: its acknowledgements come on the same connection."""
        return False

    def deaf(self) -> None:
        """The far side goes on sending and does not read its acknowledgements: start anew."""
        self.close_reason("the far side does not read what it is sent")

    def close_reason(self, reason: str) -> None:
        """Close at once."""
        self._end(reason)
        self.link.abort(reason)

    def most_unacked(self) -> int:
        """More than the far side was told: Mosquitto 2.0 sends its whole queue after a burst."""
        return self.max_unacked * OVERRUN

    def refuse_excess(self) -> None:
        """The far side sent far more than our receive maximum (MQTT-3.3.4-9)."""
        self.fail(
            ProtocolViolation(
                f"more than {self.most_unacked()} messages without their acknowledgement",
                ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
            )
        )

    def _connected(self, packet: Connack) -> None:
        if packet.code:
            meaning = describe(packet.code, 5 if self.v5 else 4)
            self.opened.set_exception(
                ConnectError(
                    "connack",
                    meaning,
                    reason=packet.code,
                    hint=_reason_text(packet.properties, meaning),
                )
            )
            self.opened.exception()  # the waiter may be gone
            self.leave("refused by the far side")
            return
        if packet.session_present and self._clean_start:
            text = "the far side says that it has a session, and a clean one was asked for"
            self.fail(ProtocolViolation(text, None, "MQTT-3.2.2-5"))
            return
        self.opened.set_result(packet)
        # At once, not when the waiter wakes up: messages may follow in the same read.
        self._member.attach(self, packet)
        self._watch_keep_alive()
        self._watch_answers()
        self._measured_at = self._passed
        self._measure_later()

    def notify(self, topic: bytes, payload: bytes, qos: int) -> bool:
        """Send one retained message at once, before all that waits.

        Whether it takes a place in the far side's window until the connection ends.
        """
        peer = self.connection.peer
        # The only place in a window of one is for messages.
        qos = min(qos, peer.maximum_qos) if peer.receive_maximum > 1 else 0
        packet_id = self._packet_id() if qos else 0
        self._notice_id = packet_id
        self._send(Publish(topic, payload, qos, peer.retain_available, packet_id=packet_id))
        return bool(qos)

    # -- subscriptions ---------------------------------------------------------------------------

    @property
    def pending(self) -> set[bytes]:
        """The filters whose subscription has no answer yet, or has not even been asked for."""
        asked = (request for request in self._requests.values() if not request.ends)
        unasked = (request for request in self._unasked if not request.ends)
        return {filter_ for request in (*asked, *unasked) for filter_ in request.filters}

    @property
    def in_doubt(self) -> set[bytes]:
        """The filters that the session may have, whether somebody wants them or not.

        Their SUBSCRIBE or UNSUBSCRIBE has no answer, or the UNSUBSCRIBE has not been sent yet.
        """
        unasked = (request for request in self._unasked if request.ends)
        return {
            filter_
            for request in (*self._requests.values(), *unasked)
            for filter_ in request.filters
        }

    def subscribe(self, filters: dict[bytes, int]) -> None:
        """Subscribe to `filters` with their QoS; the answers go to the member.

        What this far side takes no subscription for at all counts as refused by it.
        """
        self._ask(filters, ends=False)

    def unsubscribe(self, filters: list[bytes]) -> None:
        """Unsubscribe from `filters`."""
        self._ask(dict.fromkeys(filters, 0), ends=True)

    def _ask(self, filters: dict[bytes, int], *, ends: bool) -> None:
        wanted = list(filters.items())
        most = self._member.connector.settings.filters_per_subscribe
        for start in range(0, len(wanted), most):
            self._unasked.append(Request(dict(wanted[start : start + most]), ends))
        self._ask_more()

    def _ask_more(self, *, at_once: bool = False) -> None:
        """Send what waits to be asked for, in order, as answers come or all `at_once`."""
        while self._unasked and (at_once or len(self._requests) < MOST_REQUESTS):
            packet_id = self._packet_id()
            request = self._unasked.popleft()
            try:
                self._send(self._packet(packet_id, request))
            except LocalProtocolError as error:
                self._free(packet_id)
                self._ask_in_halves(request, error)
            else:
                self._requests[packet_id] = request
                if not request.ends:
                    self._asked_at[packet_id] = clock.monotonic()

    def _ask_in_halves(self, request: Request, error: LocalProtocolError) -> None:
        """The far side takes no such request: find out what of it it does not take."""
        wanted = list(request.filters.items())
        if len(wanted) > 1:
            middle = len(wanted) // 2
            for half in (wanted[middle:], wanted[:middle]):
                self._unasked.appendleft(Request(dict(half), request.ends))
        elif not request.ends:
            ((filter_, qos),) = wanted
            self._member.granted({filter_: (qos, error.reason)})

    def _packet(self, packet_id: int, request: Request) -> Subscribe | Unsubscribe:
        if request.ends:
            return Unsubscribe(packet_id, list(request.filters), {})
        # Retained messages come once per session, not at every reconnect.
        handling = self._member.retain_handling if self.v5 else 0
        filters = [
            (
                filter_,
                SubscribeOptions(
                    qos=min(qos, self.connection.peer.maximum_qos),
                    # A shared subscription must not ask for it (MQTT-3.8.3-4).
                    no_local=self.v5 and split_shared(filter_)[0] is None,
                    retain_as_published=self.v5,
                    retain_handling=handling,
                ),
            )
            for filter_, qos in request.filters.items()
        ]
        return Subscribe(packet_id, filters, {})

    def _free(self, packet_id: int) -> None:
        self.lane.window.reserved.discard(packet_id.to_bytes(2, "big"))

    def _packet_id(self) -> int:
        window = self.lane.window
        packet_id = window.next_id()
        window.reserved.add(packet_id)
        return int.from_bytes(packet_id, "big")

    def _answered(self, packet: Suback | Unsuback) -> None:
        request = self._requests.get(packet.packet_id)
        if request is None or request.ends != isinstance(packet, Unsuback):
            self.fail(ProtocolViolation("an answer to nothing that was asked"))
            return
        if isinstance(packet, Suback) and len(packet.codes) != len(request.filters):
            self.fail(ProtocolViolation("SUBACK has another number of codes than filters"))
            return
        del self._requests[packet.packet_id]
        self._free(packet.packet_id)
        self._round_trip(packet.packet_id)
        if isinstance(packet, Suback):
            answers = zip(request.filters.items(), packet.codes, strict=True)
            self._member.granted({filter_: (qos, code) for (filter_, qos), code in answers})
        self._ask_more()

    # -- keep alive and end ----------------------------------------------------------------------

    def settings_changed(self) -> None:
        """Take from the connector what it may change while this connection is open."""
        self.echoes = self._member.connector.echoes
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
        if not self.closed and self.opened.done():
            self._watch_answers()

    def _watch_answers(self) -> None:
        timeout_s = self._member.connector.settings.ack_timeout
        if timeout_s is not None:
            at = clock.monotonic() + timeout_s / LOOKS_PER_TIMEOUT
            self._answer_timer = self.link.reactor.wheel.at(at, self._check_answers_come)

    def _check_answers_come(self) -> None:
        """Close if the oldest of anything that waits for an answer has not changed for too long.

        Sending again on a live connection is not allowed (MQTT-4.4.0-1).
        """
        if self.closed:
            return
        now = clock.monotonic()
        window = self.lane.window
        timeout_s = self._member.connector.settings.ack_timeout or 0.0
        for kind, waiting in (
            ("message", window.entries.values()),
            ("PUBREL", self._released()),
            ("subscription", self._requests),
        ):
            oldest = next(iter(waiting), None)
            before, since = self._oldest.get(kind, (None, now))
            if oldest is None or oldest is not before:
                self._oldest[kind] = (oldest, now)
            elif now - since >= timeout_s:
                self.close_reason(
                    f"the far side did not acknowledge the oldest {kind} for {timeout_s:g} s"
                )
                return
        self._watch_answers()

    def _released(self) -> Iterator[bytes]:
        """The identifiers whose PUBREL has been sent: that of others waits for the disk."""
        outbox = self.lane.outbox
        for packet_id in self.lane.window.releasing:
            if outbox is None or not outbox.ids.is_untold(packet_id):
                yield packet_id

    def _watch_keep_alive(self) -> None:
        deadline = self.connection.deadline()
        if deadline is not None:
            self._timer = self.link.reactor.wheel.at(deadline, self._check_keep_alive)

    def _check_keep_alive(self) -> None:
        if self.closed:
            return
        if not self.link.out:
            self.link.touch()
        now, waiting = clock.monotonic(), len(self.link.out)
        error = self.connection.tick(now)
        if error is not None:
            self.fail(error)
            return
        if len(self.link.out) > waiting:
            self._asked_at.setdefault(_PING, now)
        self._watch_keep_alive()

    @property
    def _passed(self) -> int:
        """Messages of both directions; it only has to change when there are some."""
        return self.lane.sent + self.received

    def _measure_later(self) -> None:
        at = clock.monotonic() + MEASURE_EVERY_S
        self._measure_timer = self.link.reactor.wheel.at(at, self._measure)

    def _measure(self) -> None:
        """Ask for a round trip if messages have passed and none is under way."""
        if self.closed:
            return
        if self._passed != self._measured_at and _PING not in self._asked_at:
            self._measured_at = self._passed
            self._asked_at[_PING] = clock.monotonic()
            self._send(Pingreq())
        self._measure_later()

    def _round_trip(self, asked: int) -> None:
        """The answer to what was asked under this packet identifier has come."""
        began = self._asked_at.pop(asked, None)
        if began is not None:
            self.round_trip_s = clock.monotonic() - began

    def fail(self, error: MQTTError) -> None:
        """The far side broke the protocol: answer as the version allows, and close."""
        if self.closed:
            return
        if not self.link.out:
            self.link.touch()
        self.connection.answer(error)
        self.leave(str(error))

    def disconnect(
        self, reason: str = "stopped", *, back: bool = False, for_good: bool = False
    ) -> None:
        """Say goodbye and close.

        `back` says that this client will come back to its session, `for_good` that nobody will: so
        it is with each member that leaves the pool.
        """
        if self.closed:
            return
        for_good = for_good or self._member.leaving
        if self.opened.done() and not self.opened.exception():
            self._member.goodbye(self)
            properties: Properties = {}
            stable = self._member.connector.ids_stable
            if self.v5 and (for_good or (not back and not stable)):
                # Nobody will come back for this session.
                properties[PropertyId.SESSION_EXPIRY_INTERVAL] = 0
            else:
                self._unsubscribe_rest(for_good=for_good)
            self._send(Disconnect(0, properties))
        self.leave(reason)

    def _unsubscribe_rest(self, *, for_good: bool) -> None:
        """Unsubscribe now from what nobody wants of a session that stays, and ask for no more."""
        self._unasked = deque(request for request in self._unasked if request.ends)
        with suppress(LocalProtocolError):  # as many as there are identifiers
            if for_good:
                # MQTT 3 cannot end the session, but the far side need not fill it.
                self.unsubscribe([*self.in_doubt.union(self._member.parting)])
            self._ask_more(at_once=True)

    def leave(self, reason: str) -> None:
        """Close after what is already written has been sent."""
        if not self.closed:
            self._end(reason)
            self.link.close(reason)

    def link_closed(self, reason: str) -> None:
        """The network connection is gone."""
        if not self.closed:
            self._end(reason)

    def _end(self, reason: str) -> None:
        self.shut()
        for timer in (self._timer, self._answer_timer, self._measure_timer):
            if timer is not None:
                timer.cancel()
        if self.lane.link is self.link:
            self.lane.detach()
        self._member.received_qos2[self.address] = self.received_qos2
        self._member.in_doubt.setdefault(self.address, set()).update(self.in_doubt)
        if not self.opened.done():
            self.opened.set_exception(self._closed_early(reason))
            self.opened.exception()
        if not self.ended.done():
            self.ended.set_result(reason)

    def _closed_early(self, reason: str) -> ConnectError:
        error = getattr(self.link, "error", None)
        if error is not None:
            # With TLS 1.3 a far side refuses our certificate after our side is through.
            from isthmus.net.tls_failures import explain

            text, hint = explain(error)
            return ConnectError("tls", text, hint=hint)
        return ConnectError("connack", f"the connection was closed before CONNACK: {reason}")

    def _send(
        self, packet: Connect | Publish | Subscribe | Unsubscribe | Pingreq | Disconnect
    ) -> None:
        if self.connection.state is State.CLOSED:
            return  # the far side's DISCONNECT came in the same read as what is answered here
        if not self.link.out:
            self.link.touch()
        self.connection.send(packet)


def _reason_text(properties: Properties, meaning: str) -> str:
    """What the far side says, if it is more than what the code means."""
    text = str(properties.get(PropertyId.REASON_STRING, ""))
    return f"the far side says: {text}" if text not in meaning else ""
