"""Packet types, the two roles, and which side may send what.

Owns the numbers of the fixed header. The tables here are data for the decoder, the connection and
the documentation; nothing here looks at bytes of a body.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class PacketType(IntEnum):
    """The upper four bits of a packet's first byte."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


WILL: Final = 0
"""Stands for the will inside a CONNECT in tables that are keyed by packet type."""


class Role(IntEnum):
    """Which side of a connection *we* are."""

    SERVER = 0
    CLIENT = 1


FLAGS: Final[dict[PacketType, int]] = {
    kind: 2 if kind in (PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE) else 0
    for kind in PacketType
    if kind is not PacketType.PUBLISH
}
"""The low four bits of the first byte, fixed for all but PUBLISH (MQTT-2.1.3-1)."""

RECEIVED_BY: Final[dict[Role, frozenset[PacketType]]] = {
    Role.SERVER: frozenset(PacketType)
    - {PacketType.CONNACK, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP},
    Role.CLIENT: frozenset(PacketType)
    - {PacketType.CONNECT, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE, PacketType.PINGREQ},
}
"""What the other side may send to each role in MQTT 5; `receivable` narrows it for the others."""


def receivable(role: Role, version: int) -> frozenset[PacketType]:
    """The packet types that `role` accepts: AUTH, and DISCONNECT from a server, need MQTT 5."""
    types = RECEIVED_BY[role]
    if version < 5:
        types -= {PacketType.AUTH}
        if role is Role.CLIENT:
            types -= {PacketType.DISCONNECT}
    return types
