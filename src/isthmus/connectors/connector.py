"""A connector: the endpoint of one far MQTT service, a pool of clients of it.

Over 600 lines, as a pool is one thing: its members, its lanes, its subscriptions and its settings
change together.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
import zlib
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.connectors.crowding import Crowding
from isthmus.connectors.failback import Failback
from isthmus.connectors.figures import Figures
from isthmus.connectors.identity import Identity, identities
from isthmus.connectors.keeping_outlet import KeepingLimitedOutlet, KeepingOutlet
from isthmus.connectors.live_settings import kind_of_lane, needs_new_connections
from isthmus.connectors.member import LASTING_REFUSALS, Member
from isthmus.connectors.no_connection import NoConnectionOutlet
from isthmus.connectors.notifications import Notifications
from isthmus.connectors.overtaking_outlet import KeepingOvertakingOutlet, OvertakingOutlet
from isthmus.connectors.queued_lane import LimitedOutlet, QueuedLane
from isthmus.connectors.regrouping import Regrouping
from isthmus.connectors.retained_sync import RetainedSync
from isthmus.connectors.subscriptions import Subscriptions
from isthmus.delivery.drain_rates import DrainRates
from isthmus.delivery.echoes import Echoes
from isthmus.delivery.endpoint import Origin, Subscriber
from isthmus.delivery.exchange import Exchange
from isthmus.delivery.lane import Lane
from isthmus.delivery.loop_alarm import LoopAlarm
from isthmus.delivery.outlet import KEEP, LaneOutlet, compose, flag_table
from isthmus.delivery.plan import Plan
from isthmus.delivery.queue_limits import QueueLimits
from isthmus.delivery.ring_watch import RingWatch
from isthmus.metrics.drops import Drops
from isthmus.metrics.traffic import Traffic
from isthmus.mqtt.reasons import describe
from isthmus.mqtt.topics import split_shared
from isthmus.net.dial import dial
from isthmus.net.socket_options import SocketOptions
from isthmus.net.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from isthmus.connectors.address import Address
    from isthmus.connectors.client_ids import ClientIds
    from isthmus.connectors.far_client import FarClient
    from isthmus.connectors.outboxes import Outboxes
    from isthmus.connectors.pool_table import PoolTable
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.connectors.watcher import Watcher
    from isthmus.delivery.dead_letters import DeadLetters
    from isthmus.delivery.hops import Hops
    from isthmus.delivery.message import Message
    from isthmus.delivery.receipt import Receipt
    from isthmus.delivery.received_ids import ReceivedTable
    from isthmus.net.link import Link
    from isthmus.net.reactor import Reactor
    from isthmus.store.store import Store

log = logging.getLogger("isthmus.connectors")

REMOVED = 0x83
"""What publishers are told whose messages wait for a connector that is removed."""

LOOK_S = 0.05
"""Between two looks whether everything has arrived; no message pays for being watched."""


class Connector:
    """One far service.

    Messages of one source topic always take the same member of the pool, so their order is kept,
    unless their route names a connection. Subscriptions are spread over the members; see
    `ownership`. `received` keeps the packet identifiers of what came with QoS 2 on disk, None where
    they are in memory. `node` is the name of this process, which chooses the `static_client_ids`;
    where it has none, `members` is empty, and what is published waits in a lane without a
    connection. `stopping` and `for_good` are what `prepare_stop` said.
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
        limits: QueueLimits = QueueLimits(),  # noqa: B008 - it cannot change
    ) -> None:
        self.name = name
        self.settings = settings
        self.reactor = reactor
        self.node = node
        self.hops = hops
        self.traffic = Traffic() if traffic is None else traffic
        self.echoes: Echoes | None = None
        self.ring_watch = RingWatch(name)
        self.limits = limits
        self.outboxes: Outboxes | None = None
        self.received: ReceivedTable | None = None
        self._ids_kept = client_ids.stable
        self.ids_stable = self._ids_stable()
        self.drops = Drops(f"connector {name}", log)
        self.watcher: Watcher | None = None
        self.exchange = Exchange(name)
        self.origin = Origin(self, settings.local_client_id or "", way=name)
        self.notifications = Notifications(settings.notifications)
        self.retained_sync = RetainedSync(self, enabled=settings.send_retained)
        self._allowed_flags = KEEP  # what the far side allows
        self._forget: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._update: asyncio.Handle | None = None
        self._status = ""
        self.figures = Figures(self)
        self.stopping = False
        self.for_good = False
        self._bucket = _bucket(settings)
        self.drain_rates = DrainRates()
        self.drain_rates.limit(settings.drain_rate)
        self._options = _socket_options(settings)
        self.identities = identities(name, settings, client_ids, node)
        self.members = [
            Member(self, index, identity, self.new_lane())
            for index, identity in enumerate(self.identities)
        ]
        self.crowding = Crowding(self)
        self._waiting_lane: Lane | None = None
        if not self.members:
            self.lane_without_connection()
        self._regrouping: Regrouping | None = None
        self.subscriptions = Subscriptions(max(1, len(self.members)), joined=settings.join_filters)
        self._failback = self._new_failback(client_ids)
        self._names()

    def _new_failback(self, client_ids: ClientIds) -> Failback | None:
        settings, found = self.settings, self.identities
        if not found or len(settings.addresses) < 2 or settings.round_robin:
            return None
        probe_id = settings.failback.client_id
        if probe_id is None:
            probe_id = (
                client_ids.client_id(self.name, settings.client_id_prefix, 0)
                if settings.client_id is None and not settings.static_client_ids
                else f"{found[0].client_id}-probe"
            )
        return Failback(self, found[0]._replace(client_id=probe_id))

    def lane_without_connection(self) -> Lane:
        """Where messages wait while there are no members."""
        if self._waiting_lane is None:
            self._waiting_lane = self.new_lane()
            if self.outboxes is not None:
                self.outboxes.keep(self._waiting_lane, "")
        return self._waiting_lane

    def new_lane(self, *, plain: bool = False) -> Lane:
        """A lane as the settings ask for; a `plain` one for messages that only wait."""
        settings = self.settings
        how: dict[str, Any] = {
            "blocks": True,
            "max_inflight": settings.max_inflight,
            "max_queued": 0,
            "max_queued_bytes": self.limits.max_bytes,
            "max_unsent_bytes": settings.unsent_bytes,
            "traffic": self.traffic,
        }
        lane: Lane
        if plain or kind_of_lane(settings) is Lane:
            lane = Lane(self.drops, **how)
        else:
            lane = QueuedLane(
                self.drops,
                reactor=self.reactor,
                bucket=self._bucket,
                keeps_qos0=settings.start == "lazy",
                **how,
            )
        lane.limits = self.limits
        lane.max_age_s = self.limits.max_age_s
        lane.echoes = self.echoes
        if self.outboxes is not None:
            self.outboxes.prepare(lane)
        return lane

    def keep_in(self, store: Store, pools: PoolTable) -> None:
        """Keep on disk what waits for the far side. Before `start`."""
        from isthmus.connectors.outboxes import Outboxes, logs_of  # who has none need not pay

        found = logs_of(self.name, store)
        self.outboxes = Outboxes(self, store, pools)
        for member in self.members:
            self.outboxes.keep(member.lane, member.client_id)
        if self._waiting_lane is not None:
            self.outboxes.keep(self._waiting_lane, "")
        self.outboxes.take_up(found, self._waiting_lane or self.members[0].lane)

    def remember_echoes(self, filters: Collection[bytes]) -> None:
        """Cancel what the far side sends back, of what routes that ask for it send to it.

        `filters` match the topics that they publish there; none where no route asks.
        """
        if self.echoes is not None and filters:
            self.echoes.limit(filters)
        elif self.echoes is not None or filters:
            alarm = LoopAlarm() if self.hops is None else self.hops.alarm
            self.echoes = Echoes(self.drops, alarm, filters) if filters else None
            for lane in self.lanes:
                lane.echoes = self.echoes
            for member in (*self.members, *self.leaving):
                if member.client is not None:
                    member.client.echoes = self.echoes

    def start(self) -> None:
        """Connect all members, at the same time."""
        self._say_what_has_no_effect()
        for member in self.members:
            member.start()
        if self._failback is not None:
            self._failback.start()
        self.member_changed()

    def _say_what_has_no_effect(self) -> None:
        keys = self.settings.without_effect
        if keys:
            log.info("connector %s: without effect beside 'static_client_ids': %s", self.name, keys)

    def prepare_stop(self, *, for_good: bool = False) -> None:
        """The end is near: begin no return from a backup, so that what is on its way may arrive.

        `for_good` says that nobody will come back to the sessions at the far side.
        """
        self.stopping = True
        self.for_good = self.for_good or for_good

    async def stop(self, *, for_good: bool = False) -> None:
        """Disconnect all members; `for_good` ends their sessions at the far side too."""
        self.prepare_stop(for_good=for_good)
        if self._update is not None:
            self._update.cancel()
            self._update = None
        self.retained_sync.stop()
        await self.crowding.stop()
        if self._regrouping is not None:
            await self._regrouping.stop()
            self._regrouping = None
        for member in self.members:
            await member.stop(for_good=self.for_good)
        if self._failback is not None:
            await self._failback.stop()

    async def remove(self) -> int:
        """Stop for good, and drop what is left; see `settle` for what comes before.

        Returns how many messages were dropped, and refused to whoever waited for their
        acknowledgement. What is on disk stays there, for a connector that comes back under this
        name.
        """
        await self.stop(for_good=True)
        if self.outboxes is not None:
            await self.outboxes.store.settle()
            if self.stored:
                log.warning(
                    "connector %s was removed while %d message(s) waited for it. They stay on "
                    "disk, and are sent when there is a connector of this name again",
                    self.name,
                    self.stored,
                )
        return sum(lane.abandon("connector_removed", REMOVED) for lane in self.lanes)

    async def change(
        self, settings: ConnectorSettings, client_ids: ClientIds, found: list[Identity]
    ) -> None:
        """Take other settings, and `found`, the identities that were made with them.

        Lanes keep what is in them. A connection is made anew if what it was opened with has
        changed, or if it is down; see `live_settings`.
        """
        before, self.settings = self.settings, settings
        await self.crowding.stop()
        kept = {one.client_id: member for one, member in zip(self.identities, self.members)}  # noqa: B905
        same = [one.client_id for one in self.identities] == [one.client_id for one in found]
        self.identities = found
        self._take_settings(before)
        if settings.without_effect != before.without_effect:
            self._say_what_has_no_effect()
        anew = needs_new_connections(before, settings)
        fresh = [] if same else self._regroup(kept)
        renewed = []
        for member, identity in zip(self.members, found, strict=True):
            # Where the far side gave the client id, it is the same one again.
            identity = identity._replace(client_id=identity.client_id or member.client_id)
            if member not in fresh and (
                anew or identity != member.identity or member.state != "connected"
            ):
                renewed.append(member.renew(identity))
        if self._failback is not None:
            await self._failback.stop()
        self._failback = self._new_failback(client_ids)
        await asyncio.gather(*renewed)
        for member in fresh:
            member.start()
        if self._failback is not None:
            self._failback.start()
        self.member_changed()

    def leave_out(self, members: Collection[Member]) -> None:
        """Have these members no more: others take their topics, their filters and what waits."""
        pairs = zip(self.identities, self.members, strict=True)
        self._change_pool([identity for identity, member in pairs if member not in members])

    def take_in(self, identity: Identity) -> None:
        """Have one member more."""
        self._change_pool([*self.identities, identity])

    def _change_pool(self, found: list[Identity]) -> None:
        kept = dict(zip((one.client_id for one in self.identities), self.members, strict=True))
        self.identities = found
        for member in self._regroup(kept):
            member.start()
        self.member_changed()

    def limit(self, limits: QueueLimits) -> None:
        """Keep to other limits of what waits for each connection."""
        self.limits = limits
        for lane in self.lanes:
            lane.limits = limits
            lane.max_queued_bytes = limits.max_bytes
        if self.outboxes is not None:
            self.outboxes.take_settings()

    def _take_settings(self, before: ConnectorSettings) -> None:
        """Take what counts from now on without a new connection."""
        settings = self.settings
        self.ids_stable = self._ids_stable()
        self.notifications.replace(settings.notifications)
        self.retained_sync.enabled = settings.send_retained
        self._options = _socket_options(settings)
        self.origin.client_id = settings.local_client_id or ""
        self.subscriptions.join(joined=settings.join_filters)
        self._update_soon()
        self.drain_rates.limit(settings.drain_rate)
        if before.rate_limit != settings.rate_limit:
            self._bucket = _bucket(settings)
        if self.outboxes is not None:
            self.outboxes.take_settings()
        for lane in self.lanes:
            lane.max_inflight = settings.max_inflight
            lane.max_unsent_bytes = settings.unsent_bytes
            if isinstance(lane, QueuedLane) and kind_of_lane(settings) is QueuedLane:
                lane.limit(self._bucket)
        for member in self.members:
            if member.client is not None:
                member.client.settings_changed()
        self.forget_plans()
        self._forget_ways()

    def _regroup(self, kept: dict[str, Member]) -> list[Member]:
        """Make the members that `identities` name; returns those that are new."""
        old = self.members
        self.members = [
            kept.get(identity.client_id) or self._new_member(index, identity)
            for index, identity in enumerate(self.identities)
        ]
        places = [old.index(member) if member in old else None for member in self.members]
        parting = self.subscriptions.regroup(places)
        leaving = [member for member in old if member not in self.members]
        for member, filters in zip(leaving, parting):  # noqa: B905
            member.parting = filters
        for index, member in enumerate(self.members):
            member.index = index
        if self._regrouping is None:
            self._regrouping = Regrouping(self)
        self._regrouping.begin(leaving)
        waiting, self._waiting_lane = self._waiting_lane, None
        if self.members and waiting is not None:
            self.members[0].lane.inherit(waiting)
            self.retained_sync.moved(waiting)
        elif not self.members:
            self._waiting_lane = waiting
            self.lane_without_connection()
        self._names()
        self._forget_ways()
        self._update_soon()
        return [member for member in self.members if member not in old]

    def _new_member(self, index: int, identity: Identity) -> Member:
        member = Member(self, index, identity, self.new_lane())
        if self.outboxes is not None:
            self.outboxes.keep(member.lane, identity.client_id)
        return member

    def regrouped(self) -> None:
        """Messages go straight to the members again."""
        self._regrouping = None
        if self.outboxes is not None:
            self.outboxes.pool_changed()
        self._forget_ways()

    @property
    def regrouping(self) -> bool:
        """Whether messages wait for a change of the pool."""
        return self._regrouping is not None

    def renew_lane(self, member: Member) -> None:
        """Give a member without a connection a lane of the kind that the settings ask for."""
        old = member.lane
        if type(old) is not kind_of_lane(self.settings):
            member.lane = self.new_lane()
            member.lane.keeps_qos0 = True
            member.lane.replace(old)
            self.retained_sync.moved(old)
            self._forget_ways()

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
        # A table that is no more must not be kept by this.
        known = weakref.WeakMethod(forget, self._forget_dead)
        if known not in self._forget:
            self._forget.append(known)

    def forget_plans(self) -> None:
        """Make every plan anew."""
        self.exchange.forget()

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
        hops: bool = True,
        keeps_qos0: bool = False,
        overtakes: bool = False,
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
        # A bucket comes or goes with new ways; see `_take_settings`.
        limited = isinstance(lane, QueuedLane) and lane.bucket is not None
        kind: type[LaneOutlet] = OvertakingOutlet if overtakes else LaneOutlet
        if keeps_qos0:
            kind = KeepingOvertakingOutlet if overtakes else KeepingOutlet
        if limited:
            kind = KeepingLimitedOutlet if keeps_qos0 else LimitedOutlet
        guard = self.hops if hops and self.settings.version == "5" else None
        plan.add(kind(lane, topic, allowed, memory=memory, echo_key=self, hops=guard))

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
        member: Member | None = None
        if self.members:
            if connection is None:
                member = self._member_of(order_key)
            else:
                member = self._by_client_id.get(connection)
                if member is None:
                    return None
        if self._regrouping is not None:
            return self._regrouping.lane_of(member)
        return self.lane_without_connection() if member is None else member.lane

    # -- members call these ----------------------------------------------------------------------

    def attached(
        self, member: Member, client: FarClient, *, session_present: bool, moved: bool
    ) -> None:
        """A member is connected: bring its subscriptions up to date.

        The far side's highest QoS and whether it retains lower what routes ask for.
        """
        if member.leaving:
            return
        peer = client.connection.peer
        allowed = flag_table(
            max_qos=peer.maximum_qos, retain=None if peer.retain_available else False
        )
        if allowed != self._allowed_flags:
            self._allowed_flags = allowed
            self._forget_ways()
        left = member.in_doubt.pop(client.address, set())
        left.update(self.crowding.left_behind.pop(member.client_id, ()))
        if moved or not session_present:
            self.subscriptions.forget(member.index)
        if session_present and left:
            share = self.subscriptions.share(member.index)
            client.unsubscribe([filter_ for filter_ in left if filter_ not in share])
        if self.settings.unsubscribe_out:
            client.unsubscribe([filter_.encode() for filter_ in self.settings.unsubscribe_out])
        self._synchronise(member, client, again=True)

    def subscribe_refused(self, member: Member) -> None:
        """Ask again for what the far side refused."""
        if not member.leaving and member.client is not None and member.state == "connected":
            missing = self.subscriptions.missing(member.index, again=True, lasting=LASTING_REFUSALS)
            member.client.subscribe(missing)

    def renamed(self) -> None:
        """The far side gave a member its client id."""
        self._names()
        self._forget_ways()

    def granted(self, member: Member, answers: dict[bytes, tuple[int, int]]) -> None:
        """The far side answered SUBSCRIBE: filter -> (asked QoS, code)."""
        if member.leaving:
            member.parting += [name for name, (_, code) in answers.items() if code < 0x80]
            return
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
        if self.subscriptions.moving or any(filter_ not in share for filter_ in answers):
            self._update_soon()

    def member_changed(self) -> None:
        """A member's state is another one: say so where that makes a difference for the pool."""
        status = self.status
        if status != self._status:
            self._status = status
            self.figures.changed()
            if self.wanted != 1 and not self.stopping:
                starting = self.state in ("connecting", "connected", "idle")
                level = logging.INFO if starting else logging.WARNING
                log.log(level, "connector %s: %s", self.name, status)

    # -- status ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The state of the whole pool: that of its members, or "degraded"."""
        states = {member.state for member in self.members} or {"stopped"}
        if self.crowding.resting and "connected" in states:
            return "degraded"
        if len(states) == 1:
            return states.pop()
        if states == {"connected", "connecting"}:
            return "connecting"
        if states == {"connected", "idle"}:
            return "connected"  # a lazy one opens as many as it has messages for
        if "connected" in states:
            return "degraded"
        return next(
            state for state in ("refused", "waiting", "connecting", "idle") if state in states
        )

    @property
    def wanted(self) -> int:
        """How many connections there should be, those included that the far side does not take."""
        return len(self.members) + len(self.crowding.resting)

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
        if 0 < up < self.wanted:
            return f"{state}: {up} of {self.wanted} connected"
        reason = next((member.reason for member in self.members if member.state == state), "")
        return f"{state}: {reason}" if reason else state

    @property
    def leaving(self) -> list[Member]:
        """Members that belong to the pool no more and still have something to do."""
        return [] if self._regrouping is None else self._regrouping.leaving

    @property
    def unsettled(self) -> int:
        """QoS 1 and 2 messages that the far side has not acknowledged, and that are on no disk."""
        lanes = [lane for lane in self.lanes if lane.outbox is None]
        return sum(lane.queued + lane.inflight for lane in lanes)

    @property
    def stored(self) -> int:
        """Messages that are on disk, or about to be."""
        return 0 if self.outboxes is None else self.outboxes.stored

    @property
    def dead_letters(self) -> DeadLetters | None:
        """Those of this connector; None where nothing is on disk."""
        return None if self.outboxes is None else self.outboxes.dead_letters

    def rest(self) -> None:
        """Send no more of what is on disk, as the process is about to end."""
        for lane in self.lanes:
            if lane.outbox is not None and lane.outbox.logged:
                lane.rest()

    @property
    def settling(self) -> bool:
        """Whether an open connection has messages that the far side has not acknowledged."""
        return any(
            member.state == "connected" and member.lane.settling for member in self.members
        ) or (self._regrouping is not None and self._regrouping.settling)

    @property
    def lanes(self) -> list[Lane]:
        """All lanes in which its messages may be."""
        lanes = [member.lane for member in self.members]
        if self._waiting_lane is not None:
            lanes.append(self._waiting_lane)
        return lanes if self._regrouping is None else lanes + self._regrouping.lanes

    # -- inside ----------------------------------------------------------------------------------

    def _names(self) -> None:
        self._by_client_id = {member.client_id.encode(): member for member in self.members}

    def _forget_ways(self) -> None:
        for known in list(self._forget):
            forget = known()
            if forget is not None:
                forget()

    def _forget_dead(self, dead: weakref.WeakMethod[Callable[[], None]]) -> None:
        self._forget.remove(dead)

    def _ids_stable(self) -> bool:
        settings = self.settings
        fixed = bool(settings.client_id or settings.static_client_ids)
        return fixed or (self._ids_kept and settings.client_id is None)

    def _update_soon(self) -> None:
        """Tell the far side what changed, once for all changes of this turn."""
        if self._update is None and any(member.state == "connected" for member in self.members):
            self._update = asyncio.get_running_loop().call_soon(self._update_all)

    def _update_all(self) -> None:
        self._update = None
        self.subscriptions.moving = False
        for member in self.members:
            client = member.client
            # What a client that has ended was told would be forgotten; see `attached`.
            if client is not None and not client.closed and member.state == "connected":
                self._synchronise(member, client, again=False)

    def _synchronise(self, member: Member, client: FarClient, *, again: bool) -> None:
        """Subscribe to what `member` owns and has not, refused filters if `again`; end the rest."""
        while True:
            missing = self.subscriptions.missing(member.index, again=again)
            pending = client.pending
            wanted = {name: qos for name, qos in missing.items() if name not in pending}
            if not wanted:
                break
            # What this far side takes from nobody is refused at once, and stands for others no
            # more: look again.
            client.subscribe(wanted)
            again = False
        client.unsubscribe(self.subscriptions.surplus(member.index))


async def settle(connectors: Collection[Connector], longest_s: float) -> bool:
    """Let what is on its way over open connections arrive, for so long; whether it all did."""
    deadline = clock.monotonic() + longest_s
    while any(connector.settling for connector in connectors):
        if clock.monotonic() >= deadline:
            return False
        await asyncio.sleep(LOOK_S)
    return True


def _bucket(settings: ConnectorSettings) -> TokenBucket | None:
    rate = settings.rate_limit
    return None if rate is None else TokenBucket(rate, clock.monotonic())


def _socket_options(settings: ConnectorSettings) -> SocketOptions:
    keepalive = settings.tcp_keepalive
    return SocketOptions(
        settings.bind_address,
        None
        if keepalive is None
        else (int(keepalive.idle), int(keepalive.interval), keepalive.count),
        settings.tcp_user_timeout,
        settings.tcp_retransmit_max,
    )
