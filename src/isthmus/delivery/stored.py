"""What stands for the receipt of a message that is in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.delivery.receipt import Receipt, Settler

if TYPE_CHECKING:
    from isthmus.store.log import Log


class _Kept(Settler):
    """The source of what is stored: there is nobody left to tell."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.bridges = True


KEPT = _Kept()


class Stored(Receipt):
    """Stands for the receipt of record `seq` of `log`: settled, the record is done.

    `at` is the wall time at which it was put there; 0.0 where nobody asks for its age.
    """

    __slots__ = ("at", "log", "seq")

    log: Log
    seq: int
    at: float

    def release(self, count: int = 1) -> None:
        """The message needs no delivery any more."""
        self.log.done(self.seq)

    def refuse(self, index: int, code: int) -> None:
        """Nobody waits for the reason code."""


def stored_at(log: Log, seq: int, at: float = 0.0) -> Stored:
    """What stands for the receipt of record `seq` of `log`."""
    found = Stored.__new__(Stored)
    found.source = KEPT
    found.log = log
    found.seq = seq
    found.at = at
    return found
