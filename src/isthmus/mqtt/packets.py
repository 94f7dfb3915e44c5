"""One record per control packet, for every version.

Records are what the decoder yields and the encoder takes, except on the fast path: a PUBLISH comes
as a plain tuple and plain PUBACKs as a list of identifiers (see `codec`). Topics and filters are
bytes, client identifiers and user names are str. `properties` is empty for versions below 5.
Records check nothing; the decoder checks what arrives, `encoder.encode` what leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from isthmus.mqtt.packet_type import PacketType, Role
from isthmus.mqtt.properties import Properties

__all__ = [
    "Auth",
    "Connack",
    "Connect",
    "Disconnect",
    "Packet",
    "PacketType",
    "Pingreq",
    "Pingresp",
    "Puback",
    "Pubcomp",
    "Publish",
    "Pubrec",
    "Pubrel",
    "Role",
    "Suback",
    "Subscribe",
    "SubscribeOptions",
    "Unsuback",
    "Unsubscribe",
    "Will",
]


@dataclass(slots=True)
class Will:
    """The message that the server publishes when the client is gone."""

    topic: bytes
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Connect:
    """The first packet of a client.

    `version` is 3 (MQTT 3.1), 4 (3.1.1) or 5. `clean_start` is the clean session flag below 5.
    `keep_alive` is in seconds, 0 to 65535, 0 is off. `bridge` is bit 7 of the version byte, by
    which a client of 3.1 or 3.1.1 says that it is a bridge.
    """

    packet_type: ClassVar[PacketType] = PacketType.CONNECT

    client_id: str
    version: int = 5
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = field(default_factory=dict)
    bridge: bool = False

    def __repr__(self) -> str:
        """Everything but the password."""
        return (
            f"Connect(client_id={self.client_id!r}, version={self.version}, "
            f"clean_start={self.clean_start}, keep_alive={self.keep_alive}, "
            f"username={self.username!r}, will={self.will!r}, bridge={self.bridge})"
        )


@dataclass(slots=True)
class Connack:
    """The server's answer. `code` is a reason code, or a return code below version 5."""

    packet_type: ClassVar[PacketType] = PacketType.CONNACK

    session_present: bool = False
    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Publish:
    """A message, for senders that are not in a hurry. `properties` is an encoded v5 block."""

    packet_type: ClassVar[PacketType] = PacketType.PUBLISH

    topic: bytes
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: bytes = b""


@dataclass(slots=True)
class Puback:
    """Ends a QoS 1 message."""

    packet_type: ClassVar[PacketType] = PacketType.PUBACK

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Pubrec:
    """First answer to a QoS 2 message: received, or refused when `code` is 0x80 or more."""

    packet_type: ClassVar[PacketType] = PacketType.PUBREC

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Pubrel:
    """The sender forgets a QoS 2 message and lets its identifier go."""

    packet_type: ClassVar[PacketType] = PacketType.PUBREL

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Pubcomp:
    """Ends a QoS 2 message."""

    packet_type: ClassVar[PacketType] = PacketType.PUBCOMP

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class SubscribeOptions:
    """How one filter is subscribed. `retain_handling` is 0 send, 1 send if new, 2 do not send."""

    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    """Asks for messages; at least one filter."""

    packet_type: ClassVar[PacketType] = PacketType.SUBSCRIBE

    packet_id: int
    filters: list[tuple[bytes, SubscribeOptions]]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Suback:
    """One code per filter of the SUBSCRIBE, in its order: granted QoS or a failure."""

    packet_type: ClassVar[PacketType] = PacketType.SUBACK

    packet_id: int
    codes: list[int]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsubscribe:
    """Ends subscriptions; at least one filter."""

    packet_type: ClassVar[PacketType] = PacketType.UNSUBSCRIBE

    packet_id: int
    filters: list[bytes]
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Unsuback:
    """One code per filter of the UNSUBSCRIBE, in its order; no codes below version 5."""

    packet_type: ClassVar[PacketType] = PacketType.UNSUBACK

    packet_id: int
    codes: list[int] = field(default_factory=list)
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Pingreq:
    """Are you there?"""

    packet_type: ClassVar[PacketType] = PacketType.PINGREQ


@dataclass(slots=True)
class Pingresp:
    """Yes."""

    packet_type: ClassVar[PacketType] = PacketType.PINGRESP


@dataclass(slots=True)
class Disconnect:
    """The last packet; from a server only in version 5."""

    packet_type: ClassVar[PacketType] = PacketType.DISCONNECT

    code: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Auth:
    """A step of enhanced authentication; version 5 only."""

    packet_type: ClassVar[PacketType] = PacketType.AUTH

    code: int = 0
    properties: Properties = field(default_factory=dict)


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
