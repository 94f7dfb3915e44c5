"""The primitive types of MQTT on the wire: integers, strings, binary data.

Readers take `(data, at, end)`, never look at or beyond `end`, and return `(value, next)`. They
raise MalformedPacket (0x81). Writers raise LocalProtocolError for what does not fit.
"""

from __future__ import annotations

import re
from typing import Final

from isthmus.errors import LocalProtocolError, MalformedPacket

MAX_VARINT: Final = 268_435_455
"""The largest variable byte integer, and so the longest remaining length (MQTT 5, 1.5.5)."""

MAX_STRING: Final = 65_535
"""The longest string or binary value in bytes: its length is a two-byte integer."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


VARINT: Final[list[bytes]] = [
    *(bytes((value,)) for value in range(128)),
    *(bytes((value & 127 | 128, value >> 7)) for value in range(128, 2048)),
]
"""The encodings of 0..2047, for senders on the hot path; a larger table costs 50 bytes a line."""


def varint(value: int) -> bytes:
    """Encode a variable byte integer in the fewest bytes (MQTT-1.5.5-1).

    Raises:
        LocalProtocolError: `value` is negative or above 268,435,455.
    """
    if 0 <= value < 2048:
        return VARINT[value]
    if 2048 <= value < 16_384:
        return bytes((value & 127 | 128, value >> 7))
    if not 0 <= value <= MAX_VARINT:
        raise LocalProtocolError(f"{value} does not fit a variable byte integer", 0x95)
    return _varint(value)


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a variable byte integer of at most four bytes in its shortest form."""
    value = shift = 0
    while True:
        if at >= end:
            raise MalformedPacket("a variable byte integer is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if byte == 0 and shift:
                raise MalformedPacket(
                    "a variable byte integer is not minimal", None, "MQTT-1.5.5-1"
                )
            return value, at
        shift += 7
        if shift > 21:
            raise MalformedPacket("a variable byte integer has more than four bytes")


def read_byte(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read one byte."""
    if at >= end:
        raise MalformedPacket("the packet ends before its next field")
    return data[at], at + 1


def read_u16(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a two-byte integer."""
    if at + 2 > end:
        raise MalformedPacket("the packet ends before its next field")
    return data[at] << 8 | data[at + 1], at + 2


def read_u32(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a four-byte integer."""
    if at + 4 > end:
        raise MalformedPacket("the packet ends before its next field")
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def read_binary(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Read binary data with its two-byte length."""
    start = at + 2
    if start > end:
        raise MalformedPacket("the packet ends before its next field")
    stop = start + (data[at] << 8) + data[at + 1]
    if stop > end:
        raise MalformedPacket("a field is longer than the packet")
    return data[start:stop], stop


_UNFIT = re.compile(
    rb"[\x01-\x1f\x7f]"  # C0 controls and DEL
    rb"|\xc2[\x80-\x9f]"  # C1 controls
    rb"|\xef\xb7[\x90-\xaf]"  # U+FDD0 to U+FDEF
    rb"|\xef\xbf[\xbe\xbf]|[\xf0-\xf4][\x8f\x9f\xaf\xbf]\xbf[\xbe\xbf]"  # U+nFFFE, U+nFFFF
)
"""Control characters and non-characters (MQTT 5, 1.5.4).

A receiver may close on them and some do, so one such message would block a bridge for ever.
"""


def check_utf8(raw: bytes) -> None:
    """Refuse bytes that are no UTF-8 encoded string of MQTT.

    Ill-formed ones, surrogates and U+0000, as every receiver has to; control characters and
    non-characters, as every receiver may.
    """
    if raw.isascii():
        if raw.decode("ascii").isprintable():  # a quarter of the time of what follows
            return
    else:
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise MalformedPacket("a string is not UTF-8", None, "MQTT-1.5.4-1") from None
    if b"\0" in raw:
        raise MalformedPacket("a string contains U+0000", None, "MQTT-1.5.4-2")
    if _UNFIT.search(raw) is not None:
        raise MalformedPacket("a string contains a control character or a non-character")


def read_utf8(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Read a UTF-8 encoded string and leave it as checked bytes."""
    raw, at = read_binary(data, at, end)
    check_utf8(raw)
    return raw, at


def read_string(data: bytes, at: int, end: int) -> tuple[str, int]:
    """Read a UTF-8 encoded string. U+FEFF stays where it is (MQTT-1.5.4-3)."""
    raw, at = read_binary(data, at, end)
    check_utf8(raw)
    return raw.decode(), at


def u16(value: int) -> bytes:
    """Encode a two-byte integer."""
    if not 0 <= value <= 0xFFFF:
        raise LocalProtocolError(f"{value} does not fit two bytes")
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Encode a four-byte integer."""
    if not 0 <= value <= 0xFFFFFFFF:
        raise LocalProtocolError(f"{value} does not fit four bytes")
    return value.to_bytes(4, "big")


def binary(value: bytes) -> bytes:
    """Encode binary data: a two-byte length, then the bytes."""
    size = len(value)
    if size > MAX_STRING:
        raise LocalProtocolError(f"{size} bytes do not fit a field of at most {MAX_STRING}")
    return size.to_bytes(2, "big") + value


def string(text: str) -> bytes:
    """Encode a string. Surrogates and U+0000 are refused (MQTT-1.5.4-1, -2)."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError("a string has no UTF-8 form", None, "MQTT-1.5.4-1") from None
    if b"\0" in raw:
        raise LocalProtocolError("a string contains U+0000", None, "MQTT-1.5.4-2")
    return binary(raw)
