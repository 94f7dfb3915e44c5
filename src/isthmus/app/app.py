"""The composition root: the only file that knows every part."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from isthmus.app.door import limit_door
from isthmus.app.files import load_files
from isthmus.app.status import Status
from isthmus.app.status_topics import StatusTopics
from isthmus.auth.access import Access
from isthmus.auth.rights import Rights
from isthmus.broker.broker import LOCAL, Broker
from isthmus.broker.log_topics import LogTopics
from isthmus.broker.sys_topics import SysTopics
from isthmus.connectors.client_ids import ClientIds
from isthmus.connectors.connector import Connector, settle
from isthmus.connectors.regrouping import DRAIN_S
from isthmus.errors import ConfigError, ListenError, StoreError
from isthmus.net.listener import Listener, listen
from isthmus.net.reactor import Reactor
from isthmus.routing.checked_as import CheckedAs
from isthmus.routing.leg import Leg, legs
from isthmus.routing.route import Route
from isthmus.routing.shared_queue import shared_limits
from isthmus.routing.table import RouteTable
from isthmus.web.port import HttpPort
from isthmus.web.process import drops_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from isthmus.app.reload import Report
    from isthmus.app.settings import Settings
    from isthmus.auth.sources import Sources
    from isthmus.broker.entrance import Entrance
    from isthmus.connectors.missed_topics import MissedTable
    from isthmus.connectors.pool_table import PoolTable
    from isthmus.delivery.endpoint import Endpoint
    from isthmus.delivery.queue_limits import QueueLimits
    from isthmus.delivery.received_ids import ReceivedTable
    from isthmus.net.poller import Poller
    from isthmus.store.store import Store

log = logging.getLogger("isthmus.app")

WILLS_S = 1.0
"""How long the end waits for far sides to acknowledge the wills of clients that it sends away."""

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
        self._poller = poller
        sources = load_files(settings)
        prepare_folder(settings.broker.data)
        self.client_ids = ClientIds(settings.broker.data)
        self.reactor = Reactor(poller=poller)
        self.store: Store | None = None
        self.received: ReceivedTable | None = None
        self.pools: PoolTable | None = None
        self.missed: MissedTable | None = None
        self.doors = {realm: self.new_door(realm, found) for realm, found in sources.items()}
        self.broker = Broker(settings.broker, self.reactor, self.doors[""])
        self.sys_topics = SysTopics(self.broker)
        self.log_topics = LogTopics(self.broker)
        self.status = Status(self)
        self.status_topics = StatusTopics(self)
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
        self.http: HttpPort | None = None
        self._reloading = asyncio.Lock()
        self.tell_connectors()

    # -- parts, also for `reload` ----------------------------------------------------------------

    def new_door(self, realm: str, sources: Sources) -> Access:
        """Users and rights of one `auth`."""
        door = Access(sources, self.settings.broker.limits.topic_levels, realm)
        limit_door(door, self.settings.broker.limits)
        return door

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
            limits=self.queue_limits(name),
        )
        connector.received = self.received
        if self.missed is not None:
            connector.retained_sync.kept = self.missed.of(name)
        connector.notifications.local = self.broker
        connector.figures.on_change = partial(self.status_topics.changed, name)
        return connector

    def keep(self, name: str) -> None:
        """Have what waits for a new connector kept on disk, if one of its routes says so."""
        store, connector = self.store, self.connectors[name]
        if store is None:
            return
        from isthmus.connectors.outboxes import logs_of  # who keeps nothing need not pay for it

        legs_there = [leg for leg in self.legs if leg.target == name]
        wanted = any(leg.settings.durability == "disk" for leg in legs_there)
        if wanted or any(len(store.log(log)) for log in logs_of(name, store)):
            assert self.pools is not None
            connector.keep_in(store, self.pools)

    def queue_limits(self, connector: str) -> QueueLimits:
        """What may wait for a connector, which its routes say together."""
        return shared_limits([leg.settings.queue for leg in self.legs if leg.target == connector])

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

    def tell_connectors(self) -> None:
        """Have connectors do what routes ask for concerning the topics that they publish there."""
        for name, connector in self.connectors.items():
            legs_there = [leg for leg in self.legs if leg.target == name]
            connector.remember_echoes(
                {
                    filter_
                    for leg in legs_there
                    if leg.settings.loop_guard.memory
                    for filter_ in leg.images
                }
            )
            # Together: what may be sent until the second one is known would be too much.
            connector.drain_rates.limit(self.settings.connectors[name].drain_rate)
            connector.drain_rates.limit_routes(
                [
                    (leg.images, leg.settings.drain_rate)
                    for leg in legs_there
                    if leg.settings.drain_rate is not None
                ]
            )

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
                handshake_timeout_s=self.settings.broker.limits.connect_timeout,
                max_handshakes=self.settings.broker.limits.handshakes,
                max_packet_size=self.settings.broker.max_packet_size,
                gate=self.broker.gate,
            )
        except ConfigError as error:
            texts = (f"listeners[{index}].{text}" for text in error.problems)
            raise error.said(*texts) from error

    def open_http(self) -> HttpPort | None:
        """Open the HTTP port of the settings; None where there is none, or it is not to be had.

        Nobody asked for the default address: where something else has it, one warning has to do.

        Raises:
            ConfigError: its address or its certificate cannot be used.
        """
        settings = self.settings.http
        if settings is None:
            return None
        port = HttpPort(self, settings, poller=self._poller)
        try:
            port.open(instead=self.http)
        except ConfigError as error:
            taken = isinstance(error, ListenError) and error.errno == errno.EADDRINUSE
            if "bind" in settings.model_fields_set or not taken:
                raise error.said(*(f"http.{text}" for text in error.problems)) from error
            log.warning(
                "no metrics over HTTP: %s is taken by another program; choose another address "
                "with 'http.bind', or write 'http: null'",
                settings.bind,
            )
            return None
        return port

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listeners, start the routes, connect the connectors.

        Raises:
            ConfigError: a listener or the store cannot be opened; nothing stays open.
        """
        try:
            self._open_store()
            for index in range(len(self.settings.listeners)):
                entrance = self.new_entrance(index, self.doors)
                self.listeners.append(self.open_listener(index, entrance))
                self.entrances.append(entrance)
            self.http = self.open_http()
        except ConfigError:
            await self.close()
            raise
        for listener in self.listeners:
            log.info("listening on %s", listener.where)
        if self.http is not None:
            log.info("metrics and health on %s", self.http.where)
        if self.store is not None:
            from isthmus.app.leftovers import say_what_waits

            say_what_waits(self.store, self.connectors)
        for table in self.tables.values():
            table.start()
        self.watch_retained()
        for connector in self.connectors.values():
            connector.start()
        if self.broker.kept is not None:
            self.broker.kept.publish_wills()
        self.status.start()
        self.sys_topics.start()
        self.status_topics.start()
        if "topic" in self.settings.log.to:
            self.log_topics.start(self.settings.log.formatter)
        for door in self.doors.values():
            door.authenticator.start()
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    def _open_store(self) -> None:
        settings = self.settings.broker
        if settings.data is None or not settings.stores:
            if settings.data is not None:
                from isthmus.app.leftovers import say_what_is_not_used

                say_what_is_not_used(settings.data)
            return
        from isthmus.broker.kept_sessions import KeptSessions
        from isthmus.broker.retained_table import RetainedTable
        from isthmus.connectors.missed_topics import MissedTable
        from isthmus.connectors.pool_table import PoolTable
        from isthmus.delivery.received_ids import ReceivedTable
        from isthmus.store.schema import MISSED, POOLS, RECEIVED, RETAINED
        from isthmus.store.store import Store  # SQLite is loaded only where it is used

        self.store = Store(settings.data, self.reactor.share)
        rights = self._rights_of if settings.check_retain_source else None
        try:
            self.store.start()
            self.broker.retained.restore(RetainedTable(self.store.table(RETAINED)), rights)
            self.received = ReceivedTable(self.store.table(RECEIVED))
            self.pools = PoolTable(self.store.table(POOLS))
            self.missed = MissedTable(self.store.table(MISSED))
            self.broker.kept = KeptSessions(self.broker, self.store, self.received)
            self.broker.kept.restore(self._realm_rights)
            for name, connector in self.connectors.items():
                connector.received = self.received
                connector.retained_sync.kept = self.missed.of(name)
                self.keep(name)
        except StoreError as error:
            raise ConfigError(f"broker.data: {error}") from error

    def _realm_rights(self, realm: str) -> Rights | None:
        """The rights of the users of a realm, None where there is no such realm any more."""
        door = self.doors.get(realm)
        return None if door is None else door.rights

    def _rights_of(self, realm: str) -> Rights:
        """The same, for those whose rights count also after they have gone."""
        # Topics of no level at all: there is none that anybody may publish on.
        return self._realm_rights(realm) or Rights(None, topic_levels=0)

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
        for connector in self.all_connectors():
            connector.prepare_stop()
            connector.rest()
        await settle(self.all_connectors(), DRAIN_S)
        left = sum(connector.unsettled for connector in self.all_connectors())
        if left:
            log.warning(
                "%d message(s) were not acknowledged by their target; "
                "publishers that wait for their acknowledgement send them again, the rest is lost",
                left,
            )
        if self.store is not None:
            await self.store.settle()
        if not left and not any(connector.stored for connector in self.all_connectors()):
            # No client waits for an acknowledgement any more. Their wills go by the routes.
            self.broker.shutdown()
            await settle(self.all_connectors(), WILLS_S)
        self._log_drops()
        if self.store is not None:
            # What is on its way goes to disk, and its publishers hear of it.
            for connector in self.all_connectors():
                await connector.stop()
            await self.store.settle()
            kept = sum(connector.stored for connector in self.all_connectors())
            if kept:
                log.info("%d message(s) on disk go out after the next start", kept)
        await self.close()

    def all_connectors(self) -> list[Connector]:
        """The connectors, and those that are being removed."""
        return [*self.connectors.values(), *self.leaving]

    def _log_drops(self) -> None:
        """Say at the end what was dropped, by place and reason."""
        for drops in drops_of(self):
            if drops.counts:
                counts = ", ".join(f"{reason} {count}" for reason, count in drops.counts.items())
                log.info("%s: dropped since the start: %s", drops.place, counts)
        for connector in self.all_connectors():
            letters = connector.dead_letters
            if letters is not None and letters.put_aside.counts:
                put_aside = letters.put_aside
                counts = ", ".join(
                    f"{reason} {count}" for reason, count in put_aside.counts.items()
                )
                text = "%s: %s since the start: %s; %d are on disk"
                log.info(text, put_aside.place, put_aside.what, counts, len(letters))
        met = self.broker.limits_met.counts
        if met:
            counts = ", ".join(f"{limit} {count}" for limit, count in met.items())
            log.info("%s: limits met since the start: %s", self.broker.name, counts)

    async def close(self) -> None:
        """Close everything without waiting for messages."""
        self.status.stop()
        self.sys_topics.stop()
        self.status_topics.stop()
        self.log_topics.stop()
        self.broker.shutdown()  # wills go by the routes, to the disk if there is one
        # Only the routes from here are stopped: a connector that unsubscribed would lose what the
        # far side keeps for its session until the next start.
        self.tables[LOCAL].stop()
        for connector in self.all_connectors():
            await connector.stop()
        for listener in self.listeners:
            listener.close()
        if self.http is not None:
            await self.http.close()
        await asyncio.sleep(GOODBYE_S)
        self.reactor.close()
        for door in self.doors.values():
            door.close()
        if self.broker.retained.table is not None:
            self.broker.retained.table.settle()
        if self.broker.kept is not None:
            self.broker.kept.table.look_at_the_clock()
        if self.store is not None:
            await self.store.stop()


def prepare_folder(folder: Path | None) -> None:
    """Make the data folder, readable by its owner only.

    Raises:
        ConfigError: it cannot be made, or is no folder.
    """
    if folder is None:
        return
    new = not folder.exists()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if new:  # its name has to outlive a loss of power too
            parent = os.open(folder.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
    except OSError as error:
        raise ConfigError(f"broker.data: {folder} cannot be used: {error.strerror}") from error
