"""What happens to one message, hop by hop: what `isthmus explain` prints.

The process is built as `isthmus run` builds it, but nothing is opened or connected and no file is
written. Its own exchange is asked where the message goes, and its own route tables note what they
decided. Only who has subscribed at the broker is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.app.app import App
from isthmus.auth.principal import Principal
from isthmus.broker.retained import RetainOutlet
from isthmus.connectors.connector import Connector
from isthmus.connectors.keeping_outlet import KeepingOutlet
from isthmus.connectors.no_connection import NO_CONNECTION, NoConnectionOutlet
from isthmus.delivery.endpoint import Origin
from isthmus.delivery.outlet import CountingOutlet, LaneOutlet
from isthmus.errors import ConfigError
from isthmus.mqtt.topics import matches, split_shared
from isthmus.routing.copies import PartOutlet
from isthmus.routing.refusal import RefusedOutlet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isthmus.app.settings import Settings
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.message import Message
    from isthmus.delivery.outlet import Outlet
    from isthmus.delivery.plan import Plan
    from isthmus.routing.route import Decision
    from isthmus.routing.table import Hop, Way


async def message_path(
    settings: Settings, message: Message, source: str, client_id: str, username: str | None
) -> list[str]:
    """The lines that say what happens to `message` from `source`.

    `client_id` and `username` are those of the publisher, for a message from `local`.

    Raises:
        ConfigError: there is no such endpoint, or a file of the configuration cannot be used.
    """
    # Without its folder it writes no client ids.
    broker = settings.broker.model_copy(update={"data": None})
    app = App(settings.model_copy(update={"broker": broker}))
    try:
        if source not in app.endpoints:
            known = ", ".join(app.endpoints)
            raise ConfigError(f"there is no endpoint '{source}'; --from is one of: {known}")
        explained = _Explained(app, on_disk=settings.broker.stores)
        return list(explained.lines(message, source, client_id, username))
    finally:
        await app.close()


class _Explained:
    def __init__(self, app: App, *, on_disk: bool) -> None:
        self._app = app
        self._on_disk = on_disk
        self._hops: list[Hop] = []
        self._here: dict[str, None] = {}  # the topics that routes lead to at the broker, in order
        self._left: set[tuple[str, bytes]] = set()
        self._missing: set[tuple[str, bytes]] = set()
        for table in app.tables.values():
            table.hops = self._hops
            table.start()

    def lines(
        self, message: Message, source: str, client_id: str, username: str | None
    ) -> Iterator[str]:
        app = self._app
        retain = ", with the retain flag" if message.retain else ""
        yield f"{message.topic.decode()}, QoS {message.qos}{retain}, from {source}"
        connector = app.connectors.get(source)
        if connector is None:
            name = username if app.settings.auth.verifies else None
            principal = Principal(name, client_id)
            code = app.broker.access.rights.refusal(principal, message.topic)
            user = name or ("(none, as nothing checks names)" if username else "(none)")
            who = f"client {client_id or '(unknown)'}, user {user}"
            if code:
                yield f"  {who} may not publish there: it is refused with 0x{code:02X}"
                return
            yield f"  {who} may publish there; clients that have subscribed to it get it"
            origin = Origin(self, client_id, name or "")
            plan = app.broker.exchange.plan_for(message.topic, origin)
        else:
            plan = connector.exchange.plan_for(message.topic, connector.origin)
            asked = self._asked(connector, message.topic)
            if not asked:
                yield f"  we are not subscribed to it at {source}, so it will not come"
                return
            yield f"  {asked}"
        self._left = {(self._member(lane)[0].name, topic) for lane, topic in _lanes(plan)}
        self._missing = {
            (_name_of(outlet), outlet.connection)
            for outlet in map(_inner, plan.single)
            if isinstance(outlet, NoConnectionOutlet)
        }
        for hop in self._hops:
            yield from self._hop(hop)
        if not self._hops:
            yield f"at {source}: no route takes it"
        yield from self._result(message, plan)

    def _asked(self, connector: Connector, topic: bytes) -> str:
        found = [
            (filter_.decode(), qos)
            for filter_, qos in connector.subscriptions.cover().items()
            if matches(split_shared(filter_)[1], topic)
        ]
        if not found:
            return ""
        (filter_, qos), *others = found
        more = "".join(f", and to {one} with QoS {its}" for one, its in others)
        return f"we are subscribed to {filter_} at {connector.name} with QoS {qos}{more}"

    def _hop(self, hop: Hop) -> Iterator[str]:
        indent = "  " * hop.depth
        yield f"{indent}at {hop.endpoint}, {hop.topic.decode()}:"
        if not hop.decisions:
            yield f"{indent}  no route takes it"
        sent = {id(route): way for way in hop.ways for route in way[0].routes}
        for decision in hop.decisions:
            route = decision.route
            text = f"{indent}  route {route.name} ({decision.filter_.decode()})"
            way = sent.get(id(route))
            if way is None:
                yield f"{text}: {_left_out(decision)}"
            else:
                yield f"{text}: {self._way(way[0], decision, followed=way[1])}"

    def _way(self, way: Way, decision: Decision, *, followed: bool) -> str:
        text = f"to {way.target.name} as {way.topic.decode()}"
        if way.connection is not None:
            text += f" by connection {_connection(way)}"
        if way.routes[0] is not decision.route:
            return f"{text}; joined with route {way.routes[0].name}, which leads to the same place"
        if way.target.final:
            if (way.target.name, way.connection) in self._missing:
                return f"{text}; dropped, as there is no such connection"
            # Also what an exchange further up has taken away.
            back = (way.target.name, way.topic) not in self._left
            return f"{text}; not sent, as it came from {way.target.name}" if back else text
        if followed:
            self._here[way.topic.decode()] = None
            return text
        return f"{text}; not followed, as that would be a circle or a second time"

    def _result(self, message: Message, plan: Plan) -> Iterator[str]:
        flags = message.flags
        yield "result:"
        waits: list[str] = []
        refused = 0
        unanswered = False  # over MQTT 3
        nothing = True
        for found in plan.single:
            if found.retains and not message.retain:
                continue
            if isinstance(found, PartOutlet) and flags not in found.flags:
                continue
            outlet = _inner(found)
            if isinstance(outlet, CountingOutlet):
                continue
            nothing = False
            if isinstance(outlet, RefusedOutlet):
                refused = refused or outlet.code
                yield f"  dropped, counted as {outlet.reason}: {outlet.detail}"
            elif isinstance(outlet, NoConnectionOutlet):
                refused = refused or NO_CONNECTION
                unanswered = True
                yield (
                    f"  dropped, counted as no_such_connection: {_name_of(outlet)} has no "
                    f"connection with the client id '{outlet.connection.decode(errors='replace')}'"
                )
            elif isinstance(outlet, RetainOutlet):
                yield "  kept as a retained message at local"
            elif isinstance(outlet, LaneOutlet):
                yield f"  {self._sent(outlet, flags, waits)}"
        if not refused:
            for topic in self._here:
                nothing = False
                yield f"  clients of this broker that have subscribed get {topic}"
        if nothing:
            yield "  it leaves by no connector"
        yield f"  {self._acknowledged(message.qos, waits, refused, unanswered=unanswered)}"

    def _acknowledged(self, qos: int, waits: list[str], refused: int, *, unanswered: bool) -> str:
        if not qos:
            return "nobody waits for an acknowledgement: QoS 0"
        packet = "PUBACK" if qos == 1 else "PUBREC"
        if unanswered:
            return f"{packet} has the code 0x{refused:02X} over MQTT 5, and is not sent over MQTT 3"
        if refused:
            return (
                f"{packet} has the code 0x{refused:02X} over MQTT 5, and means success over MQTT 3"
            )
        if waits:
            names = list(dict.fromkeys(waits))
            have = "has" if len(names) == 1 else "have"
            text = f"{packet} is sent when {' and '.join(names)} {have} acknowledged it"
            return f"{text}, or when it is on disk here" if self._on_disk else text
        return f"{packet} is sent at once"

    def _sent(self, outlet: LaneOutlet, flags: int, waits: list[str]) -> str:
        connector, number = self._member(outlet.lane)
        leaves = outlet.first[flags] & 7
        text = f"{connector.name} gets {outlet.topic[2:].decode()} with QoS {leaves >> 1}"
        text += ", retained" if leaves & 1 else ""
        if not number:
            text += "; it waits, as this node has no client id there"
        elif len(connector.members) > 1:
            text += f", by connection {number} of {len(connector.members)}"
        if leaves >> 1 and not outlet.memory:
            waits.append(connector.name)
        if not leaves >> 1:
            waits_too = isinstance(outlet, KeepingOutlet) or connector.settings.start == "lazy"
            text += f"; {'waits' if waits_too else 'dropped'} while {connector.name} is away"
        return text

    def _member(self, lane: Lane) -> tuple[Connector, int]:
        """The connector and the number of the connection that a lane belongs to.

        The number is 0 where messages wait, as the connector has no connections.
        """
        for connector in self._app.connectors.values():
            for number, member in enumerate(connector.members, 1):
                if member.lane is lane:
                    return connector, number
            if not connector.members and connector.lane_without_connection() is lane:
                return connector, 0
        raise LookupError("a lane of no connector")


def _lanes(plan: Plan) -> Iterator[tuple[Lane, bytes]]:
    """The lanes that a plan leads to, each with the topic there."""
    for outlet in plan.single:
        inner = _inner(outlet)
        if isinstance(inner, LaneOutlet):
            yield inner.lane, inner.topic[2:]


def _inner(outlet: Outlet) -> Outlet:
    """What sends in the end, without what decides before it."""
    while isinstance(outlet, PartOutlet):
        outlet = outlet.outlet
    return outlet


def _name_of(outlet: NoConnectionOutlet) -> str:
    """The connector that has no such connection."""
    return str(getattr(outlet.echo_key, "name", ""))


def _connection(way: Way) -> str:
    """The client id that a way names; where it is empty, what its route says."""
    if way.connection:
        return way.connection.decode(errors="replace")
    template = way.routes[0].leg.settings.connection or ""
    options = [
        option
        for variable, option in (("clientid", "--client-id"), ("username", "--username"))
        if variable in template
    ]
    hint = f"; say {' and '.join(options)}" if options else ""
    return f"{template} (empty here{hint})"


def _left_out(decision: Decision) -> str:
    if decision.verdict == "excluded":
        return f"not taken: {decision.detail}"
    if decision.verdict == "stopped":
        return f"not asked: route {decision.detail} comes before it and has 'stop'"
    return f"refused with 0x{decision.code:02X}, {decision.verdict}: {decision.detail}"
