"""When a lane sends what an outage has left on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from isthmus.delivery.drain_rates import DrainRates


class DrainPace:
    """Calls `go_on` when more may be sent. `rates` are the limits; None: as fast as it can be.

    `draining` says that some of it is left.
    """

    __slots__ = ("_go_on", "_loop", "_paused", "draining", "rates")

    def __init__(self, loop: asyncio.AbstractEventLoop, go_on: Callable[[], None]) -> None:
        self._loop = loop
        self._go_on = go_on
        self.draining = self._paused = False
        self.rates: DrainRates | None = None

    def begin(self) -> None:
        """A connection is there again: what is on disk is what the outage has left."""
        self.draining = True

    def end(self) -> None:
        """All of it is sent: what comes from now on is as fast as it comes."""
        self.draining = False

    @property
    def limits(self) -> bool:
        """Whether each message has to ask."""
        return self.draining and bool(self.rates)

    def allows(self, topic: bytes) -> bool:
        """Whether a message on `topic` may be sent now; if not, it goes on by itself."""
        wait_s = 0.0 if self.rates is None else self.rates.take(topic)
        if wait_s <= 0.0:
            return True
        if not self._paused:
            self._paused = True
            self._loop.call_later(wait_s, self._resume)
        return False

    def _resume(self) -> None:
        self._paused = False
        self._go_on()
