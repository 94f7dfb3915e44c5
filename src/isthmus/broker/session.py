"""Sessions: what the broker remembers of a client, connected or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from isthmus.broker.mount import stripped
from isthmus.delivery.lane import Lane
from isthmus.delivery.outlet import LaneOutlet, flag_table
from isthmus.mqtt.packets import PacketType
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.properties import encode as encode_properties

if TYPE_CHECKING:
    from isthmus.auth.principal import Principal
    from isthmus.auth.rights import Rights
    from isthmus.broker.client import Client
    from isthmus.broker.retained_delivery import RetainedDelivery
    from isthmus.delivery.endpoint import Origin
    from isthmus.delivery.hops import Hops
    from isthmus.delivery.message import Message
    from isthmus.delivery.plan import Plan
    from isthmus.delivery.received_ids import Incoming, ReceivedIds
    from isthmus.mqtt.packets import SubscribeOptions
    from isthmus.net.timers import Timer

NEVER = 0xFFFFFFFF
"""The session expiry interval that means: keep the session for good (MQTT 5, 3.1.2.11.2)."""

_FLAGS = {
    (qos, retain, upgrade): flag_table(
        qos=qos if upgrade else None, max_qos=qos, retain=None if retain else False
    )
    for qos in range(3)
    for retain in (False, True)
    for upgrade in (False, True)
}


class Subscription(NamedTuple):
    """How a session subscribed to one filter.

    `identifier` is 0 where it named none. `is_open` says that the filter begins with a wildcard.
    """

    options: SubscribeOptions
    identifier: int = 0
    is_open: bool = False


def stamp(granted: list[Subscription]) -> bytes:
    """The properties that say which subscriptions a message is for (MQTT-3.3.4-3)."""
    identifiers = [found.identifier for found in granted if found.identifier]
    if not identifiers:
        return b""
    return encode_properties({PropertyId.SUBSCRIPTION_IDENTIFIER: identifiers}, PacketType.PUBLISH)


class Session:
    """The state of one client: its subscriptions, and the lane with what waits for it.

    `client` is the live connection or None. `expiry_s` says how long the session outlives it, 0 not
    at all. `principal` is the identity that the session belongs to: nobody else may take it over.
    `will` is a will that waits for its delay. `subscription_bytes` is what the subscriptions take
    in memory, and `shapes` how many there are of each shape, None until there are so many that it
    matters. `retained_delivery` are the retained messages that are still to be sent, or None.
    `hops` is the loop guard, for a client that is a bridge. `upgrade` delivers with the QoS of the
    subscription also what was published with a lower one. `mount` is the mount point of its topics,
    for good: what waits here has been named by it. `received` are the identifiers of
    `received_qos2` on disk, None for a session that is not kept there. `assured` says that it is on
    disk with the user and the expiry that it has now, though other things of it may not be yet.
    """

    __slots__ = (
        "assured",
        "client",
        "expires",
        "expiry_s",
        "hops",
        "lane",
        "mount",
        "principal",
        "received",
        "received_qos2",
        "retained_delivery",
        "rights",
        "shapes",
        "subscription_bytes",
        "subscriptions",
        "upgrade",
        "will",
        "will_timer",
    )

    def __init__(
        self,
        principal: Principal,
        lane: Lane,
        rights: Rights,
        hops: Hops | None = None,
        *,
        upgrade: bool = False,
        mount: bytes = b"",
    ) -> None:
        self.principal = principal
        self.lane = lane
        self.rights = rights
        self.hops = hops
        self.upgrade = upgrade
        self.mount = mount
        self.client: Client | None = None
        self.expiry_s = 0
        self.expires: Timer | None = None
        self.subscriptions: dict[bytes, Subscription] = {}
        self.subscription_bytes = 0
        self.shapes: dict[bytes, int] | None = None
        self.retained_delivery: RetainedDelivery | None = None
        self.received_qos2: dict[bytes, Incoming] | None = None
        self.received: ReceivedIds | None = None
        self.assured = False
        self.will: Message | None = None
        self.will_timer: Timer | None = None

    @property
    def kept(self) -> bool:
        """Whether this session is on disk, and what waits for it too."""
        return self.received is not None

    def last(self, expiry_s: int) -> None:
        """Outlive the connection for so long from now on."""
        if expiry_s != self.expiry_s:
            self.expiry_s = expiry_s
            self.assured = False

    def flags(self, qos: int, *, retain: bool) -> tuple[int, ...]:
        """The flag table for messages that are granted `qos`, and keep their retain flag or not."""
        return _FLAGS[qos, retain, self.upgrade]

    def topic_for(self, topic: bytes, subscription: Subscription) -> bytes:
        """What the client calls a topic that `subscription` matches; empty if it must not see it.

        To a client whose topics are mounted, one may begin with `$` that does not in the broker,
        and no filter that begins with a wildcard matches it (MQTT-4.7.2-1).
        """
        own = stripped(self.mount, topic)
        return b"" if subscription.is_open and own[:1] == b"$" else own

    def withdraw_unreadable(self) -> None:
        """Drop what waits here for a user who may no longer read it."""
        self.lane.withdraw(self.may_get)

    def may_get(self, topic: bytes) -> bool:
        """Whether the user may read what the client calls `topic`."""
        return self.rights.may_read(self.principal, self.mount + topic)

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        """Add the one outlet of this session: overlapping subscriptions deliver once.

        The highest QoS of the matching filters counts (MQTT-3.3.4-2). The right to read is asked
        here, for every topic, so that no wildcard gives more than the access list.
        """
        del origin
        if not self.rights.may_read(self.principal, topic):
            return
        granted: list[Subscription] = options
        if self.mount:
            granted = [found for found in options if self.topic_for(topic, found)]
            if not granted:
                return
        # Written out for one subscription, as a topic may have very many sessions.
        one = granted[0].options
        qos, retain, no_local = one.qos, one.retain_as_published, one.no_local
        # This is how bridges subscribe, and nobody else has a reason to.
        bridge = retain and no_local
        if len(granted) > 1:
            qos = max(found.options.qos for found in granted)
            retain = any(found.options.retain_as_published for found in granted)
            no_local = all(found.options.no_local for found in granted)
            bridge = any(
                found.options.no_local and found.options.retain_as_published for found in granted
            )
        plan.add(
            LaneOutlet(
                self.lane,
                stripped(self.mount, topic) if self.mount else topic,
                _FLAGS[qos, retain, self.upgrade],
                memory=self.received is None,
                echo_key=self if no_local else None,
                stamp=stamp(granted) if len(granted) > 1 or granted[0].identifier else b"",
                hops=self.hops if bridge else None,
            )
        )
