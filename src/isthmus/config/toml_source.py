"""TOML to a `Document`. `tomllib` gives no positions, so keys are searched line by line.

The search follows table headers and keys at the beginning of lines; what is inside an inline
table, an array or a text of several lines gets the line of the key around it.
"""

import re
import tomllib
from typing import Any

from isthmus.config.document import Document, DocumentError, Position
from isthmus.config.problems import Loc

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]\]?")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_PART = re.compile(_KEY)
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


def read_toml(text: str) -> Document:
    """Return the document of a TOML text.

    Raises:
        DocumentError: the text is no TOML, or has a key twice.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = _AT_LINE.search(message)
        line = int(match[1]) if match else text.count("\n") + 1
        raise DocumentError(line, _AT_LINE.sub("", message)) from None
    except RecursionError:
        raise DocumentError(1, "is nested too deeply") from None
    return Document(data, _positions(text, data))


def _positions(text: str, data: dict[str, Any]) -> dict[Loc, Position]:
    positions: dict[Loc, Position] = {}
    table: Loc = ()
    entries: dict[Loc, int] = {}
    long_text = ""
    for number, line in enumerate(text.splitlines(), 1):
        if long_text:
            if long_text in line:
                long_text = ""
            continue
        if match := _HEADER.match(line):
            table = _resolve(_parts(match[2]), entries)
            if match[1] == "[[":
                entries[table] = entries.get(table, -1) + 1
                positions.setdefault(table, Position(number, match.start(2) + 1))
                table = (*table, entries[table])
            _mark(positions, table, 0, Position(number, match.start(2) + 1))
        elif match := _ASSIGNMENT.match(line):
            loc = (*table, *_parts(match[1]))
            if _exists(data, loc):  # else it is a line inside an array or a text
                _mark(positions, loc, len(table), Position(number, match.start(1) + 1))
            long_text = _opened(line)
    return positions


def _mark(positions: dict[Loc, Position], loc: Loc, known: int, position: Position) -> None:
    for length in range(known + 1, len(loc) + 1):
        positions.setdefault(loc[:length], position)


def _resolve(parts: Loc, entries: dict[Loc, int]) -> Loc:
    """Put the index of the current entry behind every array of tables on the way."""
    loc: Loc = ()
    for index, part in enumerate(parts):
        loc = (*loc, part)
        if loc in entries and index < len(parts) - 1:
            loc = (*loc, entries[loc])
    return loc


def _parts(dotted: str) -> Loc:
    return tuple(tomllib.loads(f"{part} = 0").popitem()[0] for part in _PART.findall(dotted))


def _exists(data: Any, loc: Loc) -> bool:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _opened(line: str) -> str:
    """Return the quotes of a text that this line begins and does not end, or an empty text."""
    for quotes in ('"""', "'''"):
        if line.count(quotes) == 1:
            return quotes
    return ""
