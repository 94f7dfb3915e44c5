"""One timer wheel for the deadlines of links, clients and sessions.

asyncio's `call_later` keeps a heap entry per timer, and cancelled ones stay in it; with 100,000
connections that each push their deadline on at every packet this is most of the work. Here a timer
sits in a bucket of 100 ms, moving it later is one attribute, and the heap holds bucket numbers
only.

The wheel has no clock and no loop: `Reactor` tells it the time and asks it when to wake up.
Timers never fire early; they fire up to RESOLUTION_S late. Deadlines far ahead sit in coarse
buckets that begin before them and are sorted again on the way, so that the number of buckets stays
in the hundreds even with a million expiry times spread over weeks.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable

from isthmus.clock import monotonic

log = logging.getLogger(__name__)

RESOLUTION_S = 0.1
"""Width of a bucket."""

BATCH = 256
"""Timers fired between two looks at the clock."""

IDLE = -1
"""`Timer.tick` of a timer that is in no bucket."""

# (ticks ahead, bucket width in ticks): past 51 s buckets are 25.6 s wide, past 3.6 h 1.8 h.
_COARSE = ((131_072, 65_536), (512, 256))


class Timer:
    """One deadline. Made by `Wheel.at`; fires once unless it is cancelled or moved."""

    __slots__ = ("_callback", "_wheel", "deadline", "tick")

    def __init__(self, wheel: Wheel, deadline: float, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self._wheel = wheel
        self._callback: Callable[[], None] | None = callback
        self.tick = IDLE

    @property
    def active(self) -> bool:
        """Whether the callback is still to come."""
        return self.tick != IDLE

    def fire(self) -> None:
        """Call the callback; what it raises is logged and harms no other timer."""
        if self._callback is not None:
            try:
                self._callback()
            except Exception:
                log.exception("a timer failed")

    def cancel(self) -> None:
        """Never fire; harmless when it fired already."""
        if self.tick != IDLE:
            self._wheel.remove(self)
        self._callback = None

    def move(self, deadline: float) -> None:
        """Fire at `deadline` instead; cheapest when that is later. A fired timer is armed again.

        A cancelled timer stays cancelled.
        """
        if self._callback is None:
            return
        later = deadline >= self.deadline
        self.deadline = deadline
        if self.tick == IDLE:
            self._wheel.add(self)
        elif not later:
            self._wheel.remove(self)
            self._wheel.add(self)


class Wheel:
    """All timers of one reactor."""

    __slots__ = ("_buckets", "_due", "_now_tick", "_on_earlier", "_ticks")

    def __init__(self, now: float, on_earlier: Callable[[float], None]) -> None:
        """Start at `now`; `on_earlier(deadline)` is called when the next wake-up moves forward."""
        self._now_tick = math.floor(now / RESOLUTION_S)
        self._on_earlier = on_earlier
        self._buckets: dict[int, dict[Timer, None]] = {}
        self._ticks: list[int] = []
        self._due: dict[Timer, None] = {}

    def __len__(self) -> int:
        return len(self._due) + sum(map(len, self._buckets.values()))

    def at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call `callback()` once at monotonic time `deadline` or up to 100 ms later."""
        timer = Timer(self, deadline, callback)
        self.add(timer)
        return timer

    def add(self, timer: Timer) -> None:
        """Put a timer that is in no bucket into the one of its deadline."""
        now = self._now_tick
        tick = max(math.ceil(timer.deadline / RESOLUTION_S), now + 1)
        ahead = tick - now
        for distance, width in _COARSE:
            if ahead > distance:
                tick -= tick % width
                break
        timer.tick = tick
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket[timer] = None
            return
        self._buckets[tick] = {timer: None}
        earlier = not self._ticks or tick < self._ticks[0]
        heapq.heappush(self._ticks, tick)
        if earlier:
            self._on_earlier(tick * RESOLUTION_S)

    def remove(self, timer: Timer) -> None:
        """Take a timer out of its bucket; an empty bucket stays until it is its turn."""
        bucket = self._buckets.get(timer.tick, self._due)
        bucket.pop(timer, None)
        timer.tick = IDLE

    def next(self) -> float | None:
        """Return when `expire` should be called next; None: sleep, there is nothing."""
        if self._due:
            return 0.0
        return self._ticks[0] * RESOLUTION_S if self._ticks else None

    def expire(self, now: float, budget_s: float) -> None:
        """Fire what is due at `now`; stop after about `budget_s`, then `next()` says at once."""
        # The small term keeps a bucket from being missed by the rounding of tick * RESOLUTION_S.
        tick = self._now_tick = max(math.floor(now / RESOLUTION_S + 1e-6), self._now_tick)
        ticks, due = self._ticks, self._due
        while ticks and ticks[0] <= tick:
            due.update(self._buckets.pop(heapq.heappop(ticks)))
        stop = monotonic() + budget_s
        fired = 0
        for timer in list(due):
            if timer not in due:
                continue  # cancelled or moved by one that fired just before
            del due[timer]
            timer.tick = IDLE
            if timer.deadline > now:
                self.add(timer)  # moved later, or on its way out of a coarse bucket
                continue
            timer.fire()
            fired += 1
            if not fired % BATCH and monotonic() > stop:
                return
