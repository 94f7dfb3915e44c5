"""Who waits for a log to be on disk: hot code, one call per message that is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.delivery.receipt import Receipt


class Owed:
    """Holds on receipts, each of them given back when a log is on disk up to a place.

    Messages of one receipt that follow each other are one entry, as long as no transaction closes
    between them.
    """

    __slots__ = ("_end", "_holds", "_receipt", "_released", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Receipt, int]] = []
        self._released = 0  # of these, while they are gone through
        # The last receipt, as long as messages of it come.
        self._receipt: Receipt | None = None
        self._end = self._holds = 0

    def add(self, receipt: Receipt, seq: int) -> None:
        """Take over a hold: it is given back when record `seq` is on disk."""
        if receipt is not self._receipt:
            self.close()
            self._receipt = receipt
        self._holds += 1
        self._end = seq

    def close(self) -> None:
        """What was added until now is about to be written."""
        if self._receipt is not None:
            self._waiting.append((self._end, self._receipt, self._holds))
            self._receipt = None
            self._holds = 0

    def release(self, stored: int) -> None:
        """Everything before record `stored` is on disk: give back what is due."""
        while self._released < len(self._waiting) and self._waiting[self._released][0] < stored:
            _, receipt, holds = self._waiting[self._released]
            self._released += 1  # one that fails leaves the others for the next time
            receipt.release(holds)
        del self._waiting[: self._released]
        self._released = 0

    def release_all(self) -> None:
        """Nobody has to wait any more."""
        self.close()
        waiting, self._waiting = self._waiting[self._released :], []
        self._released = 0
        for _, receipt, holds in waiting:
            receipt.release(holds)
