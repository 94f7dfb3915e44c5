"""One network connection to a far broker, from CONNECT to close."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.source import Source
from isthmus.errors import ConnectError, LocalProtocolError, MQTTError, ProtocolViolation
from isthmus.mqtt.connection import Connection, State
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingresp,
    Suback,
    Subscribe,
    SubscribeOptions,
    Unsuback,
    Unsubscribe,
)
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.reasons import ReasonCode, describe
from isthmus.mqtt.topics import split_shared
from isthmus.net.tls_failures import explain

if TYPE_CHECKING:
    from isthmus.connectors.dialects import Dialect
    from isthmus.connectors.member import Member
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.plan import Plan
    from isthmus.mqtt.codec import Event
    from isthmus.net.link import Link
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.connectors")


class FarClient(Source):
    """A client of a far broker. `opened` becomes its CONNACK, `ended` the reason why it ended."""

    __slots__ = ("_member", "_requests", "_timer", "ended", "opened")

    def __init__(self, member: Member, link: Link) -> None:
        settings = member.connector.settings
        connection = Connection(
            Role.CLIENT,
            max_packet_size=settings.max_packet_size,
            topic_alias_maximum=settings.topic_alias_maximum,
            now=link.reactor.now,
            out=link.out,
        )
        super().__init__(link, connection, settings.receive_maximum)
        self._member = member
        self._requests: dict[int, list[bytes]] = {}
        self._timer: Timer | None = None
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[Connack] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.lane: Lane = member.lane
        self.origin = member.connector.origin
        self.received_qos2 = member.received_qos2
        link.on_close = self.link_closed
        link.on_data = self.receive

    def connect(self, dialect: Dialect, client_id: str, *, clean_start: bool) -> None:
        """Send CONNECT."""
        settings = self._member.connector.settings
        self.v5 = dialect.version == 5
        properties: Properties = {}
        if self.v5:
            properties[PropertyId.RECEIVE_MAXIMUM] = settings.receive_maximum
            properties[PropertyId.MAXIMUM_PACKET_SIZE] = settings.max_packet_size
            if settings.topic_alias_maximum:
                properties[PropertyId.TOPIC_ALIAS_MAXIMUM] = settings.topic_alias_maximum
            expiry = self._member.session_expiry_s
            if expiry:
                properties[PropertyId.SESSION_EXPIRY_INTERVAL] = expiry
        password = settings.password
        self._send(
            Connect(
                client_id=client_id,
                version=dialect.version,
                clean_start=clean_start,
                keep_alive=int(settings.keepalive),
                username=settings.username,
                password=None if password is None else password.get_secret_value().encode(),
                will=None,
                properties=properties,
                bridge=dialect.bridge,
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
            pass
        elif isinstance(event, Disconnect):
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

    def refuse_excess(self) -> None:
        """The far side sent more than our receive maximum (MQTT-3.3.4-9)."""
        self.fail(
            ProtocolViolation(
                f"more than {self.max_unacked} messages without their acknowledgement",
                ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
            )
        )

    def _connected(self, packet: Connack) -> None:
        if packet.code:
            self.opened.set_exception(
                ConnectError(
                    "connack",
                    describe(packet.code, 5 if self.v5 else 4),
                    reason=packet.code,
                    hint=_reason_text(packet.properties),
                )
            )
            self.opened.exception()  # the waiter may be gone
            self.leave("refused by the far side")
            return
        self.opened.set_result(packet)
        peer = self.connection.peer
        # At once, not when the waiter wakes up: messages may follow in the same read.
        self._member.attach(self, packet)
        self.lane.attach(
            self.link,
            v5=self.v5,
            session_present=packet.session_present,
            receive_maximum=peer.receive_maximum,
            max_packet=peer.maximum_packet_size,
            max_qos=peer.maximum_qos,
            retain=peer.retain_available,
        )
        self._watch_keep_alive()

    # -- subscriptions ---------------------------------------------------------------------------

    def subscribe(self, filters: dict[bytes, int]) -> None:
        """Send one SUBSCRIBE; the answer goes to the connector.

        What this far side takes no subscription for at all counts as refused by it.
        """
        try:
            self._subscribe(filters)
        except LocalProtocolError as error:
            if len(filters) == 1:
                self._member.connector.granted(dict.fromkeys(filters, error.reason))
                return
            for filter_, qos in filters.items():
                self.subscribe({filter_: qos})

    def _subscribe(self, filters: dict[bytes, int]) -> None:
        packet_id = self._packet_id()
        wanted = [
            (
                filter_,
                SubscribeOptions(
                    qos=min(qos, self.connection.peer.maximum_qos),
                    # A shared subscription must not ask for it (MQTT-3.8.3-4).
                    no_local=self.v5 and split_shared(filter_)[0] is None,
                    retain_as_published=self.v5,
                    # Retained messages come once per session, not at every reconnect.
                    retain_handling=1 if self.v5 else 0,
                ),
            )
            for filter_, qos in filters.items()
        ]
        self._send(Subscribe(packet_id, wanted, {}))
        self._requests[packet_id] = list(filters)

    def unsubscribe(self, filters: list[bytes]) -> None:
        """Send one UNSUBSCRIBE."""
        packet_id = self._packet_id()
        self._requests[packet_id] = filters
        self._send(Unsubscribe(packet_id, filters, {}))

    def _packet_id(self) -> int:
        window = self.lane.window
        packet_id = window.next_id()
        window.reserved.add(packet_id)
        return int.from_bytes(packet_id, "big")

    def _answered(self, packet: Suback | Unsuback) -> None:
        filters = self._requests.pop(packet.packet_id, None)
        if filters is None:
            self.fail(ProtocolViolation("an answer to nothing that was asked"))
            return
        self.lane.window.reserved.discard(packet.packet_id.to_bytes(2, "big"))
        if isinstance(packet, Suback):
            if len(packet.codes) != len(filters):
                self.fail(ProtocolViolation("SUBACK has another number of codes than filters"))
                return
            self._member.connector.granted(dict(zip(filters, packet.codes, strict=True)))

    # -- keep alive and end ----------------------------------------------------------------------

    def _watch_keep_alive(self) -> None:
        deadline = self.connection.deadline()
        if deadline is not None:
            self._timer = self.link.reactor.wheel.at(deadline, self._check_keep_alive)

    def _check_keep_alive(self) -> None:
        if self.closed:
            return
        if not self.link.out:
            self.link.touch()
        error = self.connection.tick(clock.monotonic())
        if error is not None:
            self.fail(error)
        else:
            self._watch_keep_alive()

    def fail(self, error: MQTTError) -> None:
        """The far side broke the protocol: answer as the version allows, and close."""
        if self.closed:
            return
        if not self.link.out:
            self.link.touch()
        self.connection.answer(error)
        self.leave(str(error))

    def disconnect(self) -> None:
        """Say goodbye and close."""
        if not self.closed:
            if self.opened.done() and not self.opened.exception():
                properties: Properties = {}
                if self.v5 and not self._member.connector.ids_stable:
                    # Nobody will come back for this session.
                    properties[PropertyId.SESSION_EXPIRY_INTERVAL] = 0
                self._send(Disconnect(0, properties))
            self.leave("stopped")

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
        if self._timer is not None:
            self._timer.cancel()
        if self.lane.link is self.link:
            self.lane.detach()
        self._member.received_qos2 = self.received_qos2
        if not self.opened.done():
            self.opened.set_exception(self._closed_early(reason))
            self.opened.exception()
        if not self.ended.done():
            self.ended.set_result(reason)

    def _closed_early(self, reason: str) -> ConnectError:
        error = getattr(self.link, "error", None)
        if error is not None:
            # With TLS 1.3 a far side refuses our certificate after our side is through.
            text, hint = explain(error)
            return ConnectError("tls", text, hint=hint)
        return ConnectError("connack", f"the connection was closed before CONNACK: {reason}")

    def _send(self, packet: Connect | Subscribe | Unsubscribe | Disconnect) -> None:
        if self.connection.state is State.CLOSED:
            return  # the far side's DISCONNECT came in the same read as what is answered here
        if not self.link.out:
            self.link.touch()
        self.connection.send(packet)


def _reason_text(properties: Properties) -> str:
    text = properties.get(PropertyId.REASON_STRING)
    return f"the far side says: {text}" if text else ""
