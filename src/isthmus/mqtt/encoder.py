"""Records to bytes, for every packet and version, and surgery on encoded PUBLISH packets.

`encode` is for control packets and checks what it is given; `encode_publish` is the fast one and
trusts its caller to have checked topic and properties. Senders on the hot path may build a PUBLISH
themselves from `VARINT`, a topic field kept ready, and a payload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from isthmus.errors import LocalProtocolError
from isthmus.mqtt import properties, topics, wire
from isthmus.mqtt.packet_type import FLAGS, WILL, PacketType
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
    SubscribeOptions,
    Unsuback,
    Unsubscribe,
)
from isthmus.mqtt.properties import Properties
from isthmus.mqtt.reasons import CODES, return_code
from isthmus.mqtt.wire import VARINT, varint


def encode_publish(
    first_byte: int, topic: bytes, packet_id: bytes, properties: bytes, payload: bytes, version: int
) -> bytes:
    """Encode a PUBLISH from parts that are known to be valid.

    Args:
        first_byte: 0x30 with DUP, QoS and RETAIN in the low bits.
        topic: The topic name; empty only in version 5 together with a topic alias.
        packet_id: Two bytes for QoS 1 and 2, empty for QoS 0.
        properties: The encoded block without its length; ignored below version 5.
        payload: The message.
        version: 3, 4 or 5.
    """
    head = len(topic).to_bytes(2, "big") + topic + packet_id
    if version == 5:
        size = len(properties)
        head += (VARINT[size] if size < 2048 else varint(size)) + properties
    size = len(head) + len(payload)
    length = VARINT[size] if size < 2048 else varint(size)
    return b"%c%b%b%b" % (first_byte, length, head, payload)


def encode(packet: Packet, version: int) -> bytes:
    """Encode any record for MQTT 3.1 (3), 3.1.1 (4) or 5.

    What a version has no place for is left out: properties and acknowledgement codes below 5.
    Failure codes of CONNACK and SUBACK become the nearest that a version below 5 knows.

    Raises:
        LocalProtocolError: The record breaks a rule of the specification.
    """
    kind = packet.packet_type
    if kind is PacketType.PUBLISH:
        assert isinstance(packet, Publish)
        return _publish(packet, version)
    body = _BODIES[kind](packet, version)
    return _FIRST[kind] + varint(len(body)) + body


def _block(props: Properties, packet_type: int, version: int) -> bytes:
    """The properties with their length; MQTT-2.2.2-1: a length of zero if there are none."""
    if version < 5:
        return b""
    block = properties.encode(props, packet_type)
    return varint(len(block)) + block


def _identifier(packet_id: int) -> bytes:
    if not 0 < packet_id <= 0xFFFF:
        raise LocalProtocolError(f"packet identifier {packet_id}", None, "MQTT-2.2.1-3")
    return packet_id.to_bytes(2, "big")


def _publish(packet: Publish, version: int) -> bytes:
    if packet.qos not in (0, 1, 2):
        raise LocalProtocolError(f"QoS {packet.qos}", None, "MQTT-3.3.1-4")
    if packet.dup and not packet.qos:
        raise LocalProtocolError("DUP with QoS 0", None, "MQTT-3.3.1-2")
    block = packet.properties if version == 5 else b""
    alias = properties.BLOCKS.look(block).alias if block else 0
    if packet.topic or not alias:
        topics.check_name(packet.topic)
    first = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
    packet_id = _identifier(packet.packet_id) if packet.qos else b""
    return encode_publish(first, packet.topic, packet_id, block, packet.payload, version)


def _connect(packet: Connect, version: int) -> bytes:
    if version not in (3, 4, 5):
        raise LocalProtocolError(f"there is no MQTT of level {version}", 0x84)
    flags = packet.clean_start << 1
    payload = [wire.string(packet.client_id)]
    will = packet.will
    if will is not None:
        if will.qos not in (0, 1, 2):
            raise LocalProtocolError(f"will QoS {will.qos}")
        topics.check_name(will.topic)
        flags |= 4 | will.qos << 3 | will.retain << 5
        payload.append(_block(will.properties, WILL, version))
        payload.append(wire.binary(will.topic))
        payload.append(wire.binary(will.payload))
    if packet.username is not None:
        flags |= 0x80
        payload.append(wire.string(packet.username))
    if packet.password is not None:
        if packet.username is None and version < 5:
            raise LocalProtocolError("password without user name", None, "MQTT-3.1.2-22")
        flags |= 0x40
        payload.append(wire.binary(packet.password))
    level = version | 0x80 if packet.bridge and version < 5 else version
    name = b"\0\6MQIsdp" if version == 3 else b"\0\4MQTT"
    head = name + bytes((level, flags)) + wire.u16(packet.keep_alive)
    return head + _block(packet.properties, PacketType.CONNECT, version) + b"".join(payload)


def _code(code: int, kind: PacketType) -> int:
    if code not in CODES[kind]:
        raise LocalProtocolError(f"{kind.name} has no reason code 0x{code:02X}")
    return code


def _connack(packet: Connack, version: int) -> bytes:
    code = packet.code
    if version == 5:
        _code(code, PacketType.CONNACK)
    elif code > 5:
        code = return_code(code)
    # MQTT-3.2.2-6: no session with a failure; the byte is reserved in MQTT 3.1.
    present = packet.session_present and not code and version > 3
    return bytes((present, code)) + _block(packet.properties, PacketType.CONNACK, version)


def _acknowledgement(packet: Puback | Pubrec | Pubrel | Pubcomp, version: int) -> bytes:
    packet_id = _identifier(packet.packet_id)
    if version < 5:
        return packet_id
    kind = packet.packet_type
    code = _code(packet.code, kind)
    if packet.properties:
        return packet_id + bytes((code,)) + _block(packet.properties, kind, version)
    return packet_id + bytes((code,)) if code else packet_id


def _options(options: SubscribeOptions, filter_: bytes, version: int) -> bytes:
    if options.qos not in (0, 1, 2) or options.retain_handling not in (0, 1, 2):
        raise LocalProtocolError(f"illegal subscription options {options}")
    if version < 5:
        return bytes((options.qos,))
    if options.no_local and topics.split_shared(filter_)[0] is not None:
        raise LocalProtocolError("no local on a shared subscription", None, "MQTT-3.8.3-4")
    return bytes(
        (
            options.qos
            | options.no_local << 2
            | options.retain_as_published << 3
            | options.retain_handling << 4,
        )
    )


def _subscribe(packet: Subscribe, version: int) -> bytes:
    if not packet.filters:
        raise LocalProtocolError("SUBSCRIBE without a filter", None, "MQTT-3.8.3-2")
    parts = [_identifier(packet.packet_id)]
    parts.append(_block(packet.properties, PacketType.SUBSCRIBE, version))
    for filter_, options in packet.filters:
        topics.check_filter(filter_)
        parts.append(wire.binary(filter_) + _options(options, filter_, version))
    return b"".join(parts)


def _suback(packet: Suback, version: int) -> bytes:
    if not packet.codes:
        raise LocalProtocolError("SUBACK without a code", None, "MQTT-3.9.3-1")
    if version == 5:
        codes = bytes([_code(code, PacketType.SUBACK) for code in packet.codes])
        block = _block(packet.properties, PacketType.SUBACK, version)
        return _identifier(packet.packet_id) + block + codes
    # MQTT 3.1.1 knows one failure (MQTT-3.9.3-2)
    return _identifier(packet.packet_id) + bytes([min(0x80, code) for code in packet.codes])


def _unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    if not packet.filters:
        raise LocalProtocolError("UNSUBSCRIBE without a filter", None, "MQTT-3.10.3-2")
    parts = [_identifier(packet.packet_id)]
    parts.append(_block(packet.properties, PacketType.UNSUBSCRIBE, version))
    for filter_ in packet.filters:
        topics.check_filter(filter_)
        parts.append(wire.binary(filter_))
    return b"".join(parts)


def _unsuback(packet: Unsuback, version: int) -> bytes:
    packet_id = _identifier(packet.packet_id)
    if version < 5:
        return packet_id
    if not packet.codes:
        raise LocalProtocolError("UNSUBACK without a code", None, "MQTT-3.11.3-1")
    codes = bytes(_code(code, PacketType.UNSUBACK) for code in packet.codes)
    return packet_id + _block(packet.properties, PacketType.UNSUBACK, version) + codes


def _disconnect(packet: Disconnect, version: int) -> bytes:
    if version < 5 or not (packet.code or packet.properties):
        return b""
    code = bytes((_code(packet.code, PacketType.DISCONNECT),))
    if not packet.properties:
        return code
    return code + _block(packet.properties, PacketType.DISCONNECT, version)


def _auth(packet: Auth, version: int) -> bytes:
    if version < 5:
        raise LocalProtocolError("AUTH exists only in MQTT 5")
    if not (packet.code or packet.properties):
        return b""
    code = bytes((_code(packet.code, PacketType.AUTH),))
    return code + _block(packet.properties, PacketType.AUTH, version)


def _nothing(_packet: Any, _version: int) -> bytes:
    return b""


_FIRST: Final = {kind: bytes((kind << 4 | flags,)) for kind, flags in FLAGS.items()}

_BODIES: Final[dict[PacketType, Callable[[Any, int], bytes]]] = {
    PacketType.CONNECT: _connect,
    PacketType.CONNACK: _connack,
    PacketType.PUBACK: _acknowledgement,
    PacketType.PUBREC: _acknowledgement,
    PacketType.PUBREL: _acknowledgement,
    PacketType.PUBCOMP: _acknowledgement,
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: _nothing,
    PacketType.PINGRESP: _nothing,
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}
