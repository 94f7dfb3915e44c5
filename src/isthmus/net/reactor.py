"""The event loop inside the event loop: one plain Python loop over all ready sockets per turn.

A turn takes what is ready, reads each link once, hands the bytes up, and at the end flushes every
link that was touched once, so that deliveries from many sources to one link share one write. An
asyncio protocol per connection does the same work with a callback, a write and a system call per
message. HTTP and all control work stay ordinary asyncio in the same loop.

Invariants:

- A turn ends after about TURN_BUDGET_S even if more is ready; links not reached go first next turn.
- Flush and close run in `finally`. One link's exception closes that link, with a reason, only.
- A descriptor is closed at the very end of a turn: were it closed earlier, a connection accepted in
  the same turn could get its number, and then its events.
- `touched`, `in_turn` and `now` are read by hot code in other packages; the rest are methods.

The reactor knows links and sources (listeners), not what they carry.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import sleep, thread_time

from isthmus.clock import TIMER_S, monotonic
from isthmus.net import socket_calls
from isthmus.net.link import READ_LIMIT, Link, Turn, describe
from isthmus.net.peer import peer_text
from isthmus.net.poller import READ, Poller, default_poller
from isthmus.net.timers import Timer, Wheel

log = logging.getLogger(__name__)

TURN_BUDGET_S = 0.004
"""After this a turn reads no more, so that HTTP, timers and keep alive are not kept waiting."""

CHECK_EVERY = 16
"""The clock is looked at after so many links; each 2 KiB read count as one more."""

SHARE_EVERY_S = 0.001
"""Work after which other threads of ours get their turn, while there are such that want one."""

SHARE_S = 0.00005
"""How long that is; the system makes about twice of it."""

WAITED_S = 0.0002
"""So much waiting between turns, in all, since they last had it, was their turn."""

MAX_ROUNDS = 8
"""Flush and on_close may write again; past so many rounds the rest waits for the next turn."""


FAILED = "%s: %s failed; this connection is closed"


@dataclass(frozen=True, slots=True)
class ReactorStatistics:
    """Counts since the start; `links` is now."""

    links: int
    timers: int
    turns: int
    events: int
    flushes: int
    turns_cut: int
    failures: int


class Reactor(Turn):
    """Serves links, listeners and timers from inside a running asyncio loop.

    Attributes:
        wheel: All deadlines.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        poller: Callable[[asyncio.AbstractEventLoop], Poller] | None = None,
    ) -> None:
        """Attach to `loop` (default: the running one); `poller` is a class of poller.py."""
        super().__init__(monotonic())
        self.loop = loop or asyncio.get_running_loop()
        self.poller = (poller or default_poller)(self.loop)
        self.wheel = Wheel(self.now, self._wake_for_timers)
        self._buffer = bytearray(READ_LIMIT)
        self._links: dict[int, Link] = {}
        self._sources: dict[int, Callable[[], None]] = {}
        self._unreached: dict[int, int] = {}
        self._steps: deque[Link] = deque()
        self._ending: list[Link] = []
        self._dead: list[socket.socket] = []
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False
        self._sharing = 0
        self._unshared = self._waited = self._shared_at = self._shared_cpu = 0.0
        self._turns = self._events = self._flushes = self._cut = self._failures = 0
        self.poller.attach(self._turn)

    def statistics(self) -> ReactorStatistics:
        """Return the counters."""
        return ReactorStatistics(
            links=len(self._links),
            timers=len(self.wheel),
            turns=self._turns,
            events=self._events,
            flushes=self._flushes,
            turns_cut=self._cut,
            failures=self._failures,
        )

    def close(self) -> None:
        """Abort every link, stop listening and leave the loop. Owners hear `on_close`.

        Not to be called from a callback of a link.
        """
        if self._closed:
            return
        for link in list(self._links.values()):
            link.abort("shutting down")
        self._finish()
        self._closed = True
        for fd in list(self._sources):
            self.remove_source(fd)
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._steps.clear()
        self.poller.close()

    def share(self, change: int) -> None:
        """Count a thread of ours that has work to do (1), or is done with it (-1).

        A busy loop gives the interpreter back for so short a time, at each system call, that a
        thread that wants it comes too late each time: by itself it would wait for a tenth of a
        second (Python 3.11, two processors).
        """
        self._sharing += change

    # --- for links, listeners and TLS ------------------------------------------------------------

    def wake(self) -> None:
        """See `Turn.wake`."""
        if self._soon is None and not self._closed:
            self.now = monotonic()
            self._soon = self.loop.call_soon(self._run_soon)

    def later(self, link: Link) -> None:
        """Call `link.step()` in this turn's budget or a later one's: epoll will not report it."""
        self._steps.append(link)
        if not self.in_turn:
            self.wake()

    def register(self, link: Link) -> None:
        """Know whose events those of `link.fd` are."""
        self._links[link.fd] = link

    def unregister(self, fd: int) -> None:
        """Forget a link's descriptor, with any event of it that is still in a list."""
        self.poller.unregister(fd)
        del self._links[fd]
        self._unreached.pop(fd, None)

    def add_source(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready()` in each turn in which `fd`, which is no link, is readable."""
        self._sources[fd] = ready
        self.poller.register(fd, READ)

    def remove_source(self, fd: int) -> None:
        """Stop calling for `fd`."""
        if fd in self._sources:
            self.poller.unregister(fd)
            self._unreached.pop(fd, None)
            del self._sources[fd]  # last: it may hold the only reference to the socket

    def ending(self, link: Link) -> None:
        """Finish the link and call its `on_close` after the next flush."""
        self._ending.append(link)
        if not self.in_turn:
            self.wake()

    def bury(self, sock: socket.socket) -> None:
        """Close the socket at the end of the turn."""
        self._dead.append(sock)
        if not self.in_turn:
            self.wake()

    def failed(self, link: Link, what: str) -> None:
        """Close the one link whose exception has just been logged."""
        self._failures += 1
        link.abort(f"internal error in {what}")

    # --- the turn --------------------------------------------------------------------------------

    def _turn(self) -> None:
        self.in_turn = True
        started = self.now = monotonic()
        self._turns += 1
        try:
            events = self.poller.poll()
            if self._unreached:
                unreached, self._unreached = self._unreached, {}
                events = [*unreached.items(), *(e for e in events if e[0] not in unreached)]
            self._events += len(events)
            self._read(events, started)
            if self._steps:
                self._take_steps(started)
        finally:
            self._finish()
            if self._sharing:
                self._share(started)

    def _share(self, started: float) -> None:
        cpu, now = thread_time(), monotonic()
        gap, turn = started - self._shared_at, now - started
        # What of the gap was no work of ours, as far as the turn has taken its time for work.
        self._waited += gap - min(gap, max(0.0, cpu - self._shared_cpu - turn))
        if self._waited > WAITED_S:
            self._unshared = self._waited = 0.0
        self._unshared += turn
        if self._unshared > SHARE_EVERY_S:
            self._unshared = self._waited = 0.0
            sleep(SHARE_S)
            now = monotonic()
        self._shared_cpu, self._shared_at = cpu, now

    def _read(self, events: Iterable[tuple[int, int]], started: float) -> None:
        """Read every ready link once and hand the bytes up, until the budget is spent."""
        links = self._links
        credit = CHECK_EVERY
        # One buffer for all reads: what is copied out of it has the size of what came, where a
        # buffer per read would be allocated large and then cut.
        buffer = self._buffer
        rest = iter(events)
        for fd, event in rest:
            link = links.get(fd)
            if link is None:
                self._call_source(fd)
                credit -= CHECK_EVERY
            else:
                try:
                    if event != READ:
                        if not link.attend(event):
                            continue
                    elif link.paused:
                        continue
                    data = socket_calls.read(link, link.fd, buffer)
                except BlockingIOError:
                    continue
                except OSError as error:
                    link.abort(describe(error))
                    continue
                except Exception:
                    log.exception(FAILED, peer_text(link.peername), "on_drained")
                    self.failed(link, "on_drained")
                    continue
                size = len(data)
                if not size:
                    link.ended()
                    continue
                link.bytes_in += size
                self.bytes_in += size
                try:
                    link.on_bytes(data)
                except Exception:
                    log.exception(FAILED, peer_text(link.peername), "on_data")
                    self.failed(link, "on_data")
                credit -= 1 + (size >> 11)
            if credit <= 0:
                credit = CHECK_EVERY
                if monotonic() - started > TURN_BUDGET_S:
                    # Level-triggered polling reports these again; kept here so that they go first.
                    self._unreached = dict(rest)
                    self._cut += bool(self._unreached)

    def _call_source(self, fd: int) -> None:
        source = self._sources.get(fd)
        if source is not None:
            try:
                source()
            except Exception:
                self._failures += 1
                log.exception("accepting a connection failed")

    def _take_steps(self, started: float) -> None:
        """Work on handshakes and left-over plaintext; at least one step even in a long turn."""
        steps = self._steps
        for _ in range(len(steps)):
            link = steps.popleft()
            try:
                link.step()
            except Exception:
                log.exception(FAILED, peer_text(link.peername), "on_data")
                self.failed(link, "on_data")
            if monotonic() - started > TURN_BUDGET_S:
                return

    def _finish(self) -> None:
        """Flush, close and call back until nothing is left to do, then close descriptors."""
        self.in_turn = True
        try:
            for _ in range(MAX_ROUNDS):
                if self.touched:
                    self._flush()
                if self._ending:
                    self._end_links()
                if not (self.touched or self._ending):
                    break
        finally:
            self.in_turn = False
            if self._dead:
                for sock in self._dead:
                    sock.close()
                self._dead.clear()
            if self.touched or self._ending or self._steps:
                self.wake()

    def _flush(self) -> None:
        touched = self.touched
        for link in touched:  # grows while it is walked when a flush makes someone write
            if not link.blocked:
                try:
                    link.flush()
                except Exception:
                    log.exception(FAILED, peer_text(link.peername), "flush")
                    self.failed(link, "flush")
        self._flushes += len(touched)
        touched.clear()

    def _end_links(self) -> None:
        ending, self._ending = self._ending, []
        for link in ending:
            try:
                link.finish()
            except Exception:
                log.exception(FAILED, peer_text(link.peername), "close")
                self.failed(link, "close")
            on_close, link.on_close = link.on_close, None
            link.on_drained = None
            if on_close is not None:
                try:
                    on_close(link.reason)
                except Exception:
                    self._failures += 1
                    log.exception("%s: on_close failed", peer_text(link.peername))

    def _run_soon(self) -> None:
        self._soon = None
        self.in_turn = True
        self.now = monotonic()
        try:
            if self._steps:
                self._take_steps(self.now)
        finally:
            self._finish()

    # --- timers ----------------------------------------------------------------------------------

    def _wake_for_timers(self, deadline: float) -> None:
        """Have `_run_timers` called at `deadline`, unless it will be called before that anyway."""
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        # More by their resolution, so that it never comes early.
        delay = max(0.0, deadline - monotonic()) + TIMER_S
        self._timer = self.loop.call_later(delay, self._run_timers)

    def _run_timers(self) -> None:
        self._timer = None
        self.in_turn = True
        now = self.now = monotonic()
        try:
            self.wheel.expire(now, TURN_BUDGET_S)
        finally:
            self._finish()
            following = self.wheel.next()
            if following is not None:
                self._wake_for_timers(following)


__all__ = ["Link", "Reactor", "ReactorStatistics", "Timer", "Wheel"]
