"""JSON to a `Document`. `json` checks the text; a small tokenizer then finds the positions."""

import json
import re
from typing import Any

from isthmus.config.document import Document, DocumentError, Position
from isthmus.config.problems import Loc, Problem

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)


def read_json(text: str) -> Document:
    """Return the document of a JSON text; empty text gives None as data.

    Raises:
        DocumentError: the text is no JSON.
    """
    if not text.strip():
        return Document()
    try:
        data = json.loads(text, object_pairs_hook=_first_wins)
    except json.JSONDecodeError as error:
        raise DocumentError(error.lineno, f"is no JSON: {error.msg}") from None
    except ValueError:
        raise DocumentError(1, "holds a number that cannot be read") from None
    except RecursionError:
        raise DocumentError(1, "is nested too deeply") from None
    document = Document(data)
    _Scanner(text, document).scan()
    return document


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


class _Scanner:
    """Walks the tokens of a text that is known to be valid."""

    def __init__(self, text: str, document: Document) -> None:
        self._text = text
        self._document = document
        self._tokens = _TOKEN.finditer(text)
        self._line, self._line_start = 1, 0

    def scan(self) -> None:
        self._value(next(self._tokens), ())

    def _value(self, token: re.Match[str], loc: Loc) -> None:
        if token[0] == "{":
            self._object(loc)
        elif token[0] == "[":
            self._array(loc)

    def _object(self, loc: Loc) -> None:
        positions = self._document.positions
        for token in self._tokens:
            if token[0] == "}":
                return
            if token[0] == ",":
                continue
            inner = (*loc, json.loads(token[0]))
            position = self._position(token.start())
            if inner in positions:
                text = (
                    f"is there twice, first on line {positions[inner].line} "
                    f"and again on line {position.line}"
                )
                self._document.problems.append(Problem(inner, text))
            positions.setdefault(inner, position)
            next(self._tokens)  # the colon
            self._value(next(self._tokens), inner)

    def _array(self, loc: Loc) -> None:
        index = 0
        for token in self._tokens:
            if token[0] == "]":
                return
            if token[0] == ",":
                index += 1
                continue
            inner = (*loc, index)
            self._document.positions.setdefault(inner, self._position(token.start()))
            self._value(token, inner)

    def _position(self, offset: int) -> Position:
        breaks = self._text.count("\n", self._line_start, offset)
        if breaks:
            self._line += breaks
            self._line_start = self._text.rindex("\n", 0, offset) + 1
        return Position(self._line, offset - self._line_start + 1)
