"""A client's network connection at the broker: CONNECT to close."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.auth.principal import Principal
from isthmus.broker.client_id import choose_client_id
from isthmus.broker.rights import RefusedOutlet
from isthmus.broker.strangers import hint
from isthmus.broker.subscriptions import subscribe, unsubscribe
from isthmus.delivery.endpoint import Origin
from isthmus.delivery.message import Message
from isthmus.delivery.plan import Plan
from isthmus.delivery.source import Source
from isthmus.errors import MQTTError, ProtocolViolation
from isthmus.mqtt.connection import PINGRESP, Connection, State
from isthmus.mqtt.encoder import encode
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import (
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
from isthmus.mqtt.reasons import ReasonCode, describe
from isthmus.net.peer import peer_network, peer_text

if TYPE_CHECKING:
    from isthmus.broker.broker import Broker
    from isthmus.broker.session import Session
    from isthmus.mqtt.codec import Event
    from isthmus.net.link import Link
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.broker")


DEAF_CHECK_S = 0.2
"""How often a client that does not read is looked at again."""


class Client(Source):
    """One client from accept to close.

    `session` is None until its CONNECT is accepted. `bridge` says that it is an MQTT 3 client that
    calls itself a bridge: it gets messages as MQTT 5 clients may ask for it, without its own and
    with the retain flag as published.
    """

    __slots__ = (
        "_broker",
        "_deaf",
        "_first_bytes",
        "_task",
        "_timer",
        "bridge",
        "session",
        "will",
        "will_delay_s",
    )

    def __init__(self, broker: Broker, link: Link) -> None:
        settings = broker.settings
        connection = Connection(
            Role.SERVER,
            max_packet_size=settings.max_packet_size,
            topic_alias_maximum=settings.topic_alias_maximum,
            max_qos=settings.max_qos,
            retain=settings.retain_available,
            max_payload=settings.max_payload,
            now=link.reactor.now,
            out=link.out,
        )
        super().__init__(link, connection, settings.receive_maximum)
        self.hops = broker.hops
        self.traffic = broker.traffic
        self._deaf = False
        self.max_unsent = settings.limits.unsent_bytes
        self._broker = broker
        self.session: Session | None = None
        self.bridge = False
        self.will: Message | None = None
        self.will_delay_s = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer | None = link.reactor.wheel.at(
            clock.monotonic() + settings.limits.connect_timeout, self._connect_timeout
        )
        self._first_bytes = b""
        link.on_data = self._receive_first
        link.on_close = self.link_closed

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
        self.link.on_data = self.receive
        self.receive(data)

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
        elif not self.handle_flow(event):
            self.fail(ProtocolViolation(f"{type(event).__name__} is not supported here"))

    def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
        """Where this client's messages on `topic` go; nowhere if it may not publish there."""
        session = self.session
        assert session is not None
        code = 0 if allowed else session.rights.refusal(session.principal, topic)
        if code:
            plan = Plan()
            plan.add(RefusedOutlet(self._broker.drops, topic, code))
            return plan
        return self._broker.exchange.plan_for(topic, self.origin)

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
            self.link.resume()

    def close_reason(self, reason: str) -> None:
        """Close at once; what waits for this client is given up."""
        self._log_end(reason, reason)
        self._broker.drops.add("slow_consumer", reason)
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
        if PropertyId.AUTHENTICATION_METHOD in packet.properties:
            self.fail(
                ProtocolViolation(
                    "enhanced authentication is not supported",
                    ReasonCode.BAD_AUTHENTICATION_METHOD,
                    "MQTT-4.12.0-1",
                )
            )
            return
        self.bridge = packet.bridge
        known = self._broker.authenticator.cached(packet.username, packet.password)
        if known is None:
            # The hash is slow by design: it runs beside the loop, and what this client has sent
            # behind its CONNECT waits.
            self.hold()
            self._task = asyncio.get_running_loop().create_task(self._authenticate(packet))
        else:
            self._authenticated(packet, known)

    async def _authenticate(self, packet: Connect) -> None:
        try:
            good = await self._broker.authenticator.authenticate(
                packet.username,
                packet.password,
                source=peer_network(self.link.peername),
                gone=self._gone,
            )
        except MQTTError as error:
            self.fail(error)
            return
        finally:
            self._task = None
        if self.closed:
            return
        if not good and self._gone():
            self.link.abort("the client left before its login was checked")
            return
        self._authenticated(packet, good)
        self.unhold()

    def _gone(self) -> bool:
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

    def _authenticated(self, packet: Connect, good: bool) -> None:
        if not good:
            code = ReasonCode.BAD_USER_NAME_OR_PASSWORD
            if packet.username is None:
                code = ReasonCode.NOT_AUTHORIZED
            self.fail(ProtocolViolation("user name or password is wrong", code))
            return
        try:
            self._open(packet)
        except MQTTError as error:
            self.fail(error)

    def _open(self, packet: Connect) -> None:
        broker = self._broker
        client_id, properties = choose_client_id(broker, packet)
        self._limit_keep_alive(packet, properties)
        username = broker.authenticator.identity(packet.username)
        principal = Principal(username, client_id)
        self._take_will(packet, principal)
        session, present = broker.open_session(self, packet, principal)
        if self.v5:
            properties.update(broker.connack_properties)
            information = broker.settings.response_information
            if information is not None and self.connection.peer.request_response_information:
                properties[PropertyId.RESPONSE_INFORMATION] = information.replace(
                    "${clientid}", client_id
                )
            if session.expiry_s != (self.connection.peer.session_expiry_interval or 0):
                properties[PropertyId.SESSION_EXPIRY_INTERVAL] = session.expiry_s
        else:
            properties = {}
        self.session = session
        self.lane = session.lane
        self.received_qos2 = session.received_qos2
        self.origin = Origin(session, client_id, username or "")
        self.respond(Connack(present, 0, properties))
        peer = self.connection.peer
        session.lane.attach(
            self.link,
            v5=self.v5,
            session_present=present,
            receive_maximum=peer.receive_maximum,
            max_packet=peer.maximum_packet_size,
        )
        if session.retained_delivery is not None:
            session.retained_delivery.resume()
        self._watch_keep_alive()
        log.debug("client %s connected", self.name)

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
        code = self._broker.rights.refusal(principal, will.topic)
        if code:
            raise ProtocolViolation("the client may not publish its will", code)
        settings = self._broker.settings
        if will.qos > settings.max_qos:
            raise ProtocolViolation(
                f"a will above QoS {settings.max_qos}",
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
        if len(will.topic) + len(will.payload) + len(block) > largest:
            raise ProtocolViolation(
                f"the will is larger than {largest} bytes", ReasonCode.QUOTA_EXCEEDED
            )
        writer = Origin(self, principal.client_id, principal.username or "")
        self.will = Message(will.topic, will.payload, will.qos, will.retain, block, writer=writer)

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
        error = self.connection.tick(clock.monotonic())
        if error is not None:
            self.fail(error)
        else:
            self._watch_keep_alive()

    def _connect_timeout(self) -> None:
        self._timer = None
        reason = "no CONNECT in time" if self._task is None else "the login took too long"
        self._broker.count_refusal(ProtocolViolation(reason, ReasonCode.KEEP_ALIVE_TIMEOUT))
        self._log_end(reason, reason)
        self.link.abort(reason)

    # -- the end ---------------------------------------------------------------------------------

    def _disconnect(self, packet: Disconnect) -> None:
        expiry = packet.properties.get(PropertyId.SESSION_EXPIRY_INTERVAL)
        session = self.session
        assert session is not None
        if expiry is not None:
            if expiry and not session.expiry_s:
                self.fail(ProtocolViolation("the session expiry interval was 0", 0x82))
                return
            session.expiry_s = self._broker.allowed_expiry(expiry)
        if packet.code != ReasonCode.DISCONNECT_WITH_WILL:
            self.will = None  # MQTT-3.14.4-3
        self.leave("client disconnected")

    def fail(self, error: MQTTError) -> None:
        """Answer `error` as the version allows, and close."""
        if self.closed:
            return
        self._broker.count_refusal(error)
        self._log_end(str(error), describe(error.reason).rstrip("."))
        if not self.link.out:
            self.link.touch()
        self.connection.answer(error)
        self.leave(str(error))

    def _log_end(self, reason: str, cause: str) -> None:
        """Log why we close; `cause` stands for all lines like it."""
        named = self.session is not None
        text = f"client {self.name} closed: {reason}"
        if cause != reason:
            text += f" ({cause})"
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
        if not self.link.out:
            self.link.touch()
        properties: Properties = {PropertyId.SERVER_REFERENCE: reference}
        self.connection.send(Disconnect(ReasonCode.USE_ANOTHER_SERVER, properties))
        self.leave(text)

    def drain(self) -> None:
        """Read nothing more, and do not hold the silence against the client."""
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
            log.debug("client %s lost: %s", self.name, reason)
            self._end()

    def _end(self) -> None:
        self.shut()
        for pending in (self._timer, self._task):
            if pending is not None:
                pending.cancel()
        self._timer = self._task = None
        if self.session is not None:
            self.session.received_qos2 = self.received_qos2
            self._broker.client_left(self)
        else:
            self._broker.unnamed.discard(self)

    def respond(self, packet: Connack | Pingresp | Suback | Unsuback) -> None:
        """Send a packet that is not a PUBLISH."""
        if not self.link.out:
            self.link.touch()
        connection = self.connection
        if connection.state is State.CLOSED:
            # The client's DISCONNECT came in the same read as what is answered here.
            self.link.out.append(encode(packet, connection.version or 4))
        else:
            connection.send(packet)
