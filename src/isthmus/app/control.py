"""The control socket: where a running process listens for what commands ask it; see `asking`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from isthmus.app.asking import NAME, NOT_NOW, WRONG, clear, own_entry
from isthmus.errors import ConfigError
from isthmus.net.settings import MAX_UNIX_PATH_BYTES
from isthmus.net.unix_socket import UnixSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

log = logging.getLogger("isthmus.app")

MODE = 0o600
MAX_LINE_BYTES = 1 << 16
REQUEST_TIMEOUT_S = 5.0
"""For the line of a request to arrive."""

BACKLOG = 16


class Control:
    """The listening side."""

    def __init__(self, answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        """`answer` is given each request; whatever it raises is answered as an internal error."""
        self._answer = answer
        self._socket: UnixSocket | None = None
        self._server: asyncio.Server | None = None
        self._entry: Path | None = None

    async def open(self, data: Path | None, configuration: Path | None) -> None:
        """Listen; where that cannot be done it is logged, and the process goes on without."""
        if not hasattr(socket, "AF_UNIX"):
            return
        try:
            await self._open(data, configuration)
        except (OSError, ConfigError) as error:
            log.warning(
                "no control socket, 'isthmus reload' and 'isthmus status' will not find this "
                "process: %s",
                error,
            )
            await self.close()

    async def _open(self, data: Path | None, configuration: Path | None) -> None:
        entry = own_entry(configuration)
        path = entry if data is None else (data / NAME).absolute()
        if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
            path = entry
        clear(entry.parent)
        self._socket = UnixSocket(str(path), MODE)
        self._socket.sock.listen(BACKLOG)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._socket.sock, limit=MAX_LINE_BYTES
        )
        if path != entry:
            entry.unlink(missing_ok=True)
            entry.symlink_to(path)
        self._entry = entry

    async def close(self) -> None:
        """Stop listening, and remove the socket."""
        if self._socket is not None:
            self._socket.remove()
        if self._entry is not None:
            self._entry.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        elif self._socket is not None:
            self._socket.sock.close()
        self._socket = self._server = self._entry = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readline()
            if not line:
                return  # a look whether somebody listens, as each command takes one first
            writer.write(json.dumps(await self._answer_to(line)).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, OSError) as error:
            log.debug("control: a request was not answered: %s", error)
        finally:
            writer.close()

    async def _answer_to(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            return {"status": WRONG, "errors": ["the request is no JSON object on one line"]}
        try:
            return await self._answer(request)
        except Exception as error:
            log.exception("control: a request failed")
            return {"status": NOT_NOW, "errors": [f"internal error: {error}; see the log"]}
