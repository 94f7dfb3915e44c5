"""The broker's figures as retained messages below `$SYS/broker/`, named as Mosquitto names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import __version__, clock
from isthmus.delivery.message import Message

if TYPE_CHECKING:
    from isthmus.broker.broker import Broker
    from isthmus.net.timers import Timer

PREFIX = b"$SYS/broker/"


class SysTopics:
    """Publishes what has changed every `sys_interval` seconds."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._started = clock.monotonic()
        self._last: dict[str, str] = {}
        self._timer: Timer | None = None
        self._most_connected = 0

    def start(self) -> None:
        """Publish now and from now on; nothing at all with an interval of 0."""
        if self._broker.settings.sys_interval:
            self._publish()

    def stop(self) -> None:
        """Publish no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _publish(self) -> None:
        for name, value in self.values().items():
            if self._last.get(name) != value:
                self._last[name] = value
                self._broker.publish(Message(PREFIX + name.encode(), value.encode(), retain=True))
        self._timer = self._broker.reactor.wheel.at(
            clock.monotonic() + self._broker.settings.sys_interval, self._publish
        )

    def values(self) -> dict[str, str]:
        """Topic below `$SYS/broker/` to payload."""
        broker = self._broker
        sessions = broker.sessions.values()
        self._most_connected = max(self._most_connected, broker.connected)
        received = broker.messages_from_closed + sum(
            session.client.received for session in sessions if session.client is not None
        )
        subscriptions = sum(len(session.subscriptions) for session in sessions)
        return {
            "version": f"isthmus version {__version__}",
            "uptime": f"{int(clock.monotonic() - self._started)} seconds",
            "clients/connected": str(broker.connected),
            "clients/disconnected": str(len(broker.sessions) - broker.connected),
            "clients/total": str(len(broker.sessions)),
            "clients/maximum": str(self._most_connected),
            "messages/stored": str(
                len(broker.retained) + sum(session.lane.queued for session in sessions)
            ),
            "publish/messages/received": str(received),
            "publish/messages/sent": str(
                broker.sent_by_ended + sum(session.lane.sent for session in sessions)
            ),
            "publish/messages/dropped": str(broker.drops.total),
            "retained messages/count": str(len(broker.retained)),
            "subscriptions/count": str(subscriptions),
        }
