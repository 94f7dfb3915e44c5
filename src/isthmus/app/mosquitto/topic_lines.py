"""`topic` lines of a bridge: `topic PATTERN [DIRECTION [QOS [LOCAL [REMOTE]]]]`.

A message takes one line per direction: the first in the file that matches. As in Mosquitto, lines
with a prefix are asked before lines without one. Of neighbours that map the same way the higher QoS
comes first, so that a wide line does not lower what a narrow one asks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from isthmus.app.mosquitto.grammar import Statement, ValueProblem
from isthmus.errors import MQTTError
from isthmus.mqtt.topics import check_filter

_LEADING_NUMBER = re.compile(r"\s*([+-]?\d+)")
_EMPTY = '""'


@dataclass(frozen=True, slots=True)
class TopicLine:
    """One line, and where it is. `directions` holds "out", "in", or both."""

    statement: Statement
    pattern: str
    directions: frozenset[str]
    qos: Literal[0, 1, 2]
    local: str
    remote: str
    qos_given: bool

    def source(self, direction: str) -> str:
        """The filter of the side that messages come from."""
        return (self.local if direction == "out" else self.remote) + self.pattern

    def prefixes(self, direction: str) -> tuple[str, str]:
        """What is taken from the front of a topic, and what is put there."""
        return (self.local, self.remote) if direction == "out" else (self.remote, self.local)


def parse_topic_line(statement: Statement) -> TopicLine:
    """Return what a line says.

    Raises:
        ValueProblem: it is not as Mosquitto wants it.
    """
    pattern, words = _pattern(statement)
    comment = next((at for at, word in enumerate(words) if at and word.startswith("#")), None)
    words = words[:comment]
    direction = words[0].lower() if words else "out"
    if direction not in ("out", "in", "both"):
        raise ValueProblem("the direction must be out, in or both")
    qos = _qos(words[1]) if len(words) > 1 else 0
    local, remote = (_prefix(words[at]) if len(words) > at else "" for at in (2, 3))
    if not pattern and not (local and remote):
        raise ValueProblem('an empty pattern ("") needs both prefixes')
    for side in (local + pattern, remote + pattern):
        try:
            check_filter(side.encode())
        except (MQTTError, UnicodeEncodeError):
            raise ValueProblem(f"'{side}' is no valid topic filter") from None
    directions = frozenset({"out", "in"} if direction == "both" else {direction})
    return TopicLine(statement, pattern, directions, qos, local, remote, len(words) > 1)


def by_precedence(lines: list[TopicLine], direction: str) -> list[TopicLine]:
    """The lines of a direction, first the one that is asked first."""
    found = [line for line in lines if direction in line.directions]
    found.sort(key=lambda line: not any(line.prefixes(direction)))
    return [
        line
        for _, neighbours in groupby(found, key=lambda line: line.prefixes(direction))
        for line in sorted(neighbours, key=lambda line: -line.qos)
    ]


def overlap(one: str, other: str) -> bool:
    """Whether some topic matches both filters."""
    a, b = one.split("/"), other.split("/")
    for first, second in ((a[0], b[0]), (b[0], a[0])):
        if first.startswith("$") and second in ("+", "#"):
            return False
    for index in range(max(len(a), len(b))):
        if "#" in (a[index : index + 1] + b[index : index + 1]):
            return True
        if index >= len(a) or index >= len(b):
            return False
        if a[index] != b[index] and "+" not in (a[index], b[index]):
            return False
    return True


def _pattern(statement: Statement) -> tuple[str, list[str]]:
    """The pattern, which may be quoted (2.1), and the words behind it."""
    rest = statement.rest.lstrip(" ")
    if rest.startswith('"') and not rest.startswith(_EMPTY):
        pattern, quote, rest = rest[1:].partition('"')
        if not quote:
            raise ValueProblem("the closing quote is missing")
    else:
        pattern, _, rest = rest.partition(" ")
        if not pattern:
            raise ValueProblem("needs a pattern")
    return "" if pattern == _EMPTY else pattern, [word for word in rest.split(" ") if word]


def _qos(word: str) -> Literal[0, 1, 2]:
    """The number that a word begins with, as C's atoi reads it; without one it is 0."""
    match = _LEADING_NUMBER.match(word)
    number = int(match[1]) if match else 0
    if number == 0:
        return 0
    if number == 1:
        return 1
    if number == 2:
        return 2
    raise ValueProblem("the QoS must be 0, 1 or 2")


def _prefix(word: str) -> str:
    if word == _EMPTY:
        return ""
    if "+" in word or "#" in word:
        raise ValueProblem("a prefix must not hold the wildcards + and #")
    return word
