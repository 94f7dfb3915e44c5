"""The loop guard: which processes a message has passed, and whether it was here before.

Every message that leaves for another broker over MQTT 5 carries a user property

    isthmus-hops: {number}@{first},{second},...

with a number that its first process gave it, and the processes that it has passed. A process that
finds itself there drops the message: it has come back. One that got the same number of the same
first process by another way drops it too, so that in a ring or a mesh each message arrives once.
A repetition by the same way is let through: that is how what was not acknowledged is sent again.
And so is a copy by another way if the first one has not been acknowledged and will not be, as its
connection ended or it was refused (`forget`).

The identity of a process is new at each start, so its numbers never repeat. Local clients do not
see the property; a client that subscribes with both "no local" and "retain as published", as
bridges do, does.
"""

from __future__ import annotations

import logging
import re
import secrets
from typing import TYPE_CHECKING, NamedTuple

from isthmus import clock
from isthmus.delivery.loop_alarm import LoopAlarm
from isthmus.metrics.drops import Drops

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("isthmus.delivery")

NAME = b"isthmus-hops"

MARK = b"\x26" + len(NAME).to_bytes(2, "big") + NAME
"""How the property begins on the wire: its identifier, the length of the name, the name."""

MAX_HOPS = 32
"""A message that has passed so many processes is dropped, whatever they are."""

REMEMBERED = 32_768
"""Messages of other processes that are remembered, per generation; there are two."""

_VALUE = re.compile(rb"([0-9a-f]{1,16}@[0-9a-f]{12})((?:,[0-9a-f]{12})*)")


Key = tuple[bytes, bytes]
"""What is remembered of a message: its number with the process that gave it, and its topic."""


class Entered(NamedTuple):
    """A message that may go on: its properties without the hops, and their value.

    `value` is None where the property is not one of ours. `key` is for `Hops.forget`.
    """

    properties: bytes
    value: bytes | None
    key: Key


class Hops:
    """The loop guard of one process, shared by all its endpoints.

    `arrived` is the value of the message that is being fanned out, None for one that begins here.
    `alarm` counts what came back, here and by the memories of connectors.
    """

    def __init__(self, now: Callable[[], float] = clock.monotonic) -> None:
        self.identity = secrets.token_hex(6).encode()
        self.arrived: bytes | None = None
        self.drops = Drops("loop guard", log)
        self.alarm = LoopAlarm(now)
        self._count = 0
        self._longer_at = 1
        self._before = b""
        self._after = b"@" + self.identity
        self._young: dict[Key, object] = {}
        self._old: dict[Key, object] = {}

    def stamp(self) -> bytes:
        """The property for the message that is being fanned out; one call per message."""
        arrived = self.arrived
        if arrived is None:
            count = self._count = self._count + 1
            if count >= self._longer_at:
                self._set_digits()
            return b"%b%x%b" % (self._before, count, self._after)
        value = b"%b,%b" % (arrived, self.identity)
        return MARK + len(value).to_bytes(2, "big") + value

    def _set_digits(self) -> None:
        """The number has a digit more: what stands before it says how long the value is."""
        digits = len(f"{self._longer_at:x}")
        self._before = MARK + (digits + len(self._after)).to_bytes(2, "big")
        self._longer_at = 16**digits

    def enter(self, topic: bytes, properties: bytes, way: object) -> Entered | None:
        """Look at a message that carries hops and came by `way`, which is compared by its value.

        None if the message must be dropped, which is counted.
        """
        at = properties.find(MARK)
        start = at + len(MARK) + 2
        end = start + int.from_bytes(properties[start - 2 : start], "big")
        value = properties[start:end]
        properties = properties[:at] + properties[end:]
        match = _VALUE.fullmatch(value)
        if match is None:
            return Entered(properties, None, (b"", b""))
        message = match[1]
        if self.identity in value:
            self._drop("loop", topic)
            return None
        if value.count(b",") >= MAX_HOPS - 1:
            self._drop("too_many_hops", topic)
            return None
        key = message, topic
        first = self._young.get(key) or self._old.get(key)
        if first is None:
            if len(self._young) >= REMEMBERED:
                self._old = self._young
                self._young = {}
            self._young[key] = way
        elif first != way:
            self._drop("other_way", topic)
            return None
        return Entered(properties, value, key)

    def forget(self, key: Key) -> None:
        """The message that entered with `key` was not made safe: let it come by any way."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def _drop(self, reason: str, topic: bytes) -> None:
        self.drops.add(reason, topic)
        self.alarm.add(topic)
