"""A connector: the endpoint of one far MQTT service, a pool of clients of it."""

from __future__ import annotations

import logging
import zlib
from typing import TYPE_CHECKING, Any

from isthmus.connectors.member import Member
from isthmus.connectors.subscriptions import FILTERS_PER_PACKET, Subscriptions
from isthmus.delivery.endpoint import Origin, Subscriber
from isthmus.delivery.exchange import Exchange
from isthmus.delivery.outlet import KEEP, LaneOutlet, compose, flag_table
from isthmus.delivery.plan import Plan
from isthmus.metrics.drops import Drops
from isthmus.mqtt.reasons import describe
from isthmus.mqtt.topics import split_shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.connectors.client_ids import ClientIds
    from isthmus.connectors.far_client import FarClient
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.connectors.watcher import Watcher
    from isthmus.delivery.message import Message
    from isthmus.delivery.receipt import Receipt
    from isthmus.net.reactor import Reactor
    from isthmus.net.settings import TLSClientSettings

log = logging.getLogger("isthmus.connectors")

DEFAULT_QUEUE_BYTES = 256 << 20
UNSENT_BYTES = 16 << 20
"""QoS 0 bytes that wait for a far side which does not read; more is dropped and counted."""


class Connector:
    """One far service.

    Messages of one source topic always take the same member of the pool, so their order is kept.
    Plain subscriptions belong to the first member.
    """

    final = True

    def __init__(
        self,
        name: str,
        settings: ConnectorSettings,
        reactor: Reactor,
        client_ids: ClientIds,
        *,
        tls: TLSClientSettings | None,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        unsent_bytes: int = UNSENT_BYTES,
    ) -> None:
        self.name = name
        self.settings = settings
        self.reactor = reactor
        self.tls = tls
        self.queue_bytes = queue_bytes
        self.unsent_bytes = unsent_bytes
        self.ids_stable = client_ids.stable or settings.client_id is not None
        self.drops = Drops(f"connector {name}", log)
        self.watcher: Watcher | None = None
        self.exchange = Exchange(name)
        self.origin = Origin(self)
        self.subscriptions = Subscriptions()
        self._allowed_flags = KEEP  # what the far side allows
        self._forget: list[Callable[[], None]] = []
        self.members = [
            Member(
                self,
                number,
                settings.client_id or client_ids.client_id(name, settings.client_id_prefix, number),
            )
            for number in range(1, settings.pool + 1)
        ]

    def start(self) -> None:
        """Connect all members, at the same time."""
        for member in self.members:
            member.start()

    async def stop(self) -> None:
        """Disconnect all members."""
        for member in self.members:
            await member.stop()

    # -- endpoint --------------------------------------------------------------------------------

    def subscribe(self, filter_: bytes, subscriber: Subscriber, options: Any) -> None:
        """Give `subscriber` the far side's messages that match; `options` is the QoS to ask for."""
        self.exchange.subscribe(split_shared(filter_)[1], subscriber, options)
        self.subscriptions.add(filter_, subscriber, options)
        client = self._owner()
        if client is not None:
            self._subscribe(client)

    def unsubscribe(self, filter_: bytes, subscriber: Subscriber) -> None:
        """Undo `subscribe`."""
        self.exchange.unsubscribe(split_shared(filter_)[1], subscriber)
        before = self.subscriptions.cover()
        self.subscriptions.remove(filter_, subscriber)
        after = self.subscriptions.cover()
        gone = [filter_ for filter_ in before if filter_ not in after]
        for name in gone:
            self.subscriptions.answers.pop(name, None)
        client = self._owner()
        if client is not None:
            self._subscribe(client)  # what the removed filter covered, first
            if gone:
                client.unsubscribe(gone)

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
    ) -> None:
        """Add the one outlet to the far side; see `Endpoint.route`."""
        if origin.key is self:
            return  # what came from the far side does not go back there
        member = self.members[zlib.crc32(order_key) % len(self.members)]
        allowed = compose(flags, self._allowed_flags)
        plan.add(LaneOutlet(member.lane, topic, allowed, memory=memory, echo_key=self))

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

    # -- members call these ----------------------------------------------------------------------

    def attached(self, member: Member, client: FarClient, *, session_present: bool) -> None:
        """A member is connected; the first one brings the subscriptions up to date.

        The far side's highest QoS and whether it retains lower what routes ask for.
        """
        peer = client.connection.peer
        allowed = flag_table(
            max_qos=peer.maximum_qos, retain=None if peer.retain_available else False
        )
        if allowed != self._allowed_flags:
            self._allowed_flags = allowed
            for forget in self._forget:
                forget()
        if member is not self.members[0]:
            return
        if not session_present:
            self.subscriptions.answers.clear()
        self._subscribe(client)

    def granted(self, answers: dict[bytes, int]) -> None:
        """The far side answered SUBSCRIBE."""
        self.subscriptions.answers.update(answers)
        if self.watcher is not None:
            self.watcher.granted(answers)
        asked = self.subscriptions.cover()
        for filter_, code in answers.items():
            if code < asked.get(filter_, 0):
                log.warning(
                    "connector %s: the far side sends %r with QoS %d at most, not %d",
                    self.name,
                    filter_.decode(),
                    code,
                    asked[filter_],
                )
            if code >= 0x80:
                log.error(
                    "connector %s: the far side refused to subscribe %r: %s",
                    self.name,
                    filter_.decode(),
                    describe(code),
                )

    # -- status ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The state of the whole pool: that of its members, or "degraded"."""
        states = {member.state for member in self.members}
        if len(states) == 1:
            return states.pop()
        return "degraded" if "connected" in states else "waiting"

    def statistics(self) -> dict[str, Any]:
        """State, subscriptions and counters, as plain values."""
        return {
            "state": self.state,
            "members": [
                {
                    "client_id": member.client_id,
                    "state": member.state,
                    "reason": member.reason,
                    "since": member.since,
                    "connects": member.connects,
                    **member.lane.statistics(),
                }
                for member in self.members
            ],
            "subscribed": {
                filter_.decode(): code for filter_, code in self.subscriptions.answers.items()
            },
            "dropped": dict(self.drops.counts),
        }

    @property
    def unsettled(self) -> int:
        """QoS 1 and 2 messages that the far side has not acknowledged."""
        return sum(member.lane.queued + member.lane.inflight for member in self.members)

    # -- inside ----------------------------------------------------------------------------------

    def _owner(self) -> FarClient | None:
        member = self.members[0]
        return member.client if member.state == "connected" else None

    def _subscribe(self, client: FarClient) -> None:
        missing = list(self.subscriptions.missing().items())
        for start in range(0, len(missing), FILTERS_PER_PACKET):
            client.subscribe(dict(missing[start : start + FILTERS_PER_PACKET]))
