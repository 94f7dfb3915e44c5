"""What the process does now: the figures of its parts, for commands and for topics."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from isthmus import __version__, clock
from isthmus.app.asking import DONE
from isthmus.clock import iso

if TYPE_CHECKING:
    from pathlib import Path

    from isthmus.app.app import App
    from isthmus.net.timers import Timer

LOOK_EVERY_S = 1.0
"""How often the ages of waiting messages are looked after; each look costs a microsecond a lane."""


class Status:
    """The status of an application; it changes nothing.

    `file` is the configuration that the process was started with, where there is one.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.file: Path | None = None
        self._started = clock.monotonic()
        self._started_at = clock.wall()
        self._timer: Timer | None = None

    def start(self) -> None:
        """Look after ages from now on."""
        self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = clock.monotonic()
        for connector in self._app.connectors.values():
            connector.figures.look(now)
        self._timer = self._app.reactor.wheel.at(now + LOOK_EVERY_S, self._look)

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the request `status`."""
        del request
        return {"status": DONE, **self.read()}

    def read(self) -> dict[str, Any]:
        """Everything, as plain values; documented in `docs/status.md`."""
        app = self._app
        return {
            "process": {
                "version": __version__,
                "pid": os.getpid(),
                "file": None if self.file is None else str(self.file.absolute()),
                "node": app.settings.node,
                "at": iso(clock.wall()),
                "uptime_s": round(clock.monotonic() - self._started, 3),
            },
            "broker": self.broker(),
            "connectors": [one.figures.read() for one in app.connectors.values()],
            "routes": [
                {
                    "name": route.name,
                    "from": route.source.name,
                    "to": route.target.name,
                    "messages": route.messages,
                    "dropped": dict(route.drops.counts),
                }
                for route in app.routes.values()
            ],
        }

    def broker(self) -> dict[str, Any]:
        """The figures of the broker and of its store."""
        broker, store = self._app.broker, self._app.store
        dropped = Counter(broker.drops.counts)
        dropped.update(broker.hops.drops.counts)
        return {
            "since": iso(self._started_at),
            "clients": broker.connected,
            "sessions": len(broker.sessions),
            "subscriptions": len(broker.exchange),
            "retained": broker.retained.of_clients,
            "retained_bytes": broker.retained.size,
            "received": broker.traffic.received,
            "received_bytes": broker.traffic.received_bytes,
            "sent": broker.traffic.sent,
            "sent_bytes": broker.traffic.sent_bytes,
            "dropped": dict(dropped),
            "store": None
            if store is None
            else {"failure": store.failure, "commits": store.commits},
        }
