"""Putting a PUBLISH together: the one step of the hot path that is bytes alone.

`framing_c.pxd` has the same for compiled files, which write the packet in place.
"""

from __future__ import annotations

from isthmus.mqtt.wire import VARINT, varint

FIRST = [bytes((n,)) for n in range(256)]
"""First bytes of packets."""

join = b"".join


def frame(first: int, topic: bytes, packet_id: bytes, block: bytes, payload: bytes) -> bytes:
    """Encode a PUBLISH whose first byte is `first`.

    `topic` has its two length bytes in front, `packet_id` is empty for QoS 0, and `block` are the
    properties with their length in front, empty for MQTT 3. The whole must be a packet that MQTT
    can express.
    """
    size = len(topic) + len(packet_id) + len(block) + len(payload)
    length = VARINT[size] if size < 2048 else varint(size)
    return join((FIRST[first], length, topic, packet_id, block, payload))


def flat(first: int, topic: bytes, block: bytes, payload: bytes) -> bytes:
    """Encode a message for the store: a first byte, then as in `frame`, without a packet id.

    There is no length in it, as the store knows that.
    """
    return join((FIRST[first], topic, block, payload))
