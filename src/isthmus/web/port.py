"""The HTTP port: a listener whose connections speak HTTP.

It has a reactor of its own in the same event loop, so that its bytes and turns are not counted as
those of MQTT.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
from typing import TYPE_CHECKING

from isthmus.errors import ListenError
from isthmus.net.listener import Listener, listen
from isthmus.net.reactor import Reactor
from isthmus.web.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.net.link import Link
    from isthmus.net.poller import Poller
    from isthmus.web.process import Process
    from isthmus.web.server import Server
    from isthmus.web.settings import HttpSettings

log = logging.getLogger("isthmus.web")

GOODBYE_S = 0.05
"""For the last answers to leave, at the end."""


class HttpPort:
    """The pages about `process` on one address. Nothing is open before `open`."""

    def __init__(
        self,
        process: Process,
        settings: HttpSettings,
        *,
        poller: Callable[[asyncio.AbstractEventLoop], Poller] | None = None,
    ) -> None:
        self.settings = settings
        self.counts = Counts()
        self._process = process
        self._poller = poller
        self._reactor: Reactor | None = None
        self.listener: Listener | None = None
        self._server: Server | None = None
        self._loading: asyncio.Task[None] | None = None
        self._waiting: list[Link] = []

    def open(self, instead: HttpPort | None = None) -> None:
        """Listen; `instead` is one that is about to be closed, and gives its address if need be.

        Raises:
            ConfigError: the address or the certificate cannot be used.
        """
        self._reactor = Reactor(poller=self._poller)
        try:
            self.listener = self._listen(self._reactor, instead)
        except BaseException:
            self._reactor.close()
            raise

    def _listen(self, reactor: Reactor, instead: HttpPort | None) -> Listener:
        settings = self.settings.listener
        try:
            return listen(reactor, settings, self._accept)
        except ListenError as error:
            before = None if instead is None else instead.listener
            if (
                before is None
                or error.errno != errno.EADDRINUSE
                or before.address[1] != settings.port
            ):
                raise
            before.suspend()
            try:
                return listen(reactor, settings, self._accept)
            except BaseException:
                before.resume()
                raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as `Listener.address`."""
        assert self.listener is not None
        return self.listener.address

    @property
    def where(self) -> str:
        """Where the pages begin, as people write it."""
        assert self.listener is not None
        settings = self.settings
        if settings.unix_path is not None:
            return settings.url
        return f"{settings.url.partition('://')[0]}://{self.listener.where}"

    def change(self, settings: HttpSettings) -> None:
        """Take other settings of the same address, for connections to come.

        Raises:
            ConfigError: the certificate cannot be used; nothing has changed.
        """
        assert self.listener is not None
        self.listener.change(settings.listener, self._accept)
        self.settings = settings
        if self._server is not None:
            self._server.change(settings)

    async def close(self) -> None:
        """Stop listening, let answers that are under way leave, close."""
        if self.listener is not None:
            self.listener.close()
        if self._loading is not None:
            self._loading.cancel()
        if self._server is not None:
            self._server.close()
        if self.counts.open:
            await asyncio.sleep(GOODBYE_S)
        if self._reactor is not None:
            self._reactor.close()

    def _accept(self, link: Link) -> None:
        if self.counts.open + len(self._waiting) >= self.settings.connections:
            self.counts.crowded += 1
            link.abort("too many connections")
        elif self._server is not None:
            self._server.serve(link)
        else:
            self._waiting.append(link)
            if self._loading is None:
                self._loading = asyncio.get_running_loop().create_task(self._load())

    async def _load(self) -> None:
        """Import what serves HTTP, in a thread: it takes a while, and the loop has other work."""
        try:
            await asyncio.to_thread(importlib.import_module, "isthmus.web.server")
            from isthmus.web.server import Server

            self._server = Server(self._process, self.settings, self.counts)
        except Exception:
            log.exception("%s: HTTP cannot be served", self.where)
        self._loading = None
        waiting, self._waiting = self._waiting, []
        for link in waiting:
            if self._server is None:
                link.abort("HTTP cannot be served")
            elif not link.closed:
                self._server.serve(link)
