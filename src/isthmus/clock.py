"""The clocks. Everything below `net/` takes time as an argument instead."""

import time

monotonic = time.monotonic
"""Seconds that only go forward: deadlines, ages, back-off."""

wall = time.time
"""Seconds since the epoch: time stamps that people or other machines read."""

started = wall()
"""When the process began to run, as far as Python code can see."""

TIMER_S = 0.001
"""The resolution of the event loop's timers. uvloop counts in milliseconds, and calls at once what
is due in less than half of one: who looks whether it is time and waits for the rest would look
again and again."""

STEP_S = 2.0
"""A wall clock that went apart from the monotonic one by more has been set."""


class Steps:
    """Notices that the wall clock was set, as by a small computer that learns the time late."""

    __slots__ = ("_apart_s",)

    def __init__(self) -> None:
        self._apart_s = wall() - monotonic()

    def stepped(self) -> bool:
        """Whether it was set since the last time that this said so."""
        apart_s = wall() - monotonic()
        if abs(apart_s - self._apart_s) <= STEP_S:
            return False
        self._apart_s = apart_s
        return True


def iso(wall_s: float) -> str:
    """A wall time in ISO 8601, in UTC and with milliseconds: `2026-01-31T12:00:00.250Z`."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s))
    return f"{seconds}.{int(wall_s % 1 * 1000):03d}Z"
