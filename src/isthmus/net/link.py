"""One TCP connection as the reactor and its owner see it.

The owner (a broker session, a connector's client) puts chunks into `out` and gets bytes by
`on_data`; the reactor reads, and writes what is in `out` once per turn. Invariants:

- `blocked` is true exactly while a partial write waits in the tail, and for ever once the link is
  gone; flushes skip such a link. EPOLLOUT is armed while there is a tail. The tail is a list of
  chunks and an offset into the first; nothing is joined twice.
- After `close` or `abort`, `closed` is true and `on_data` is never called again; `on_close` is
  called once, after the flush of the turn. The descriptor stays open until the end of a turn: its
  number must not go to a new connection while an event of the old one is still in the list.
- A link costs well under 1 KiB while idle: no container per link except `out`.

The link does not know what the bytes mean.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from os import strerror
from typing import TYPE_CHECKING, Any

from isthmus.net import socket_calls
from isthmus.net.peer import CLOSED_BY_PEER
from isthmus.net.poller import ERROR, HANGUP, READ, WRITE
from isthmus.net.timers import Timer

if TYPE_CHECKING:
    from isthmus.net.reactor import Reactor

READ_LIMIT = 64 * 1024
"""Most that one link may take of a turn, and the size of the buffer for it."""

BIG_CHUNK = 8 * 1024
"""From this average size on, chunks go to the kernel one by one: copying them costs more."""

MAX_VECTOR = 64
"""Chunks per sendmsg, far below IOV_MAX (1024 where it is known)."""

UNSENT_GRACE_S = 5.0
"""How long a closing link may take to send what was written before it was closed."""

GOODBYE_GRACE_S = 1.0
"""How long a closing link waits for the peer's FIN after its last words.

Closing a socket while the peer is still sending makes the kernel answer with a reset, and a reset
can destroy a DISCONNECT that the peer has not read yet.
"""

UNREGISTERED = -1
GONE = -2

_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


def nobody(data: bytes) -> None:
    """Stand in for `on_data` until the owner sets it; reading is paused meanwhile."""


def discard(data: bytes) -> None:
    """Stand in for `on_data` once the link is closing: read and forget until the peer is done."""


class Turn:
    """What a link needs of the reactor, which is one.

    Attributes:
        now: Monotonic seconds, taken at the start of the turn (or at the touch outside one).
        in_turn: A turn is running: what is touched will be flushed without a `wake`.
        touched: Links to flush at the end of the turn.
        bytes_in: Bytes read from all sockets.
        bytes_out: Bytes that all sockets took.
    """

    __slots__ = ("bytes_in", "bytes_out", "in_turn", "now", "touched")

    def __init__(self, now: float) -> None:
        self.now = now
        self.bytes_in = 0
        self.bytes_out = 0
        self.in_turn = False
        self.touched: list[Link] = []

    def wake(self) -> None:
        """Schedule the end of a turn: called when something was touched outside one."""


class Link:
    """A TCP connection served by a reactor. Not to be used from other threads.

    Attributes:
        out: Chunks for the next flush. Who appends to an empty list calls `touch` first. The owner
            may put a list of its own here.
        blocked: A partial write is waiting for the peer to read; bounding `out` is the owner's job.
        unsent: Bytes in the tail of that partial write.
        on_close: Called once with the reason when the link has ended.
        on_drained: Called each time `blocked` clears.
        on_touch: Called when there is something to be flushed, before it is.
        closed: No more data comes in, and nothing more should be written.
        reason: Why the link was closed, or "".
        paused: Reading is suspended, or has not begun because `on_data` is not set.
        peername: The peer's address as `accept` or `getpeername` gave it.
        bytes_in: Bytes read from the socket.
        bytes_out: Bytes that the socket took.
    """

    __slots__ = (
        "_mask",
        "_tail",
        "_tail_offset",
        "_timer",
        "blocked",
        "bytes_in",
        "bytes_out",
        "closed",
        "fd",
        "on_bytes",
        "on_close",
        "on_drained",
        "on_touch",
        "out",
        "paused",
        "peername",
        "reactor",
        "reason",
        "sock",
        "unsent",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket, peername: Any) -> None:
        """Take over a connected, non-blocking socket. Nothing is read before `on_data` is set."""
        self.reactor = reactor
        self.sock = sock
        self.fd = sock.fileno()
        self.peername = peername
        self.out: list[bytes] = []
        # What the turn calls with what it read. Over plain TCP the same as `on_data`.
        self.on_bytes: Callable[[bytes], None] = nobody
        self.on_close: Callable[[str], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self.on_touch: Callable[[], None] | None = None
        self.blocked = False
        self.closed = False
        self.paused = True
        self.reason = ""
        self.bytes_in = 0
        self.bytes_out = 0
        self.unsent = 0
        self._mask = UNREGISTERED
        self._tail: list[bytes] | None = None
        self._tail_offset = 0
        self._timer: Timer | None = None

    # --- for the owner ---------------------------------------------------------------------------

    @property
    def on_data(self) -> Callable[[bytes], None]:
        """Called with the bytes of each read. Reading begins when this is first set."""
        return self.on_bytes

    @on_data.setter
    def on_data(self, receive: Callable[[bytes], None]) -> None:
        if not self.closed:
            first = self.on_bytes is nobody
            self.on_bytes = receive
            if first:
                self.resume()

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate as `ssl` decodes it; None if there is none."""
        return None

    def touch(self) -> None:
        """Have this link flushed at the end of the turn; outside a turn, schedule a flush."""
        reactor = self.reactor
        reactor.touched.append(self)
        if not reactor.in_turn:
            reactor.wake()
        if self.on_touch is not None:
            self.on_touch()

    def write(self, chunk: bytes) -> None:
        """Send `chunk` with the next flush; dropped when the link is closed."""
        if not self.closed:
            if not self.out:
                self.touch()
            self.out.append(chunk)

    def close(self, reason: str) -> None:
        """Send what was written, then close. A peer that does not read gets UNSENT_GRACE_S."""
        if not self.closed:
            self.closed = True
            self.reason = reason
            self.on_bytes = discard
            self.paused = False
            self._watch()
            self.reactor.ending(self)

    def abort(self, reason: str) -> None:
        """Close now; what was not sent yet is dropped."""
        if not self.closed:
            self.closed = True
            self.reason = reason
            self.reactor.ending(self)
        self.release()

    def pause(self) -> None:
        """Stop reading. A reset by the peer still closes the link; a mere FIN is seen on resume."""
        self.paused = True
        self._watch()

    def resume(self) -> None:
        """Read again."""
        if not self.closed:
            self.paused = False
            self._watch()

    def keep(self, size: int | None) -> None:
        """Keep at most about `size` bytes of what is not complete, for a peer that is not known.

        None ends that. A plain link keeps nothing; WebSocket keeps frames.
        """

    # --- for the reactor -------------------------------------------------------------------------

    def flush(self) -> None:
        """Write everything in `out` with one call. Only for a link that is not blocked."""
        out = self.out
        count = len(out)
        if count == 1:
            data = out[0]
        elif not count:
            return
        elif len(out[0]) + len(out[count >> 1]) + len(out[-1]) > 3 * BIG_CHUNK:
            # A sample, since adding up all lengths would cost as much as the flush of small ones.
            self._tail = out.copy()
            out.clear()
            self.drain()
            return
        else:
            data = b"".join(out)
        out.clear()
        self._send(data)

    def drain(self) -> bool:
        """Write the tail as far as the peer lets us; return whether all of it went."""
        tail = self._tail or []
        offset = self._tail_offset
        done = 0  # chunks of the tail that went
        try:
            while done < len(tail):
                vector: list[bytes | memoryview] = [*tail[done : done + MAX_VECTOR]]
                if offset:
                    vector[0] = memoryview(vector[0])[offset:]
                sent = self._send_vector(vector)
                self.bytes_out += sent
                self.reactor.bytes_out += sent
                for chunk in vector:
                    size = len(chunk)
                    if sent < size:
                        offset += sent
                        raise BlockingIOError  # the same as if the kernel had said so itself
                    sent -= size
                    offset = 0
                    done += 1
        except BlockingIOError:
            del tail[:done]
            self._tail = tail
            self._tail_offset = offset
            self.unsent = sum(map(len, tail)) - offset
            self.blocked = True
            self._watch()
            return False
        except OSError as error:
            self.abort(describe(error))
            return False
        self._tail = None
        self._tail_offset = 0
        self.unsent = 0
        return True

    def attend(self, event: int) -> bool:
        """Handle an event that is more than "readable"; return whether to read now."""
        if event & (ERROR | HANGUP) and self.paused:
            # epoll cannot mask these: left alone they would wake the loop for ever.
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.abort(strerror(error) if error else "connection lost")
            return False
        if event & WRITE and self._tail is not None and self.drain():
            if self.closed:
                self._say_goodbye()
            else:
                self.blocked = False
                self.flush()  # what came meanwhile, before EPOLLOUT is taken off
                if not self.blocked:
                    self._watch()
                    if self.on_drained is not None:
                        self.on_drained()
        return event & ~WRITE != 0 and not self.paused

    def step(self) -> None:
        """Do work that no event reports, asked for with `Reactor.later`; TCP has none."""

    def ended(self) -> None:
        """The peer sent FIN: it gets the answers to what it sent before, then the link closes."""
        if self.closed and self._tail is None:
            self.release()
            return
        self.close(CLOSED_BY_PEER)
        self.paused = True  # a FIN stays readable; without this every turn would see it again
        self._watch()

    def finish(self) -> None:
        """Carry a `close` out, after the flush of the turn in which it was called."""
        if self._mask == GONE:
            return
        self.last_flush()
        if self._mask == GONE:
            return
        if self._tail is not None:
            self._timer = self.reactor.wheel.at(self.reactor.now + UNSENT_GRACE_S, self.release)
        elif self.bytes_out:
            self._say_goodbye()
        else:
            self.release()

    def last_flush(self) -> None:
        """Write what is left in `out`, behind the tail if there is one."""
        if self._tail is None:
            self.flush()
        elif self.out:
            self._tail.append(b"".join(self.out))
            self.out.clear()

    def release(self) -> None:
        """Leave the poller now and have the descriptor closed at the end of the turn."""
        if self._mask == GONE:
            return
        reactor = self.reactor
        if self._mask != UNREGISTERED:
            reactor.unregister(self.fd)
        self._mask = GONE
        self.blocked = True
        self.paused = True
        self.on_bytes = discard
        self.out.clear()
        self._tail = None
        self.unsent = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reactor.bury(self.sock)

    def _say_goodbye(self) -> None:
        """Everything is sent: tell the peer, and wait for its FIN unless it came already."""
        if self.paused:
            self.release()
            return
        self._watch()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.release()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.reactor.wheel.at(self.reactor.now + GOODBYE_GRACE_S, self.release)

    def _send(self, data: bytes) -> None:
        try:
            sent = socket_calls.write(self, self.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.abort(describe(error))
            return
        self.bytes_out += sent
        self.reactor.bytes_out += sent
        if sent != len(data):
            self._tail = [data]
            self._tail_offset = sent
            self.unsent = len(data) - sent
            self.blocked = True
            self._watch()

    def _send_vector(self, vector: list[bytes | memoryview]) -> int:
        if _HAS_SENDMSG:
            return self.sock.sendmsg(vector)
        return self.sock.send(b"".join(vector))

    def _watch(self) -> None:
        """Register with the poller for what is wanted now."""
        mask = (0 if self.paused else READ) | (WRITE if self._tail is not None else 0)
        if mask == self._mask or self._mask == GONE:
            return
        if self._mask == UNREGISTERED:
            self.reactor.register(self)
            self.reactor.poller.register(self.fd, mask)
        else:
            self.reactor.poller.modify(self.fd, mask)
        self._mask = mask


def describe(error: OSError) -> str:
    """Return the cause alone, such as "Connection reset by peer"."""
    if error.errno is not None and error.errno > 0:
        return strerror(error.errno)  # asyncio puts addresses into the text
    return error.strerror or type(error).__name__
