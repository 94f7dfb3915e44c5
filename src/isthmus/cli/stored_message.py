"""What the store keeps of a message, as fields that people and programs can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.cli.readable import properties_of, text_or_base64
from isthmus.delivery.record import message
from isthmus.errors import MQTTError

if TYPE_CHECKING:
    from isthmus.delivery.dead_letter import DeadLetter

UNREADABLE = (MQTTError, ValueError, IndexError)
"""What these functions raise where the bytes are not what they should be."""


def message_fields(record: bytes) -> dict[str, Any]:
    """The message of a record."""
    found = message(record, None)
    expires = found.expires
    if expires is not None:
        expires += clock.wall() - clock.monotonic()
    return fields(
        found.topic[2:],
        found.first >> 1 & 3,
        found.properties,
        found.payload,
        expires,
        retain=found.first & 1 > 0,
    )


def letter_fields(letter: DeadLetter) -> dict[str, Any]:
    """The message of a dead letter, with what is known about its end."""
    return {
        "reason": letter.reason,
        "at": clock.iso(letter.at),
        "connection": letter.connection,
        **message_fields(letter.record),
    }


def fields(
    topic: bytes,
    qos: int,
    properties: bytes,
    payload: bytes,
    expires: float | None,
    *,
    retain: bool,
) -> dict[str, Any]:
    """A message by its parts; `expires` is the wall time at which its life ends."""
    found: dict[str, Any] = {
        "topic": topic.decode(),
        **text_or_base64("payload", payload),
        "qos": qos,
        "retain": retain,
        "properties": properties_of(properties),
    }
    if expires is not None:
        found["expires_at"] = clock.iso(expires)
    return found
