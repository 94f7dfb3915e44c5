"""The broker's figures as retained messages below `$SYS/broker/`, named as Mosquitto names them.

Counters of messages and bytes are those of the whole process, connectors included, as Mosquitto
counts its bridges. Everything here is read from counters: the cost does not grow with the clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import __version__, clock
from isthmus.delivery.message import Message
from isthmus.metrics.load import MINUTES, Load
from isthmus.metrics.memory import highest_resident_bytes, resident_bytes

if TYPE_CHECKING:
    from isthmus.broker.broker import Broker
    from isthmus.net.timers import Timer

PREFIX = b"$SYS/broker/"

LOADS = {
    "messages/received": "messages/received",
    "messages/sent": "messages/sent",
    "publish/received": "publish/messages/received",
    "publish/sent": "publish/messages/sent",
    "publish/dropped": "publish/messages/dropped",
    "bytes/received": "bytes/received",
    "bytes/sent": "bytes/sent",
    "sockets": "sockets/accepted",
    "connections": "connections/accepted",
}
"""Load averages, below `load/`, and the counters that they are of."""

_NOT_PUBLISHED = ("sockets/accepted", "connections/accepted")


class SysTopics:
    """Publishes what has changed every `sys_interval` seconds."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._started = self._updated = clock.monotonic()
        self._last: dict[str, str] = {}
        self._timer: Timer | None = None
        self._loads = {name: Load() for name in LOADS}

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
        now = clock.monotonic()
        elapsed_s, self._updated = now - self._updated, now
        for name, value in self.values(elapsed_s).items():
            if self._last.get(name) != value:
                self._last[name] = value
                self._broker.publish(Message(PREFIX + name.encode(), value.encode(), retain=True))
        self._timer = self._broker.reactor.wheel.at(
            now + self._broker.settings.sys_interval, self._publish
        )

    def values(self, elapsed_s: float) -> dict[str, str]:
        """Topic below `$SYS/broker/` to payload; `elapsed_s` since the last time."""
        counters = self._counters()
        values = {
            "version": f"isthmus version {__version__}",
            "uptime": f"{int(clock.monotonic() - self._started)} seconds",
            **{name: str(count) for name, count in counters.items() if name not in _NOT_PUBLISHED},
        }
        for name, load in self._loads.items():
            if elapsed_s > 0:
                load.update(counters[LOADS[name]], elapsed_s)
            for minutes, average in zip(MINUTES, load.averages, strict=True):
                values[f"load/{name}/{minutes}min"] = f"{average:.2f}"
        return values

    def _counters(self) -> dict[str, int]:
        broker = self._broker
        traffic, reactor = broker.traffic, broker.reactor
        connected, sessions = broker.connected, len(broker.sessions)
        stored = len(broker.retained)
        resident = resident_bytes()
        return {
            "clients/connected": connected,
            "clients/active": connected,
            "clients/disconnected": sessions - connected,
            "clients/inactive": sessions - connected,
            "clients/total": sessions,
            "clients/maximum": broker.most_connected,
            "clients/expired": broker.expired,
            "messages/stored": stored,
            "store/messages/count": stored,
            "store/messages/bytes": broker.retained.size,
            "retained messages/count": stored,
            "subscriptions/count": len(broker.exchange),
            "shared_subscriptions/count": sum(map(len, broker.shares.values())),
            "messages/received": traffic.packets_received,
            "messages/sent": traffic.sent + traffic.answers,
            "bytes/received": reactor.bytes_in,
            "bytes/sent": reactor.bytes_out,
            "publish/messages/received": traffic.received,
            "publish/messages/sent": traffic.sent,
            "publish/messages/dropped": broker.drops.total,
            "publish/bytes/received": traffic.received_bytes,
            "publish/bytes/sent": traffic.sent_bytes,
            "heap/current": resident,
            "heap/maximum": max(resident, highest_resident_bytes()),  # Linux counts it lazily
            "sockets/accepted": broker.accepted,
            "connections/accepted": broker.connects,
        }
