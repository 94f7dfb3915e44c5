"""The variable header and payload of every packet but PUBLISH, from bytes to records.

The decoder has checked the fixed header and cut the packet out before it calls `decode_body`; here
every field is checked, to the last byte. PUBLISH has its own loop in `codec`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from isthmus.errors import MalformedPacket, ProtocolViolation
from isthmus.mqtt import properties, topics, wire
from isthmus.mqtt.packet_type import WILL, PacketType, Role
from isthmus.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscribeOptions,
    Unsuback,
    Unsubscribe,
    Will,
)
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.reasons import CODES

LONGEST_3_1_CLIENT_ID: Final = 23
"""Characters; MQTT 3.1, section 3.1. Later versions have no such limit."""

_NAMES: Final = {(b"MQTT", 4), (b"MQTT", 5), (b"MQIsdp", 3)}


class Receiver(NamedTuple):
    """Who receives: its role, and how many filters it takes in one packet."""

    role: Role
    max_filters: int


def decode_body(
    first_byte: int, data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> Packet:
    """Decode the packet whose body is `data[at:end]`; not CONNECT, which sets the version.

    Raises:
        MalformedPacket: 0x81 for bytes that are no such packet.
        ProtocolViolation: With the code to answer.
    """
    packet, stop = _READERS[first_byte >> 4](data, at, end, version, receiver)
    if stop != end:
        raise _too_long(PacketType(first_byte >> 4))
    return packet


def _too_long(kind: PacketType) -> MalformedPacket:
    return MalformedPacket(f"{kind.name} has bytes behind its last field")


def _block(data: bytes, at: int, end: int, packet_type: int) -> tuple[Properties, int]:
    size, at = wire.read_varint(data, at, end)
    stop = at + size
    if stop > end:
        raise MalformedPacket("the properties are longer than the packet")
    return properties.decode(data, at, stop, packet_type), stop


def _identifier(data: bytes, at: int, end: int) -> tuple[int, int]:
    packet_id, at = wire.read_u16(data, at, end)
    if not packet_id:
        raise ProtocolViolation("the packet identifier is 0", None, "MQTT-2.2.1-3")
    return packet_id, at


def read_protocol(data: bytes, at: int, end: int) -> tuple[int, bool, int]:
    """Read protocol name and level of a CONNECT: (version, is a bridge, next).

    Raises:
        ProtocolViolation: 0x84 for a name or level that is not known. The attribute `level` of the
            error is the level if the name was one of MQTT's, else None: nobody speaks MQTT there.
    """
    name, at = wire.read_utf8(data, at, end)
    level, at = wire.read_byte(data, at, end)
    bridge = level in (0x83, 0x84)
    version = level & 0x7F if bridge else level
    if (name, version) not in _NAMES:
        known = name in (b"MQTT", b"MQIsdp")
        raise UnsupportedProtocol(f"protocol {name[:32]!r} level {level}", level if known else None)
    return version, bridge, at


class UnsupportedProtocol(ProtocolViolation):
    """A CONNECT of a protocol that is not ours. `level` is None if it is not MQTT at all."""

    reason = 0x84

    def __init__(self, text: str, level: int | None) -> None:
        super().__init__(f"{text} is not supported", None, "MQTT-3.1.2-2")
        self.level = level


def decode_connect(
    data: bytes, at: int, end: int, version: int, *, bridge: bool, strict_client_id: bool = False
) -> Connect:
    """Decode a CONNECT behind its protocol level.

    Args:
        data: Holds the packet.
        at: Of the connect flags.
        end: Behind the packet.
        version: As read by `read_protocol`.
        bridge: As read by `read_protocol`.
        strict_client_id: Refuse client identifiers above 23 characters in MQTT 3.1.
    """
    flags, at = wire.read_byte(data, at, end)
    _check_flags(flags, version)
    keep_alive, at = wire.read_u16(data, at, end)
    props: Properties = {}
    if version == 5:
        props, at = _block(data, at, end, PacketType.CONNECT)
    client_id, at = wire.read_string(data, at, end)
    clean_start = bool(flags & 2)
    _check_client_id(client_id, version, clean=clean_start, strict=strict_client_id)
    will = None
    if flags & 4:
        will, at = _will(data, at, end, flags, version)
    username = password = None
    # MQTT 3.1: the remaining length takes precedence over these two flags.
    if flags & 0x80 and not (version == 3 and at == end):
        username, at = wire.read_string(data, at, end)
    if flags & 0x40 and not (version == 3 and at == end):
        password, at = wire.read_binary(data, at, end)
    if at != end:
        raise _too_long(PacketType.CONNECT)
    return Connect(
        client_id, version, clean_start, keep_alive, username, password, will, props, bridge
    )


def _check_flags(flags: int, version: int) -> None:
    if flags & 1:
        raise MalformedPacket("the reserved connect flag is set", None, "MQTT-3.1.2-3")
    if flags & 4:
        if flags & 0x18 == 0x18:
            raise MalformedPacket("the will QoS is 3", None, "MQTT-3.1.2-14")
    elif flags & 0x38:
        raise MalformedPacket("will QoS or retain without a will", None, "MQTT-3.1.2-11")
    if version < 5 and flags & 0xC0 == 0x40:
        raise MalformedPacket("password without user name", None, "MQTT-3.1.2-22")


def _check_client_id(client_id: str, version: int, *, clean: bool, strict: bool) -> None:
    if version == 4 and not client_id and not clean:
        raise ProtocolViolation("no client identifier and no clean session", 0x85, "MQTT-3.1.3-8")
    if version == 3 and (not client_id or (strict and len(client_id) > LONGEST_3_1_CLIENT_ID)):
        raise ProtocolViolation("MQTT 3.1 client identifiers have 1 to 23 characters", 0x85)


def _will(data: bytes, at: int, end: int, flags: int, version: int) -> tuple[Will, int]:
    props: Properties = {}
    if version == 5:
        props, at = _block(data, at, end, WILL)
    topic, at = wire.read_binary(data, at, end)
    topics.check_name(topic)
    payload, at = wire.read_binary(data, at, end)
    return Will(topic, payload, flags >> 3 & 3, bool(flags & 0x20), props), at


_V3_REFUSALS = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}


def _connack(
    data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> tuple[Connack, int]:
    flags, at = wire.read_byte(data, at, end)
    code, at = wire.read_byte(data, at, end)
    if flags > 1 and version > 3:  # the byte is reserved in MQTT 3.1 and not to be looked at
        raise MalformedPacket("reserved CONNACK flags are set", None, "MQTT-3.2.2-1")
    present = bool(flags & 1) and version > 3
    props: Properties = {}
    if version == 5 and at == end and code in _V3_REFUSALS:
        # A server that knows only MQTT 3 refuses MQTT 5 in its own way.
        code = _V3_REFUSALS[code]
    elif version == 5:
        props, at = _block(data, at, end, PacketType.CONNACK)
        _check_code(code, PacketType.CONNACK)
    elif code > 5:
        raise ProtocolViolation(f"return code {code} is reserved")
    if code and present:
        raise ProtocolViolation("session present with a refusal", None, "MQTT-3.2.2-6")
    return Connack(present, code, props), at


def _check_code(code: int, kind: PacketType) -> None:
    if code not in CODES[kind]:
        raise ProtocolViolation(f"{kind.name} has no reason code 0x{code:02X}")


_Ack = TypeVar("_Ack", Puback, Pubrec, Pubrel, Pubcomp)


def _acknowledgement(
    record: type[_Ack],
) -> Callable[[bytes, int, int, int, Receiver], tuple[_Ack, int]]:
    kind = record.packet_type

    def read(data: bytes, at: int, end: int, version: int, receiver: Receiver) -> tuple[_Ack, int]:
        packet_id, at = _identifier(data, at, end)
        if at == end or version < 5:
            return record(packet_id), at
        code, at = wire.read_byte(data, at, end)
        _check_code(code, kind)
        props: Properties = {}
        if at < end:  # the length may be left out when it is zero
            props, at = _block(data, at, end, kind)
        return record(packet_id, code, props), at

    return read


def _options(byte: int, filter_: bytes, version: int) -> SubscribeOptions:
    options = _SUBSCRIBE_OPTIONS.get(byte)
    if options is None or (version < 5 and byte > 2):
        text = f"illegal subscription options 0x{byte:02X}"
        if version == 5 and byte < 0x40:
            # Of what is no reserved bit, a value of 3 is a protocol error (MQTT 5, 3.8.3.1).
            raise ProtocolViolation(text)
        raise MalformedPacket(text, None, "MQTT-3.8.3-5" if version == 5 else "MQTT-3-8.3-4")
    if options.no_local and filter_.startswith(b"$share/"):
        raise ProtocolViolation("no local on a shared subscription", None, "MQTT-3.8.3-4")
    return options


_SUBSCRIBE_OPTIONS: Final = {
    qos | no_local << 2 | as_published << 3 | handling << 4: SubscribeOptions(
        qos, bool(no_local), bool(as_published), handling
    )
    for qos in (0, 1, 2)
    for no_local in (0, 1)
    for as_published in (0, 1)
    for handling in (0, 1, 2)
}
"""Every legal options byte, so that a million filters share 36 objects."""


def _too_many_filters(most: int) -> ProtocolViolation:
    """UNSUBACK has no code for it (MQTT 5, 3.11.3), and decoding what is left would cost time."""
    return ProtocolViolation(
        f"more than {most} filter{'' if most == 1 else 's'} in one packet",
        0x97,
        limit="filters_per_packet",
    )


def _subscribe(
    data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> tuple[Subscribe, int]:
    packet_id, at = _identifier(data, at, end)
    props: Properties = {}
    if version == 5:
        props, at = _block(data, at, end, PacketType.SUBSCRIBE)
    filters: list[tuple[bytes, SubscribeOptions]] = []
    while at < end:
        if len(filters) >= receiver.max_filters:
            raise _too_many_filters(receiver.max_filters)
        filter_, at = wire.read_binary(data, at, end)
        topics.check_filter(filter_)
        if at == end:
            raise MalformedPacket("SUBSCRIBE ends before the options of a filter")
        filters.append((filter_, _options(data[at], filter_, version)))
        at += 1
    if not filters:
        raise ProtocolViolation("SUBSCRIBE without a filter", None, "MQTT-3.8.3-2")
    return Subscribe(packet_id, filters, props), at


def _suback(data: bytes, at: int, end: int, version: int, receiver: Receiver) -> tuple[Suback, int]:
    packet_id, at = _identifier(data, at, end)
    props: Properties = {}
    if version == 5:
        props, at = _block(data, at, end, PacketType.SUBACK)
    codes = list(data[at:end])
    allowed = CODES[PacketType.SUBACK] if version == 5 else (0, 1, 2, 0x80)
    if not codes:
        raise ProtocolViolation("SUBACK without a code", None, "MQTT-3.9.3-1")
    for code in codes:
        if code not in allowed:
            raise ProtocolViolation(f"SUBACK has no code 0x{code:02X}", None, "MQTT-3.9.3-2")
    return Suback(packet_id, codes, props), end


def _unsubscribe(
    data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> tuple[Unsubscribe, int]:
    packet_id, at = _identifier(data, at, end)
    props: Properties = {}
    if version == 5:
        props, at = _block(data, at, end, PacketType.UNSUBSCRIBE)
    filters: list[bytes] = []
    while at < end:
        if len(filters) >= receiver.max_filters:
            raise _too_many_filters(receiver.max_filters)
        filter_, at = wire.read_binary(data, at, end)
        topics.check_filter(filter_)
        filters.append(filter_)
    if not filters:
        raise ProtocolViolation("UNSUBSCRIBE without a filter", None, "MQTT-3.10.3-2")
    return Unsubscribe(packet_id, filters, props), at


def _unsuback(
    data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> tuple[Unsuback, int]:
    packet_id, at = _identifier(data, at, end)
    if version < 5:
        return Unsuback(packet_id), at
    props, at = _block(data, at, end, PacketType.UNSUBACK)
    codes = list(data[at:end])
    if not codes:
        raise ProtocolViolation("UNSUBACK without a code", None, "MQTT-3.11.3-1")
    for code in codes:
        _check_code(code, PacketType.UNSUBACK)
    return Unsuback(packet_id, codes, props), end


def _pingreq(
    data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> tuple[Pingreq, int]:
    return Pingreq(), at


def _pingresp(
    data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> tuple[Pingresp, int]:
    return Pingresp(), at


def _disconnect(
    data: bytes, at: int, end: int, version: int, receiver: Receiver
) -> tuple[Disconnect, int]:
    if at == end or version < 5:
        return Disconnect(), at
    code, at = wire.read_byte(data, at, end)
    _check_code(code, PacketType.DISCONNECT)
    props: Properties = {}
    if at < end:
        props, at = _block(data, at, end, PacketType.DISCONNECT)
    if receiver.role is Role.CLIENT and PropertyId.SESSION_EXPIRY_INTERVAL in props:
        raise ProtocolViolation("a server set the session expiry", None, "MQTT-3.14.2-2")
    return Disconnect(code, props), at


def _auth(data: bytes, at: int, end: int, version: int, receiver: Receiver) -> tuple[Auth, int]:
    if at == end:
        return Auth(), at
    code, at = wire.read_byte(data, at, end)
    _check_code(code, PacketType.AUTH)
    props, at = _block(data, at, end, PacketType.AUTH)
    if PropertyId.AUTHENTICATION_METHOD not in props:
        raise ProtocolViolation("AUTH without an authentication method", None, "MQTT-4.12.0-5")
    return Auth(code, props), at


_READERS: Final[dict[int, Callable[[bytes, int, int, int, Receiver], tuple[Packet, int]]]] = {
    PacketType.CONNACK: _connack,
    PacketType.PUBACK: _acknowledgement(Puback),
    PacketType.PUBREC: _acknowledgement(Pubrec),
    PacketType.PUBREL: _acknowledgement(Pubrel),
    PacketType.PUBCOMP: _acknowledgement(Pubcomp),
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: _pingreq,
    PacketType.PINGRESP: _pingresp,
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}
