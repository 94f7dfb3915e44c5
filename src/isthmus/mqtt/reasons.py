"""Reason codes of MQTT 5, CONNACK return codes of 3.1 and 3.1.1, and sentences for people.

One table says in which packets each code may stand (MQTT 5, section 2.4); the decoder, the encoder
and the tests read it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Final

from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.properties import Properties, PropertyId

_CONNACK = PacketType.CONNACK
_PUBACK = PacketType.PUBACK
_PUBREC = PacketType.PUBREC
_PUBREL = PacketType.PUBREL
_PUBCOMP = PacketType.PUBCOMP
_SUBACK = PacketType.SUBACK
_UNSUBACK = PacketType.UNSUBACK
_DISCONNECT = PacketType.DISCONNECT
_AUTH = PacketType.AUTH


class ReasonCode(IntEnum):
    """MQTT 5 reason codes. 0x80 and above mean failure."""

    SUCCESS = 0x00
    NORMAL_DISCONNECTION = 0x00
    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    RE_AUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


_TABLE: Final[dict[int, tuple[tuple[PacketType, ...], str]]] = {
    0x00: (
        (_CONNACK, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP, _SUBACK, _UNSUBACK, _DISCONNECT, _AUTH),
        "success",
    ),
    0x01: ((_SUBACK,), "subscribed with QoS 1"),
    0x02: ((_SUBACK,), "subscribed with QoS 2"),
    0x04: ((_DISCONNECT,), "disconnected, and the will is to be published"),
    0x10: ((_PUBACK, _PUBREC), "taken, but nobody is subscribed"),
    0x11: ((_UNSUBACK,), "there was no such subscription"),
    0x18: ((_AUTH,), "the authentication goes on"),
    0x19: ((_AUTH,), "a new authentication begins"),
    0x80: (
        (_CONNACK, _PUBACK, _PUBREC, _SUBACK, _UNSUBACK, _DISCONNECT),
        "refused without a reason",
    ),
    0x81: ((_CONNACK, _DISCONNECT), "the packet could not be decoded"),
    0x82: ((_CONNACK, _DISCONNECT), "the packet is not allowed here"),
    0x83: (
        (_CONNACK, _PUBACK, _PUBREC, _SUBACK, _UNSUBACK, _DISCONNECT),
        "refused for a reason of this implementation",
    ),
    0x84: ((_CONNACK,), "this version of MQTT is not supported"),
    0x85: ((_CONNACK,), "the client identifier is not allowed"),
    0x86: ((_CONNACK,), "user name or password is wrong"),
    0x87: (
        (_CONNACK, _PUBACK, _PUBREC, _SUBACK, _UNSUBACK, _DISCONNECT),
        "not authorized",
    ),
    0x88: ((_CONNACK,), "the server is not available"),
    0x89: ((_CONNACK, _DISCONNECT), "the server is busy; try again later"),
    0x8A: ((_CONNACK,), "this client is banned"),
    0x8B: ((_DISCONNECT,), "the server is shutting down"),
    0x8C: ((_CONNACK, _DISCONNECT), "the authentication method is not supported"),
    0x8D: ((_DISCONNECT,), "nothing was received within the keep alive time"),
    0x8E: ((_DISCONNECT,), "another connection took the session over"),
    0x8F: ((_SUBACK, _UNSUBACK, _DISCONNECT), "the topic filter is not valid"),
    0x90: ((_CONNACK, _PUBACK, _PUBREC, _DISCONNECT), "the topic name is not valid"),
    0x91: ((_PUBACK, _PUBREC, _SUBACK, _UNSUBACK), "the packet identifier is in use"),
    0x92: ((_PUBREL, _PUBCOMP), "the packet identifier is not known"),
    0x93: ((_DISCONNECT,), "more messages in flight than the receive maximum allows"),
    0x94: ((_DISCONNECT,), "the topic alias is not valid"),
    0x95: ((_CONNACK, _DISCONNECT), "the packet is larger than allowed"),
    0x96: ((_DISCONNECT,), "messages come faster than allowed"),
    0x97: ((_CONNACK, _PUBACK, _PUBREC, _SUBACK, _DISCONNECT), "a quota is used up"),
    0x98: ((_DISCONNECT,), "closed by an administrator"),
    0x99: ((_CONNACK, _PUBACK, _PUBREC, _DISCONNECT), "the payload is not what its format says"),
    0x9A: ((_CONNACK, _DISCONNECT), "retained messages are not supported"),
    0x9B: ((_CONNACK, _DISCONNECT), "this QoS is not supported"),
    0x9C: ((_CONNACK, _DISCONNECT), "use another server for now"),
    0x9D: ((_CONNACK, _DISCONNECT), "the server has moved for good"),
    0x9E: ((_SUBACK, _DISCONNECT), "shared subscriptions are not supported"),
    0x9F: ((_CONNACK, _DISCONNECT), "connections come faster than allowed"),
    0xA0: ((_DISCONNECT,), "the longest connection time is over"),
    0xA1: ((_SUBACK, _DISCONNECT), "subscription identifiers are not supported"),
    0xA2: ((_SUBACK, _DISCONNECT), "subscriptions with wildcards are not supported"),
}

PACKETS: Final[dict[ReasonCode, frozenset[PacketType]]] = {
    ReasonCode(code): frozenset(packets) for code, (packets, _) in _TABLE.items()
}
"""Where each reason code may stand."""

CODES: Final[dict[PacketType, frozenset[int]]] = {
    packet: frozenset(int(code) for code, packets in PACKETS.items() if packet in packets)
    for packet in PacketType
}
"""The same, by packet: the reason codes that it may carry (empty where it has none)."""


class ReturnCode(IntEnum):
    """CONNACK return codes of MQTT 3.1 and 3.1.1."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


RETURN_CODES: Final[dict[int, ReturnCode]] = {
    ReasonCode.SUCCESS: ReturnCode.ACCEPTED,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: ReturnCode.IDENTIFIER_REJECTED,
    ReasonCode.SERVER_UNAVAILABLE: ReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.SERVER_BUSY: ReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.QUOTA_EXCEEDED: ReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.USE_ANOTHER_SERVER: ReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.SERVER_MOVED: ReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.CONNECTION_RATE_EXCEEDED: ReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: ReturnCode.BAD_USER_NAME_OR_PASSWORD,
    ReasonCode.NOT_AUTHORIZED: ReturnCode.NOT_AUTHORIZED,
    ReasonCode.BANNED: ReturnCode.NOT_AUTHORIZED,
    ReasonCode.BAD_AUTHENTICATION_METHOD: ReturnCode.NOT_AUTHORIZED,
}
"""The reason codes that MQTT 3.1.1 has a word for. For any other it only closes (MQTT-3.2.2-6)."""

_RETURN_TEXTS: Final = {
    ReturnCode.ACCEPTED: "success",
    ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION: "this version of MQTT is not supported",
    ReturnCode.IDENTIFIER_REJECTED: "the client identifier is not allowed",
    ReturnCode.SERVER_UNAVAILABLE: "the server is not available",
    ReturnCode.BAD_USER_NAME_OR_PASSWORD: "user name or password is wrong",
    ReturnCode.NOT_AUTHORIZED: "not authorized",
}


def return_code(reason: int) -> ReturnCode:
    """The 3.1.1 CONNACK return code nearest to an MQTT 5 reason; SERVER_UNAVAILABLE if none is."""
    return RETURN_CODES.get(reason, ReturnCode.SERVER_UNAVAILABLE)


def explanation(codes: Collection[int], told: Mapping[int, str] | None = None) -> Properties:
    """The reason string of an answer with these codes; nothing where all of them say yes.

    Each refusal stands in it once, in the order of the codes. `told` has better words for some.
    """
    if max(codes) <= ReasonCode.GRANTED_QOS_2:
        return {}
    refusals = dict.fromkeys(code for code in codes if code > ReasonCode.GRANTED_QOS_2)
    words = ((told or {}).get(code) or _TABLE[code][1] for code in refusals)
    return {PropertyId.REASON_STRING: "; ".join(words)}


def describe(code: int, version: int = 5) -> str:
    """A sentence for people, such as `0x87 not authorized`.

    Args:
        code: A reason code, or for a `version` below 5 a CONNACK return code.
        version: 3, 4 or 5.
    """
    if version < 5 and code < 0x80:
        try:
            return f"{code} {_RETURN_TEXTS[ReturnCode(code)]}"
        except ValueError:
            return f"{code} unknown return code"
    row = _TABLE.get(code)
    return f"0x{code:02X} {row[1]}" if row else f"0x{code:02X} unknown reason code"
