"""A dead letter: a message that could not be delivered, as the store keeps it, with the reason.

In front of the record of the message, as it would stand in an outbox, come the version of this
form, the wall time, and reason and connection, each with its length.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from isthmus.clock import iso
from isthmus.delivery.record import message
from isthmus.errors import MQTTError

PREFIX = "dead/"
"""The names of logs with dead letters begin so; the name of the connector follows."""

VERSION = 1

_head = struct.Struct(">BdBB")


class DeadLetter(NamedTuple):
    """What a record in a log of dead letters says.

    `at` is the wall time at which it was put there, `reason` a short word as those of drops,
    `connection` the client id of the connection that it was for, `record` the message; see
    `isthmus.delivery.record`.
    """

    at: float
    reason: str
    connection: str
    record: bytes


def seal(letter: DeadLetter) -> bytes:
    """The bytes of a dead letter."""
    reason = letter.reason.encode()[:255]
    connection = letter.connection.encode()[:255]
    head = _head.pack(VERSION, letter.at, len(reason), len(connection))
    return b"".join((head, reason, connection, letter.record))


def unseal(data: bytes) -> DeadLetter:
    """The dead letter of `data`.

    Raises:
        ValueError: it is none.
    """
    try:
        version, at, reason, connection = _head.unpack_from(data)
    except struct.error as error:
        raise ValueError("it is too short for a dead letter") from error
    if version != VERSION:
        raise ValueError(f"it is a dead letter of a later version, {version}")
    middle = _head.size + reason
    end = middle + connection
    return DeadLetter(
        at,
        data[_head.size : middle].decode(errors="replace"),
        data[middle:end].decode(errors="replace"),
        data[end:],
    )


def log_name(connector: str) -> str:
    """The name of the log with the dead letters of a connector."""
    return PREFIX + connector


def summary(number: int, data: bytes) -> dict[str, Any]:
    """A dead letter without its message, as `isthmus dlq list` shows it.

    `size` is that of its payload. One that cannot be read has `damaged` alone beside its number.
    """
    try:
        letter = unseal(data)
        found = message(letter.record, None)
        return {
            "number": number,
            "at": iso(letter.at),
            "reason": letter.reason,
            "connection": letter.connection,
            "topic": found.topic[2:].decode(errors="backslashreplace"),
            "size": len(found.payload),
        }
    except (ValueError, IndexError, MQTTError):
        return {"number": number, "damaged": True}
