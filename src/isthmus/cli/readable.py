"""Messages as JSON: payloads and properties in a form that people and programs can read."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.properties import PropertyId, decode

if TYPE_CHECKING:
    from collections.abc import Mapping


def text_or_base64(name: str, data: bytes) -> dict[str, str]:
    """Field `name` with `data`, as text if it is UTF-8, and `name_encoding` that says which."""
    try:
        return {name: data.decode(), f"{name}_encoding": "text"}
    except UnicodeDecodeError:
        return {name: base64.b64encode(data).decode(), f"{name}_encoding": "base64"}


def properties_of(block: bytes) -> dict[str, Any]:
    """The properties in the block of a PUBLISH, which stands without its length, by name.

    Raises:
        MQTTError: it is no such block.
    """
    return named(decode(block, 0, len(block), PacketType.PUBLISH))


def named(properties: Mapping[PropertyId, Any]) -> dict[str, Any]:
    """Properties by name: `content_type`, `user_properties` as pairs, and so on."""
    found: dict[str, Any] = {}
    for identifier, value in properties.items():
        name = identifier.name.lower()
        if identifier is PropertyId.CORRELATION_DATA:
            found.update(text_or_base64(name, value))
        elif identifier is PropertyId.USER_PROPERTY:
            found["user_properties"] = [list(pair) for pair in value]
        elif identifier is PropertyId.SUBSCRIPTION_IDENTIFIER:
            found["subscription_identifiers"] = value
        else:
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found
