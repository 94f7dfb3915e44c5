"""How much may wait for a target, and what happens to what is too much."""

from __future__ import annotations

from typing import Literal, NamedTuple

WhenFull = Literal["block", "reject", "drop_oldest", "dead_letter"]

DEFAULT_BYTES = 256 << 20


class QueueLimits(NamedTuple):
    """The limits of the queue of each connection of a connector.

    `max_messages` and `max_age_s` are 0 where there is no such limit. `when_full` says what becomes
    of a message for which there is no room: its publisher waits (`block`) or is told that it is not
    taken (`reject`), the oldest message makes room (`drop_oldest`), or it goes to the dead letters.
    """

    max_bytes: int = DEFAULT_BYTES
    max_messages: int = 0
    max_age_s: float = 0.0
    when_full: WhenFull = "block"
