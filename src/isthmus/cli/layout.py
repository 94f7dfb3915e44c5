r"""How `isthmus sub` writes a message: payload alone, with its topic, a format, or a JSON line.

Formats are those of mosquitto_sub: `%t %p` and the like, `@Y` for strftime, `\n` for what a shell
cannot type. A layout is a function from a message to the bytes to print.
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from isthmus.cli.property_option import name_of
from isthmus.cli.readable import named, text_or_base64
from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.properties import PropertyId, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.cli.client import Received
    from isthmus.mqtt.properties import Properties

Layout: TypeAlias = "Callable[[Received], bytes]"


class NotJSON(ValueError):
    """`%J` was asked for, and the payload is no JSON."""


def payload_alone(message: Received) -> bytes:
    """The payload, byte for byte."""
    return message.payload


def with_topic(message: Received) -> bytes:
    """Topic, space, payload."""
    return message.topic + b" " + message.payload


def json_line(message: Received) -> bytes:
    """All that is known about the message as one JSON object without line breaks.

    Payload and correlation data are text if they are UTF-8, else base64; the field that ends in
    `_encoding` says which.
    """
    stamp = datetime.fromtimestamp(message.at, UTC)
    found: dict[str, Any] = {
        "timestamp": stamp.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "topic": message.topic.decode(),
        **text_or_base64("payload", message.payload),
        "qos": message.qos,
        "retain": message.retain,
        "dup": message.dup,
    }
    found["properties"] = named(_properties(message))
    return _json(found)


def _properties(message: Received) -> Properties:
    found = decode(message.properties, 0, len(message.properties), PacketType.PUBLISH)
    if message.subscription_ids:
        found = {PropertyId.SUBSCRIPTION_IDENTIFIER: list(message.subscription_ids), **found}
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# -- Mosquitto's formats ---------------------------------------------------------------------------

_ESCAPES: Final = {
    "\\": b"\\",
    "0": b"\0",
    "a": b"\a",
    "e": b"\x1b",
    "n": b"\n",
    "r": b"\r",
    "t": b"\t",
    "v": b"\v",
}
_PIECE = re.compile(
    r"%(?P<align>-?)(?P<pad>0?)(?P<width>\d*)(?:\.(?P<precision>\d*))?(?P<code>.)"
    r"|\\(?P<escape>.)|@(?P<time>.)|(?P<text>[^%\\@]+)",
    re.DOTALL,
)
MAX_WIDTH: Final = 10_000
"""That of mosquitto_sub."""


class _Field:
    """One `%...` of a format: alignment, padding, width, precision."""

    __slots__ = ("left", "pad", "precision", "width")

    def __init__(self, match: re.Match[str]) -> None:
        self.left = bool(match["align"])
        self.pad = b"0" if match["pad"] else b" "
        self.width = int(match["width"] or 0)
        self.precision = None if match["precision"] is None else int(match["precision"] or 0)

    def text(self, value: bytes) -> bytes:
        """Text is padded with spaces and cut by a precision, as printf does it."""
        value = value[: self.precision]
        return value.ljust(self.width) if self.left else value.rjust(self.width)

    def number(self, value: int | None) -> bytes:
        """A number; nothing but padding where there is none."""
        if value is None:
            return self.pad * self.width
        text = b"%d" % value
        return text.ljust(self.width) if self.left else text.rjust(self.width, self.pad)

    def payload(self, value: bytes) -> bytes:
        """The payload is cut to the width."""
        if self.width:
            value = value[: self.width]
        return value.ljust(self.width) if self.left else value.rjust(self.width, self.pad)

    def hexadecimal(self, value: bytes, *, upper: bool) -> bytes:
        """The payload as digits; with a width the half of what `payload` writes, as there."""
        if self.width:
            value = value[: min(self.width, len(value)) // 2]
        digits = value.hex()
        text = (digits.upper() if upper else digits).encode()
        return text.ljust(self.width) if self.left else text.rjust(self.width, self.pad)


def parse_format(text: str) -> Layout:
    """The layout of a format.

    Raises:
        ValueError: it is none; the text says where.
    """
    pieces: list[Layout] = []
    at = 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise ValueError(f"'{text[at:]}' is cut off at its end")
        at = match.end()
        pieces.append(_piece(match))

    def layout(message: Received) -> bytes:
        return b"".join([piece(message) for piece in pieces])

    return layout


def _piece(match: re.Match[str]) -> Layout:
    if match["text"] is not None:
        return _constant(match["text"].encode(errors="surrogateescape"))
    if match["escape"] is not None:
        if match["escape"] not in _ESCAPES:
            known = " ".join(f"\\{letter}" for letter in _ESCAPES)
            raise ValueError(f"there is no '\\{match['escape']}'; use one of {known}")
        return _constant(_ESCAPES[match["escape"]])
    if match["time"] is not None:
        return _time(match["time"])
    code = match["code"]
    if code == "%":
        return _constant(b"%")
    write = _CODES.get(code)
    if write is None:
        raise ValueError(f"there is no '%{code}'; use one of %% %{' %'.join(_CODES)}")
    field = _Field(match)
    if max(field.width, field.precision or 0) > MAX_WIDTH:
        raise ValueError(f"'{match[0]}' is wider than {MAX_WIDTH}")
    return lambda message: write(field, message)


def _constant(value: bytes) -> Layout:
    return lambda message: value


def _time(code: str) -> Layout:
    if code == "@":
        return _constant(b"@")
    if code == "N":
        return lambda message: b"%09d" % _nanoseconds(message)
    return lambda message: time.strftime(f"%{code}", time.localtime(message.at)).encode()


def _nanoseconds(message: Received) -> int:
    return int(message.at % 1 * 1e9)


def _iso(message: Received) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(message.at)).encode()


def _property(identifier: PropertyId) -> Callable[[Received], Any]:
    def find(message: Received) -> Any:
        value = _properties(message).get(identifier)
        return value.encode() if isinstance(value, str) else value

    return find


def _text_property(identifier: PropertyId) -> Callable[[_Field, Received], bytes]:
    find = _property(identifier)
    return lambda field, message: field.text(find(message) or b"")


def _number_property(identifier: PropertyId) -> Callable[[_Field, Received], bytes]:
    find = _property(identifier)

    def write(field: _Field, message: Received) -> bytes:
        value = find(message)
        return field.number(value[0] if isinstance(value, list) else value)

    return write


def _user_properties(message: Received) -> bytes:
    pairs = _properties(message).get(PropertyId.USER_PROPERTY, ())
    return " ".join(f"{key}:{value}" for key, value in pairs).encode()


def _mosquitto_json(message: Received, payload: Any) -> bytes:
    """What mosquitto_sub writes for %j and %J, its own kind of time stamp included."""
    moment = time.localtime(message.at)
    micros = b"%06d" % (_nanoseconds(message) // 1000)
    stamp = time.strftime(f"%Y-%m-%dT%H:%M:%S.{micros.decode()}Z%z", moment)
    found: dict[str, Any] = {
        "tst": stamp,
        "topic": message.topic.decode(),
        "qos": message.qos,
        "retain": int(message.retain),
        "payloadlen": len(message.payload),
    }
    if message.qos:
        found["mid"] = message.packet_id
    properties: dict[str, Any] = {}
    for identifier, value in _properties(message).items():
        if identifier is PropertyId.USER_PROPERTY:
            properties["user-properties"] = dict(value)
        elif isinstance(value, list):
            properties[name_of(identifier)] = value[0]
        else:
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            properties[name_of(identifier)] = text
    if properties:
        found["properties"] = properties
    found["payload"] = payload
    return _json(found)


def _escaped_json(field: _Field, message: Received) -> bytes:
    del field
    payload: Any = None
    if message.payload:
        try:
            payload = message.payload.decode()
        except UnicodeDecodeError:
            payload = list(message.payload)
    return _mosquitto_json(message, payload)


def _parsed_json(field: _Field, message: Received) -> bytes:
    del field
    try:
        payload = json.loads(message.payload) if message.payload else None
    except ValueError:
        topic = message.topic.decode()
        raise NotJSON(f"the payload on {topic} is no JSON, which %J needs; use %j") from None
    return _mosquitto_json(message, payload)


_CODES: Final[dict[str, Callable[[_Field, Received], bytes]]] = {
    # A topic alias stands for a topic and is gone when the topic is known.
    "A": lambda field, message: field.number(None),
    "C": _text_property(PropertyId.CONTENT_TYPE),
    "D": lambda field, message: _property(PropertyId.CORRELATION_DATA)(message) or b"",
    "E": _number_property(PropertyId.MESSAGE_EXPIRY_INTERVAL),
    "F": _number_property(PropertyId.PAYLOAD_FORMAT_INDICATOR),
    "I": lambda field, message: field.text(_iso(message)),
    "j": _escaped_json,
    "J": _parsed_json,
    "l": lambda field, message: field.number(len(message.payload)),
    "m": lambda field, message: field.number(message.packet_id),
    "p": lambda field, message: field.payload(message.payload),
    "P": lambda field, message: _user_properties(message),
    "q": lambda field, message: b"%d" % message.qos,
    "R": _text_property(PropertyId.RESPONSE_TOPIC),
    "r": lambda field, message: b"%d" % message.retain,
    "S": _number_property(PropertyId.SUBSCRIPTION_IDENTIFIER),
    "t": lambda field, message: field.text(message.topic),
    "U": lambda field, message: b"%d.%09d" % (int(message.at), _nanoseconds(message)),
    "x": lambda field, message: field.hexadecimal(message.payload, upper=False),
    "X": lambda field, message: field.hexadecimal(message.payload, upper=True),
}
