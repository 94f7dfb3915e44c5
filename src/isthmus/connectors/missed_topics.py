"""Topics of retained messages that have changed while a link was down, on disk.

A change with QoS 0 has no acknowledgement that could wait for the disk, so these are written in a
while, as the retained message itself is. One is gone from the disk when what is retained there is
safe at the far side, or on its way with QoS 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.store.statement import Row
    from isthmus.store.table import Table


class MissedTopics:
    """Those of one connector, also from earlier processes."""

    __slots__ = ("_connector", "_table", "_topics")

    def __init__(self, table: Table, connector: bytes) -> None:
        self._table = table
        self._connector = connector
        self._topics: dict[bytes, None] = {}

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._topics

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._topics)

    def restore(self, topic: bytes) -> None:
        """`topic` is on disk."""
        self._topics[topic] = None

    def add(self, topic: bytes) -> None:
        """Have `topic` written, if it is not there."""
        if topic not in self._topics:
            self._topics[topic] = None
            self._table.set((self._key(topic),))

    def remove(self, topic: bytes) -> None:
        """Have `topic` deleted, if it is there."""
        if topic in self._topics:
            del self._topics[topic]
            self._table.remove(self._key(topic))

    def rows(self) -> Iterator[Row]:
        """What is on disk of them."""
        for topic in self._topics:
            yield (self._key(topic),)

    def _key(self, topic: bytes) -> bytes:
        return self._connector + b"\0" + topic


class MissedTable:
    """Those of all connectors, by name. They stay for a connector that comes back."""

    def __init__(self, table: Table) -> None:
        """Read what is on disk.

        Raises:
            StoreError: It cannot be read.
        """
        self._table = table
        self._all: dict[bytes, MissedTopics] = {}
        for (key,) in table.rows():
            if not isinstance(key, bytes) or b"\0" not in key:
                table.remove(key)  # it is damaged: nothing was ever written so
                continue
            connector, _, topic = key.partition(b"\0")
            self._of(connector).restore(topic)
        table.refill = self._rows

    def of(self, connector: str) -> MissedTopics:
        """The topics of a connector."""
        return self._of(connector.encode())

    def _of(self, connector: bytes) -> MissedTopics:
        found = self._all.get(connector)
        if found is None:
            found = self._all[connector] = MissedTopics(self._table, connector)
        return found

    def _rows(self) -> Iterator[Row]:
        for topics in self._all.values():
            yield from topics.rows()
