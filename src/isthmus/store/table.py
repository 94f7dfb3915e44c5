"""A table: rows by their key, of which the last value counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from isthmus.store.schema import Statements
    from isthmus.store.statement import Row
    from isthmus.store.store import Store


class Table:
    """One table of the store, by the statements of the schema.

    `refill` is to be set by who has the rows in memory: it yields all of them when the file had to
    be made anew.
    """

    __slots__ = ("_store", "refill", "statements")

    def __init__(self, store: Store, statements: Statements) -> None:
        self._store = store
        self.statements = statements
        self.refill: Callable[[], Iterable[Row]] = tuple

    def rows(self) -> list[Row]:
        """All rows, for the start: before the first change.

        Raises:
            StoreError: They cannot be read.
        """
        return self._store.query(self.statements.rows)

    def set(self, row: Row, *, known: bool = True) -> None:
        """Have the row of this key replaced; `known` where there may be one on disk."""
        fresh = not known and not self.pending(row[0])
        self._store.change().set(self, row, fresh=fresh)

    def remove(self, key: bytes) -> None:
        """Have the row of `key` deleted."""
        self._store.change().remove(self, key)

    def pending(self, key: bytes) -> bool:
        """Whether a change of the row of `key` is not on disk yet."""
        return self._store.pending(self, key)

    def then(self, callback: Callable[[], None], needed: Callable[[], bool] = lambda: True) -> bool:
        """Call back when all changes until now are safe from a loss of power; see `Store.then`."""
        return self._store.then(callback, needed)
