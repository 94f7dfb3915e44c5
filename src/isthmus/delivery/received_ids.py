"""Packet identifiers of QoS 2 messages that came and are not released by PUBREL, on disk.

An identifier goes to disk in one transaction with the message that it came with, before PUBREC is
sent: one that is known without its message would lose the message, as its repetition would be
dropped, and a message without its identifier would arrive twice. It is gone from the disk before
PUBCOMP is sent, as the peer may then use it for another message.

Where a message waits for something else than the store, such as room in a queue that is full, its
identifier follows when the message is safe. A crash in between can repeat that message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.queue import orphaned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isthmus.delivery.receipt import Receipt
    from isthmus.store.statement import Row
    from isthmus.store.table import Table


class Incoming:
    """What became of an incoming QoS 2 message until its PUBREL: part of the session.

    `safe` says that PUBREC may be sent, `kept` that its identifier is on disk, or on its way there.
    `waiting` are the receipts of repeated PUBLISH packets, on newer connections, which settle
    together with the first.
    """

    __slots__ = ("kept", "safe", "waiting")

    def __init__(self, *, kept: bool = False) -> None:
        self.safe = self.kept = kept
        self.waiting: tuple[Receipt, ...] = ()


class ReceivedIds:
    """What one peer sent in one session. `received` are the messages, by packet identifier."""

    __slots__ = ("_owner", "_table", "received")

    def __init__(self, table: Table, owner: bytes, ids: list[bytes]) -> None:
        self._table = table
        self._owner = owner
        self.received = {packet_id: Incoming(kept=True) for packet_id in ids}

    def add(self, packet_id: bytes, receipt: Receipt) -> None:
        """Write an identifier; its acknowledgement waits until that is done."""
        self.received[packet_id].kept = True
        self._table.set((self._key(packet_id),))
        if self._table.then(receipt.release, lambda: not orphaned(receipt)):
            receipt.holds += 1

    def remove(self, packet_id: bytes) -> None:
        """The exchange is over."""
        self._table.remove(self._key(packet_id))

    def when_removed(self, packet_id: bytes, callback: Callable[[], None]) -> None:
        """Call back when an identifier that was removed is off the disk: at once if it is."""
        if self._table.pending(self._key(packet_id)):
            self._table.then(callback)
        else:
            callback()

    def clear(self) -> None:
        """The session is gone: forget all of them."""
        for packet_id in self.received:
            self.remove(packet_id)
        self.received.clear()

    def rows(self) -> Iterator[Row]:
        """What is on disk of them."""
        for packet_id, found in self.received.items():
            if found.kept:
                yield (self._key(packet_id),)

    def _key(self, packet_id: bytes) -> bytes:
        return self._owner + b"\0" + packet_id


class ReceivedTable:
    """All of them, by the peer and session that they belong to: `owner`, without a zero byte."""

    def __init__(self, table: Table) -> None:
        """Read what is on disk.

        Raises:
            StoreError: It cannot be read.
        """
        self._table = table
        self._restored: dict[bytes, list[bytes]] = {}
        for (key,) in table.rows():
            if not isinstance(key, bytes):  # it is damaged: nothing was ever written so
                table.remove(key)
                continue
            self._restored.setdefault(key[:-3], []).append(key[-2:])
        self._all: dict[bytes, ReceivedIds] = {}
        table.refill = self._rows

    def of(self, owner: bytes) -> ReceivedIds:
        """The identifiers of `owner`: the first time those that were on disk at the start."""
        found = self._all.get(owner)
        if found is None:
            restored = self._restored.pop(owner, [])
            found = self._all[owner] = ReceivedIds(self._table, owner, restored)
        return found

    def not_asked_for(self) -> list[bytes]:
        """The owners of identifiers that were on disk at the start, and have not come for them."""
        return list(self._restored)

    def end(self, owner: bytes) -> None:
        """The session of `owner` has ended: forget its identifiers."""
        self.of(owner).clear()
        del self._all[owner]

    def _rows(self) -> Iterator[Row]:
        for ids in self._all.values():
            yield from ids.rows()
        for owner, found in self._restored.items():
            for packet_id in found:
                yield (owner + b"\0" + packet_id,)
