"""A disk that does not answer: a memory card that is busy, a share whose server is gone.

The writer waits for it as long as it takes, and so does everybody whose message has to be kept.
Here it is noticed, so that it can be said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

STALL_S = 5.0
"""So long the writer may be busy with one job before it is said that the disk does not answer."""

LOOKS = 2
"""So often it is looked at meanwhile: a process that was stopped itself takes nothing for a stall,
as after a stop only one look is due."""


class StallWatch:
    """Calls back when the writer has not finished a job for `STALL_S`, or up to half as long again.

    It looks as long as there are jobs: behind one that stalled, the next may stall too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stalled: Callable[[float], None]) -> None:
        """Call `stalled` in `loop`, once for each stall, with the seconds it has lasted."""
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
            self._look_in_a_while(0)

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

    def _look_in_a_while(self, same: int) -> None:
        self._timer = self._loop.call_later(STALL_S / LOOKS, self._look, self._ended, same)

    def _look(self, ended: int, same: int) -> None:
        """See whether a job has ended since the last look; `same` looks before saw none."""
        self._timer = None
        if not self._jobs:
            return
        same = same + 1 if ended == self._ended else 0
        if same == LOOKS:
            self._stalled(STALL_S)
        self._look_in_a_while(same)
