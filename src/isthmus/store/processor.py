"""The processor of the event loop, which the writer leaves to it.

A thread that the loop wakes tends to begin on the loop's own processor. Linux then lets it go on
for some tenths of a millisecond when the loop has work again, even where another one is idle.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Processor:
    """Where the loop ran last. Does nothing where the system cannot tell, or has one processor."""

    def __init__(self) -> None:
        self._ask = _asker()
        self._number = self._avoided = -1
        self._allowed: set[int] = set()

    def note(self) -> None:
        """In the loop: it runs here."""
        number = self._ask()
        if number != self._number:
            self._allowed = os.sched_getaffinity(0)
            self._number = number

    def avoid(self) -> None:
        """In another thread: run on the others from now on, of those that the loop may use."""
        number = self._number
        if number == self._avoided:
            return
        self._avoided = number
        others = self._allowed - {number}
        if others:
            try:
                os.sched_setaffinity(0, others)
            except OSError:  # they have been taken from us meanwhile: stay where we are
                return


def _unknown() -> int:
    return -1


@cache
def _asker() -> Callable[[], int]:
    """The function that tells on which processor its caller runs."""
    if not hasattr(os, "sched_setaffinity"):
        return _unknown
    import ctypes  # here, as it takes memory

    # `PyDLL`, as the interpreter's lock is not worth giving back for so short a call.
    return getattr(ctypes.PyDLL(None), "sched_getcpu", _unknown)
