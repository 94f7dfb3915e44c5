"""What the disk knows of the pools of connectors: their client ids, and what waits for what.

With another pool most topics go by another connection. What waited before the change goes first,
over any number of restarts: a *stage* says for each log where that ends.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.store.statement import Row
    from isthmus.store.table import Table

log = logging.getLogger("isthmus.connectors")


class Pool(NamedTuple):
    """The pool of one connector.

    `client_ids` are those of its connections, in order, as the order decides about topics. In
    `stages`, oldest first, are the names of logs with the number of the first record that came
    after that change of the pool; of a log that is not named all came after it. `places` are the
    addresses of the last connections, by client id.
    """

    client_ids: list[str]
    stages: list[dict[str, int]]
    places: dict[str, str]


class PoolTable:
    """The pools of all connectors, by name; a change is written with what comes after it."""

    def __init__(self, table: Table) -> None:
        """Read them.

        Raises:
            StoreError: They cannot be read.
        """
        self._table = table
        self._pools: dict[str, Pool] = {}
        for name, data in table.rows():
            try:
                self._pools[name.decode()] = _pool(json.loads(data))
            except (ValueError, TypeError, AttributeError):
                log.warning("what the disk knows of the pool of connector %r is damaged", name)
        table.refill = self._rows

    def _rows(self) -> Iterator[Row]:
        return (_row(name, pool) for name, pool in self._pools.items())

    def get(self, connector: str) -> Pool | None:
        """The pool of a connector, as the disk has it; None where it has none."""
        return self._pools.get(connector)

    def set(self, connector: str, pool: Pool) -> None:
        """Have it written, if it is another one."""
        if pool != self._pools.get(connector):
            self._pools[connector] = pool
            self._table.set(_row(connector, pool))


def _row(name: str, pool: Pool) -> Row:
    return name.encode(), json.dumps(pool).encode()


def _pool(found: list[Any]) -> Pool:
    client_ids, stages, *more = found
    places = more[0] if more else {}
    return Pool(
        [str(client_id) for client_id in client_ids],
        [{str(name): int(end) for name, end in stage.items()} for stage in stages],
        {str(client_id): str(address) for client_id, address in places.items()},
    )
