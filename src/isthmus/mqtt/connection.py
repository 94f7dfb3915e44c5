"""One network connection of either role, as a state machine without I/O and without a clock.

Five verbs: receive bytes and take events, send, take bytes, tell it the time, answer an error.
Which packet may come or go in which state is a table; what is not in it is an error. It knows
limits and keep alive, and nothing of sessions: packet identifiers, QoS flows and subscriptions are
its owner's (`inflight`, `topic_tree`).

The hot path goes past it: once CONNECTED, `receive` notes the time and decodes, and senders append
encoded packets to `out` themselves, within the limits of `peer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from isthmus.errors import LocalProtocolError, MalformedPacket, MQTTError, ProtocolViolation
from isthmus.mqtt.aliases import InboundAliases, OutboundAliases
from isthmus.mqtt.bodies import UnsupportedProtocol
from isthmus.mqtt.codec import MAX_PACKET_SIZE, Decoder, Event
from isthmus.mqtt.encoder import encode
from isthmus.mqtt.packet_type import PacketType, Role
from isthmus.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
)
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.reasons import CODES, RETURN_CODES, ReasonCode
from isthmus.mqtt.topics import is_wildcard, split_shared

PINGREQ: Final = b"\xc0\x00"
PINGRESP: Final = b"\xd0\x00"

KEEP_ALIVE_FACTOR: Final = 1.5
"""How many keep alive times a server waits for a packet (MQTT-3.1.2-22)."""


class State(IntEnum):
    """Where a connection stands."""

    NEW = 0
    """No CONNECT yet."""
    CONNECTING = 1
    """CONNECT, and no CONNACK yet."""
    CONNECTED = 2
    """CONNACK with success."""
    CLOSED = 3
    """Nothing more may be sent or received; the bytes of `out` are the last ones."""


_CONNECTED: Final = State.CONNECTED  # an attribute of an enumeration costs a search
_CLIENT: Final = Role.CLIENT

Transitions: TypeAlias = dict[tuple[State, PacketType], State]

_BOTH_WAYS: Final = frozenset(
    {
        PacketType.PUBLISH,
        PacketType.PUBACK,
        PacketType.PUBREC,
        PacketType.PUBREL,
        PacketType.PUBCOMP,
        PacketType.AUTH,
    }
)
_FROM_CLIENT: Final = _BOTH_WAYS | {
    PacketType.SUBSCRIBE,
    PacketType.UNSUBSCRIBE,
    PacketType.PINGREQ,
}
_FROM_SERVER: Final = _BOTH_WAYS | {PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP}

BY_CLIENT: Final[Transitions] = {
    (State.NEW, PacketType.CONNECT): State.CONNECTING,
    # A client need not wait for the CONNACK (MQTT 5, 3.1.4; MQTT-3.1.4-5 in 3.1.1).
    **{(State.CONNECTING, kind): State.CONNECTING for kind in _FROM_CLIENT},
    (State.CONNECTING, PacketType.DISCONNECT): State.CLOSED,
    **{(State.CONNECTED, kind): State.CONNECTED for kind in _FROM_CLIENT},
    (State.CONNECTED, PacketType.DISCONNECT): State.CLOSED,
}
"""What a client may send. A server receives by this table, a client sends by it."""

BY_SERVER: Final[Transitions] = {
    (State.CONNECTING, PacketType.CONNACK): State.CONNECTED,  # CLOSED if it refuses
    (State.CONNECTING, PacketType.AUTH): State.CONNECTING,
    **{(State.CONNECTED, kind): State.CONNECTED for kind in _FROM_SERVER},
    (State.CONNECTED, PacketType.DISCONNECT): State.CLOSED,
}
"""What a server may send (MQTT-3.2.0-1, MQTT-3.14.0-1)."""


@dataclass(slots=True)
class Peer:
    """What the other side said that it takes, with the values that hold when it says nothing."""

    receive_maximum: int = 65_535
    maximum_packet_size: int = MAX_PACKET_SIZE
    topic_alias_maximum: int = 0
    maximum_qos: int = 2
    retain_available: bool = True
    wildcard_subscription_available: bool = True
    subscription_identifier_available: bool = True
    shared_subscription_available: bool = True
    session_expiry_interval: int | None = None
    """Seconds; None if it was not said."""
    server_keep_alive: int | None = None
    """Seconds that a server wants instead of the client's own."""
    assigned_client_identifier: str | None = None
    request_problem_information: bool = True
    request_response_information: bool = False
    response_information: str | None = None
    server_reference: str | None = None
    authentication_method: str | None = None

    def learn(self, packet: Connect | Connack) -> None:
        """Take over the properties of a CONNECT or CONNACK."""
        for identifier, value in packet.properties.items():
            name = identifier.name.lower()
            if name in _LEARNT:
                flag = isinstance(getattr(self, name), bool)
                setattr(self, name, bool(value) if flag else value)


_LEARNT: Final = frozenset(Peer.__dataclass_fields__)


class Connection:
    """A connection of one role.

    Args:
        role: Ours.
        max_packet_size: The largest packet that we take, in bytes; announce it to the peer.
        max_login_size: The largest CONNECT or AUTH that we take, in bytes.
        topic_alias_maximum: How many topic aliases we let the peer use; announce it to the peer.
        topic_aliases_out: How many topic aliases we use, if the peer takes as many.
        max_qos: The highest QoS of messages that we take; announce it to the peer.
        retain: Whether we take messages to retain; announce it to the peer.
        max_payload: The largest payload that we take, in bytes.
        max_filters: How many filters we take in one SUBSCRIBE or UNSUBSCRIBE.
        strict_client_id: On a server, refuse long client identifiers of MQTT 3.1.
        now: Seconds on the caller's monotonic clock.
        out: Where bytes to send are appended; the network link may share its own list.

    Attributes:
        peer: The limits of the other side, as far as they are known.
        version: 3, 4 or 5; None before CONNECT.
        received_at: When something came last: on a server a complete packet (MQTT-3.1.2-22), on a
            client any byte. A caller that stops reading on purpose moves it on.
        sent_at: When this object last pinged. A caller may move it on as it sends, to save pings.
    """

    __slots__ = (
        "_decoder",
        "_keep_alive",
        "_pinged_at",
        "_session_expiry",
        "_topic_alias_maximum",
        "_topic_aliases_out",
        "aliases",
        "out",
        "peer",
        "received_at",
        "role",
        "sent_at",
        "state",
        "version",
    )

    def __init__(
        self,
        role: Role,
        *,
        now: float,
        max_packet_size: int = MAX_PACKET_SIZE,
        max_login_size: int = MAX_PACKET_SIZE,
        topic_alias_maximum: int = 0,
        topic_aliases_out: int = 0,
        max_qos: int = 2,
        retain: bool = True,
        max_payload: int = MAX_PACKET_SIZE,
        max_filters: int = MAX_PACKET_SIZE,
        strict_client_id: bool = False,
        out: list[bytes] | None = None,
    ) -> None:
        self.role = role
        self.state = State.NEW
        self.version: int | None = None
        self.peer = Peer()
        self.out: list[bytes] = [] if out is None else out
        self.aliases: OutboundAliases | None = None
        """The topic aliases that we use; None if none are wanted, or taken by the peer."""
        self.received_at = self.sent_at = now
        self._pinged_at: float | None = None
        self._keep_alive = 0
        self._session_expiry = 0
        self._topic_alias_maximum = topic_alias_maximum
        self._topic_aliases_out = topic_aliases_out
        self._decoder = Decoder(
            role,
            max_packet_size=max_packet_size,
            max_login_size=max_login_size,
            first_packet=PacketType.CONNECT if role is Role.SERVER else PacketType.CONNACK,
            strict_client_id=strict_client_id,
            max_qos=max_qos,
            retain=retain,
            max_payload=max_payload,
            max_filters=max_filters,
        )

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes from the network; what they mean, in order.

        The caller owes: an answer to each event by the rules of its QoS; PINGRESP for a PINGREQ; on
        a server a CONNACK by `send` for a CONNECT; for an MQTTError, which is always the last
        event, `answer`, then to send `out` and close.
        """
        if self.state is not _CONNECTED and self.state is State.CLOSED:
            return []
        events = self._decoder.feed(data)
        if events or self.role is _CLIENT:
            self.received_at = now
        if self.state is not _CONNECTED or self._decoder.ended:
            return self._advance(events)
        return events

    def send(self, packet: Packet) -> None:
        """Queue a packet, if state, version and the peer's limits allow it.

        Reason string and user properties are left out of an answer where the peer does not want
        them or they would make it too large.

        Raises:
            LocalProtocolError: The packet is not legal here; nothing was queued.
        """
        kind = packet.packet_type
        allowed = BY_CLIENT if self.role is _CLIENT else BY_SERVER
        after = allowed.get((self.state, kind))
        if after is None:
            raise LocalProtocolError(f"{kind.name} may not be sent while {self.state.name.lower()}")
        version = packet.version if isinstance(packet, Connect) else self.version or 4
        if kind in _LIMITED:
            self._check_limits(packet, version)
        self.out.append(self._encode(packet, version))
        if after is not self.state:
            if isinstance(packet, Connect):
                self._sent_connect(packet)
            elif isinstance(packet, Connack):
                after = self._sent_connack(packet)
            self.state = after

    def take(self) -> list[bytes]:
        """The bytes to send since the last call; for callers that do not share `out`."""
        taken = self.out[:]
        self.out.clear()
        return taken

    def limit_filters(self, most: int) -> None:
        """Take another `max_filters` from here on."""
        self._decoder.limit_filters(most)

    @property
    def keep_alive(self) -> int:
        """The keep alive time in seconds that holds on this connection; 0 is off."""
        return self._keep_alive

    def deadline(self) -> float | None:
        """When `tick` has something to do at the earliest; None for never.

        It moves on as bytes come and go, so a caller may arm one timer and ask again when it fires.
        """
        if not self._keep_alive or self.state is not State.CONNECTED:
            return None
        if self.role is Role.SERVER:
            return self.received_at + self._keep_alive * KEEP_ALIVE_FACTOR
        if self._pinged_at is not None and self.received_at <= self._pinged_at:
            return self._pinged_at + self._keep_alive
        return min(self.sent_at, self.received_at) + self._keep_alive

    def tick(self, now: float) -> MQTTError | None:
        """Act on the time: a client queues the PINGREQ that is due; an error if the peer is dead.

        A client pings when it sent or received nothing for a keep alive time, so that a peer that
        vanished is found even while we only send. Anything that comes after the PINGREQ shows that
        the peer lives. The caller owes `answer` for the error.
        """
        due = self.deadline()
        if due is None or now < due:
            return None
        if self.role is Role.SERVER:
            return ProtocolViolation("keep alive time-out", 0x8D, "MQTT-3.1.2-22")
        if self._pinged_at is not None and self.received_at <= self._pinged_at:
            return ProtocolViolation("no answer to PINGREQ", 0x8D)
        self.out.append(PINGREQ)
        self._pinged_at = self.sent_at = now
        return None

    def answer(self, error: MQTTError) -> None:
        """Queue what the peer is told about `error`, if anything, and go to CLOSED.

        Version 5: CONNACK or DISCONNECT with the reason code. Below: a CONNACK return code while
        the session is not open, if there is one for the reason, else nothing (MQTT-3.1.4-1). The
        caller owes to send `out` and close.
        """
        state, self.state = self.state, State.CLOSED
        if self.role is Role.SERVER and state in (State.NEW, State.CONNECTING):
            self._refuse(error)
        elif self.version == 5 and state is State.CONNECTED:
            code = _code_for(error, PacketType.DISCONNECT)
            self._tell(Disconnect(code, _reason_string(error)))

    def close(self) -> None:
        """The network connection is gone: nothing may be sent or received any more."""
        self.state = State.CLOSED

    # -- receiving ---------------------------------------------------------------------------

    def _advance(self, events: list[Event]) -> list[Event]:
        """Walk through the transitions of `events`; cut behind the first that is not allowed."""
        for index, event in enumerate(events):
            if isinstance(event, MQTTError):
                continue
            try:
                self._received(event)
            except MQTTError as error:
                self._decoder.failed = True
                return [*events[:index], error]
        return events

    def _received(self, event: Event) -> None:
        if isinstance(event, tuple):
            kind = PacketType.PUBLISH
        elif isinstance(event, list):
            kind = PacketType.PUBACK
        else:
            assert not isinstance(event, MQTTError)
            kind = event.packet_type
        allowed = BY_SERVER if self.role is _CLIENT else BY_CLIENT
        after = allowed.get((self.state, kind))
        if after is None:
            raise ProtocolViolation(f"{kind.name} while {self.state.name.lower()}")
        if isinstance(event, Connect):
            self._received_connect(event)
        elif isinstance(event, Connack):
            after = self._received_connack(event)
        elif self._authenticating() and kind not in _DURING_AUTHENTICATION:
            raise ProtocolViolation(f"{kind.name} before CONNACK", None, "MQTT-3.1.2-30")
        if isinstance(event, Auth):
            self._check_method(event)
        if isinstance(event, Disconnect) and self.role is Role.SERVER:
            interval = event.properties.get(PropertyId.SESSION_EXPIRY_INTERVAL, 0)
            if interval and not self._session_expiry:
                raise ProtocolViolation("session expiry set at DISCONNECT after 0 at CONNECT")
        self.state = after

    def _received_connect(self, packet: Connect) -> None:
        self.version = packet.version
        self.peer.learn(packet)
        self._keep_alive = packet.keep_alive
        self._session_expiry = self.peer.session_expiry_interval or 0
        if packet.version == 5 and self._topic_alias_maximum:
            self._decoder.aliases = InboundAliases(self._topic_alias_maximum)

    def _authenticating(self) -> bool:
        return (
            self.state is State.CONNECTING
            and self.role is Role.SERVER
            and self.peer.authentication_method is not None
        )

    def _received_connack(self, packet: Connack) -> State:
        if packet.code:
            self.peer.server_reference = packet.properties.get(PropertyId.SERVER_REFERENCE)
            return State.CLOSED
        method = packet.properties.get(PropertyId.AUTHENTICATION_METHOD)
        if method is not None and method != self.peer.authentication_method:
            raise ProtocolViolation("another authentication method", None, "MQTT-4.12.0-6")
        self.peer.learn(packet)
        if self.peer.server_keep_alive is not None:  # MQTT-3.1.2-21
            self._keep_alive = self.peer.server_keep_alive
        self._open_aliases()
        return State.CONNECTED

    def _check_method(self, packet: Auth) -> None:
        """MQTT-4.12.0-5: AUTH names the method of the CONNECT."""
        method = packet.properties.get(PropertyId.AUTHENTICATION_METHOD)
        if method is not None and method != self.peer.authentication_method:
            raise ProtocolViolation("another authentication method", 0x8C, "MQTT-4.12.0-5")

    # -- sending -----------------------------------------------------------------------------

    def _sent_connect(self, packet: Connect) -> None:
        self.version = packet.version
        self._keep_alive = packet.keep_alive
        method = packet.properties.get(PropertyId.AUTHENTICATION_METHOD)
        self.peer.authentication_method = method
        aliases = InboundAliases(self._topic_alias_maximum) if packet.version == 5 else None
        self._decoder.expect(packet.version, aliases, auth=method is not None)

    def _sent_connack(self, packet: Connack) -> State:
        if packet.code:
            return State.CLOSED
        keep_alive = packet.properties.get(PropertyId.SERVER_KEEP_ALIVE)
        if keep_alive is not None:
            self._keep_alive = keep_alive
        expiry = packet.properties.get(PropertyId.SESSION_EXPIRY_INTERVAL)
        if expiry is not None:
            self._session_expiry = expiry
        self._open_aliases()
        return State.CONNECTED

    def _open_aliases(self) -> None:
        maximum = min(self._topic_aliases_out, self.peer.topic_alias_maximum)
        if maximum:
            self.aliases = OutboundAliases(maximum)

    def _check_limits(self, packet: Packet, version: int) -> None:
        kind, peer = packet.packet_type, self.peer
        if version < 5 and (
            kind is PacketType.AUTH or (kind is PacketType.DISCONNECT and self.role is Role.SERVER)
        ):
            raise LocalProtocolError(f"a {kind.name} from here exists only in MQTT 5")
        if kind is PacketType.AUTH and peer.authentication_method is None:
            raise LocalProtocolError("AUTH without a method", None, "MQTT-4.12.0-6")
        if isinstance(packet, Publish):
            if packet.qos > peer.maximum_qos:
                raise LocalProtocolError("QoS above the peer's", 0x9B, "MQTT-3.2.2-11")
            if packet.retain and not peer.retain_available:
                raise LocalProtocolError("the peer takes no retain", 0x9A, "MQTT-3.2.2-14")
        if isinstance(packet, Subscribe):
            self._check_subscribe(packet)

    def _check_subscribe(self, packet: Subscribe) -> None:
        peer = self.peer
        filters = [filter_ for filter_, _ in packet.filters]
        if not peer.wildcard_subscription_available and any(
            is_wildcard(filter_) for filter_ in filters
        ):
            raise LocalProtocolError("the peer takes no wildcards", 0xA2, "MQTT-3.2.2-21")
        if not peer.shared_subscription_available and any(
            split_shared(filter_)[0] is not None for filter_ in filters
        ):
            raise LocalProtocolError("the peer takes no shared subscriptions", 0x9E)
        if (
            not peer.subscription_identifier_available
            and PropertyId.SUBSCRIPTION_IDENTIFIER in packet.properties
        ):
            raise LocalProtocolError("the peer takes no subscription identifiers", 0xA1)

    def _encode(self, packet: Packet, version: int) -> bytes:
        encoded = self.fitting(packet, version)
        if len(encoded) > self.peer.maximum_packet_size:
            raise LocalProtocolError(
                f"{packet.packet_type.name} of {len(encoded)} bytes is too large for the peer",
                0x95,
                "MQTT-3.1.2-24",
            )
        return encoded

    def fitting(self, packet: Packet, version: int) -> bytes:
        """Encode a packet; an answer with as much of its explanation as the peer takes.

        MQTT-3.4.2-2, -3 and their like: not beyond the maximum packet size; MQTT-3.1.2-29: without
        request problem information only in PUBLISH, CONNACK and DISCONNECT.
        """
        encoded = encode(packet, version)
        if not isinstance(packet, _EXPLAINING) or not packet.properties:
            return encoded
        wanted = self.peer.request_problem_information or isinstance(packet, Connack | Disconnect)
        if wanted and len(encoded) <= self.peer.maximum_packet_size:
            return encoded
        properties = packet.properties
        try:
            packet.properties = {
                key: value for key, value in properties.items() if key not in _EXPLANATIONS
            }
            return encode(packet, version)
        finally:
            packet.properties = properties

    def _tell(self, packet: Connack | Disconnect) -> None:
        encoded = self.fitting(packet, 5)
        if len(encoded) <= self.peer.maximum_packet_size:
            self.out.append(encoded)

    def _refuse(self, error: MQTTError) -> None:
        version = self.version or self._decoder.version
        if version is None and isinstance(error, UnsupportedProtocol):
            if error.level is None:  # nobody speaks MQTT there
                return
            version = 5 if error.level > 5 else 4
        if version is None:
            return
        if version == 5:
            code = _code_for(error, PacketType.CONNACK)
            self._tell(Connack(False, code, _reason_string(error)))
        elif error.reason in RETURN_CODES and not isinstance(error, MalformedPacket):
            self.out.append(encode(Connack(False, RETURN_CODES[error.reason]), version))


_DURING_AUTHENTICATION: Final = (PacketType.AUTH, PacketType.DISCONNECT)

_EXPLANATIONS: Final = (PropertyId.REASON_STRING, PropertyId.USER_PROPERTY)

_EXPLAINING: Final = (
    Connack,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Suback,
    Unsuback,
    Disconnect,
    Auth,
)

_LIMITED: Final = frozenset(
    {PacketType.PUBLISH, PacketType.SUBSCRIBE, PacketType.DISCONNECT, PacketType.AUTH}
)
"""What the peer, or the version, may not take."""


def _code_for(error: MQTTError, kind: PacketType) -> int:
    """The error's reason, or the nearest that this packet may carry."""
    if error.reason in CODES[kind] and error.reason >= 0x80:
        return error.reason
    return ReasonCode.UNSPECIFIED_ERROR


def _reason_string(error: MQTTError) -> dict[PropertyId, str]:
    return {PropertyId.REASON_STRING: str(error)} if str(error) else {}
