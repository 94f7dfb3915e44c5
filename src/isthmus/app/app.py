"""The composition root: the only file that knows every part."""

from __future__ import annotations

import asyncio
import gc
import logging
from functools import partial
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.app.files import load_files
from isthmus.auth.access import Access
from isthmus.broker.broker import LOCAL, Broker
from isthmus.broker.log_topics import LogTopics
from isthmus.broker.sys_topics import SysTopics
from isthmus.connectors.client_ids import ClientIds
from isthmus.connectors.connector import Connector
from isthmus.errors import ConfigError
from isthmus.net.listener import Listener, listen
from isthmus.net.reactor import Reactor
from isthmus.routing.checked_as import CheckedAs
from isthmus.routing.leg import Leg, legs
from isthmus.routing.route import Route
from isthmus.routing.table import RouteTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from isthmus.app.settings import Settings
    from isthmus.delivery.endpoint import Endpoint
    from isthmus.net.poller import Poller

log = logging.getLogger("isthmus.app")

DRAIN_S = 8.0
"""How long a stop waits for far sides to acknowledge what is on its way; systemd kills after 90."""

DRAIN_STEP_S = 0.05

GC_THRESHOLDS = (20_000, 20, 20)
"""Messages make no cycles, so the collector need not look after every few hundred of them."""


class App:
    """One Isthmus process: everything that a configuration describes, started and stopped as one.

    Nothing is opened before `start`; if that fails, everything that it opened is closed again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        poller: Callable[[asyncio.AbstractEventLoop], Poller] | None = None,
    ) -> None:
        """Build the parts, inside a running event loop.

        Raises:
            ConfigError: a password, ACL, certificate or client id file cannot be used.
        """
        self.settings = settings
        sources = load_files(settings)
        prepare_folder(settings.broker.data)
        client_ids = ClientIds(settings.broker.data)
        self.reactor = Reactor(poller=poller)
        levels = settings.broker.limits.topic_levels
        self.doors = {realm: Access(found, levels, realm) for realm, found in sources.items()}
        self.broker = Broker(settings.broker, self.reactor, self.doors[""])
        self.sys_topics = SysTopics(self.broker)
        self.log_topics = LogTopics(self.broker)
        self.legs = list(legs(settings.routes, settings.node))
        self.connectors = {name: self._connector(name, client_ids) for name in settings.connectors}
        self.endpoints: dict[str, Endpoint] = {LOCAL: self.broker, **self.connectors}
        self.routes = {leg.name: self._route(leg) for leg in self.legs}
        self.tables = {
            name: RouteTable(
                endpoint, [route for route in self.routes.values() if route.source is endpoint]
            )
            for name, endpoint in self.endpoints.items()
        }
        self.listeners: list[Listener] = []
        for connector in self.connectors.values():
            connector.notifications.local = self.broker
        for leg in self.legs:
            if leg.settings.loop_guard.memory and leg.target in self.connectors:
                self.connectors[leg.target].remember_echoes()

    def _connector(self, name: str, client_ids: ClientIds) -> Connector:
        settings = self.settings.connectors[name]
        queues = [leg.settings.queue.max_bytes for leg in self.legs if leg.target == name]
        return Connector(
            name,
            settings,
            self.reactor,
            client_ids,
            node=self.settings.node,
            hops=self.broker.hops,
            traffic=self.broker.traffic,
            **({"queue_bytes": max(queues)} if queues else {}),
        )

    def _route(self, leg: Leg) -> Route:
        return Route(
            leg,
            self.endpoints[leg.source],
            self.endpoints[leg.target],
            node=self.settings.node,
            checked_as=CheckedAs(leg, self.broker.access.rights, LOCAL)
            if leg.settings.check_as
            else None,
        )

    async def start(self) -> None:
        """Open the listeners, start the routes, connect the connectors.

        Raises:
            ConfigError: a listener cannot be opened; nothing stays open.
        """
        try:
            for number, settings in enumerate(self.settings.listeners):
                where = f"listeners[{number}]"
                door = self.doors["" if settings.auth is None else where]
                self.listeners.append(
                    listen(
                        self.reactor,
                        settings,
                        partial(
                            self.broker.accept,
                            entrance=settings.entrance(door, self.settings.broker, where),
                        ),
                        max_packet_size=self.settings.broker.max_packet_size,
                    )
                )
        except ConfigError as error:
            await self.close()
            raise type(error)(*(f"{where}.{text}" for text in error.problems)) from error
        for listener in self.listeners:
            log.info("listening on %s", listener.where)
        for table in self.tables.values():
            table.start()
        for connector in self.connectors.values():
            connector.retained_sync.watch(
                (
                    filter_
                    for route in self.routes.values()
                    if route.source is self.broker and route.target is connector
                    for filter_ in route.leg.filters
                ),
                self.tables[LOCAL],
                self.broker,
                self.broker.retained,
            )
        for connector in self.connectors.values():
            connector.start()
        self.sys_topics.start()
        if "topic" in self.settings.log.to:
            self.log_topics.start()
        for door in self.doors.values():
            door.authenticator.start()
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    def reload_access(self) -> None:
        """Read the files of users, rights and keys again, and hold live clients to them.

        The settings are those of the start. Who is no longer a user, or has another password, is
        disconnected; all others have their new rights at once.

        Raises:
            ConfigError: a file cannot be used; nothing was changed.
        """
        for realm, sources in load_files(self.settings).items():
            self.doors[realm].replace(sources)
        self.broker.rights_changed()

    async def stop(self) -> None:
        """Stop taking messages, let what is on its way arrive, say goodbye, close."""
        for listener in self.listeners:
            listener.close()
        self.broker.pause()
        deadline = clock.monotonic() + DRAIN_S
        while clock.monotonic() < deadline and any(  # noqa: ASYNC110 - at the end, it may look
            connector.settling for connector in self.connectors.values()
        ):
            await asyncio.sleep(DRAIN_STEP_S)
        left = sum(connector.unsettled for connector in self.connectors.values())
        if left:
            log.warning(
                "%d message(s) were not acknowledged by their target; "
                "publishers that wait for their acknowledgement send them again, the rest is lost",
                left,
            )
        self._log_drops()
        await self.close()

    def _log_drops(self) -> None:
        """Say at the end what was dropped, by place and reason."""
        places = [self.broker.drops, self.broker.hops.drops]
        places += [found.drops for found in self.connectors.values()]
        places += [route.drops for route in self.routes.values()]
        for drops in places:
            if drops.counts:
                counts = ", ".join(f"{reason} {count}" for reason, count in drops.counts.items())
                log.info("%s: dropped since the start: %s", drops.place, counts)

    async def close(self) -> None:
        """Close everything without waiting for messages."""
        self.sys_topics.stop()
        self.log_topics.stop()
        # Only the routes from here are stopped: a connector that unsubscribed would lose what the
        # far side keeps for its session until the next start.
        self.tables[LOCAL].stop()
        self.broker.shutdown()
        for connector in self.connectors.values():
            await connector.stop()
        for listener in self.listeners:
            listener.close()
        # One more turn of the loop, so that goodbyes are flushed.
        await asyncio.sleep(DRAIN_STEP_S)
        self.reactor.close()
        for door in self.doors.values():
            door.close()


def prepare_folder(folder: Path | None) -> None:
    """Make the data folder, readable by its owner only.

    Raises:
        ConfigError: it cannot be made, or is no folder.
    """
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"broker.data: {folder} cannot be used: {error.strerror}") from error
