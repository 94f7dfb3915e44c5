"""A client that is absent at times, and whose session keeps what comes for it."""

from __future__ import annotations

import asyncio
import contextlib

from power_far import FarBroker

from raw import Raw

RECONNECT_S = 0.02


class Watcher(FarBroker):
    """Subscribes to `filters` at the Isthmus on `port`; its session outlives its connections.

    It is "up" while it tries to be there, and takes and answers messages as a far broker does.
    `forgotten` counts how often the broker did not know its session any more.
    """

    def __init__(self, port: int, receive_maximum: int, *filters: str) -> None:
        super().__init__(port)
        self.forgotten = 0
        self._receive_maximum = receive_maximum
        self._filters = filters
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether it is there, or tries to be."""
        return self._task is not None

    async def up(self) -> None:
        """Connect, again and again."""
        self._task = asyncio.create_task(self._come_back())

    async def down(self) -> None:
        """Be absent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _come_back(self) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                raw = await Raw.client(
                    self.port,
                    "watcher",
                    clean=False,
                    session_expiry=3600,
                    receive_maximum=self._receive_maximum,
                )
                try:
                    await self._watch(raw)
                finally:
                    raw.writer.transport.abort()
            await asyncio.sleep(RECONNECT_S)

    async def _watch(self, raw: Raw) -> None:
        if not raw.hello.session_present:
            self.forgotten += self.session
            self.held.clear()
            await raw.subscribe(*self._filters, qos=2)
        self.session = True
        await self._listen(raw)
