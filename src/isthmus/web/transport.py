"""A link of the reactor as asyncio's protocols want it.

So the HTTP port is a listener like any other: the same addresses, TLS with renewed certificates,
limits of accepting, and errors.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from isthmus.net.tls import TLSLink

if TYPE_CHECKING:
    from isthmus.net.link import Link


class LinkTransport(asyncio.Transport):
    """A transport that writes to a link, and gives what the link reads to `protocol`."""

    def __init__(self, link: Link, protocol: asyncio.Protocol) -> None:
        """Begin: `protocol` hears of the connection, then of its bytes."""
        super().__init__({"peername": link.peername, "sslcontext": isinstance(link, TLSLink)})
        self._link = link
        self._protocol = protocol
        self._full = False
        link.on_close = self._lost
        link.on_drained = self._drained
        protocol.connection_made(self)
        link.on_data = protocol.data_received

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send with the next flush."""
        self._link.write(bytes(data))
        if self._link.blocked and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Send what was written, then close."""
        self._link.close("done")

    def abort(self) -> None:
        """Close now."""
        self._link.abort("aborted")

    def is_closing(self) -> bool:
        """Whether nothing more is read or written."""
        return self._link.closed

    def pause_reading(self) -> None:
        """Read nothing for now."""
        if not self._link.closed:
            self._link.pause()

    def resume_reading(self) -> None:
        """Read again."""
        if self._link.paused:
            self._link.resume()

    def _drained(self) -> None:
        if self._full:
            self._full = False
            self._protocol.resume_writing()

    def _lost(self, reason: str) -> None:
        del reason
        self._protocol.connection_lost(None)
