"""Routes: what one endpoint publishes on these topics is published on another."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from isthmus.delivery.endpoint import Endpoint, Origin
from isthmus.delivery.outlet import Outlet, flag_table
from isthmus.errors import MQTTError
from isthmus.metrics.drops import Drops
from isthmus.mqtt.topics import check_name
from isthmus.routing.topic_map import TopicMap

if TYPE_CHECKING:
    from isthmus.delivery.plan import Plan
    from isthmus.delivery.receipt import Receipt
    from isthmus.routing.settings import RouteSettings

log = logging.getLogger("isthmus.routing")


REMEMBERED_WAYS = 32_768
"""Topics whose outlet a route keeps; about 300 bytes each."""


class Route:
    """One route, a subscriber of its source.

    It is asked once per topic and costs nothing per message: the outlets that it finds are the
    target's own. `topics` maps topics, `flags` the QoS and retain flag of messages.
    """

    __slots__ = (
        "_origin",
        "_ways",
        "drops",
        "filters",
        "flags",
        "memory",
        "name",
        "source",
        "target",
        "topics",
    )

    def __init__(
        self,
        name: str,
        settings: RouteSettings,
        source: Endpoint,
        target: Endpoint,
        node: str,
    ) -> None:
        self.name = name
        self.source = source
        self.target = target
        self.filters = settings.filters
        self.topics = TopicMap.of(settings, node)
        self.flags = flag_table(
            qos=None if settings.qos == "keep" else settings.qos,
            max_qos=2 if settings.max_qos is None else settings.max_qos,
            retain=None if settings.retain == "keep" else settings.retain == "set",
        )
        self.memory = settings.durability == "memory"
        self.drops = Drops(f"route {name}", log)
        # Outlets by topic: plans are made again whenever a subscription changes, and these stay.
        self._ways: dict[bytes, Outlet] = {}
        # Messages of a connector must not go back to it, whatever lies between.
        self._origin = Origin(source)

    @property
    def subscribe_qos(self) -> int:
        """The QoS to ask the source for: no more than the route can use."""
        return max(flags >> 1 for flags in self.flags)

    def start(self) -> None:
        """Subscribe to the source."""
        self.target.when_ways_change(self._forget)
        for filter_ in self.filters:
            self.source.subscribe(filter_, self, self.subscribe_qos)

    def stop(self) -> None:
        """Take no more messages."""
        for filter_ in self.filters:
            self.source.unsubscribe(filter_, self)

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        """Add what publishing to the mapped topic takes; overlapping filters count once."""
        known = self._ways.get(topic)
        if known is not None:
            plan.add(known)
            return
        if self.topics.personal:
            if origin is None:
                plan.personal += ((self, options),)
                return
            for identity in (origin.client_id, origin.username):
                if any(sign in identity for sign in "/+#"):
                    # It would reach topics of other publishers.
                    plan.add(UnmappableOutlet(self.drops, f"publisher {identity!r} holds / + or #"))
                    return
            mapped = self.topics.apply(topic, origin.client_id, origin.username)
        else:
            mapped = self.topics.apply(topic)
        try:
            check_name(mapped)
        except MQTTError as error:
            plan.add(UnmappableOutlet(self.drops, f"{topic.decode()}: {error}"))
            return
        self.target.route(
            mapped,
            plan,
            origin=self._origin,
            flags=self.flags,
            order_key=topic,
            memory=self.memory,
        )
        if self.target.final and not self.topics.personal and plan.retaining:
            if len(self._ways) >= REMEMBERED_WAYS:
                self._ways.clear()
            self._ways[topic] = plan.retaining[-1]

    def _forget(self) -> None:
        self._ways.clear()
        self.source.forget_plans()


class UnmappableOutlet(Outlet):
    """Where messages go whose mapped topic is no topic name: nowhere, counted and refused."""

    __slots__ = ("_detail", "_drops")

    def __init__(self, drops: Drops, detail: str) -> None:
        super().__init__()
        self._drops = drops
        self._detail = detail

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Count the message; its MQTT 5 publisher is told "topic name invalid"."""
        del flags, properties, payload
        self._drops.add("bad_topic", self._detail)
        if receipt is not None and receipt.source.v5:
            receipt.refuse(len(receipt.ids) - 1, 0x90)
