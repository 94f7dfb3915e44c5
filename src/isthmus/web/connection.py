"""One connection to the HTTP port: uvicorn's protocol, with the limits that it has not got.

uvicorn bounds the header (by h11) and how long an idle connection is kept. Here is one deadline for
each request, from its first byte to the end of the answer, against peers that send or read slowly.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from isthmus.web.counts import Counts


class Connection(H11Protocol):
    """A connection whose requests each take `request_timeout_s` at most."""

    def __init__(
        self, config: Config, state: ServerState, counts: Counts, request_timeout_s: float
    ) -> None:
        super().__init__(config, state, {})
        self.access_log = False
        self._counts = counts
        self._request_timeout_s = request_timeout_s
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request has to come now."""
        self._counts.open += 1
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for an answer any more."""
        self._counts.open -= 1
        self._done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        self._begin()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next request, or go on with one that is here already."""
        self._done()
        super().on_response_complete()
        if not self.cycle.response_complete:
            self._begin()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too long."""
        self._counts.malformed += 1
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer is under way, or was the last one
            self.transport.abort()

    def _begin(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._request_timeout_s, self._too_slow)

    def _done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._counts.slow += 1
        self.transport.abort()
