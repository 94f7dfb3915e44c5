"""What the pages read of the process that they are about; `App` is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from isthmus.broker.broker import Broker
    from isthmus.connectors.connector import Connector
    from isthmus.metrics.drops import Drops
    from isthmus.net.listener import Listener
    from isthmus.net.reactor import Reactor
    from isthmus.routing.route import Route
    from isthmus.store.store import Store


class Process(Protocol):
    """The parts of a process as they are now; a reload replaces some of them."""

    @property
    def broker(self) -> Broker:
        """The embedded broker."""

    @property
    def reactor(self) -> Reactor:
        """What serves MQTT connections."""

    @property
    def listeners(self) -> Sequence[Listener]:
        """Where MQTT clients connect."""

    @property
    def connectors(self) -> Mapping[str, Connector]:
        """Far services, by name."""

    @property
    def routes(self) -> Mapping[str, Route]:
        """Directions of routes, by name."""

    @property
    def store(self) -> Store | None:
        """What is on disk; None where there is no data folder."""


def drops_of(process: Process) -> Iterator[Drops]:
    """The counters of dropped messages, each of another place."""
    yield process.broker.drops
    yield process.broker.hops.drops
    yield from (connector.drops for connector in process.connectors.values())
    yield from (route.drops for route in process.routes.values())
