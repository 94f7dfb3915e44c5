"""Plans: the cached answer to "where does this topic go".

A plan is made once per topic and used for every message until something that it depends on changes;
then it is marked stale, which everyone who still holds it sees. What is not a matter of the topic
is never in a plan: DUP, the room left in a lane, packet sizes, message expiry.

Two dictionaries, young and old, bound the cache: when the young one is full it becomes the old one,
and what was in the old one is forgotten. Random topics from a stranger can empty it, not grow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from isthmus.delivery.outlet import fanned
from isthmus.mqtt.topic_tree import TopicIndex

if TYPE_CHECKING:
    from isthmus.delivery.endpoint import Subscriber
    from isthmus.delivery.exchange import Matching
    from isthmus.delivery.outlet import Outlet

PLANS_PER_GENERATION = 32_768
"""Plans per generation and endpoint: about 400 bytes each."""


class Plan:
    """Where messages of one topic go.

    `outlets` takes messages without the retain flag and `retaining` those with it; `single` are the
    same before those that are alike were joined. `stale` says that something has changed which may
    alter it. `matched` is what the subscriptions were when it was made, and `tree` where they were
    found by `topic`: where they are the same again, it is good again. `missed` is the subscription
    that came since, where nothing else happened: when it goes, the plan is good again without
    another look. `personal` are the
    subscribers whose answer depends on the publisher. `made` says that the outlets are known; until
    then a plan only stands for its topic, so that others can depend on it. `visited` are the
    (endpoint, topic) pairs that lie between source and outlets, `depth` how many of them lie one
    behind the other.
    """

    __slots__ = (
        "__weakref__",
        "children",
        "depth",
        "made",
        "matched",
        "missed",
        "outlets",
        "parents",
        "personal",
        "retaining",
        "single",
        "stale",
        "topic",
        "tree",
        "visited",
    )

    def __init__(self, visited: set[tuple[str, bytes]] | None = None, depth: int = 0) -> None:
        self.outlets: list[Outlet] = []
        self.retaining: list[Outlet] = []
        self.single: list[Outlet] = self.retaining
        self.personal: tuple[tuple[Subscriber, list[object]], ...] = ()
        self.stale = False
        self.children: WeakSet[Plan] | None = None
        self.made = False
        self.topic = b""
        self.matched: list[Any] | None = None
        self.missed: object = None
        self.tree: Matching | None = None
        self.visited = visited
        self.depth = depth
        # What it depends on lives as long as it does, so that its end is heard.
        self.parents: list[Plan] | None = None

    def add(self, outlet: Outlet) -> None:
        """Send messages of this topic to `outlet` as well."""
        self.retaining.append(outlet)
        if not outlet.retains:
            self.outlets.append(outlet)

    def close(self) -> None:
        """Join what can be joined, once everything is added."""
        self.made = True
        self.visited = None
        joined = fanned(self.single)
        if joined != self.single:
            self.retaining = joined
            self.outlets = [outlet for outlet in joined if not outlet.retains]

    def depends_on(self, other: Plan) -> None:
        """Become stale when `other` does."""
        if other.children is None:
            other.children = WeakSet()
        other.children.add(self)
        if self.parents is None:
            self.parents = []
        self.parents.append(other)
        if other.stale:
            self.expire()

    def derive(self) -> Plan:
        """An empty plan that becomes stale together with this one."""
        plan = Plan()
        plan.depends_on(self)
        return plan

    def echoes_to(self, key: object) -> bool:
        """Whether one of the outlets leads back to `key` and must not be used from there."""
        for outlet in self.single:  # noqa: SIM110 - a generator costs three times as much
            if outlet.echo_key is key:
                return True
        return False

    def renew(self) -> bool:
        """Make this stale plan good again, if its subscriptions are what they were.

        Subscriptions that come and go, as for one reply, make every plan that they match stale, and
        most are asked for again only when things are as before.
        """
        if self.tree is None or self.parents is not None:
            return False
        if self.matched != self.tree.match(self.topic):
            return False
        self.stale = False
        return True

    def expire(self, missed: object = None) -> None:
        """Mark this plan and everything made from it stale.

        `missed` is the new subscription that alone is the reason, None for anything else.
        """
        if self.stale:
            self.missed = None
            return
        self.stale = True
        self.missed = missed
        if self.children is not None:
            plans = list(self.children)
            self.children = None
            while plans:
                plan = plans.pop()
                plan.missed = None
                if not plan.stale:
                    plan.stale = True
                    if plan.children is not None:
                        plans.extend(plan.children)
                        plan.children = None

    def outlive(self, subscription: object) -> None:
        """`subscription` has gone: good again if it came and went unseen, else stale."""
        if self.stale and self.missed is subscription:
            self.stale = False
            self.missed = None
        else:
            self.expire()


class PlanCache:
    """Plans by topic, bounded, with graded invalidation."""

    __slots__ = ("_old", "_young", "size")

    def __init__(self, size: int = PLANS_PER_GENERATION) -> None:
        self.size = size
        self._young: TopicIndex[Plan] = TopicIndex()
        self._old: TopicIndex[Plan] = TopicIndex()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, topic: bytes) -> Plan | None:
        """The plan of `topic`, stale or not, if there is one."""
        plan = self._young.get(topic)
        if plan is None:
            plan = self._old.remove(topic)
            if plan is not None:
                self.put(topic, plan)
        return plan

    def put(self, topic: bytes, plan: Plan) -> None:
        """Remember `plan`; a full generation pushes the one before it out."""
        plan.topic = topic
        young = self._young
        if len(young) >= self.size and topic not in young:
            for old_plan in self._old:
                old_plan.expire()
            self._old = young
            young = self._young = TopicIndex()
        self._old.remove(topic)
        young.set(plan)

    def came(self, filter_: bytes, subscription: object) -> None:
        """Expire the plans that a new or other subscription to `filter_` alters, and no others.

        They keep their place, as they are most often needed again. An exact filter costs one
        look-up, a wildcard with literal levels before it a walk below them, a filter that starts
        with a wildcard everything. `subscription` is None where it replaces another.
        """
        for plan in self._below(filter_):
            plan.expire(subscription)

    def went(self, filter_: bytes, subscription: object) -> None:
        """The same for a subscription that ends.

        Plans that nobody asked for while it lasted, as most for one reply, are good again.
        """
        for plan in self._below(filter_):
            plan.outlive(subscription)

    def _below(self, filter_: bytes) -> list[Plan]:
        """The plans of the topics that `filter_` matches; none, but all forgotten, if too many."""
        young, old = self._young, self._old
        if filter_[:1] in (b"+", b"#") and (young or old):
            self.clear()
            return []
        found = young.match(filter_)
        if old:
            found += old.match(filter_)
        return found

    def clear(self) -> None:
        """Forget everything."""
        for generation in (self._young, self._old):
            for plan in generation:
                plan.expire()
        self._young = TopicIndex()
        self._old = TopicIndex()
