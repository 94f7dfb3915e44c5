"""A JSON line as a message: what `isthmus sub --json` prints and `isthmus pub --json` reads."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from isthmus.errors import MQTTError
from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.properties import TABLE, Properties, PropertyId, PropertyType, decode, encode
from isthmus.mqtt.topics import check_name

if TYPE_CHECKING:
    from isthmus.mqtt.packets import Publish

_KNOWN: Final = {"topic", "payload", "payload_encoding", "qos", "retain", "properties"}
_OF_ONE_HOP: Final = {"timestamp", "dup"}
"""What says something about how a message came, and nothing about how it goes on."""
_IDENTIFIERS: Final = "subscription_identifiers"

_PROPERTIES: Final = {
    identifier.name.lower(): identifier
    for identifier, row in TABLE.items()
    if PacketType.PUBLISH in row.packets
    and identifier not in (PropertyId.SUBSCRIPTION_IDENTIFIER, PropertyId.USER_PROPERTY)
}


class NoMessage(ValueError):
    """A line is no message; the text says why."""


def read_message(line: bytes, default: Publish) -> Publish:
    """The message of one line; what it does not say is taken from `default`.

    Properties of the line replace those of the same name.

    Raises:
        NoMessage: it is no JSON, or not such an object.
    """
    try:
        found = json.loads(line)
    except ValueError as error:
        raise NoMessage(f"is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise NoMessage('is no JSON object, such as {"topic": "a/b", "payload": "x"}')
    unknown = found.keys() - _KNOWN - _OF_ONE_HOP
    if unknown:
        raise NoMessage(f"has the unknown key '{min(unknown)}'; known are {', '.join(_LISTED)}")
    message = replace(default)
    try:
        if "topic" in found:
            message.topic = _text(found, "topic").encode()
        if not message.topic:
            raise NoMessage("has no topic, and there is no -t")
        check_name(message.topic)
        if "payload" in found:
            message.payload = _payload(found)
        message.qos = _choice(found, "qos", (0, 1, 2), message.qos)
        message.retain = bool(_choice(found, "retain", (False, True), message.retain))
        if "properties" in found:
            message.properties = _block(found["properties"], message.properties)
    except (MQTTError, UnicodeEncodeError) as error:
        text = "is not valid Unicode" if isinstance(error, UnicodeEncodeError) else str(error)
        raise NoMessage(text) from None
    return message


_LISTED: Final = sorted(_KNOWN)


def _text(found: dict[str, Any], key: str) -> str:
    value = found[key]
    if not isinstance(value, str):
        raise NoMessage(f"'{key}' must be text")
    return value


def _choice(found: dict[str, Any], key: str, allowed: tuple[int, ...], default: int) -> int:
    value = found.get(key, default)
    if not isinstance(value, int) or value not in allowed:
        raise NoMessage(f"'{key}' must be one of {json.dumps(allowed)[1:-1]}")
    return value


def _payload(found: dict[str, Any]) -> bytes:
    """Text, base64 text, or any other JSON value, which is sent as JSON."""
    value = found["payload"]
    encoding = found.get("payload_encoding", "text")
    if value is None:
        return b""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return _bytes(value, encoding, "payload")


def _bytes(value: str, encoding: Any, name: str) -> bytes:
    if encoding == "text":
        return value.encode()
    if encoding != "base64":
        raise NoMessage(f"'{name}_encoding' must be text or base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise NoMessage(f"'{name}' is not valid base64") from None


def _block(values: Any, default: bytes) -> bytes:
    if not isinstance(values, dict):
        raise NoMessage("'properties' must be an object")
    found: Properties = decode(default, 0, len(default), PacketType.PUBLISH)
    for name, value in values.items():
        if name in (_IDENTIFIERS, "correlation_data_encoding"):
            continue  # they belong to the connection that it came by; and see below
        if name == "user_properties":
            found[PropertyId.USER_PROPERTY] = _pairs(value)
            continue
        identifier = _PROPERTIES.get(name)
        if identifier is None:
            raise NoMessage(f"has the unknown property '{name}'")
        kind = TABLE[identifier].type
        if kind in (PropertyType.STRING, PropertyType.TOPIC, PropertyType.BINARY):
            text = _text(values, name)
            if kind is PropertyType.STRING:
                found[identifier] = text
            else:
                encoding = values.get(f"{name}_encoding", "text")
                found[identifier] = _bytes(text, encoding, name)
        elif isinstance(value, int) and not isinstance(value, bool):
            found[identifier] = value
        else:
            raise NoMessage(f"'{name}' must be a whole number")
    return encode(found, PacketType.PUBLISH)


def _pairs(value: Any) -> list[tuple[str, str]]:
    """`[["a", "b"], ...]`, or `{"a": "b"}` where no name is there twice."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        raise NoMessage("'user_properties' must be a list of pairs of texts, or an object")
    return [(key, text) for key, text in pairs]
