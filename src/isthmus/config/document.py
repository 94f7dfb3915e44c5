"""A configuration file as read: plain data, and the line of every key.

Every format gives the same `Document`, with text for every mapping key. What is wrong with the
text as such (a key twice, a tag) is collected in `problems`, so that one look at the file shows
everything; text that is no YAML, TOML or JSON at all raises `DocumentError`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from isthmus.config.problems import Loc, Problem


class Position(NamedTuple):
    """Place in a file, both counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """What a file says. `positions` has the key or list entry of every path."""

    data: Any = None
    positions: dict[Loc, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class DocumentError(Exception):
    """The text cannot be read at all; holds no part of it."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def nearest_line(positions: Mapping[Loc, Position], loc: Loc) -> int:
    """Return the line of the path, or of the nearest thing around it that has one."""
    for length in range(len(loc), 0, -1):
        position = positions.get(loc[:length])
        if position is not None:
            return position.line
    return 1
