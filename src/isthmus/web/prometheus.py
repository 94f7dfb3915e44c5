"""The metrics page: what the process counts anyway, as Prometheus reads it.

Nothing is counted for this page. Labels are names of the configuration and words of this project;
never client ids or topics, which strangers choose. `docs/metrics.md` has the table.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from isthmus import INTERPRETED_BECAUSE, __version__, clock
from isthmus.metrics.memory import resident_bytes
from isthmus.web.process import drops_of

if TYPE_CHECKING:
    from isthmus.connectors.connector import Connector
    from isthmus.web.counts import Counts
    from isthmus.web.process import Process

STATES = ("connected", "connecting", "degraded", "idle", "refused", "stopped", "waiting")
"""Of a connector; see `Connector.state`."""

Row = tuple[Iterable[str], float]
"""Values of the labels, and the value."""


class Metrics(Collector):
    """Reads the counters of `process`, and `counts` of the HTTP port."""

    def __init__(self, process: Process, counts: Counts) -> None:
        self._process = process
        self._counts = counts
        self._lag_s = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self, lag_s: float) -> bytes:
        """The page; `lag_s` is how long the event loop let somebody wait just now."""
        self._lag_s = lag_s
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Read every counter."""
        yield from self._of_process()
        yield from self._of_broker()
        yield from self._of_listeners()
        yield from self._of_connectors()
        yield from self._of_routes()
        yield from self._of_store()
        yield from self._of_loop()
        yield from self._of_port()

    def _of_process(self) -> Iterator[Metric]:
        yield _gauges(
            "isthmus_build_info",
            "What runs; the value is always 1.",
            ("version", "python", "compiled"),
            [((__version__, platform.python_version(), str(not INTERPRETED_BECAUSE).lower()), 1)],
        )
        yield _gauge(
            "isthmus_process_start_time_seconds",
            "When the process started, in seconds since 1970.",
            clock.started,
        )
        yield _counter(
            "isthmus_process_cpu_seconds",
            "CPU time of the process, user and system.",
            time.process_time(),
        )
        yield _gauge(
            "isthmus_process_resident_memory_bytes",
            "Memory of the process that is in RAM.",
            resident_bytes(),
        )

    def _of_broker(self) -> Iterator[Metric]:
        broker, reactor = self._process.broker, self._process.reactor
        traffic = broker.traffic
        for name, text, value in (
            ("clients_connected", "Clients with a session that are connected.", broker.connected),
            ("sessions", "Sessions, connected or not.", len(broker.sessions)),
            (
                "subscriptions",
                "Subscriptions of clients and routes in the broker; a shared one counts once.",
                len(broker.exchange),
            ),
            (
                "shared_subscriptions",
                "Members of shared subscriptions.",
                sum(map(len, broker.shares.values())),
            ),
            (
                "retained_messages",
                "Retained messages, without those below $SYS.",
                broker.retained.of_clients,
            ),
            (
                "retained_bytes",
                "Memory of retained messages, as `broker.limits.retained_bytes` counts it.",
                broker.retained.size,
            ),
        ):
            yield _gauge(f"isthmus_broker_{name}", text, value)
        yield _counter(
            "isthmus_broker_logins", "Clients that were let in, counted each time.", broker.connects
        )
        yield _counter(
            "isthmus_broker_sessions_expired",
            "Sessions that ended as their client did not come back.",
            broker.expired,
        )
        yield _counters(
            "isthmus_broker_refusals",
            "Connections that the broker closed, by MQTT 5 reason code.",
            ("code",),
            [((f"0x{code:02x}",), count) for code, count in sorted(broker.refusals.items())],
        )
        for name, text, value in (
            ("messages_received", "Messages (PUBLISH packets) that came in.", traffic.received),
            ("messages_sent", "Messages (PUBLISH packets) that went out.", traffic.sent),
            ("payload_received_bytes", "Payloads that came in.", traffic.received_bytes),
            ("payload_sent_bytes", "Payloads that went out.", traffic.sent_bytes),
            ("packets_received", "MQTT packets that came in.", traffic.packets_received),
            ("acknowledgements_sent", "Messages that were acknowledged.", traffic.answers),
            ("network_received_bytes", "Bytes that sockets gave.", reactor.bytes_in),
            ("network_sent_bytes", "Bytes that sockets took.", reactor.bytes_out),
        ):
            yield _counter(
                f"isthmus_{name}", f"{text} Clients and connectors together, HTTP not.", value
            )
        yield _counters(
            "isthmus_drops",
            "Messages that were not delivered, by place and reason.",
            ("place", "reason"),
            [
                ((drops.place, reason), count)
                for drops in drops_of(self._process)
                for reason, count in drops.counts.items()
            ],
        )

    def _of_listeners(self) -> Iterator[Metric]:
        found = [(one, one.statistics()) for one in self._process.listeners]

        def rows(value: Iterable[float]) -> list[Row]:
            return [((one.where,), count) for (one, _), count in zip(found, value, strict=True)]

        yield _gauges(
            "isthmus_listener_open",
            "Whether a listener accepts connections (1 or 0).",
            ("listener",),
            rows(one.open for one, _ in found),
        )
        yield _gauges(
            "isthmus_listener_handshakes",
            "Connections on their way through PROXY header, TLS and WebSocket.",
            ("listener",),
            rows(counts.handshakes for _, counts in found),
        )
        for name, text in _LISTENER_COUNTERS:
            yield _counters(
                f"isthmus_listener_{name}",
                text,
                ("listener",),
                rows(getattr(counts, name) for _, counts in found),
            )

    def _of_connectors(self) -> Iterator[Metric]:
        found = [(one, one.figures.read()) for one in self._process.connectors.values()]
        states = [(one, one.state) for one, _ in found]
        now = clock.monotonic()
        yield _gauges(
            "isthmus_connector_state",
            "1 for the state that a connector is in, 0 for the others.",
            ("connector", "state"),
            [
                ((one.name, state), float(state == present))
                for one, present in states
                for state in STATES
            ],
        )
        yield _gauges(
            "isthmus_connector_state_seconds",
            "Time since the state of one of its connections last changed.",
            ("connector",),
            [
                ((one.name,), now - max(member.changed_at for member in one.members))
                for one, _ in found
                if one.members
            ],
        )
        yield _gauges(
            "isthmus_connector_connections_wanted",
            "Connections that a connector is to have.",
            ("connector",),
            [((one.name,), one.wanted) for one, _ in found],
        )
        for name, key, text in _CONNECTOR_GAUGES:
            yield _gauges(f"isthmus_connector_{name}", text, ("connector",), _figure(found, key))
        for name, key, text in _CONNECTOR_COUNTERS:
            yield _counters(f"isthmus_connector_{name}", text, ("connector",), _figure(found, key))

    def _of_routes(self) -> Iterator[Metric]:
        yield _gauges(
            "isthmus_route_info",
            "Directions of routes; the value is always 1.",
            ("route", "from", "to"),
            [
                ((route.name, route.source.name, route.target.name), 1)
                for route in self._process.routes.values()
            ],
        )
        yield _counters(
            "isthmus_route_messages",
            "Messages that a route took and handed on.",
            ("route",),
            [((route.name,), route.messages) for route in self._process.routes.values()],
        )

    def _of_store(self) -> Iterator[Metric]:
        store = self._process.store
        if store is not None:
            yield _counter("isthmus_store_commits", "Transactions on disk.", store.commits)
            yield _counter(
                "isthmus_store_rows_left_out", "Rows that could not be kept.", store.left_out
            )
            yield _gauge(
                "isthmus_store_failing",
                "Whether the last write of the store failed, or the disk does not answer (1 or 0).",
                store.failure is not None,
            )

    def _of_loop(self) -> Iterator[Metric]:
        counts = self._process.reactor.statistics()
        yield _gauge(
            "isthmus_loop_lag_seconds",
            "How long the event loop took to come round again, once, for this page.",
            self._lag_s,
        )
        yield _gauge("isthmus_reactor_links", "MQTT connections, to and from here.", counts.links)
        yield _counter("isthmus_reactor_turns", "Rounds of the MQTT reactor.", counts.turns)
        yield _counter("isthmus_reactor_events", "Sockets that were ready.", counts.events)
        yield _counter(
            "isthmus_reactor_cut_turns",
            "Rounds that ended before every ready socket was read.",
            counts.turns_cut,
        )
        yield _counter(
            "isthmus_reactor_failures",
            "Connections that were closed by an internal error.",
            counts.failures,
        )

    def _of_port(self) -> Iterator[Metric]:
        counts = self._counts
        yield _gauge("isthmus_http_connections", "HTTP connections.", counts.open)
        yield _counters(
            "isthmus_http_answers",
            "HTTP answers by status.",
            ("status",),
            [((str(status),), count) for status, count in sorted(counts.answers.items())],
        )
        yield _counters(
            "isthmus_http_closed",
            "HTTP connections that were closed for a limit.",
            ("reason",),
            [
                (("crowded",), counts.crowded),
                (("malformed",), counts.malformed),
                (("slow",), counts.slow),
            ],
        )


_LISTENER_COUNTERS = (
    ("accepted", "Connections that were accepted."),
    ("handshakes_failed", "Connections that ended in PROXY header, TLS or WebSocket."),
    ("refused", "Connections that were closed, as too many were in their handshakes."),
    ("pauses", "Times that accepting had to rest for want of descriptors."),
    ("renewals", "Changed certificate files that were taken over."),
    ("renewals_failed", "Changed certificate files that could not be used."),
)

_CONNECTOR_GAUGES = (
    ("connections_up", "connections_up", "Connections that are open."),
    (
        "connections_on_backup",
        "connections_on_backup",
        "Open connections that lead to another than the first address.",
    ),
    ("queued_messages", "queued", "Messages that wait for a connector."),
    (
        "queued_bytes",
        "queued_bytes",
        "Bytes of the messages that wait for a connector, in memory or on disk.",
    ),
    ("inflight_messages", "inflight", "Messages that the far side has not acknowledged yet."),
    ("oldest_age_seconds", "oldest_age_s", "How long the oldest message has waited."),
    ("dead_letters", "dead_letters", "Messages that could not be delivered and are kept."),
    ("dead_letter_bytes", "dead_letter_bytes", "Bytes of dead letters on disk."),
)

_CONNECTOR_COUNTERS = (
    ("attempts", "connect_attempts", "Attempts to connect."),
    ("connects", "connects", "Attempts to connect that succeeded."),
    ("taken_over", "taken_over", "Connections that another client with the same id took over."),
    ("messages_sent", "sent", "Messages that were sent to the far side."),
    ("messages_refused", "refused", "Messages that the far side refused."),
    ("messages_received", "received", "Messages that came from the far side."),
    ("messages_acknowledged", "acknowledged", "Messages that the far side acknowledged."),
    ("messages_retried", "retried", "Messages that were sent once more."),
)


def _figure(found: list[tuple[Connector, dict[str, Any]]], key: str) -> list[Row]:
    return [((one.name,), figures[key]) for one, figures in found]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    """A counter; the text format adds `_total` to its name."""
    return CounterMetricFamily(name, text, value)


def _gauges(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric([*values], value)
    return family


def _counters(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric([*values], value)
    return family
