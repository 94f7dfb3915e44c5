"""The processor of the event loop, which the writer leaves to it.

A thread that the loop wakes tends to begin on the loop's own processor. Linux then lets it go on
for some tenths of a millisecond when the loop has work again, even where another one is idle. In
the same way a loop that has waited for the interpreter's lock tends to be woken on the processor of
the thread that had it, and has to wait until that thread does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Processor:
    """Where the loop runs. Does nothing where the system cannot tell, or has one processor."""

    def __init__(self) -> None:
        self._ask = _asker()
        self._number = -1

    def keep_off(self, thread: int) -> None:
        """In the loop: `thread`, which sleeps, is to run on the others that the loop may use.

        One that runs would have to be stopped for that.
        """
        number = self._ask()
        if number == self._number:
            return
        self._number = number
        others = os.sched_getaffinity(0) - {number}
        if others:
            with suppress(OSError):  # they have been taken from us meanwhile
                os.sched_setaffinity(thread, others)


def give_way() -> None:
    """In another thread, before it does much without the interpreter's lock: the loop goes first.

    So does whatever else waits for this processor.
    """
    if hasattr(os, "sched_yield"):
        os.sched_yield()  # gives the lock back meanwhile


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
