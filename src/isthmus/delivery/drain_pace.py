"""How fast a lane sends what an outage has left on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import clock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from isthmus.net.token_bucket import TokenBucket


class DrainPace:
    """Calls `go_on` when more may be sent. `bucket` is the limit; None: as fast as it can be.

    `draining` says that some of it is left.
    """

    __slots__ = ("_go_on", "_loop", "_paused", "bucket", "draining")

    def __init__(self, loop: asyncio.AbstractEventLoop, go_on: Callable[[], None]) -> None:
        self._loop = loop
        self._go_on = go_on
        self.draining = self._paused = False
        self.bucket: TokenBucket | None = None

    def begin(self) -> None:
        """A connection is there again: what is on disk is what the outage has left."""
        self.draining = True

    def end(self) -> None:
        """All of it is sent: what comes from now on is as fast as it comes."""
        self.draining = False

    @property
    def limits(self) -> bool:
        """Whether each message has to ask."""
        return self.draining and self.bucket is not None

    def allows_one(self) -> bool:
        """Whether one more may be sent now; if not, it goes on by itself."""
        if self.bucket is None:
            return True
        now = clock.monotonic()
        if self.bucket.take(now):
            return True
        if not self._paused:
            self._paused = True
            self._loop.call_later(max(0.0, self.bucket.ready_at(now) - now), self._resume)
        return False

    def _resume(self) -> None:
        self._paused = False
        self._go_on()
