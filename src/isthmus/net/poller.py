"""Which sockets are ready: the one question that differs between platforms.

`EpollPoller` is the normal case: an epoll set of our own whose descriptor is a single reader of the
asyncio loop. It costs one system call for up to 512 ready sockets, where a reader per socket costs
a callback each. `LoopPoller` is for platforms without epoll: it registers every socket with the
loop and gathers what the loop reports into one turn, so that the reactor sees no difference.

Both are level-triggered: what a turn did not read is reported again.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

# The values of epoll, which are the same on every Linux; `select` has the names on Linux only.
READ = 0x001
WRITE = 0x004
ERROR = 0x008
HANGUP = 0x010

MAX_EVENTS = 512
"""Sockets taken from the kernel in one turn; more wait, and the kernel rotates its list."""


class Poller(Protocol):
    """What the reactor needs to know about readiness."""

    def attach(self, turn: Callable[[], None]) -> None:
        """Call `turn` from the loop whenever a registered socket is ready."""

    def register(self, fd: int, mask: int) -> None:
        """Watch `fd` for `mask` (READ, WRITE or 0). ERROR and HANGUP are always reported."""

    def modify(self, fd: int, mask: int) -> None:
        """Change what a registered `fd` is watched for."""

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`; must come before its descriptor is closed."""

    def poll(self) -> list[tuple[int, int]]:
        """Return (fd, events) of ready sockets, at most MAX_EVENTS, without waiting."""

    def close(self) -> None:
        """Leave the loop and give back the poller's own descriptor."""


class LoopPoller:
    """Every socket is a reader or writer of the asyncio loop, for platforms without epoll.

    A socket that is watched for nothing is unknown to the loop, so its reset would go unseen; such
    sockets are asked for a pending error once per second.
    """

    __slots__ = ("_check", "_loop", "_masks", "_ready", "_scheduled", "_turn", "_unwatched")

    RESET_CHECK_S = 1.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._masks: dict[int, int] = {}
        self._ready: dict[int, int] = {}
        self._unwatched: set[int] = set()
        self._check: asyncio.TimerHandle | None = None
        self._scheduled: asyncio.Handle | None = None
        self._turn: Callable[[], None] | None = None

    def attach(self, turn: Callable[[], None]) -> None:
        self._turn = turn

    def register(self, fd: int, mask: int) -> None:
        self._masks[fd] = 0
        self.modify(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        changed = self._masks[fd] ^ mask
        self._masks[fd] = mask
        if changed & READ:
            if mask & READ:
                self._loop.add_reader(fd, self._mark, fd, READ)
            else:
                self._loop.remove_reader(fd)
        if changed & WRITE:
            if mask & WRITE:
                self._loop.add_writer(fd, self._mark, fd, WRITE)
            else:
                self._loop.remove_writer(fd)
        if mask:
            self._unwatched.discard(fd)
        else:
            self._unwatched.add(fd)
            if self._check is None:
                self._check = self._loop.call_later(self.RESET_CHECK_S, self._check_unwatched)

    def unregister(self, fd: int) -> None:
        self.modify(fd, 0)
        del self._masks[fd]
        self._unwatched.discard(fd)
        self._ready.pop(fd, None)

    def poll(self) -> list[tuple[int, int]]:
        ready, self._ready = self._ready, {}
        masks = self._masks
        # A socket may have been paused after it was marked; errors pass whatever the mask says.
        return [(fd, event) for fd, mark in ready.items() if (event := mark & (masks[fd] | ERROR))]

    def close(self) -> None:
        for fd in list(self._masks):
            self.unregister(fd)
        for handle in (self._check, self._scheduled):
            if handle is not None:
                handle.cancel()
        self._turn = None

    def _mark(self, fd: int, event: int) -> None:
        self._ready[fd] = self._ready.get(fd, 0) | event
        if self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = None
        if self._turn is not None:
            self._turn()

    def _check_unwatched(self) -> None:
        self._check = None
        for fd in self._unwatched:
            probe = socket.socket(fileno=fd)
            try:
                if probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._mark(fd, ERROR)
            finally:
                probe.detach()
        if self._unwatched:
            self._check = self._loop.call_later(self.RESET_CHECK_S, self._check_unwatched)


if sys.platform == "linux":

    class EpollPoller:
        """An epoll set nested in the loop's own."""

        __slots__ = ("_epoll", "_loop", "modify", "poll", "register", "unregister")

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop
            self._epoll = select.epoll()
            # The bound C methods themselves: a wrapper would cost a call per turn.
            self.register = self._epoll.register
            self.modify = self._epoll.modify
            self.unregister = self._epoll.unregister
            self.poll = partial(self._epoll.poll, 0, MAX_EVENTS)

        def attach(self, turn: Callable[[], None]) -> None:
            self._loop.add_reader(self._epoll.fileno(), turn)

        def close(self) -> None:
            if not self._epoll.closed:
                self._loop.remove_reader(self._epoll.fileno())
                self._epoll.close()

    default_poller: type[EpollPoller | LoopPoller] = EpollPoller
else:
    default_poller = LoopPoller
