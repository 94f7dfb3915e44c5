"""The exchange of an endpoint: filters to subscribers, topics to plans."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from isthmus.delivery.endpoint import Origin, Subscriber
from isthmus.delivery.outlet import KEEP
from isthmus.delivery.plan import Plan, PlanCache
from isthmus.mqtt.topic_tree import TopicTree

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("isthmus.delivery")

MAX_VISITED = 256
"""Topics that one message may become inside this process."""

CIRCLE = ("", b"")
"""Stands among the visited topics once a circle was reported."""

SHOWN_BYTES = 100

REMEMBERED_BYTES = 256
"""Plans of longer topics are made for each message: they are rare, and would fill memory."""

MAX_DEPTH = 12
"""Routes that a message may pass one after the other inside this process.

A circle that changes the topic each time has no other end.
"""


class Matching:
    """What topics match at an exchange, for plans to look whether they are still right.

    `match` is that of the tree, until the exchange forgets all its plans: those that sources still
    hold must not come to life again then, whatever they match.
    """

    __slots__ = ("match",)

    def __init__(self, match: Callable[[bytes], list[Any] | None]) -> None:
        self.match = match


class Exchange:
    """Who subscribed to what, and the plan of each topic that was published.

    One per endpoint. `plan` answers for the topic alone; `plan_for` takes away what would echo and
    adds what depends on the publisher.
    """

    __slots__ = ("_matching", "_tree", "name", "plans")

    def __init__(self, name: str) -> None:
        self.name = name
        self.plans = PlanCache()
        self._tree: TopicTree[tuple[Subscriber, Any]] = TopicTree()
        self._matching = Matching(self._tree.match)

    def __len__(self) -> int:
        return len(self._tree)

    def subscribe(self, filter_: bytes, subscriber: Subscriber, options: Any) -> bool:
        """Add or replace one subscription; True if it is new."""
        subscription = subscriber, options
        new = self._tree.add(filter_, subscriber, subscription)
        self.plans.came(filter_, subscription if new else None)
        return new

    def unsubscribe(self, filter_: bytes, subscriber: Subscriber) -> None:
        """Remove one subscription, if it is there."""
        subscription = self._tree.remove(filter_, subscriber)
        if subscription is not None:
            self.plans.went(filter_, subscription)

    def forget(self) -> None:
        """Make every plan anew: something has changed that subscriptions do not tell."""
        self.plans.clear()
        self._matching.match = _nothing
        self._matching = Matching(self._tree.match)

    def plan(self, topic: bytes) -> Plan:
        """The plan of `topic` for a publisher without particulars."""
        plan = self.plans.get(topic)
        if plan is None or (plan.stale and not plan.renew()):
            # Made for this message alone where the topic is too long to be remembered.
            plan = self._new(topic) if len(topic) <= REMEMBERED_BYTES else Plan()
        if not plan.made:
            plan.visited = {(self.name, topic)}
            self.resolve(topic, plan)
            plan.close()
        return plan

    def _new(self, topic: bytes) -> Plan:
        """An empty plan of `topic`, in place of the one that there was."""
        plan = Plan()
        self.plans.put(topic, plan)
        return plan

    def node(self, topic: bytes) -> Plan:
        """The plan of `topic`, made or not: what becomes stale when its subscriptions change."""
        plan = self.plans.get(topic)
        return self._new(topic) if plan is None or plan.stale else plan

    def plan_for(self, topic: bytes, origin: Origin) -> Plan:
        """The plan of `topic` for messages from `origin`."""
        plan = self.plan(topic)
        if not plan.personal and not plan.echoes_to(origin.key):
            return plan
        own = plan.derive()
        own.visited = {(self.name, topic)}
        _add(own, plan, topic, origin, KEEP)
        own.close()
        return own

    def extend(self, plan: Plan, topic: bytes, *, origin: Origin, flags: tuple[int, ...]) -> None:
        """Add to `plan` where messages of `topic` from `origin` go, with their flags mapped.

        Nothing of it is remembered for `topic` itself: on a way that leads in a circle the answer
        depends on where the way began.
        """
        visited = plan.visited
        assert visited is not None
        here = (self.name, topic)
        if here in visited or plan.depth >= MAX_DEPTH or len(visited) >= MAX_VISITED:
            if CIRCLE not in visited:
                visited.add(CIRCLE)
                log.warning(
                    "%s: routes send %r round in a circle; it is not followed further",
                    self.name,
                    topic[:SHOWN_BYTES].decode(errors="replace"),
                )
            return
        visited.add(here)
        plan.depends_on(self.node(topic))
        inner = Plan(visited, plan.depth + 1)
        self.resolve(topic, inner)
        for parent in inner.parents or ():
            plan.depends_on(parent)
        _add(plan, inner, topic, origin, flags)

    def resolve(self, topic: bytes, plan: Plan) -> None:
        """Ask every subscriber of `topic` once."""
        plan.topic = topic
        plan.tree = self._matching
        plan.matched = self._tree.match(topic)
        by_subscriber: dict[Subscriber, list[Any]] = {}
        for subscriber, options in plan.matched:
            by_subscriber.setdefault(subscriber, []).append(options)
        for subscriber, found in by_subscriber.items():
            subscriber.resolve(topic, found, plan, None)


def _nothing(topic: bytes) -> None:
    """What a topic matches at an exchange that has forgotten."""
    del topic


def _add(plan: Plan, inner: Plan, topic: bytes, origin: Origin, flags: tuple[int, ...]) -> None:
    """Add to `plan` what of `inner` is open to `origin`."""
    for outlet in inner.single:
        if outlet.echo_key is None or outlet.echo_key is not origin.key:
            mapped = outlet if flags == KEEP else outlet.with_flags(flags)
            if mapped is not None:
                plan.add(mapped)
    for subscriber, options in inner.personal:
        personal = Plan(plan.visited, plan.depth)
        subscriber.resolve(topic, options, personal, origin)
        for parent in personal.parents or ():
            plan.depends_on(parent)
        for outlet in personal.retaining:
            if outlet.echo_key is not None and outlet.echo_key is origin.key:
                continue
            mapped = outlet if flags == KEEP else outlet.with_flags(flags)
            if mapped is not None:
                plan.add(mapped)
