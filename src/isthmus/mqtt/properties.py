"""Properties of MQTT 5: one table, and everything that it drives.

`TABLE` says for each identifier its name, type, range, the packets that may carry it and where it
may repeat (section 2.2.2.2). Decoder, encoder, the scan of PUBLISH blocks, tests and documentation
read that table; no rule about a single property stands anywhere else, except what a rule has to say
about two properties together.

A PUBLISH keeps its properties as an encoded block: it is checked once, remembered by its bytes
(`PublishBlocks`) and passed on as it is, without topic alias and subscription identifiers, which
belong to one connection.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

from isthmus.errors import LocalProtocolError, MalformedPacket, MQTTError, ProtocolViolation
from isthmus.mqtt import wire
from isthmus.mqtt.packet_type import WILL, PacketType
from isthmus.mqtt.topics import is_wildcard


class PropertyId(IntEnum):
    """Property identifiers."""

    PAYLOAD_FORMAT_INDICATOR = 0x01
    MESSAGE_EXPIRY_INTERVAL = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_IDENTIFIER = 0x0B
    SESSION_EXPIRY_INTERVAL = 0x11
    ASSIGNED_CLIENT_IDENTIFIER = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY_INTERVAL = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28
    SUBSCRIPTION_IDENTIFIER_AVAILABLE = 0x29
    SHARED_SUBSCRIPTION_AVAILABLE = 0x2A


Properties: TypeAlias = dict[PropertyId, Any]
"""Decoded properties. Integers are int, strings str, binary data and topics bytes; the user
property is a list of (name, value), the subscription identifier a list of int."""


class PropertyType(Enum):
    """How a value is written."""

    BYTE = "byte"
    TWO_BYTES = "two byte integer"
    FOUR_BYTES = "four byte integer"
    VARINT = "variable byte integer"
    STRING = "UTF-8 string"
    TOPIC = "UTF-8 string that is a topic name"
    BINARY = "binary data"
    PAIR = "UTF-8 string pair"


class Property(NamedTuple):
    """One row of the table.

    `packets` and `repeatable` hold packet types, and `WILL` for the will of a CONNECT. A number
    below `low` or above `high` is answered with `reason`.
    """

    name: str
    type: PropertyType
    packets: frozenset[int]
    repeatable: frozenset[int] = frozenset()
    low: int = 0
    high: int = 0xFFFFFFFF
    reason: int = 0x82


_BYTE = PropertyType.BYTE
_TWO = PropertyType.TWO_BYTES
_FOUR = PropertyType.FOUR_BYTES
_STRING = PropertyType.STRING
_BINARY = PropertyType.BINARY

_CONNECT = frozenset({int(PacketType.CONNECT)})
_CONNACK = frozenset({int(PacketType.CONNACK)})
_PUBLISH = frozenset({int(PacketType.PUBLISH)})
_SUBSCRIBE = frozenset({int(PacketType.SUBSCRIBE)})
_DISCONNECT = frozenset({int(PacketType.DISCONNECT)})
_AUTH = frozenset({int(PacketType.AUTH)})
_WILL = frozenset({WILL})
_HANDSHAKE = _CONNECT | _CONNACK
_MESSAGE = _PUBLISH | _WILL
_ANSWERS = frozenset(
    int(kind)
    for kind in PacketType
    if kind.name.endswith("ACK")
    or kind.name in {"PUBREC", "PUBREL", "PUBCOMP", "DISCONNECT", "AUTH"}
)
_ALL = frozenset(int(kind) for kind in PacketType if not kind.name.startswith("PING")) | _WILL

TABLE: Final[dict[PropertyId, Property]] = {
    PropertyId(identifier): row
    for identifier, row in (
        (0x01, Property("Payload Format Indicator", _BYTE, _MESSAGE, high=1)),
        (0x02, Property("Message Expiry Interval", _FOUR, _MESSAGE)),
        (0x03, Property("Content Type", _STRING, _MESSAGE)),
        (0x08, Property("Response Topic", PropertyType.TOPIC, _MESSAGE)),
        (0x09, Property("Correlation Data", _BINARY, _MESSAGE)),
        (
            0x0B,
            Property(
                "Subscription Identifier",
                PropertyType.VARINT,
                _PUBLISH | _SUBSCRIBE,
                _PUBLISH,
                low=1,
                high=wire.MAX_VARINT,
            ),
        ),
        (0x11, Property("Session Expiry Interval", _FOUR, _HANDSHAKE | _DISCONNECT)),
        (0x12, Property("Assigned Client Identifier", _STRING, _CONNACK)),
        (0x13, Property("Server Keep Alive", _TWO, _CONNACK, high=0xFFFF)),
        (0x15, Property("Authentication Method", _STRING, _HANDSHAKE | _AUTH)),
        (0x16, Property("Authentication Data", _BINARY, _HANDSHAKE | _AUTH)),
        (0x17, Property("Request Problem Information", _BYTE, _CONNECT, high=1)),
        (0x18, Property("Will Delay Interval", _FOUR, _WILL)),
        (0x19, Property("Request Response Information", _BYTE, _CONNECT, high=1)),
        (0x1A, Property("Response Information", _STRING, _CONNACK)),
        (0x1C, Property("Server Reference", _STRING, _CONNACK | _DISCONNECT)),
        (0x1F, Property("Reason String", _STRING, _ANSWERS)),
        (0x21, Property("Receive Maximum", _TWO, _HANDSHAKE, low=1, high=0xFFFF)),
        (0x22, Property("Topic Alias Maximum", _TWO, _HANDSHAKE, high=0xFFFF)),
        (0x23, Property("Topic Alias", _TWO, _PUBLISH, low=1, high=0xFFFF, reason=0x94)),
        (0x24, Property("Maximum QoS", _BYTE, _CONNACK, high=1)),
        (0x25, Property("Retain Available", _BYTE, _CONNACK, high=1)),
        (0x26, Property("User Property", PropertyType.PAIR, _ALL, _ALL)),
        (0x27, Property("Maximum Packet Size", _FOUR, _HANDSHAKE, low=1)),
        (0x28, Property("Wildcard Subscription Available", _BYTE, _CONNACK, high=1)),
        (0x29, Property("Subscription Identifier Available", _BYTE, _CONNACK, high=1)),
        (0x2A, Property("Shared Subscription Available", _BYTE, _CONNACK, high=1)),
    )
}
"""Every property of MQTT 5."""

MAX_USER_PROPERTIES: Final = 1024
"""User properties per packet, and subscription identifiers. An empty pair is 5 bytes on the wire,
some 70 in memory and 2 microseconds of work: 200,000 of them in one message would keep everybody
else waiting for half a second, and a CONNECT arrives before anyone has shown who they are.
"""

MAX_CACHED_BLOCK: Final = 512
"""Longer PUBLISH blocks, in bytes, are checked every time."""

CACHED_BLOCKS: Final = 2048
"""Blocks per generation of the cache: about 4 MiB with two full generations of the longest ones."""


def _read_topic(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    raw, at = wire.read_utf8(data, at, end)
    _check_response_topic(raw, ProtocolViolation)
    return raw, at


def _check_response_topic(topic: bytes, error: type[MQTTError]) -> None:
    if not topic or is_wildcard(topic):
        raise error("the response topic is no topic name", None, "MQTT-3.3.2-14")


def _read_pair(data: bytes, at: int, end: int) -> tuple[tuple[str, str], int]:
    name, at = wire.read_string(data, at, end)
    value, at = wire.read_string(data, at, end)
    return (name, value), at


def _write_topic(value: bytes) -> bytes:
    _check_response_topic(value, LocalProtocolError)
    return wire.binary(value)


def _write_pair(value: tuple[str, str]) -> bytes:
    return wire.string(value[0]) + wire.string(value[1])


def _write_byte(value: int) -> bytes:
    return bytes((value,))


_Reader: TypeAlias = Callable[[bytes, int, int], tuple[Any, int]]

_READ: Final[dict[PropertyType, _Reader]] = {
    PropertyType.BYTE: wire.read_byte,
    PropertyType.TWO_BYTES: wire.read_u16,
    PropertyType.FOUR_BYTES: wire.read_u32,
    PropertyType.VARINT: wire.read_varint,
    PropertyType.STRING: wire.read_string,
    PropertyType.TOPIC: _read_topic,
    PropertyType.BINARY: wire.read_binary,
    PropertyType.PAIR: _read_pair,
}

_WRITE: Final[dict[PropertyType, Callable[[Any], bytes]]] = {
    PropertyType.BYTE: _write_byte,
    PropertyType.TWO_BYTES: wire.u16,
    PropertyType.FOUR_BYTES: wire.u32,
    PropertyType.VARINT: wire.varint,
    PropertyType.STRING: wire.string,
    PropertyType.TOPIC: _write_topic,
    PropertyType.BINARY: wire.binary,
    PropertyType.PAIR: _write_pair,
}

_NUMBERS: Final = frozenset({_BYTE, _TWO, _FOUR, PropertyType.VARINT})

_Rule: TypeAlias = tuple[PropertyId, _Reader, bool, bool, Property]
# identifier, reader, repeatable here, is a number, row


def _rules(packet_type: int) -> dict[int, _Rule]:
    return {
        int(identifier): (
            identifier,
            _READ[row.type],
            packet_type in row.repeatable,
            row.type in _NUMBERS,
            row,
        )
        for identifier, row in TABLE.items()
        if packet_type in row.packets
    }


_RULES: Final[dict[int, dict[int, _Rule]]] = {kind: _rules(kind) for kind in range(16)}
_PUBLISH_RULES: Final = _RULES[PacketType.PUBLISH]
_USER_PROPERTY: Final = int(PropertyId.USER_PROPERTY)


def _not_here(identifier: int, packet_type: int) -> MalformedPacket:
    where = PacketType(packet_type).name if packet_type else "a will"
    if identifier in TABLE:
        return MalformedPacket(f"{TABLE[PropertyId(identifier)].name} is not for {where}")
    return MalformedPacket(f"property 0x{identifier:02X} does not exist")


def _too_many(identifier: PropertyId) -> ProtocolViolation:
    return ProtocolViolation(f"more than {MAX_USER_PROPERTIES} of {TABLE[identifier].name}", 0x97)


def _check_number(value: int, row: Property) -> None:
    if not row.low <= value <= row.high:
        raise ProtocolViolation(f"{row.name} is {value}", row.reason)


def decode(data: bytes, start: int, end: int, packet_type: int) -> Properties:
    """Decode the properties between `start` and `end`, the length in front already read.

    Args:
        data: Holds the properties.
        start: Of the first property.
        end: Behind the last one.
        packet_type: The packet that they stand in, or `WILL`.

    Raises:
        MalformedPacket: Not decodable, unknown, or not for this packet (0x81).
        ProtocolViolation: Twice, out of range, or too many (0x82, 0x94, 0x97).
    """
    found: Properties = {}
    rules = _RULES[packet_type]
    at = start
    while at < end:
        rule = rules.get(data[at])
        if rule is None:
            raise _not_here(data[at], packet_type)
        identifier, read, repeatable, number, row = rule
        value, at = read(data, at + 1, end)
        if number:
            _check_number(value, row)
        if identifier in found and not repeatable:
            raise ProtocolViolation(f"{row.name} is there twice")
        if row.repeatable:
            values = found.setdefault(identifier, [])
            values.append(value)
            if len(values) > MAX_USER_PROPERTIES:
                raise _too_many(identifier)
        else:
            found[identifier] = value
    if PropertyId.AUTHENTICATION_DATA in found and PropertyId.AUTHENTICATION_METHOD not in found:
        raise ProtocolViolation("authentication data without a method")
    return found


def encode(props: Properties, packet_type: int) -> bytes:
    """Encode properties without the length in front.

    Raises:
        LocalProtocolError: One of them is not for this packet, or has an illegal value.
    """
    if not props:
        return b""
    parts: list[bytes] = []
    rules = _RULES[packet_type]
    for identifier, value in props.items():
        rule = rules.get(identifier)
        if rule is None:
            raise LocalProtocolError(str(_not_here(identifier, packet_type)))
        _, _, repeatable, number, row = rule
        write = _WRITE[row.type]
        values = value if row.repeatable else (value,)
        if len(values) > 1 and not repeatable:
            raise LocalProtocolError(f"{row.name} may be there only once")
        for one in values:
            if number and not row.low <= one <= row.high:
                raise LocalProtocolError(f"{row.name} is {one}", row.reason)
            parts.append(bytes((identifier,)) + write(one))
    return b"".join(parts)


class PublishBlock:
    """What is known about one encoded block of PUBLISH properties.

    `alias` is the topic alias or 0, `expiry` the message expiry interval in seconds or None,
    `forward` the block to pass on: without alias and subscription identifiers. `expiry_at` is the
    offset of the four expiry bytes in `forward`, or -1. `special` tells a block whose alias or
    subscription identifiers need a second look.
    """

    __slots__ = ("alias", "expiry", "expiry_at", "forward", "special", "subscription_ids")

    def __init__(
        self,
        alias: int,
        expiry: int | None,
        expiry_at: int,
        forward: bytes,
        subscription_ids: tuple[int, ...],
    ) -> None:
        self.alias = alias
        self.expiry = expiry
        self.expiry_at = expiry_at
        self.forward = forward
        self.subscription_ids = subscription_ids
        self.special = bool(alias or subscription_ids)


_NO_BLOCK: Final = PublishBlock(0, None, -1, b"", ())


def scan(block: bytes) -> PublishBlock:
    """Check a block of PUBLISH properties and find what matters. See `decode` for the errors."""
    alias = 0
    expiry = None
    expiry_at = -1
    subscription_ids: list[int] = []
    kept: list[bytes] = []  # pieces to forward, of which `kept_bytes` bytes
    kept_bytes = 0
    piece = 0  # start of the piece under way
    seen = 0  # one bit per identifier
    repeated = 0
    at = 0
    end = len(block)
    while at < end:
        start = at
        identifier = block[at]
        if identifier == _USER_PROPERTY:
            repeated += 1
            if repeated > MAX_USER_PROPERTIES:
                raise _too_many(PropertyId.USER_PROPERTY)
            name, at = wire.read_binary(block, at + 1, end)
            value, at = wire.read_binary(block, at, end)
            wire.check_utf8(name)
            wire.check_utf8(value)
            continue
        rule = _PUBLISH_RULES.get(identifier)
        if rule is None:
            raise _not_here(identifier, PacketType.PUBLISH)
        _, read, repeatable, number, row = rule
        value, at = read(block, at + 1, end)
        if number:
            _check_number(value, row)
        if seen >> identifier & 1 and not repeatable:
            raise ProtocolViolation(f"{row.name} is there twice")
        seen |= 1 << identifier
        if identifier == PropertyId.MESSAGE_EXPIRY_INTERVAL:
            expiry = value
            expiry_at = kept_bytes + start + 1 - piece
        elif identifier in (PropertyId.TOPIC_ALIAS, PropertyId.SUBSCRIPTION_IDENTIFIER):
            if identifier == PropertyId.TOPIC_ALIAS:
                alias = value
            else:
                subscription_ids.append(value)
                if len(subscription_ids) > MAX_USER_PROPERTIES:
                    raise _too_many(PropertyId.SUBSCRIPTION_IDENTIFIER)
            if start > piece:
                kept.append(block[piece:start])
                kept_bytes += start - piece
            piece = at
    if not alias and not subscription_ids:
        return PublishBlock(0, expiry, expiry_at, block, ())
    kept.append(block[piece:])
    return PublishBlock(alias, expiry, expiry_at, b"".join(kept), tuple(subscription_ids))


class PublishBlocks:
    """A bounded cache of checked blocks: two generations, the older one forgotten when full.

    Hot code may bind `young.get` once, the dict stays the same, and calls `look` on a miss.
    """

    __slots__ = ("_limit", "_old", "young")

    def __init__(self, limit: int = CACHED_BLOCKS) -> None:
        self._limit = limit
        self.young: dict[bytes, PublishBlock] = {}
        self._old: dict[bytes, PublishBlock] = {}

    def look(self, block: bytes) -> PublishBlock:
        """What is known about `block`; it is checked if it is new. See `decode` for the errors."""
        found = self.young.get(block)
        if found is not None:
            return found
        found = self._old.get(block)
        if found is None:
            if not block:
                return _NO_BLOCK
            found = scan(block)
        if len(block) <= MAX_CACHED_BLOCK:
            if len(self.young) >= self._limit:
                self._old.clear()
                self._old.update(self.young)
                self.young.clear()
            self.young[block] = found
        return found


BLOCKS: Final = PublishBlocks()
"""The cache that all decoders share: bridges see the same blocks on many links."""


def message_expiry(block: bytes) -> int | None:
    """The message expiry interval of a PUBLISH block, in seconds, or None."""
    return BLOCKS.look(block).expiry if block else None


def with_message_expiry(block: bytes, seconds: int) -> bytes:
    """The block with its message expiry interval set to `seconds` (MQTT-3.3.2-6).

    A block without one is returned as it is. Alias and subscription identifiers may only stand
    behind it.
    """
    at = BLOCKS.look(block).expiry_at
    if at < 0:
        return block
    return block[:at] + wire.u32(seconds) + block[at + 4 :]
