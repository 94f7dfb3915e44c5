"""A connector: the endpoint of one far MQTT service, a pool of clients of it."""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.connectors.failback import Failback
from isthmus.connectors.identity import Identity, identities
from isthmus.connectors.member import LASTING_REFUSALS, Member
from isthmus.connectors.notifications import Notifications
from isthmus.connectors.queued_lane import QueuedLane, QueuedOutlet, TokenBucket
from isthmus.connectors.retained_sync import RetainedSync
from isthmus.connectors.subscriptions import Subscriptions
from isthmus.delivery.echoes import Echoes, RememberingOutlet
from isthmus.delivery.endpoint import HOPS, LoopGuard, Origin, Subscriber
from isthmus.delivery.exchange import Exchange
from isthmus.delivery.lane import Lane
from isthmus.delivery.outlet import KEEP, LaneOutlet, Outlet, compose, flag_table
from isthmus.delivery.plan import Plan
from isthmus.metrics.drops import Drops
from isthmus.metrics.traffic import Traffic
from isthmus.mqtt.reasons import describe
from isthmus.mqtt.topics import split_shared
from isthmus.net.dial import dial
from isthmus.net.socket_options import SocketOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.connectors.address import Address
    from isthmus.connectors.client_ids import ClientIds
    from isthmus.connectors.far_client import FarClient
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.connectors.watcher import Watcher
    from isthmus.delivery.hops import Hops
    from isthmus.delivery.message import Message
    from isthmus.delivery.receipt import Receipt
    from isthmus.net.link import Link
    from isthmus.net.reactor import Reactor

log = logging.getLogger("isthmus.connectors")

DEFAULT_QUEUE_BYTES = 256 << 20
UNSENT_BYTES = 16 << 20
"""QoS 0 bytes that wait for a far side which does not read; more is dropped and counted."""

NO_CONNECTION = 0x83
"""What an MQTT 5 publisher is told whose message names a connection that is not here."""


class Connector:
    """One far service.

    Messages of one source topic always take the same member of the pool, so their order is kept,
    unless their route names a connection. Subscriptions are spread over the members; see
    `ownership`. `node` is the name of this process, which chooses the `static_client_ids`; where it
    has none, `members` is empty, and what is published waits in a lane without a connection.
    """

    final = True

    def __init__(
        self,
        name: str,
        settings: ConnectorSettings,
        reactor: Reactor,
        client_ids: ClientIds,
        *,
        node: str = "",
        hops: Hops | None = None,
        traffic: Traffic | None = None,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        unsent_bytes: int = UNSENT_BYTES,
    ) -> None:
        self.name = name
        self.settings = settings
        self.reactor = reactor
        self.node = node
        self.hops = hops
        self.traffic = Traffic() if traffic is None else traffic
        self.echoes: Echoes | None = None
        self.queue_bytes = queue_bytes
        self.unsent_bytes = unsent_bytes
        fixed = bool(settings.client_id or settings.static_client_ids)
        self.ids_stable = fixed or (client_ids.stable and settings.client_id is None)
        self.drops = Drops(f"connector {name}", log)
        self.watcher: Watcher | None = None
        self.exchange = Exchange(name)
        self.origin = Origin(self, settings.local_client_id or "")
        self.notifications = Notifications(settings.notifications)
        self.retained_sync = RetainedSync(self, enabled=settings.send_retained)
        self._allowed_flags = KEEP  # what the far side allows
        self._forget: list[Callable[[], None]] = []
        self._update: asyncio.Handle | None = None
        self._status = ""
        self._stopping = False
        self._bucket = (
            None
            if settings.rate_limit is None
            else TokenBucket(settings.rate_limit, clock.monotonic())
        )
        self._options = _socket_options(settings)
        found = identities(name, settings, client_ids, node)
        self.members = [
            Member(self, index, identity, self._lane()) for index, identity in enumerate(found)
        ]
        self._waiting_lane = None if found else self._lane()
        self.subscriptions = Subscriptions(max(1, len(found)))
        self._failback: Failback | None = None
        if found and len(settings.addresses) > 1 and not settings.round_robin:
            probe_id = settings.failback.client_id
            if probe_id is None:
                probe_id = (
                    client_ids.client_id(name, settings.client_id_prefix, 0)
                    if settings.client_id is None and not settings.static_client_ids
                    else f"{found[0].client_id}-probe"
                )
            self._failback = Failback(self, found[0]._replace(client_id=probe_id))
        self._names()

    def _lane(self) -> Lane:
        settings = self.settings
        limits: dict[str, Any] = {
            "blocks": True,
            "max_inflight": settings.max_inflight,
            "max_queued": 0,
            "max_queued_bytes": self.queue_bytes,
            "max_unsent_bytes": self.unsent_bytes,
            "traffic": self.traffic,
        }
        if self._bucket is None and settings.start != "lazy":
            return Lane(self.drops, **limits)
        return QueuedLane(
            self.drops,
            reactor=self.reactor,
            bucket=self._bucket,
            keeps_qos0=settings.start == "lazy",
            **limits,
        )

    def remember_echoes(self) -> None:
        """Cancel what the far side sends back, for routes that ask for it; before `start`."""
        if self.echoes is None:
            self.echoes = Echoes(self.drops)

    def start(self) -> None:
        """Connect all members, at the same time."""
        if self.settings.static_client_ids and self.settings.pool > 1:
            log.info(
                "connector %s: 'pool' has no effect together with 'static_client_ids'", self.name
            )
        for member in self.members:
            member.start()
        if self._failback is not None:
            self._failback.start()
        self.member_changed()

    async def stop(self) -> None:
        """Disconnect all members."""
        self._stopping = True
        if self._update is not None:
            self._update.cancel()
            self._update = None
        self.retained_sync.stop()
        if self._failback is not None:
            await self._failback.stop()
        for member in self.members:
            await member.stop()

    async def dial(self, address: Address, identity: Identity) -> Link:
        """Open a network connection to `address`, with TLS where it asks for that.

        Raises:
            ConnectError: at which step it failed, and why.
        """
        return await dial(
            self.reactor,
            address.host,
            address.port,
            tls=identity.tls if address.encrypted else None,
            timeout_s=self.settings.connect_timeout,
            options=self._options,
            websocket=address.path,
            proxy=self.settings.proxy_address,
            max_packet_size=self.settings.max_packet_size,
        )

    # -- endpoint --------------------------------------------------------------------------------

    def subscribe(self, filter_: bytes, subscriber: Subscriber, options: Any) -> None:
        """Give `subscriber` the far side's messages that match; `options` is the QoS to ask for."""
        self.exchange.subscribe(split_shared(filter_)[1], subscriber, options)
        self.subscriptions.add(filter_, subscriber, options)
        self._update_soon()

    def unsubscribe(self, filter_: bytes, subscriber: Subscriber) -> None:
        """Undo `subscribe`."""
        self.exchange.unsubscribe(split_shared(filter_)[1], subscriber)
        self.subscriptions.remove(filter_, subscriber)
        self._update_soon()

    def when_ways_change(self, forget: Callable[[], None]) -> None:
        """Call `forget` when what `route` added to plans is no longer right; see `Endpoint`."""
        self._forget.append(forget)

    def forget_plans(self) -> None:
        """Make every plan anew."""
        self.exchange.plans.clear()

    def route(
        self,
        topic: bytes,
        plan: Plan,
        *,
        origin: Origin,
        flags: tuple[int, ...],
        order_key: bytes,
        memory: bool,
        connection: bytes | None = None,
        guard: LoopGuard = HOPS,
    ) -> None:
        """Add the one outlet to the far side; see `Endpoint.route`.

        Where `connection` is the client id of none of the members, messages are refused: an MQTT 5
        publisher is told so, one of MQTT 3 gets no acknowledgement. They are counted.
        """
        if origin.key is self:
            return  # what came from the far side does not go back there
        lane = self._way(order_key, connection)
        if lane is None:
            plan.add(NoConnectionOutlet(self.drops, connection or b"", echo_key=self))
            return
        allowed = compose(flags, self._allowed_flags)
        kind = QueuedOutlet if isinstance(lane, QueuedLane) else LaneOutlet
        hops = self.hops if guard.hops and self.settings.version == "5" else None
        outlet = kind(lane, topic, allowed, memory=memory, echo_key=self, hops=hops)
        if guard.memory and self.echoes is not None:
            plan.add(RememberingOutlet(self.echoes, outlet))
        else:
            plan.add(outlet)

    def client_id_of(self, order_key: bytes, connection: bytes | None = None) -> str:
        """The client id by which `route` would send; "" where there is none."""
        if not self.members:
            return ""
        if connection is None:
            return self._member_of(order_key).client_id
        found = self._by_client_id.get(connection)
        return "" if found is None else found.client_id

    def publish(self, message: Message, receipt: Receipt | None = None) -> None:
        """Publish one message to the far side."""
        plan = Plan()
        self.route(
            message.topic,
            plan,
            origin=Origin(None),
            flags=KEEP,
            order_key=message.topic,
            memory=False,
        )
        for outlet in plan.outlets:
            outlet.send(message.flags, message.properties, message.payload, receipt)

    def _member_of(self, order_key: bytes) -> Member:
        return self.members[zlib.crc32(order_key) % len(self.members)]

    def _way(self, order_key: bytes, connection: bytes | None) -> Lane | None:
        if self._waiting_lane is not None:
            return self._waiting_lane
        if connection is None:
            return self._member_of(order_key).lane
        found = self._by_client_id.get(connection)
        return None if found is None else found.lane

    # -- members call these ----------------------------------------------------------------------

    def attached(self, member: Member, client: FarClient, *, session_present: bool) -> None:
        """A member is connected: bring its subscriptions up to date.

        The far side's highest QoS and whether it retains lower what routes ask for.
        """
        peer = client.connection.peer
        allowed = flag_table(
            max_qos=peer.maximum_qos, retain=None if peer.retain_available else False
        )
        if allowed != self._allowed_flags:
            self._allowed_flags = allowed
            self._forget_ways()
        if not session_present:
            self.subscriptions.forget(member.index)
        if self.settings.unsubscribe_out:
            client.unsubscribe([filter_.encode() for filter_ in self.settings.unsubscribe_out])
        self._synchronise(member, client, again=True)

    def subscribe_refused(self, member: Member) -> None:
        """Ask again for what the far side refused."""
        if member.client is not None and member.state == "connected":
            missing = self.subscriptions.missing(member.index, again=True, lasting=LASTING_REFUSALS)
            member.client.subscribe(missing)

    def renamed(self) -> None:
        """The far side gave a member its client id."""
        self._names()
        self._forget_ways()

    def granted(self, member: Member, answers: dict[bytes, tuple[int, int]]) -> None:
        """The far side answered SUBSCRIBE: filter -> (asked QoS, code)."""
        # One line for all filters of a packet that have the same answer.
        alike: dict[tuple[int, int], list[bytes]] = {}
        for filter_, (qos, code) in answers.items():
            if self.subscriptions.answered(member.index, filter_, qos, code) and code != qos:
                alike.setdefault((qos if code < 0x80 else 0, code), []).append(filter_)
        for (qos, code), filters in alike.items():
            more = f" and {len(filters) - 1} more" if len(filters) > 1 else ""
            name = f"'{filters[0].decode()}'{more}"
            if code >= 0x80:
                text = describe(code)
                log.error(
                    "connector %s: the far side refused to subscribe %s: %s", self.name, name, text
                )
            elif code < qos:
                log.warning(
                    "connector %s: the far side sends %s with QoS %d at most, not %d",
                    self.name,
                    name,
                    code,
                    qos,
                )
        if self.watcher is not None:
            self.watcher.granted({filter_: code for filter_, (_, code) in answers.items()})
        share = self.subscriptions.share(member.index)
        if any(filter_ not in share for filter_ in answers):
            self._update_soon()

    def member_changed(self) -> None:
        """A member's state is another one: say so where that makes a difference for the pool."""
        status = self.status
        if status != self._status:
            self._status = status
            if len(self.members) != 1 and not self._stopping:
                starting = self.state in ("connecting", "connected", "idle")
                level = logging.INFO if starting else logging.WARNING
                log.log(level, "connector %s: %s", self.name, status)

    # -- status ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The state of the whole pool: that of its members, or "degraded"."""
        states = {member.state for member in self.members} or {"stopped"}
        if len(states) == 1:
            return states.pop()
        if states == {"connected", "connecting"}:
            return "connecting"
        if "connected" in states:
            return "degraded"
        return next(
            state for state in ("refused", "waiting", "connecting", "idle") if state in states
        )

    @property
    def status(self) -> str:
        """`state` in words: how many of how many, and why not."""
        state = self.state
        if not self.members:
            return (
                f"stopped: 'static_client_ids' has no client id for node '{self.node}'; "
                "no connection is opened, messages wait"
            )
        up = sum(member.state == "connected" for member in self.members)
        if 0 < up < len(self.members):
            return f"{state}: {up} of {len(self.members)} connected"
        reason = next((member.reason for member in self.members if member.state == state), "")
        return f"{state}: {reason}" if reason else state

    def statistics(self) -> dict[str, Any]:
        """State, subscriptions and counters, as plain values."""
        members = []
        for member in self.members:
            granted, refused = self.subscriptions.counts(member.index)
            members.append(
                {
                    "client_id": member.client_id,
                    "state": member.state,
                    "reason": member.reason,
                    "since": member.since,
                    "connects": member.connects,
                    "address": str(member.address),
                    "version": "" if member.dialect is None else str(member.dialect),
                    "filters": granted,
                    "filters_refused": refused,
                    **member.lane.statistics(),
                }
            )
        return {
            "state": self.state,
            "status": self.status,
            "members": members,
            "waiting": 0 if self._waiting_lane is None else self._waiting_lane.queued,
            "subscribed": {
                filter_.decode(): code for filter_, code in self.subscriptions.answers.items()
            },
            "dropped": dict(self.drops.counts),
        }

    @property
    def unsettled(self) -> int:
        """QoS 1 and 2 messages that the far side has not acknowledged."""
        lanes = [member.lane for member in self.members]
        if self._waiting_lane is not None:
            lanes.append(self._waiting_lane)
        return sum(lane.queued + lane.inflight for lane in lanes)

    @property
    def settling(self) -> bool:
        """Whether an open connection has messages that the far side has not acknowledged."""
        return any(
            member.state == "connected" and (member.lane.queued or member.lane.inflight)
            for member in self.members
        )

    # -- inside ----------------------------------------------------------------------------------

    def _names(self) -> None:
        self._by_client_id = {member.client_id.encode(): member for member in self.members}

    def _forget_ways(self) -> None:
        for forget in self._forget:
            forget()

    def _update_soon(self) -> None:
        """Tell the far side what changed, once for all changes of this turn."""
        if self._update is None and any(member.state == "connected" for member in self.members):
            self._update = asyncio.get_running_loop().call_soon(self._update_all)

    def _update_all(self) -> None:
        self._update = None
        for member in self.members:
            if member.client is not None and member.state == "connected":
                self._synchronise(member, member.client, again=False)

    def _synchronise(self, member: Member, client: FarClient, *, again: bool) -> None:
        """Subscribe to what `member` owns and has not, refused filters if `again`; end the rest."""
        missing = self.subscriptions.missing(member.index, again=again)
        pending = client.pending
        # What a filter that goes covered, first.
        client.subscribe({name: qos for name, qos in missing.items() if name not in pending})
        client.unsubscribe(self.subscriptions.surplus(member.index))


class NoConnectionOutlet(Outlet):
    """Where messages go whose route names a connection that is not here: nowhere, counted."""

    __slots__ = ("_connection", "_drops")

    def __init__(self, drops: Drops, connection: bytes, *, echo_key: object) -> None:
        super().__init__(echo_key)
        self._drops = drops
        self._connection = connection

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Count the message, and refuse it; see `Outlet.send`."""
        del flags, properties, payload
        self._drops.add("no_such_connection", self._connection)
        if receipt is not None:
            receipt.refuse(len(receipt.ids) - 1, NO_CONNECTION)


def _socket_options(settings: ConnectorSettings) -> SocketOptions:
    keepalive = settings.tcp_keepalive
    return SocketOptions(
        settings.bind_address,
        None
        if keepalive is None
        else (int(keepalive.idle), int(keepalive.interval), keepalive.count),
        settings.tcp_user_timeout,
    )
