"""The composition root: the only file that knows every part."""

from __future__ import annotations

import asyncio
import gc
import logging
from functools import partial
from typing import TYPE_CHECKING

from isthmus.app.files import load_files
from isthmus.auth.access import Access
from isthmus.broker.broker import LOCAL, Broker
from isthmus.broker.log_topics import LogTopics
from isthmus.broker.sys_topics import SysTopics
from isthmus.connectors.client_ids import ClientIds
from isthmus.connectors.connector import DEFAULT_QUEUE_BYTES, Connector, settle
from isthmus.connectors.regrouping import DRAIN_S
from isthmus.errors import ConfigError
from isthmus.net.listener import Listener, listen
from isthmus.net.reactor import Reactor
from isthmus.routing.checked_as import CheckedAs
from isthmus.routing.leg import Leg, legs
from isthmus.routing.route import Route
from isthmus.routing.table import RouteTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from isthmus.app.reload import Report
    from isthmus.app.settings import Settings
    from isthmus.auth.sources import Sources
    from isthmus.broker.entrance import Entrance
    from isthmus.delivery.endpoint import Endpoint
    from isthmus.net.poller import Poller

log = logging.getLogger("isthmus.app")

GOODBYE_S = 0.05
"""One more turn of the loop at the end, so that goodbyes are flushed."""

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
        self.client_ids = ClientIds(settings.broker.data)
        self.reactor = Reactor(poller=poller)
        self.doors = {realm: self.new_door(realm, found) for realm, found in sources.items()}
        self.broker = Broker(settings.broker, self.reactor, self.doors[""])
        self.sys_topics = SysTopics(self.broker)
        self.log_topics = LogTopics(self.broker)
        self.legs = list(legs(settings.routes, settings.node))
        self.connectors = {name: self.new_connector(name) for name in settings.connectors}
        self.leaving: set[Connector] = set()
        self.endpoints: dict[str, Endpoint] = {LOCAL: self.broker, **self.connectors}
        self.routes = {leg.name: self.new_route(leg) for leg in self.legs}
        self.tables = {
            name: RouteTable(endpoint, self.routes_from(endpoint))
            for name, endpoint in self.endpoints.items()
        }
        self.listeners: list[Listener] = []
        self.entrances: list[Entrance] = []
        self._reloading = asyncio.Lock()
        self.remember_echoes()

    # -- parts, also for `reload` ----------------------------------------------------------------

    def new_door(self, realm: str, sources: Sources) -> Access:
        """Users and rights of one `auth`."""
        return Access(sources, self.settings.broker.limits.topic_levels, realm)

    def new_connector(self, name: str) -> Connector:
        """A connector of the settings.

        Raises:
            ConfigError: its client ids cannot be written to the data folder.
        """
        connector = Connector(
            name,
            self.settings.connectors[name],
            self.reactor,
            self.client_ids,
            node=self.settings.node,
            hops=self.broker.hops,
            traffic=self.broker.traffic,
            queue_bytes=self.queue_bytes(name),
        )
        connector.notifications.local = self.broker
        return connector

    def queue_bytes(self, connector: str) -> int:
        """What may wait for a connector: the most that one of its routes allows."""
        queues = [leg.settings.queue.max_bytes for leg in self.legs if leg.target == connector]
        return max(queues, default=DEFAULT_QUEUE_BYTES)

    def new_route(self, leg: Leg) -> Route:
        """One direction of a route between the endpoints that there are."""
        return Route(
            leg,
            self.endpoints[leg.source],
            self.endpoints[leg.target],
            node=self.settings.node,
            checked_as=CheckedAs(leg, self.broker.access.rights, LOCAL)
            if leg.settings.check_as
            else None,
        )

    def routes_from(self, endpoint: Endpoint) -> list[Route]:
        """The routes from an endpoint, in order."""
        return [route for route in self.routes.values() if route.source is endpoint]

    def remember_echoes(self) -> None:
        """Have connectors look for echoes where a route asks for it."""
        wanted = {leg.target for leg in self.legs if leg.settings.loop_guard.memory}
        for name, connector in self.connectors.items():
            connector.remember_echoes(wanted=name in wanted)

    def watch_retained(self) -> None:
        """Tell every connector which retained messages of the broker lead to it."""
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

    def new_entrance(self, index: int, doors: Mapping[str, Access]) -> Entrance:
        """What holds for the clients of a listener of the settings."""
        settings = self.settings
        door = doors[settings.realm(index)]
        return settings.listeners[index].entrance(door, settings.broker, f"listeners[{index}]")

    def open_listener(self, index: int, entrance: Entrance) -> Listener:
        """Listen on an address of the settings; connections come in by `entrance`.

        Raises:
            ConfigError: the address or its certificate cannot be used.
        """
        settings = self.settings.listeners[index]
        try:
            return listen(
                self.reactor,
                settings,
                partial(self.broker.accept, entrance=entrance),
                max_packet_size=self.settings.broker.max_packet_size,
            )
        except ConfigError as error:
            texts = (f"listeners[{index}].{text}" for text in error.problems)
            raise error.said(*texts) from error

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listeners, start the routes, connect the connectors.

        Raises:
            ConfigError: a listener cannot be opened; nothing stays open.
        """
        try:
            for index in range(len(self.settings.listeners)):
                entrance = self.new_entrance(index, self.doors)
                self.listeners.append(self.open_listener(index, entrance))
                self.entrances.append(entrance)
        except ConfigError:
            await self.close()
            raise
        for listener in self.listeners:
            log.info("listening on %s", listener.where)
        for table in self.tables.values():
            table.start()
        self.watch_retained()
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

    async def reload(self, settings: Settings) -> Report:
        """Become what `settings` say, without disturbing what they leave alone; see `reload`.

        Where another reload is under way, this one comes after it.

        Raises:
            ConfigError: the settings, or a file that they name, cannot be used; nothing changed.
        """
        from isthmus.app.reload import Reload  # who never reloads need not pay for it

        async with self._reloading:
            sources = await asyncio.to_thread(load_files, settings)
            return await Reload(self, settings, sources).run()

    async def stop(self) -> None:
        """Stop taking messages, let what is on its way arrive, say goodbye, close.

        A reload that is under way comes to its end first.
        """
        async with self._reloading:
            await self._stop()

    async def _stop(self) -> None:
        for listener in self.listeners:
            listener.close()
        self.broker.pause()
        await settle(self.all_connectors(), DRAIN_S)
        left = sum(connector.unsettled for connector in self.all_connectors())
        if left:
            log.warning(
                "%d message(s) were not acknowledged by their target; "
                "publishers that wait for their acknowledgement send them again, the rest is lost",
                left,
            )
        self._log_drops()
        await self.close()

    def all_connectors(self) -> list[Connector]:
        """The connectors, and those that are being removed."""
        return [*self.connectors.values(), *self.leaving]

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
        for connector in self.all_connectors():
            await connector.stop()
        for listener in self.listeners:
            listener.close()
        await asyncio.sleep(GOODBYE_S)
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
