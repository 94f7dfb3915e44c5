"""Looking after the files of a listener's TLS: what changed is used by the next connection.

The files are looked at and read in a thread. A set of files is taken over once it was the same
twice in a row, so that a certificate and its key that are being written one after the other are not
found half done. Links that are there keep what they have.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

from isthmus.errors import ConfigError
from isthmus.net.contexts import file_stamps, has_files, server_context
from isthmus.net.tls_settings import TLSServerSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


class Renewal:
    """Calls `use` with a new context after each change of the files.

    Attributes:
        done: Changes that were taken over.
        failed: Changes that could not be used; the old context stays in use.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: TLSServerSettings,
        use: Callable[[ssl.SSLContext], None],
        where: str,
    ) -> None:
        """Begin to look; `where` names the listener in the log."""
        self.done = 0
        self.failed = 0
        self._settings = settings
        self._use = use
        self._where = where
        self._known = self._seen = file_stamps(settings)
        self._task = loop.create_task(self._run()) if has_files(settings) else None

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                context = await asyncio.to_thread(self._look)
            except ConfigError as error:
                self.failed += 1
                log.error(
                    "%s: the changed TLS files cannot be used, the old ones stay in use: tls.%s",
                    self._where,
                    error,
                )
            else:
                if context is not None:
                    self.done += 1
                    self._use(context)
                    log.info("%s: new connections use the changed TLS files", self._where)

    def _look(self) -> ssl.SSLContext | None:
        stamps = file_stamps(self._settings)
        settled, self._seen = stamps == self._seen, stamps
        if not settled or stamps == self._known:
            return None
        self._known = stamps
        return server_context(self._settings)
