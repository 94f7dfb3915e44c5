"""Reading and writing a socket: the two system calls of the hot path.

`socket_calls_c.pxd` has the same for compiled files, without what a method call costs, and without
giving up the interpreter for a call that never waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus.net.link import Link


def read(link: Link, fd: int, buffer: bytearray) -> bytes:
    """What came, at most the size of `buffer`, which it goes through; b"" at the end of the stream.

    Raises:
        BlockingIOError: Nothing came.
        OSError: The connection is lost.
    """
    del fd
    return bytes(buffer[: link.sock.recv_into(buffer)])


def write(link: Link, fd: int, data: bytes) -> int:
    """Have the kernel take `data`; how many bytes it took.

    Raises:
        BlockingIOError: It takes nothing now.
        OSError: The connection is lost.
    """
    del fd
    return link.sock.send(data)
