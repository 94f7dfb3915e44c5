"""A client's network connection at the broker: CONNECT to close.

Over 600 lines, as there is one state from accept to close, and each way out has to see to all of
it.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.auth.login import DENIED, Verdict
from isthmus.auth.principal import Principal
from isthmus.auth.rights import Writer
from isthmus.broker.admission import Admission
from isthmus.broker.client_id import choose_client_id
from isthmus.broker.entrance import VERSION_NAMES
from isthmus.broker.pace import Pace
from isthmus.broker.refused_outlet import RefusedOutlet
from isthmus.broker.settings import MAX_PACKET_SIZE_BYTES
from isthmus.broker.strangers import hint
from isthmus.broker.subscriptions import subscribe, unsubscribe
from isthmus.delivery.endpoint import Origin
from isthmus.delivery.message import Message
from isthmus.delivery.plan import Plan
from isthmus.delivery.source import Source
from isthmus.errors import LocalProtocolError, MQTTError, ProtocolViolation
from isthmus.log import CLIENTS
from isthmus.mqtt.connection import PINGRESP, Connection, State
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    PacketType,
    Pingreq,
    Pingresp,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.properties import encode as encode_properties
from isthmus.mqtt.reasons import ReasonCode, describe, explanation
from isthmus.net.peer import peer_network, peer_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.auth.access import Access
    from isthmus.broker.broker import Broker
    from isthmus.broker.entrance import Entrance
    from isthmus.broker.session import Session
    from isthmus.broker.settings import LimitSettings
    from isthmus.delivery.receipt import Receipt
    from isthmus.mqtt.codec import Event
    from isthmus.net.link import Link
    from isthmus.net.timers import Timer

log = logging.getLogger(CLIENTS)


LONGEST_EXPIRY_WATCH_S = 3600.0
"""How long the clock is trusted when it says that a login has not ended."""

MOST_UNSAID = 100
"""Answers that wait for the disk before nothing more is done for a client."""

MAX_LOGGED_NAME = 64
"""Characters of a name in the log that nobody has verified."""

DEAF_CHECK_S = 0.2
"""How often a client that does not read is looked at again."""


class Client(Source):
    """One client from accept to close.

    `entrance` is where it came in, `verdict` what its access decided about it. `session` is None
    until its CONNECT is accepted. `bridge` says that it is an MQTT 3 client that
    calls itself a bridge: it gets messages as MQTT 5 clients may ask for it, without its own and
    with the retain flag as published.
    """

    __slots__ = (
        "_admission",
        "_broker",
        "_deaf",
        "_expiry",
        "_first_bytes",
        "_pace",
        "_timer",
        "_unsaid",
        "_welcomed",
        "bridge",
        "entrance",
        "session",
        "verdict",
        "will",
        "will_delay_s",
    )

    def __init__(self, broker: Broker, link: Link, entrance: Entrance) -> None:
        settings = entrance.settings
        connection = Connection(
            Role.SERVER,
            max_packet_size=settings.max_packet_size,
            max_login_size=settings.limits.login_bytes,
            topic_alias_maximum=settings.topic_alias_maximum,
            topic_aliases_out=settings.topic_aliases_out,
            max_qos=entrance.max_qos,
            retain=settings.retain_available,
            max_payload=settings.max_payload,
            now=link.reactor.now,
            out=link.out,
        )
        super().__init__(link, connection, settings.receive_maximum)
        self.hops = broker.hops
        self.traffic = broker.traffic
        self._deaf = False
        self._unsaid = 0
        self._welcomed = True
        self.max_unsent = settings.limits.unsent_bytes
        self._broker = broker
        self.session: Session | None = None
        self.bridge = False
        self.will: Message | None = None
        self.will_delay_s = 0
        self.entrance = entrance
        self.verdict = DENIED
        self._admission: Admission | None = None
        self._expiry: Timer | None = None
        self._timer: Timer | None = link.reactor.wheel.at(
            clock.monotonic() + settings.limits.connect_timeout, self._connect_timeout
        )
        self._first_bytes = b""
        self._pace: Pace | None = None
        link.keep(settings.limits.login_bytes)
        link.on_data = self._receive_first
        link.on_close = self.link_closed

    @property
    def access(self) -> Access:
        """Decides who this client is and what it may do."""
        return self.entrance.access

    @property
    def name(self) -> str:
        """The client id, or the address before there is one; safe to log."""
        if self.session is not None:
            return repr(self.origin.client_id)
        return peer_text(self.link.peername)

    # -- events ----------------------------------------------------------------------------------

    def _receive_first(self, data: bytes) -> None:
        """Take the first read: kept in part, to tell what it was if it was not MQTT."""
        self._first_bytes = data[:4]
        self.keep_to(self._broker.settings.limits)
        self.link.on_data(data)

    def keep_to(self, limits: LimitSettings) -> None:
        """Take other limits; those of its session are asked for anew each time."""
        self.max_unsent = limits.unsent_bytes
        self.connection.limit_filters(limits.filters_per_packet or MAX_PACKET_SIZE_BYTES)
        rate = limits.packet_rate
        if rate != (self._pace.rate if self._pace is not None else None):
            self._pace = None if rate is None else Pace(rate, clock.monotonic())
            self.go_on()
        if self._first_bytes:
            # Who has no limit pays nothing for it.
            self.link.on_data = self.receive if rate is None else self._receive_paced

    def _receive_paced(self, data: bytes) -> None:
        """Take the bytes of one read, and read no more before it is time to; see `Pace`."""
        now = self.link.reactor.now
        events = self.connection.receive(data, now)
        pace = self._pace
        if pace is not None and pace.took(events, now, self.connection.keep_alive):
            self._broker.limits_met.say(
                "packet_rate",
                self.origin.client_id or peer_network(self.link.peername),
                f"client {self.name} sends too fast, and is slowed down",
            )
            self.paused = True
            self.link.pause()
            if self._pause_timer is not None:
                self._pause_timer.cancel()
            self._pause_timer = self.link.reactor.wheel.at(pace.until, self.go_on)
        self.take(events)

    def go_on(self) -> None:
        """Read again after a pause, unless there is another reason not to."""
        pace = self._pace
        if pace is not None and clock.monotonic() < pace.until and not self.closed:
            return
        super().go_on()
        if (self._deaf or self._held is not None) and not self.closed:
            self.link.pause()

    def hold(self) -> None:
        """Stop after the event that is being handled, and read no more, until `unhold`."""
        if self._held is None:
            super().hold()

    def unhold(self) -> None:
        """Go on with what was held, unless there is another reason to wait."""
        if self._welcomed and self._unsaid < MOST_UNSAID:
            super().unhold()

    def when_kept(self, answer: Callable[[], None], *, changed: bool) -> None:
        """Give an answer when the session is on disk as it is now.

        `changed` says that something of it is not there yet. Answers are given in order.
        """
        kept = self._broker.kept
        if kept is None or not (changed or self._unsaid):
            answer()
            return
        self._unsaid += 1
        if self._unsaid >= MOST_UNSAID:
            self.hold()
        kept.table.then(partial(self._answer_late, answer), lambda: not self.closed)

    def _answer_late(self, answer: Callable[[], None]) -> None:
        self._unsaid -= 1
        if not self.closed:
            answer()
            self.unhold()

    def handle(self, event: Event) -> None:
        """Answer everything that is neither a message nor a plain PUBACK."""
        if isinstance(event, MQTTError):
            self.fail(event)
        elif isinstance(event, Pingreq):
            self.link.write(PINGRESP)
        elif isinstance(event, Connect):
            self._connect(event)
        elif isinstance(event, Subscribe):
            subscribe(self._broker, self, event)
        elif isinstance(event, Unsubscribe):
            unsubscribe(self._broker, self, event)
        elif isinstance(event, Disconnect):
            self._disconnect(event)
        elif isinstance(event, Auth):
            self._auth(event)
        elif not self.handle_flow(event):
            self.fail(ProtocolViolation(f"{type(event).__name__} is not supported here"))

    def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
        """Where this client's messages on `topic` go; nowhere if it may not publish there."""
        session = self.session
        assert session is not None
        topic = session.mount + topic
        code = 0 if allowed else session.rights.refusal(session.principal, topic)
        if code:
            plan = Plan()
            meet_limit = None
            if session.rights.too_deep(topic):
                levels = session.rights.topic_levels
                meet_limit = partial(  # without this client: its plans must not hold it
                    self._broker.limits_met.say,
                    "topic_levels",
                    self.origin.client_id,
                    f"client {self.name}: a message is refused: more than {levels} levels",
                )
            who = session.principal.shown
            plan.add(RefusedOutlet(self._broker.drops, topic, code, who, meet_limit))
            return plan
        return self._broker.exchange.plan_for(topic, self.origin)

    def explain(self, code: int) -> Properties:
        """The reason string of an acknowledgement; see `limits.topic_levels`."""
        levels = self.access.rights.topic_levels
        text = f"the topic name is not valid, or has more than {levels} levels"
        return explanation((code,), {ReasonCode.TOPIC_NAME_INVALID: text})

    def _publish_guarded(
        self, event: tuple[int, bytes, bytes, bytes, bytes], plan: Plan, receipt: Receipt | None
    ) -> Receipt | None:
        """By the topic's name in the broker, as another way to it may have another mount point."""
        flags, topic, packet_id, properties, payload = event
        assert self.session is not None
        event = flags, self.session.mount + topic, packet_id, properties, payload
        return super()._publish_guarded(event, plan, receipt)

    def may_pause(self) -> bool:
        """Only a client that neither subscribes nor has anything in flight may be paused."""
        session = self.session
        return session is not None and not session.subscriptions and not session.lane.inflight

    def deaf(self) -> None:
        """Read nothing more from this client until it has read what waits for it.

        Its keep alive goes on: a client that never reads again ends by that.
        """
        if not self._deaf:
            self._deaf = True
            self.link.pause()
            self._listen_again()

    def _listen_again(self) -> None:
        if self.closed:
            return
        reactor = self.link.reactor
        if self.link.blocked:
            reactor.wheel.at(clock.monotonic() + DEAF_CHECK_S, self._listen_again)
        else:
            self._deaf = False
            if not self.paused:
                self.link.resume()

    def close_reason(self, reason: str) -> None:
        """Close at once; what waits for this client is given up."""
        self._log_end(reason, reason)
        self._end()
        self.link.abort(reason)

    def refuse_excess(self) -> None:
        """The client sent more than its receive maximum (MQTT-3.3.4-7 is its side of it)."""
        self.fail(
            ProtocolViolation(
                f"more than {self.max_unacked} messages without their acknowledgement",
                ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
            )
        )

    # -- CONNECT ---------------------------------------------------------------------------------

    def _connect(self, packet: Connect) -> None:
        self.v5 = packet.version == 5
        self.bridge = packet.bridge
        timeout_s = self._broker.settings.limits.connect_timeout
        try:
            self.entrance.check_version(packet)
            self._admission = Admission(self, packet, timeout_s)
            self._admission.begin()
        except MQTTError as error:
            self.fail(error)

    def _auth(self, packet: Auth) -> None:
        assert self._admission is not None  # the decoder lets no AUTH pass without a method
        try:
            self._admission.auth(packet)
        except MQTTError as error:
            self.fail(error)

    def gone(self) -> bool:
        """Whether the client has closed its side, and wants nothing but the answer to its CONNECT.

        The link does not see it while it is paused. What came behind the CONNECT has to be done
        also for a client that has gone.
        """
        if self._held:
            return False
        try:
            return not self.link.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def admit(
        self, packet: Connect, verdict: Verdict, properties: Properties | None = None
    ) -> None:
        """Answer the CONNECT; `properties` are those that the login adds to the CONNACK."""
        enhanced = properties is not None
        if not verdict.allowed:
            username = packet.username
            if enhanced:
                error = ProtocolViolation("authentication failed", ReasonCode.NOT_AUTHORIZED)
                username = verdict.username
            elif packet.username is None:
                text = "a user name and password, or another login, is needed"
                error = ProtocolViolation(text, ReasonCode.NOT_AUTHORIZED)
            else:
                text = "user name or password is wrong"
                error = ProtocolViolation(text, ReasonCode.BAD_USER_NAME_OR_PASSWORD)
            who = f"user {_quoted(username)}, " if username is not None else ""
            self.fail(error, f"{who}client id {_quoted(packet.client_id)}")
            return
        self.verdict = verdict
        if not enhanced:
            self._admission = None
        try:
            self._open(packet, verdict, properties or {})
        except MQTTError as error:
            self.fail(error)
            return
        self._watch_expiry()

    def admit_again(self, verdict: Verdict) -> bool:
        """Take the verdict of a new login of the same user; False if it is another's."""
        session = self.session
        assert session is not None
        if verdict.username != session.principal.username:
            return False
        self.verdict = verdict
        principal = replace(session.principal, grants=verdict.grants)
        self._broker.renew_principal(session, principal, session.rights)
        self._watch_expiry()
        return True

    def still_welcome(self) -> bool:
        """Whether this client would be let in with the users that there are now."""
        return self.access.authenticator.still_good(self.verdict)

    def _watch_expiry(self) -> None:
        """End the connection when its login does; the wall clock may be set meanwhile."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        expires_at = self.verdict.expires_at
        if expires_at is None:
            return
        left_s = expires_at - clock.wall()
        if left_s <= 0:
            self.close(ReasonCode.MAXIMUM_CONNECT_TIME, "the login has expired")
        else:
            self._expiry = self.link.reactor.wheel.at(
                clock.monotonic() + min(left_s, LONGEST_EXPIRY_WATCH_S), self._watch_expiry
            )

    def _open(self, packet: Connect, verdict: Verdict, properties: Properties) -> None:
        broker = self._broker
        client_id, assigned = choose_client_id(self.entrance.settings, packet)
        properties.update(assigned)
        self._limit_keep_alive(packet, properties)
        username = verdict.username
        principal = Principal(username, client_id, self.access.realm, verdict.grants)
        self._take_will(packet, principal)
        session, present = broker.open_session(self, packet, principal)
        if self.v5:
            properties.update(broker.connack_properties)
            settings = self.entrance.settings
            if settings.max_qos < 2:
                properties[PropertyId.MAXIMUM_QOS] = settings.max_qos
            if settings.topic_alias_maximum:
                properties[PropertyId.TOPIC_ALIAS_MAXIMUM] = settings.topic_alias_maximum
            information = settings.response_information
            if information is not None and self.connection.peer.request_response_information:
                properties[PropertyId.RESPONSE_INFORMATION] = information.replace(
                    "${clientid}", client_id
                )
            if session.expiry_s != (self.connection.peer.session_expiry_interval or 0):
                properties[PropertyId.SESSION_EXPIRY_INTERVAL] = session.expiry_s
        else:
            properties = {}
        self.link.keep(None)
        self.session = session
        self.lane = session.lane
        self.received_qos2 = session.received_qos2
        self.ids = session.received
        self.origin = Origin(
            session,
            client_id,
            username or "",
            self._writer(principal),
            way=(session.mount, username, client_id),
        )
        kept = broker.kept
        if kept is not None and kept.awaited(session):
            # What it relies on from now on has to be on disk, what it gave up must be gone.
            self._welcomed = False
            self.hold()
            kept.table.then(
                partial(self._welcome_late, present, properties), lambda: not self.closed
            )
        else:
            self._welcome(present, properties)

    def _welcome_late(self, present: bool, properties: Properties) -> None:
        """The session is on disk."""
        if self.closed:
            return
        self._welcomed = True
        assert self.session is not None
        self.session.assured = True
        try:
            self._welcome(present, properties)
        except MQTTError as error:
            self.fail(error)
        else:
            self.unhold()

    def _welcome(self, present: bool, properties: Properties) -> None:
        """Send CONNACK, then what waits."""
        session = self.session
        assert session is not None
        self.respond(Connack(present, 0, properties))
        peer = self.connection.peer
        session.lane.attach(
            self.link,
            v5=self.v5,
            session_present=present,
            receive_maximum=peer.receive_maximum,
            max_packet=peer.maximum_packet_size,
            aliases=self.connection.aliases,
        )
        if session.retained_delivery is not None:
            session.retained_delivery.resume()
        self._watch_keep_alive()
        if log.isEnabledFor(logging.INFO):
            log.info(
                "client %s connected from %s (MQTT %s, keep alive %d s%s)",
                self.name,
                peer_text(self.link.peername),
                VERSION_NAMES[self.connection.version or 4],
                self.connection.keep_alive,
                f", user {self.origin.username!r}" if self.origin.username else "",
            )

    def _limit_keep_alive(self, packet: Connect, properties: Properties) -> None:
        """Keep to `broker.max_keepalive`, which MQTT 5 clients are told (MQTT-3.1.2-21)."""
        longest = self._broker.settings.max_keepalive
        if longest is None or 0 < packet.keep_alive <= longest:
            return
        if packet.version < 5:
            raise ProtocolViolation(
                f"the keep alive of {packet.keep_alive} s is above {longest:g} s",
                ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
            )
        properties[PropertyId.SERVER_KEEP_ALIVE] = min(max(1, int(longest)), 65_535)

    def _take_will(self, packet: Connect, principal: Principal) -> None:
        will = packet.will
        if will is None:
            return
        topic = self.entrance.mount + will.topic
        code = self.access.rights.refusal(principal, topic)
        if code and self.access.rights.too_deep(topic):
            text = f"the topic of the will has more than {self.access.rights.topic_levels} levels"
            raise ProtocolViolation(text, code, limit="topic_levels")
        if code:
            raise ProtocolViolation("the client may not publish its will", code)
        settings = self._broker.settings
        if will.qos > self.entrance.max_qos:
            raise ProtocolViolation(
                f"a will above QoS {self.entrance.max_qos}",
                ReasonCode.QOS_NOT_SUPPORTED,
                "MQTT-3.2.2-12",
            )
        if will.retain and not settings.retain_available:
            raise ProtocolViolation(
                "a will to retain", ReasonCode.RETAIN_NOT_SUPPORTED, "MQTT-3.2.2-13"
            )
        properties = dict(will.properties)
        self.will_delay_s = properties.pop(PropertyId.WILL_DELAY_INTERVAL, 0)
        block = encode_properties(properties, PacketType.PUBLISH)
        largest = self._broker.settings.limits.will_bytes
        if len(topic) + len(will.payload) + len(block) > largest:
            raise ProtocolViolation(
                f"the will is larger than {largest} bytes",
                ReasonCode.QUOTA_EXCEEDED,
                limit="will_bytes",
            )
        writer = self._writer(principal)
        self.will = Message(topic, will.payload, will.qos, will.retain, block, writer=writer)

    def _writer(self, principal: Principal) -> Writer | None:
        check = self._broker.settings.check_retain_source
        return Writer(principal, self.access.rights) if check else None

    # -- keep alive ------------------------------------------------------------------------------

    def _watch_keep_alive(self) -> None:
        deadline = self.connection.deadline()
        if deadline is not None:
            assert self._timer is not None
            self._timer.cancel()
            self._timer = self.link.reactor.wheel.at(deadline, self._check_keep_alive)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_keep_alive(self) -> None:
        self.go_on()  # a paused client could not show that it lives
        if self.paused:
            self.connection.received_at = clock.monotonic()
        error = self.connection.tick(clock.monotonic())
        if error is not None:
            self.fail(error)
        else:
            self._watch_keep_alive()

    def _connect_timeout(self) -> None:
        self._timer = None
        if self.session is not None:
            reason = "the session could not be written to disk in time"
        elif self._admission is not None:
            reason = "the login took too long"
        else:
            reason = "no CONNECT in time"
        self._broker.count_refusal(ReasonCode.KEEP_ALIVE_TIMEOUT, "connect_timeout")
        self._log_end(reason, reason)
        self.link.abort(reason)

    # -- the end ---------------------------------------------------------------------------------

    def _disconnect(self, packet: Disconnect) -> None:
        expiry = packet.properties.get(PropertyId.SESSION_EXPIRY_INTERVAL)
        session = self.session
        if session is None:  # it gave up in the middle of an authentication
            self.leave("client disconnected")
            return
        if expiry is not None:
            if expiry and not session.expiry_s:
                self.fail(ProtocolViolation("the session expiry interval was 0", 0x82))
                return
            session.last(self._broker.allowed_expiry(expiry))
        log.info("client %s disconnected", self.name)
        if packet.code != ReasonCode.DISCONNECT_WITH_WILL:
            self.will = None  # MQTT-3.14.4-3
        kept = self._broker.kept
        if kept is not None and self._unsaid:
            self.hold()
            kept.table.then(partial(self.leave, "client disconnected"), lambda: not self.closed)
        else:
            self.leave("client disconnected")

    def fail(self, error: MQTTError, who: str = "") -> None:
        """Answer `error` as the version allows, and close; `who` is for the log only."""
        if self.closed:
            return
        self._broker.count_refusal(error.reason, error.limit)
        text = str(error)
        if error.limit:
            text += f"; see broker.limits.{error.limit}"
        self._log_end(text, describe(error.reason).rstrip("."), who)
        if not self.link.out:
            self.link.touch()
        self.connection.answer(error)
        self.leave(str(error))

    def _log_end(self, reason: str, cause: str, who: str = "") -> None:
        """Log why we close; `cause` stands for all lines like it, whoever they name."""
        named = self.session is not None
        text = f"client {self.name} closed: {reason}"
        # Of a reason that is just what its code means, the code is left.
        if more := cause.replace(reason, "").strip():
            text += f" ({more})"
        if who:
            text += f": {who}"
        if self.connection.state is State.NEW and (remark := hint(self._first_bytes)):
            text += f"; {remark}"
        self._broker.ends.line(
            cause, self.origin.client_id if named else peer_network(self.link.peername), text
        )

    def close(self, code: ReasonCode, text: str) -> None:
        """Close from our side, with DISCONNECT and `code` in MQTT 5."""
        self.fail(ProtocolViolation(text, code))

    def send_away(self, text: str) -> None:
        """Close because the broker stops; MQTT 5 clients are told another server, if there is."""
        reference = self._broker.settings.server_reference
        if reference is None or not self.v5 or self.connection.state is not State.CONNECTED:
            self.close(ReasonCode.SERVER_SHUTTING_DOWN, text)
            return
        properties: Properties = {PropertyId.SERVER_REFERENCE: reference}
        try:
            self.respond(Disconnect(ReasonCode.USE_ANOTHER_SERVER, properties))
        except LocalProtocolError:  # larger than the packets that this client takes
            self.close(ReasonCode.SERVER_SHUTTING_DOWN, text)
        else:
            self.leave(text)

    def drain(self) -> None:
        """Read nothing more, and do not hold the silence against the client."""
        self._pace = None
        self.go_on()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.link.pause()

    def leave(self, reason: str) -> None:
        """End the connection after what is already queued for it has been sent."""
        if not self.closed:
            self._end()
            self.link.close(reason)

    def link_closed(self, reason: str) -> None:
        """The network connection is gone."""
        if not self.closed:
            if self.session is not None:
                log.info("client %s lost: %s", self.name, reason)
            self._end()

    def _end(self) -> None:
        self.shut()
        for pending in (self._timer, self._expiry):
            if pending is not None:
                pending.cancel()
        self._timer = self._expiry = None
        self.entrance.open -= 1
        self._broker.gate.leave(self.link.peername)
        if self._admission is not None:
            self._admission.end()
            self._admission = None
        if self.session is not None:
            self.session.received_qos2 = self.received_qos2
            self._broker.client_left(self)
        else:
            self._broker.unnamed.discard(self)

    def respond(self, packet: Auth | Connack | Disconnect | Pingresp | Suback | Unsuback) -> None:
        """Send a packet that is not a PUBLISH."""
        if not self.link.out:
            self.link.touch()
        connection = self.connection
        if connection.state is State.CLOSED:
            # The client's DISCONNECT came in the same read as what is answered here.
            self.link.out.append(connection.fitting(packet, connection.version or 4))
        else:
            connection.send(packet)


def _quoted(name: str) -> str:
    """A name that a stranger gave, for the log: in quotes, on one line and short."""
    left = len(name) - MAX_LOGGED_NAME
    return repr(name) if left <= 0 else f"{name[:MAX_LOGGED_NAME]!r} and {left} more characters"
