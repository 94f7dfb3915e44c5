"""What the tests of net/ talk with: raw sockets of the other side, and a note-taking owner."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from isthmus.net.link import Link
from isthmus.net.reactor import Reactor


class Owner:
    """Owns a link and notes what it hears."""

    def __init__(self, link: Link, on_data: Callable[[bytes], None] | None = None) -> None:
        self.link = link
        self.reads: list[bytes] = []
        self.reasons: list[str] = []
        self.drained = 0
        self._on_data = on_data
        link.on_close = self.reasons.append
        link.on_drained = self._drained
        link.on_data = self._data

    @property
    def received(self) -> bytes:
        return b"".join(self.reads)

    def _data(self, data: bytes) -> None:
        self.reads.append(data)
        if self._on_data is not None:
            self._on_data(data)

    def _drained(self) -> None:
        self.drained += 1


class Peer:
    """A raw socket of the other side, used with the loop's own socket calls."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def receive(self, size: int) -> bytes:
        """Receive exactly `size` bytes, fewer only if the link ended."""
        chunks = []
        while size > 0 and (chunk := await self.loop.sock_recv(self.sock, min(size, 65_536))):
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    async def receive_all(self) -> bytes:
        return await self.receive(1 << 40)

    def reset(self) -> None:
        """Close with RST, as a crashed machine or a firewall does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def connected(*, send_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """Return two ends of a TCP connection over loopback, both non-blocking."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        far = socket.socket()
        if send_buffer:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, send_buffer)
        far.connect(listening.getsockname())
        near, _ = listening.accept()
    if send_buffer:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def linked(reactor: Reactor, *, send_buffer: int = 0) -> tuple[Link, Peer]:
    """Return a link and the peer that it is connected to; small buffers make writes partial."""
    near, far = connected(send_buffer=send_buffer)
    return Link(reactor, near, near.getpeername()), Peer(far)


async def until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait until `condition()` holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited too long"
        await asyncio.sleep(0.002)
