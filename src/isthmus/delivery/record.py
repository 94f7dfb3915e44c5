"""Messages as the store keeps them.

One byte of flags, the wall-clock end of the message's life if it has one, then the topic, the
property block of MQTT 5 and the payload as they stand in a PUBLISH.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery import framing
from isthmus.delivery.queue import Queued
from isthmus.mqtt.wire import read_varint, varint

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt

EXPIRES = 0x08
"""In the first byte of a record: eight bytes with the end of its life follow."""

NO_PROPERTIES = b"\0"

_double = struct.Struct(">d")


def record(
    first: int, topic: bytes, properties: bytes, payload: bytes, expires: float | None
) -> bytes:
    """The record of a message; the arguments are those of `Queued`."""
    if expires is not None:
        ends = _double.pack(clock.wall() + expires - clock.monotonic())
        block = varint(len(properties)) + properties
        return framing.flat(first & 7 | EXPIRES, ends + topic, block, payload)
    block = varint(len(properties)) + properties if properties else NO_PROPERTIES
    return framing.flat(first & 7, topic, block, payload)


def topic_of(found: bytes) -> bytes:
    """The topic of a record, without its length."""
    at = 9 if found[0] & EXPIRES else 1
    return found[at + 2 : at + 2 + (found[at] << 8 | found[at + 1])]


def message(found: bytes, receipt: Receipt | None, flags: int = 0) -> Queued:
    """The message of a record; `receipt` is what stands for it, `flags` are set in its first byte.

    Clocks that were set while it was on disk make it live for longer or shorter: no other time goes
    on without a process.
    """
    first = found[0]
    at = 1
    expires = None
    if first & EXPIRES:
        (ends,) = _double.unpack_from(found, 1)
        expires = clock.monotonic() + ends - clock.wall()
        at = 9
    topic_end = at + 2 + (found[at] << 8 | found[at + 1])
    begin = topic_end + 1
    length = found[topic_end]
    if length:
        length, begin = read_varint(found, topic_end, len(found))
    return Queued(
        found[at:topic_end],
        0x30 | first & 7 | flags,
        found[begin : begin + length],
        found[begin + length :],
        receipt,
        0,
        expires,
    )
