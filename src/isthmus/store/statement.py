"""Statements for many rows at once.

Few of them, as each return to Python may have to wait for the event loop; of few sizes, so that
each is prepared once.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

Row = tuple[Any, ...]

SIZES = tuple(1 << power for power in range(9, -1, -1))
"""Rows of one statement: few statements, each of which is prepared once."""


class Statement(NamedTuple):
    """One statement for `rows`, whose values follow each other in `values`."""

    template: str
    columns: int
    text: str
    values: list[Any]
    rows: list[Row]

    def singles(self) -> list[Statement]:
        """The same, with a statement for each row."""
        return [_statement(self.template, self.columns, [row]) for row in self.rows]


def plain(text: str, *values: object) -> Statement:
    """A statement with these values."""
    return Statement(text, len(values), text, list(values), [values])


def _statement(template: str, columns: int, rows: list[Row]) -> Statement:
    values = [value for row in rows for value in row]
    return Statement(template, columns, _for_many(template, columns, len(rows)), values, rows)


def statements(template: str, columns: int, rows: list[Row]) -> list[Statement]:
    """`template`, whose `{}` stands for any number of rows of so many columns, for all `rows`."""
    found = []
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            found.append(_statement(template, columns, rows[at : at + size]))
            at += size
    return found


@cache
def _for_many(template: str, columns: int, size: int) -> str:
    row = f"({','.join('?' * columns)})"
    return template.format(",".join([row] * size))
