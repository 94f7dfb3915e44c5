"""The dead letters of a connector: messages that could not be delivered, on disk, with the reason.

A message goes there instead of being lost, where its publisher was told already that it is safe, or
cannot be told anything. It leaves its outbox and comes here in one transaction: in the turn in
which it is added here, it is done there. Who still waits for its acknowledgement gets it when the
dead letter is on disk.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.delivery.dead_letter import DeadLetter, seal
from isthmus.delivery.owed import Owed
from isthmus.delivery.queue import expiry
from isthmus.delivery.receipt import PUBACK, Settler, open_receipt
from isthmus.delivery.record import record
from isthmus.delivery.stored import Stored
from isthmus.metrics.drops import Drops

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.delivery.receipt import Receipt
    from isthmus.store.log import Log

logger = logging.getLogger("isthmus.delivery")


class DeadLetters:
    """The dead letters in `log`, which is theirs alone.

    At most about `max_bytes` are kept: the oldest go, and are counted in `drops`. Of what does not
    come from an outbox, `max_unstored_bytes` may wait in memory for the disk. `put_aside` counts
    what came, by reason.
    """

    def __init__(self, log: Log, drops: Drops, *, max_bytes: int, max_unstored_bytes: int) -> None:
        self.log = log
        self.max_bytes = max_bytes
        self.max_unstored_bytes = max_unstored_bytes
        self.put_aside = Drops(drops.place, logger, "put aside as dead letters")
        self._drops = drops
        self._owed = Owed()
        log.owner = self

    def __len__(self) -> int:
        return len(self.log)

    @property
    def size(self) -> int:
        """The bytes that they take on disk."""
        return self.log.size

    @property
    def has_room(self) -> bool:
        """Whether memory has room for more, while the disk takes none."""
        return self.log.unstored_bytes < self.max_unstored_bytes

    def take(self, receipt: Receipt | None) -> bool:
        """Whether a message that has failed is to come here: nobody is there to be told a code."""
        if isinstance(receipt, Stored):
            return True
        return (receipt is None or not receipt.source.v5) and self.has_room

    def keeps(self, receipt: Receipt | None) -> bool:
        """Whether a message that has failed is a dead letter that was published again: it stays."""
        return receipt is not None and isinstance(receipt.source, Replay)

    def add(
        self,
        reason: str,
        connection: str,
        first: int,
        topic: bytes,
        properties: bytes,
        payload: bytes,
        receipt: Receipt | None = None,
    ) -> None:
        """Keep a message, whose topic has its two length bytes in front.

        `connection` is the client id of the connection that it was for. `receipt` is released once
        the message is on disk, with a hold of its own; what stands for a message in an outbox is
        done with it, in one transaction.
        """
        expires = expiry(properties) if properties else None
        self.add_record(
            reason, connection, record(first, topic, properties, payload, expires), topic
        )
        if isinstance(receipt, Stored):
            receipt.log.move(receipt.seq, self.log)
        elif receipt is not None:
            receipt.holds += 1
            self._owed.add(receipt, self.log.next - 1)

    def add_record(self, reason: str, connection: str, found: bytes, topic: bytes) -> None:
        """Keep a message that is a record of an outbox."""
        log = self.log
        log.append(seal(DeadLetter(clock.wall(), reason, connection, found)))
        self.put_aside.add(reason, topic[2:])
        self.trim()

    def limit(self, *, max_bytes: int, max_unstored_bytes: int) -> None:
        """Keep to other limits from now on."""
        self.max_bytes = max_bytes
        self.max_unstored_bytes = max_unstored_bytes
        self.trim()

    def trim(self) -> None:
        """Drop the oldest while there are more bytes than allowed."""
        log = self.log
        count = 0
        while log.size > self.max_bytes and len(log) > 1:
            log.skip(log.done_below)
            count += 1
        if count:
            self._drops.add("dead_letters_full", count=count)

    def remove(self, seq: int) -> bool:
        """Delete dead letter number `seq`; whether it was there."""
        if not 0 < seq < self.log.next or self.log.is_done(seq):
            return False
        self.log.done(seq)
        return True

    def closing(self) -> None:
        """What was added until now is about to be written."""
        self._owed.close()

    def committed(self) -> None:
        """What was added has reached the disk up to `log.stored`."""
        self._owed.release(self.log.stored)


class Replay(Settler):
    """Where a dead letter that is published again comes from.

    It is done when its message is safe elsewhere. A `code` of 0x80 or above says that it is not: it
    stays. `seq` is its number.
    """

    __slots__ = ("_ended", "_letters", "code", "seq")

    def __init__(self, letters: DeadLetters, seq: int, ended: Callable[[Replay], None]) -> None:
        super().__init__()
        self.v5 = True  # it can be told codes
        self.bridges = True  # it does not go away as a connection does
        self._letters = letters
        self.seq = seq
        self._ended = ended
        self.code = 0

    def receipt(self) -> Receipt:
        """The receipt of its message, with one hold."""
        found = open_receipt(self, PUBACK)
        found.ids.append(b"\0\0")
        return found

    def settled(self, receipt: Receipt) -> None:
        """The message is safe, or has failed with a code."""
        self.code = (receipt.codes or {}).get(0, 0)
        if self.code < 0x80:
            self._letters.remove(self.seq)
        self._ended(self)
