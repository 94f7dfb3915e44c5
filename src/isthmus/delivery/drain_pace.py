"""When a lane sends what an outage has left on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.clock import TIMER_S

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from isthmus.delivery.drain_rates import DrainRates


class DrainPace:
    """Calls `go_on` when more may be sent. `rates` are the limits; None: as fast as it can be.

    `draining` says that some of it is left.
    """

    __slots__ = ("_go_on", "_loop", "_resume_at", "_timer", "draining", "rates")

    def __init__(self, loop: asyncio.AbstractEventLoop, go_on: Callable[[], None]) -> None:
        self._loop = loop
        self._go_on = go_on
        self.draining = False
        self.rates: DrainRates | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resume_at = 0.0

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

    def take(self, topic: bytes) -> bool:
        """Whether a message on `topic` is to be sent now; if not, it goes on by itself."""
        assert self.rates is not None
        wait_s = self.rates.take(topic)
        if wait_s <= 0.0:
            return True
        at = self._loop.time() + max(wait_s, TIMER_S)
        if self._timer is not None and at < self._resume_at:
            # Rates may have changed since, and what was waited for may have gone.
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._resume)
            self._resume_at = at
        return False

    def _resume(self) -> None:
        self._timer = None
        self._go_on()
