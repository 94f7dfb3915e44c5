"""A disk that does not answer: a memory card that is busy, a share whose server is gone.

The writer waits for it as long as it takes, and so does everybody whose message has to be kept.
Here it is noticed, so that it can be said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

STALL_S = 5.0
"""So long the writer may be busy with one job before it is said that the disk does not answer."""


class StallWatch:
    """Calls back when the writer has not finished a job for `STALL_S`, or up to half as long again.

    It is looked at twice, so that a process that was stopped itself takes nothing for a stall.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stalled: Callable[[], None]) -> None:
        """Call `stalled` in `loop`, once for each stall."""
        self._loop = loop
        self._stalled = stalled
        self._jobs = self._ended = 0
        self._since = 0.0
        # One timer for many jobs: most of them end long before it.
        self._timer: asyncio.TimerHandle | None = None

    def begun(self) -> None:
        """The writer has one more job."""
        self._jobs += 1
        if self._jobs == 1:
            self._since = self._loop.time()
        if self._timer is None:
            self._look_in_a_while(again=False)

    def ended(self) -> float:
        """The writer has finished a job; how many seconds it was busy with it."""
        self._jobs -= 1
        self._ended += 1
        since, self._since = self._since, self._loop.time()
        return self._since - since

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_in_a_while(self, *, again: bool) -> None:
        self._timer = self._loop.call_later(STALL_S / 2, self._look, self._ended, again)

    def _look(self, ended: int, again: bool) -> None:
        self._timer = None
        if self._jobs and ended == self._ended and again:
            self._stalled()
        elif self._jobs:
            self._look_in_a_while(again=ended == self._ended)
