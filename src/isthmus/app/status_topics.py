"""The status of each connector and of the broker as retained JSON below `$SYS/isthmus/`.

A connector's is published when its state changes, at the end of that turn, and like all others
every `broker.sys_interval` if it has changed since.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.delivery.message import Message

if TYPE_CHECKING:
    from isthmus.app.app import App
    from isthmus.net.timers import Timer

BROKER = "$SYS/isthmus/broker/status"
CONNECTOR = "$SYS/isthmus/connectors/{name}/status"


class StatusTopics:
    """Publishes what has changed, from `start` to `stop`; nothing at all with an interval of 0."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._last: dict[str, dict[str, Any]] = {}
        self._changed: dict[str, None] = {}
        self._soon: asyncio.Handle | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        """Publish now and from now on; with an interval of 0 withdraw what was published."""
        if self._app.settings.broker.sys_interval:
            self._publish_all()
        else:
            self._withdraw(list(self._last))

    def stop(self) -> None:
        """Publish no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def changed(self, connector: str) -> None:
        """The state of a connector has changed: publish it at the end of this turn."""
        if self._timer is None:
            return
        self._changed[connector] = None
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._publish_changed)

    def _publish_changed(self) -> None:
        self._soon = None
        changed, self._changed = self._changed, {}
        for name in changed:
            connector = self._app.connectors.get(name)
            if connector is not None:
                self._publish(CONNECTOR.format(name=name), connector.figures.read())

    def _publish_all(self) -> None:
        app = self._app
        found = {
            CONNECTOR.format(name=name): connector.figures.read()
            for name, connector in app.connectors.items()
        }
        found[BROKER] = app.status.broker()
        self._withdraw([topic for topic in self._last if topic not in found])
        for topic, figures in found.items():
            self._publish(topic, figures)
        self._timer = app.reactor.wheel.at(
            clock.monotonic() + app.settings.broker.sys_interval, self._publish_all
        )

    def _withdraw(self, topics: list[str]) -> None:
        for topic in topics:
            del self._last[topic]
            self._app.broker.publish(Message(topic.encode(), b"", retain=True))

    def _publish(self, topic: str, figures: dict[str, Any]) -> None:
        if self._last.get(topic) != figures:
            self._last[topic] = figures
            payload = json.dumps(figures, separators=(",", ":"))
            self._app.broker.publish(Message(topic.encode(), payload.encode(), retain=True))
