"""Encoded PUBLISH packets of a lane: put together, taken apart, sent in another version.

Topics here have their two length bytes in front, as lanes and outlets keep them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.framing import frame
from isthmus.mqtt.properties import PropertyId, message_expiry, with_message_expiry
from isthmus.mqtt.wire import read_varint, varint

if TYPE_CHECKING:
    from isthmus.mqtt.aliases import OutboundAliases

UNLIMITED_PACKET = 268_435_460
"""The largest packet MQTT can express: the limit where the peer named none."""

DUP = 0x08

NO_TOPIC = b"\0\0"

TOPIC_ALIAS = bytes((PropertyId.TOPIC_ALIAS,))

ALIAS_BYTES = 5
"""What an alias adds at most: its property, and a byte more for each of the two lengths."""


def largest_body(max_packet: int) -> int:
    """The largest remaining length of a packet of at most `max_packet` bytes."""
    for length_bytes in range(1, 5):
        body = max_packet - 1 - length_bytes
        if body < 128**length_bytes:
            return body
    return UNLIMITED_PACKET - 5


def pack(
    first: int, topic: bytes, packet_id: bytes, properties: bytes, payload: bytes, *, v5: bool
) -> bytes:
    """Encode a PUBLISH; `packet_id` is empty for QoS 0, `properties` has no length in front."""
    block = varint(len(properties)) + properties if v5 else b""
    return frame(first, topic, packet_id, block, payload)


def unpack(packet: bytes, *, v5: bool) -> tuple[int, bytes, bytes, bytes, bytes]:
    """Take an encoded PUBLISH apart: the arguments of `pack`."""
    end = len(packet)
    _, at = read_varint(packet, 1, end)
    topic_end = at + 2 + int.from_bytes(packet[at : at + 2], "big")
    topic = packet[at:topic_end]
    at = topic_end + 2 if packet[0] & 6 else topic_end
    packet_id = packet[topic_end:at]
    properties = b""
    if v5:
        length, at = read_varint(packet, at, end)
        properties = packet[at : at + length]
        at += length
    return packet[0] & ~DUP, topic, packet_id, properties, packet[at:]


def topic_of(packet: bytes) -> bytes:
    """The topic of an encoded PUBLISH, without its length bytes."""
    _, at = read_varint(packet, 1, len(packet))
    begin = at + 2
    return packet[begin : begin + int.from_bytes(packet[at:begin], "big")]


def again(packet: bytes, *, was_v5: bool, v5: bool, away_s: float = 0.0) -> bytes:
    """The packet as it is sent again on a new connection: with DUP, in that one's version.

    A message expiry interval is shortened by `away_s` seconds, and never below 1: what was sent
    once may not be dropped for its age (MQTT-4.3.3-7).
    """
    if was_v5:
        first, topic, packet_id, properties, payload = unpack(packet, v5=True)
        lifetime = message_expiry(properties) if properties and away_s >= 1 else None
        if lifetime is not None:
            properties = with_message_expiry(properties, max(1, lifetime - int(away_s)))
        if lifetime is not None or not v5:
            packet = pack(first, topic, packet_id, properties, payload, v5=v5)
    elif v5:
        first, topic, packet_id, properties, payload = unpack(packet, v5=False)
        packet = pack(first, topic, packet_id, properties, payload, v5=True)
    return bytes((packet[0] | DUP,)) + packet[1:]


def aliased(packet: bytes, aliases: OutboundAliases) -> bytes:
    """An encoded PUBLISH of MQTT 5 with the alias of its topic, if it has one (MQTT-3.3.2-8).

    The result has to be sent, on the connection of `aliases`. It may be `ALIAS_BYTES` longer.
    """
    end = len(packet)
    _, at = read_varint(packet, 1, end)
    topic_end = at + 2 + int.from_bytes(packet[at : at + 2], "big")
    alias, known = aliases.assign(packet[at + 2 : topic_end])
    if not alias:
        return packet
    topic = NO_TOPIC if known else packet[at:topic_end]
    id_end = topic_end + 2 if packet[0] & 6 else topic_end
    length, at = read_varint(packet, id_end, end)
    rest = b"".join(
        (
            topic,
            packet[topic_end:id_end],
            varint(length + 3),
            TOPIC_ALIAS,
            alias.to_bytes(2, "big"),
            packet[at:],
        )
    )
    return packet[:1] + varint(len(rest)) + rest
