"""What the connections of the HTTP port have in common.

Everything heavy (uvicorn, prometheus-client) is imported from here on, when the first connection
comes: a process that nobody asks does not pay for it.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.server import ServerState

from isthmus.web.connection import Connection
from isthmus.web.pages import Pages
from isthmus.web.transport import LinkTransport

if TYPE_CHECKING:
    from isthmus.net.link import Link
    from isthmus.web.counts import Counts
    from isthmus.web.process import Process
    from isthmus.web.settings import HttpSettings


class Server:
    """Serves links with the pages about `process`."""

    def __init__(self, process: Process, settings: HttpSettings, counts: Counts) -> None:
        self._pages = Pages(process, counts)
        self._counts = counts
        self._state = ServerState()
        # A line for each request that is no HTTP would let strangers fill the log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self.change(settings)

    def change(self, settings: HttpSettings) -> None:
        """Take other settings, for connections to come."""
        self._settings = settings
        self._config = Config(
            self._pages,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=math.ceil(settings.keep_alive),
            h11_max_incomplete_event_size=settings.header_bytes,
        )
        self._config.load()

    def serve(self, link: Link) -> None:
        """Answer what comes from `link`."""
        connection = Connection(
            self._config, self._state, self._counts, self._settings.request_timeout
        )
        LinkTransport(link, connection)

    def close(self) -> None:
        """Close every connection after the answer that it waits for."""
        for connection in list(self._state.connections):
            if not connection.transport.is_closing():
                connection.shutdown()
