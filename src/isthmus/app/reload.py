"""Reload: a running application becomes what another configuration says.

Only the difference is applied. In this order:

1. What can fail, while nothing has changed yet: files are read, client ids are made, new listeners
   are opened. If anything cannot be used, what was opened is closed, and `ConfigError` says what.
2. All at once, within one turn of the event loop, so that no message sees half of it: users and
   rights, settings of the broker, routes with their subscriptions, listeners; new connectors start.
3. What takes time: removed connectors let arrive what is on its way, for `DRAIN_S` at most, as at
   the end of the process; changed ones make their connections anew.

What becomes of each part:

* A **client** stays connected unless its listener has gone, its listener's `auth` or `mount_point`
  is another one (whose users and topics are others), or its login is no longer valid. Its rights
  are the new ones at once. What it was told when it connected, such as the biggest packet, it keeps
  until it leaves.
* A **route** is the same object if nothing about it has changed; its table replaces all at once.
* A **connector** that stays is the same object, with its lanes and all that waits in them. See
  `Connector.change` for which settings need a new connection, and `connectors.regrouping` for what
  keeps topics in order when the pool changes.
* The **HTTP port** is known by its address too. Where another one is asked for, or it was not to be
  had, it is opened anew.
* A **listener** is known by its address. With other options it goes on to listen; they count for
  connections to come.
* `node`, `user`, `pid_file`, `broker.data` and `broker.persistence` keep their values until the
  next start. The report says so.

A reload waits until the one before it is done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from isthmus.app.door import limit_door
from isthmus.broker.broker import LOCAL
from isthmus.connectors.connector import Connector, settle
from isthmus.connectors.identity import Identity, identities
from isthmus.connectors.regrouping import DRAIN_S
from isthmus.errors import ConfigError, ListenError
from isthmus.mqtt.reasons import ReasonCode
from isthmus.net.contexts import server_context
from isthmus.routing.leg import legs
from isthmus.routing.table import RouteTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from isthmus.app.app import App
    from isthmus.app.settings import Settings
    from isthmus.auth.access import Access
    from isthmus.auth.sources import Sources
    from isthmus.broker.entrance import Entrance
    from isthmus.net.listener import Listener
    from isthmus.net.tls_settings import TLSServerSettings
    from isthmus.routing.leg import Leg
    from isthmus.routing.route import Route
    from isthmus.web.port import HttpPort

log = logging.getLogger("isthmus.app")

NEXT_START = ("node", "user", "pid_file")
"""Keys of the root that take effect at the next start."""

BROKER_NEXT_START = ("data", "persistence")
"""The same, of `broker`."""

UNCHANGED = "nothing has changed; the files of users, rights and certificates were read again"


@dataclass(slots=True)
class Report:
    """What a reload did, in words. `changes` are done, `later` waits for the next start."""

    changes: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Everything, one line each."""
        lines = self.changes or [UNCHANGED]
        if self.later:
            lines = [*lines, f"{', '.join(self.later)}: takes effect at the next start"]
        return lines


class Reload:
    """One change of `app` to other settings; `sources` are the files of their users and rights."""

    def __init__(self, app: App, settings: Settings, sources: dict[str, Sources]) -> None:
        self._app = app
        self._sources = sources
        self.report = Report()
        self._old = app.settings
        self._new = self._keep_what_stays(settings)
        self._identities: dict[str, list[Identity]] = {}
        self._added: dict[str, Connector] = {}
        self._doors: dict[str, Access] = {}
        self._opened: dict[int, tuple[Listener, Entrance]] = {}
        self._suspended: list[Listener] = []
        self._http: HttpPort | None = None
        self._http_before: HttpPort | None = None
        # Index in the new settings -> index in the old ones, of listeners with the same address.
        self._same = _same_binds(self._old, self._new)

    async def run(self) -> Report:
        """Apply the difference.

        Raises:
            ConfigError: something cannot be used; nothing has changed.
        """
        app = self._app
        app.settings = self._new
        try:
            self._prepare()
        except BaseException:
            self._restore()
            raise
        removed = self._switch()
        if self._http_before is not None:
            await self._http_before.close()
        await asyncio.gather(
            *(self._remove(connector) for connector in removed), *self._changed_connectors()
        )
        for line in self.report.lines:
            log.info("reload: %s", line)
        return self.report

    def _restore(self) -> None:
        self._app.settings = self._old
        for listener, _ in self._opened.values():
            listener.suspend()  # at once, as others may need the address back
            listener.close()
        for door in self._doors.values():
            door.close()
        for listener in self._suspended:
            listener.resume()

    def _keep_what_stays(self, settings: Settings) -> Settings:
        old = self._old
        kept: dict[str, object] = {key: getattr(old, key) for key in NEXT_START}
        later = [key for key in NEXT_START if getattr(settings, key) != getattr(old, key)]
        stays = {key: getattr(old.broker, key) for key in BROKER_NEXT_START}
        later += [f"broker.{key}" for key in stays if getattr(settings.broker, key) != stays[key]]
        self.report.later = later
        kept["broker"] = settings.broker.model_copy(update=stays)
        return settings.model_copy(update=kept)

    # -- what can fail ---------------------------------------------------------------------------

    def _prepare(self) -> None:
        app, new = self._app, self._new
        for name, connector in new.connectors.items():
            if name not in app.connectors:
                self._added[name] = app.new_connector(name)
            elif connector != self._old.connectors[name]:
                self._identities[name] = identities(name, connector, app.client_ids, new.node)
        for realm, sources in self._sources.items():
            if realm not in app.doors:
                self._doors[realm] = app.new_door(realm, sources)
        for index, settings in enumerate(new.listeners):
            if index not in self._same:
                entrance = app.new_entrance(index, {**app.doors, **self._doors})
                try:
                    listener = app.open_listener(index, entrance)
                except ListenError as error:
                    listener = self._open_in_place(index, entrance, error)
                self._opened[index] = listener, entrance
            elif settings.tls is not None:
                _check_tls(f"listeners[{index}]", settings.tls)
        self._prepare_http()

    def _prepare_http(self) -> None:
        app, settings = self._app, self._new.http
        if settings is None or app.http is None or app.http.settings.bind != settings.bind:
            self._http = app.open_http()  # the last that can fail: nothing has to close it again
        else:
            if settings.tls is not None:
                _check_tls("http", settings.tls)
            self._http = app.http

    def _open_in_place(self, index: int, entrance: Entrance, error: ListenError) -> Listener:
        """Open a listener whose address one that goes away still has, such as * for 127.0.0.1.

        Raises:
            ConfigError: it cannot be opened even so.
        """
        app, settings = self._app, self._new.listeners[index]
        stays = set(self._same.values())
        in_the_way = [
            listener
            for old, listener in enumerate(app.listeners)
            if old not in stays and settings.port and listener.address[1] == settings.port
        ]
        if not in_the_way or error.errno != errno.EADDRINUSE:
            raise error
        for listener in in_the_way:
            listener.suspend()
            self._suspended.append(listener)
        return app.open_listener(index, entrance)

    # -- all at once -----------------------------------------------------------------------------

    def _switch(self) -> list[Connector]:
        """Apply what needs no waiting; returns the connectors that are to be removed."""
        app = self._app
        if self._new.broker != self._old.broker:
            self._note_keys("broker", self._old.broker, self._new.broker)
            app.broker.change(self._new.broker)
            app.sys_topics.stop()
            app.sys_topics.start()
        if self._new.log != self._old.log:
            app.log_topics.stop()
            if "topic" in self._new.log.to:
                app.log_topics.start(self._new.log.formatter)
        self._switch_doors()
        removed = self._switch_endpoints()
        self._switch_listeners()
        self._switch_http()
        ended = app.broker.rights_changed()
        if ended:
            self.report.changes.append(f"{ended} client(s) disconnected: no longer let in")
        for table in app.tables.values():
            table.forget()
        app.status_topics.stop()
        app.status_topics.start()
        return removed

    def _switch_doors(self) -> None:
        app = self._app
        limits = self._new.broker.limits
        for realm, sources in self._sources.items():
            if realm in self._doors:
                app.doors[realm] = self._doors[realm]
                app.doors[realm].authenticator.start()
            else:
                app.doors[realm].replace(sources)
            limit_door(app.doors[realm], limits)
        if self._new.auth != self._old.auth:
            self._note_keys("auth", self._old.auth, self._new.auth)

    def _switch_endpoints(self) -> list[Connector]:
        app = self._app
        gone = [name for name in app.connectors if name not in self._new.connectors]
        removed = [app.connectors[name] for name in gone]
        every = {**app.connectors, **self._added}
        app.connectors = {name: every[name] for name in self._new.connectors}
        app.endpoints = {LOCAL: app.broker, **app.connectors}
        app.legs = list(legs(self._new.routes, self._new.node))
        before, app.routes = app.routes, {}
        for leg in app.legs:
            app.routes[leg.name] = self._route(leg, before.get(leg.name))
        self._note_routes()
        for route in before.values():
            if route.name not in app.routes and route.drops.counts:
                log.info("%s: it had dropped %s", route.drops.place, route.drops.counts)
        for name in gone:
            app.tables.pop(name).stop()
        for name, endpoint in app.endpoints.items():
            table = app.tables.get(name)
            if table is None:
                table = app.tables[name] = RouteTable(endpoint, app.routes_from(endpoint))
                table.start()
            else:
                table.replace(app.routes_from(endpoint))
        app.leaving.update(removed)
        for connector in removed:
            connector.retained_sync.watch((), app.tables[LOCAL], app.broker, app.broker.retained)
        app.tell_connectors()
        for name, connector in app.connectors.items():
            connector.limit(app.queue_limits(name))
            connector.retained_sync.enabled = self._new.connectors[name].send_retained
        app.watch_retained()
        for name, connector in self._added.items():
            app.keep(name)
            self.report.changes.append(f"connector {name}: added")
            connector.start()
        return removed

    def _route(self, leg: Leg, old: Route | None) -> Route:
        """The route of a direction: the old object if it is the same, or one that counts on."""
        app = self._app
        if (
            old is not None
            and old.leg.settings == leg.settings
            and old.leg.back == leg.back
            and old.source is app.endpoints[leg.source]
            and old.target is app.endpoints[leg.target]
        ):
            return old
        route = app.new_route(leg)
        if old is not None:
            route.replaces(old)
        return route

    def _switch_listeners(self) -> None:
        app = self._app
        listeners, entrances = [], []
        for index, settings in enumerate(self._new.listeners):
            old = self._same.get(index)
            if old is None:
                listener, entrance = self._opened[index]
                self.report.changes.append(f"listener {settings.place}: added")
            else:
                listener, entrance = app.listeners[old], app.entrances[old]
                before = self._old.listeners[old]
                fresh = app.new_entrance(index, app.doors)
                if entrance.access is not fresh.access:
                    self._send_away(entrance, "this listener has other users now")
                    entrance = fresh
                elif entrance.mount != fresh.mount:
                    self._send_away(entrance, "this listener has another mount point now")
                    entrance = fresh
                else:
                    entrance.change(fresh)
                if before != settings:
                    self._note_keys(f"listener {settings.place}", before, settings)
                listener.change(
                    settings,
                    partial(app.broker.accept, entrance=entrance),
                    handshake_timeout_s=self._new.broker.limits.connect_timeout,
                    max_handshakes=self._new.broker.limits.handshakes,
                    max_packet_size=self._new.broker.max_packet_size,
                )
            listeners.append(listener)
            entrances.append(entrance)
        stay = set(self._same.values())
        for index, listener in enumerate(app.listeners):
            if index not in stay:
                self.report.changes.append(f"listener {self._old.listeners[index].place}: removed")
                listener.close()
                self._send_away(app.entrances[index], "this listener was closed")
        app.listeners, app.entrances = listeners, entrances
        for index in self._opened:
            log.info("listening on %s", listeners[index].where)
        for realm in set(app.doors) - set(self._sources):
            app.doors.pop(realm).close()

    def _switch_http(self) -> None:
        app, settings = self._app, self._new.http
        before, app.http = app.http, self._http
        if before is app.http:
            if app.http is not None and settings is not None and app.http.settings != settings:
                self._note_keys("http", app.http.settings, settings)
                app.http.change(settings)
            return
        if app.http is not None:
            self.report.changes.append(f"http: listens on {app.http.where}")
        if before is not None:
            self._http_before = before
            self.report.changes.append(f"http: {before.where} closed")

    def _send_away(self, entrance: Entrance, why: str) -> None:
        for client in self._app.broker.clients_of(entrance):
            client.close(ReasonCode.ADMINISTRATIVE_ACTION, why)

    # -- what takes time -------------------------------------------------------------------------

    def _changed_connectors(self) -> Iterable[asyncio.Future[None]]:
        app = self._app
        for name, found in self._identities.items():
            settings = self._new.connectors[name]
            self._note_keys(f"connector {name}", self._old.connectors[name], settings)
            yield asyncio.ensure_future(
                app.connectors[name].change(settings, app.client_ids, found)
            )

    async def _remove(self, connector: Connector) -> None:
        connector.prepare_stop(for_good=True)
        arrived = await settle([connector], DRAIN_S)
        dropped = await connector.remove()
        self._app.leaving.discard(connector)
        text = f"connector {connector.name}: removed"
        if dropped:
            why = (
                "had no connection to leave by"
                if arrived
                else f"were not acknowledged in {DRAIN_S:g} s"
            )
            text += f"; {dropped} message(s) {why} and are dropped"
            log.warning("%s", text)
        self.report.changes.append(text)

    # -- words -----------------------------------------------------------------------------------

    def _note_routes(self) -> None:
        old, new = self._old.routes, self._new.routes
        for name in [*new, *(name for name in old if name not in new)]:
            if name not in old:
                self.report.changes.append(f"route {name}: added")
            elif name not in new:
                self.report.changes.append(f"route {name}: removed")
            elif old[name] != new[name]:
                self._note_keys(f"route {name}", old[name], new[name])

    def _note_keys(self, name: str, old: BaseModel, new: BaseModel) -> None:
        """Say which keys have changed; never their values, which may be secret."""
        fields = type(new).model_fields
        keys = [
            info.alias or key
            for key, info in fields.items()
            if getattr(old, key) != getattr(new, key)
        ]
        self.report.changes.append(f"{name}: changed ({', '.join(keys)})")


def _check_tls(owner: str, tls: TLSServerSettings) -> None:
    """Raise ConfigError if the files that `load_files` read are broken again; else it is cached."""
    try:
        server_context(tls)
    except ConfigError as error:
        raise ConfigError(*(f"{owner}.tls.{text}" for text in error.problems)) from error


def _same_binds(old: Settings, new: Settings) -> dict[int, int]:
    """Listeners of `new`, by index, and the one of `old` with the same address."""
    free: dict[str, list[int]] = {}
    for index, listener in enumerate(old.listeners):
        free.setdefault(listener.place, []).append(index)
    return {
        index: free[listener.place].pop(0)
        for index, listener in enumerate(new.listeners)
        if free.get(listener.place)
    }
