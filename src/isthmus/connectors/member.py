"""One member of a connector's pool: a client id, its lane, and the loop that keeps it connected."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.connectors.dialects import UNSUPPORTED_VERSION, Dialect, dialects
from isthmus.connectors.far_client import FarClient
from isthmus.delivery.lane import Lane
from isthmus.errors import ConnectError
from isthmus.mqtt.properties import PropertyId
from isthmus.net.backoff import Backoff
from isthmus.net.dial import dial

if TYPE_CHECKING:
    from isthmus.connectors.connector import Connector
    from isthmus.delivery.source import Incoming
    from isthmus.mqtt.packets import Connack

log = logging.getLogger("isthmus.connectors")

STABLE_AFTER_S = 0.5
"""A session that lived this long was a success: the next reconnect begins with a short wait.

A far side that accepts and closes at once stays below it; one whose network is reset every second
does not, and the messages of that second get through.
"""


CLOSES_BELIEVED = 3
"""A far side that closed this often on a way to say CONNECT, and never took it, is asked so last.

Fewer may be a load balancer without a server behind it, and falling back for good loses properties.
"""

UNSTABLE_EXPIRY_S = 3600.0
"""How long an MQTT 5 service keeps the session of a client id that a restart would change."""


class Member:
    """One client of a far service.

    `state` is one of "connecting", "connected", "waiting" (for the next try), "refused" (by the far
    side; tried again), "stopped"; `reason` says why, `since` is the wall time of the last change.
    """

    def __init__(self, connector: Connector, number: int, client_id: str) -> None:
        self.connector = connector
        self.number = number
        self.client_id = client_id
        settings = connector.settings
        self.lane = Lane(
            connector.drops,
            blocks=True,
            max_inflight=settings.max_inflight,
            max_queued=0,
            max_queued_bytes=connector.queue_bytes,
            max_unsent_bytes=connector.unsent_bytes,
        )
        self.received_qos2: dict[bytes, Incoming] | None = None
        self.client: FarClient | None = None
        self.state = "connecting"
        self.reason = ""
        self.since = clock.wall()
        self.attempts = 0
        self.connects = 0
        self.dialect: Dialect | None = None
        self._dialects = dialects(settings)
        self._closes = dict.fromkeys(self._dialects, 0)
        self._opened_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._fresh = True

    @property
    def session_expiry_s(self) -> int:
        """The session expiry interval to ask an MQTT 5 service for, in seconds.

        An id that is new after each start leaves an orphan behind, so its session is kept only for
        the length of an outage.
        """
        settings = self.connector.settings
        if settings.clean_start:
            return 0
        if not self.connector.ids_stable:
            return int(min(settings.session_expiry, UNSTABLE_EXPIRY_S))
        return int(settings.session_expiry)

    def _clean_start(self, dialect: Dialect) -> bool:
        """Whether to begin with an empty session: by setting, or because the id is not kept."""
        if self.connector.settings.clean_start:
            return True
        return not self.connector.ids_stable and (self._fresh or dialect.version < 5)

    def start(self) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"connector {self.connector.name}:{self.number}"
        )

    async def stop(self) -> None:
        """Disconnect and stay so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self.client is not None:
            self.client.disconnect()
            self.client = None
        self._set_state("stopped", "")

    # -- the loop --------------------------------------------------------------------------------

    async def _run(self) -> None:
        reconnect = self.connector.settings.reconnect
        backoff = Backoff(reconnect.min, reconnect.max)
        failures = 0
        while True:
            try:
                client = await self._connect_or_fail()
            except ConnectError as error:
                failures += 1
                self._failed(error)
                if self.connector.watcher is not None:
                    self.connector.watcher.failed(self, error)
                if reconnect.attempts != "forever" and failures >= reconnect.attempts:
                    self._set_state("stopped", f"gave up after {failures} attempts: {error}")
                    return
            else:
                reason = await asyncio.shield(client.ended)
                if clock.monotonic() - self._opened_at >= STABLE_AFTER_S:
                    backoff.reset()
                    failures = 0
                self._set_state("waiting", f"connection lost: {reason}")
                self._prefer()
                if self.connector.watcher is not None:
                    self.connector.watcher.lost(self, reason)
            self.client = None
            await asyncio.sleep(backoff.next())

    async def _connect_or_fail(self) -> FarClient:
        """Connect; whatever goes wrong is a failure of this attempt and not the end of all."""
        try:
            return await self._connect()
        except ConnectError:
            raise
        except Exception as error:
            log.exception("connector %s: an attempt to connect failed", self.connector.name)
            raise ConnectError("tcp", f"internal error: {error}") from error

    async def _connect(self) -> FarClient:
        settings = self.connector.settings
        self.attempts += 1
        if self.state == "stopped":
            self._set_state("connecting", "")
        deadline = clock.monotonic() + settings.connect_timeout
        link = await dial(
            self.connector.reactor,
            settings.host,
            settings.port,
            tls=self.connector.tls,
            timeout_s=settings.connect_timeout,
        )
        client = self.client = FarClient(self, link)
        dialect = self.dialect = self._dialects[0]
        client.connect(dialect, self.client_id, clean_start=self._clean_start(dialect))
        try:
            async with asyncio.timeout(max(0.1, deadline - clock.monotonic())):
                await asyncio.shield(client.opened)
        except TimeoutError:
            client.leave("no CONNACK in time")
            raise ConnectError(
                "timeout", f"no CONNACK within {settings.connect_timeout:g} s"
            ) from None
        except asyncio.CancelledError:
            client.disconnect()
            raise
        return client

    def attach(self, client: FarClient, connack: Connack) -> None:
        """The far side accepted `client`: subscribe what is missing, then send what waits."""
        self._fresh = False
        self._opened_at = clock.monotonic()
        self.connects += 1
        if not connack.session_present:
            self.received_qos2 = client.received_qos2 = None
        assigned = connack.properties.get(PropertyId.ASSIGNED_CLIENT_IDENTIFIER)
        if isinstance(assigned, str):
            self.client_id = assigned
        self.connector.attached(self, client, session_present=connack.session_present)
        self._set_state("connected", "")
        if self.connector.watcher is not None:
            self.connector.watcher.connected(self)

    def _failed(self, error: ConnectError) -> None:
        refused = error.step == "connack" and error.reason is not None
        if len(self._dialects) > 1 and error.step == "connack":
            if error.reason in UNSUPPORTED_VERSION:
                log.info(
                    "connector %s: the far side does not speak %s",
                    self.connector.name,
                    self.dialect,
                )
                del self._dialects[0]
            elif error.reason is None:
                # Some brokers just close on a version or a bit that they do not know.
                self._closes[self._dialects[0]] += 1
                self._dialects.append(self._dialects.pop(0))
        detail = f" ({error.hint})" if error.hint else ""
        self._set_state("refused" if refused else "waiting", f"{error.step}: {error}{detail}")

    def _prefer(self) -> None:
        """After a connection: begin with the best dialect again, unless it was refused for sure."""
        if self.dialect is not None:
            self._closes[self.dialect] = 0
        left = set(self._dialects)
        ordered = [dialect for dialect in self._closes if dialect in left]
        self._dialects = sorted(ordered, key=lambda one: self._closes[one] >= CLOSES_BELIEVED)

    def _set_state(self, state: str, reason: str) -> None:
        if state == self.state and reason == self.reason:
            return
        self.state = state
        self.reason = reason
        self.since = clock.wall()
        level = logging.WARNING if state in ("waiting", "refused") else logging.INFO
        if state == "stopped" and reason:
            level = logging.ERROR
        log.log(
            level,
            "connector %s, connection %d (%s): %s%s",
            self.connector.name,
            self.number,
            self.client_id,
            state,
            f": {reason}" if reason else "",
        )
