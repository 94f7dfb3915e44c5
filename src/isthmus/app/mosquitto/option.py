"""One option of `mosquitto.conf`: where it may stand, how its value is read, what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Scope(Enum):
    """What an option belongs to."""

    GENERAL = "whole file"
    SECURITY = "whole file; with `per_listener_settings true` the listener above it"
    LISTENER = "the listener above it, else the default listener"
    OWN_LISTENER = "the `listener` above it, which it needs"
    BRIDGE = "the `connection` above it, which it needs"
    PLUGIN = "the plugin above it"


class Kind(Enum):
    """How a value is read."""

    TEXT = "text"
    """The rest of the line, blanks trimmed; a comment behind it is part of it."""
    SWITCH = "true or false"
    """The next word: true, false, 1 or 0; what follows is ignored."""
    NUMBER = "number"
    """The next word, decimal, 0x hexadecimal or 0 octal; what follows is ignored."""
    WORDS = "words"
    """All words, for the option itself to read."""


class Answer(Enum):
    """What is done with an option."""

    HONOURED = "honoured"
    MAPPED = "mapped"
    """It becomes something near, and a note says what differs."""
    NO_EFFECT = "no effect"
    """It has no meaning here, and a note says why."""
    REFUSED = "refused"
    """Without it the configuration would not do what it says: nothing is started."""


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table. `low` and `high` bound a number; outside them it is an error.

    `becomes` is Markdown: the setting here, or why there is none. `many` options may be repeated.
    """

    name: str
    scope: Scope
    kind: Kind
    answer: Answer
    becomes: str
    aliases: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    many: bool = False
