"""The JWK set of a URL, fetched in the background.

It is fetched at the start, then every `refresh_s`, and once in between when a token names a key
that is not known, at most every `RETRY_S`. While the service does not answer, the keys that were
fetched last go on. Nobody's login can make more than one fetch run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from isthmus import clock
from isthmus.auth.token_keys import TokenKeys, jwks
from isthmus.auth.web_service import WebService, WebServiceError

log = logging.getLogger("isthmus.auth")

RETRY_S = 15.0
"""Shortest time between the beginnings of two fetches."""

MAX_SET_BYTES = 1 << 20


class KeyURL:
    """Where keys come from. Belongs to the event loop.

    Args:
        service: Where to ask.
        refresh_s: Time between two fetches that succeed.
        key: Where it stands in the configuration, for the log.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        service: WebService,
        refresh_s: float,
        *,
        key: str = "auth.jwt.jwks_url",
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._service = service
        self._refresh_s = refresh_s
        self._where = key
        self._now = now
        self.keys = TokenKeys(())
        self._next_at = 0.0
        self._fetching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def start(self) -> None:
        """Fetch now, and again from time to time."""
        if self._fetching is None and not self._closed:
            self._next_at = self._now() + RETRY_S
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())

    def may_bring_more(self) -> bool:
        """Whether waiting for `refreshed` could bring keys that are not there yet."""
        return not self._closed and (self._fetching is not None or self._now() >= self._next_at)

    async def refreshed(self) -> None:
        """Wait for a fetch: for the one that runs, or for a new one if it is time for one."""
        if self._fetching is None and self._now() >= self._next_at:
            self.start()
        if self._fetching is not None:
            await asyncio.wait({self._fetching})

    def close(self) -> None:
        """Stop fetching."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._fetching is not None:
            self._fetching.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._service.close()

    async def _fetch(self) -> None:
        loop = asyncio.get_running_loop()
        again_s = RETRY_S
        try:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="isthmus-keys")
            data = await loop.run_in_executor(self._pool, self._service.get)
            self.keys = jwks(data, secrets=False)
            again_s = self._refresh_s
            log.debug("%s: %d key(s)", self._where, len(self.keys))
        except (WebServiceError, ValueError) as error:
            log.warning(
                "%s: no keys were fetched: %s; %s, next try in %.0f s",
                self._where,
                error,
                "the last ones are used" if len(self.keys) else "no token can be verified",
                again_s,
            )
        finally:
            self._fetching = None
            if self._timer is not None:
                self._timer.cancel()
            if not self._closed:
                self._timer = loop.call_later(again_s, self.start)
