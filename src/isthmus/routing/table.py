"""The routes of one endpoint, which decide together where a message goes.

The endpoint asks its table once per topic. The routes whose filters match decide in order of their
priority; what they agree on goes out once. After that a message costs nothing here: the outlets are
the targets' own, however many routes there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isthmus.delivery.endpoint import Endpoint, Origin
from isthmus.delivery.outlet import KEEP, CountingOutlet, Outlet
from isthmus.delivery.plan import Plan
from isthmus.metrics.traffic import Tally
from isthmus.mqtt.topic_tree import TopicTree
from isthmus.mqtt.topics import split_shared
from isthmus.routing.copies import PartOutlet, joined
from isthmus.routing.refusal import RefusedOutlet
from isthmus.routing.route import Decision, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

REMEMBERED_TOPICS = 32_768
"""Topics whose ways a table keeps; about 500 bytes each."""

REMEMBERED_BYTES = 256
"""Longer topics are not kept: they are rare, and would fill memory."""

JOINT_TALLIES = 4096
"""Sets of routes that are counted as one; messages of others are counted once for each route."""


@dataclass(slots=True)
class Way:
    """One topic at one target, by one connection: where one or several routes send a message."""

    target: Endpoint
    topic: bytes
    connection: bytes | None
    routes: list[Route] = field(default_factory=list)
    tallies: tuple[Tally, ...] = ()

    def add_to(self, plan: Plan, origin: Origin, order_key: bytes) -> bool:
        """Add the outlets of the target to `plan`, and what counts its messages.

        A message is safe in memory only if all routes say so. Returns whether messages go on
        there: not in a circle, and not back to where they came from.
        """
        place = (self.target.name, self.topic)
        visited = plan.visited or set()
        before, new = len(plan.retaining), place not in visited
        self._add_outlets(plan, origin, order_key)
        final = self.target.final
        followed = len(plan.retaining) > before if final else new and place in visited
        if followed:
            key = self.target if final else None
            for tally in self.tallies:
                plan.add(CountingOutlet(tally, echo_key=key))
        return followed

    def _add_outlets(self, plan: Plan, origin: Origin, order_key: bytes) -> None:
        first, second = joined(route.flags for route in self.routes)
        memory = all(route.memory for route in self.routes)
        if second is None:
            self._route(plan, origin, first, order_key, memory=memory)
            return
        inner = Plan(plan.visited, plan.depth)
        self._route(inner, origin, KEEP, order_key, memory=memory)
        for parent in inner.parents or ():
            plan.depends_on(parent)
        for outlet in inner.retaining:
            mapped = outlet.with_flags(first)
            if mapped is not None:
                plan.add(mapped)
            mapped = outlet.with_flags(second[0])
            if mapped is not None:
                plan.add(PartOutlet(mapped, second[1]))

    def _route(
        self, plan: Plan, origin: Origin, flags: tuple[int, ...], order_key: bytes, *, memory: bool
    ) -> None:
        self.target.route(
            self.topic,
            plan,
            origin=origin,
            flags=flags,
            order_key=order_key,
            memory=memory,
            connection=self.connection,
            hops=any(route.hops for route in self.routes),
            keeps_qos0=any(route.keeps_qos0 for route in self.routes),
            overtakes=all(route.overtakes for route in self.routes),
        )


@dataclass(slots=True)
class Hop:
    """What a table did for one topic, for people: the decisions, and the ways that came of them.

    `followed` says for each way whether messages go on there: not in a circle, and not back to
    where they came from. `depth` counts the hops before this one.
    """

    endpoint: str
    topic: bytes
    depth: int
    decisions: list[Decision]
    ways: list[tuple[Way, bool]] = field(default_factory=list)


class RouteTable:
    """The routes from one endpoint: one subscriber of it.

    `hops` is None, or a list to note every answer in.
    """

    def __init__(self, source: Endpoint, routes: Iterable[Route] = ()) -> None:
        """`routes` stand in the order of the configuration."""
        self.source = source
        self.routes: list[Route] = []
        self.hops: list[Hop] | None = None
        self._rank: dict[Route, int] = {}
        self._tree: TopicTree[tuple[Route, int, bytes]] = TopicTree()
        self._subscribed: dict[bytes, int] = {}
        self._watched: set[Endpoint] = set()
        self._started = False
        # By topic: outlets that stay what they are, and ways that are asked again for each plan.
        self._known: dict[bytes, list[Outlet | Way]] = {}
        self._joint: dict[tuple[Route, ...], Tally] = {}
        # Messages of a connector must not go back to it, whatever lies between.
        self._origin = Origin(source)
        self._take(routes)

    def start(self) -> None:
        """Subscribe to the source."""
        self._started = True
        self._subscribe()

    def stop(self) -> None:
        """Take no more messages."""
        self._started = False
        for filter_ in self._subscribed:
            self.source.unsubscribe(filter_, self)
        self._subscribed = {}

    def replace(self, routes: Iterable[Route]) -> None:
        """Take other routes. Subscriptions that stay the same are not touched."""
        self._take(routes)
        if self._started:
            self._subscribe()
        self.forget()

    def forget(self) -> None:
        """Decide anew about every topic: routes, rights or targets have changed."""
        self._known.clear()
        self.source.forget_plans()

    def decide(self, topic: bytes, client_id: str = "", username: str = "") -> list[Decision]:
        """What the routes that match do with messages of `topic`, in order of priority."""
        found = []
        stopped = ""
        for route, filter_ in self._matching(topic):
            if stopped:
                found.append(Decision(route, filter_, "stopped", detail=stopped))
                continue
            decision = route.decide(topic, filter_, client_id, username)
            found.append(decision)
            if route.stop and decision.verdict != "excluded":
                stopped = route.name
        return found

    def outlets_to(self, target: Endpoint, topic: bytes) -> list[Outlet]:
        """The ways of messages of `topic` to `target`, whoever publishes them, and no others."""
        steps = self._known.get(topic)
        if steps is None:
            steps = _steps([found for found in self.decide(topic) if not found.route.personal])
        plan = Plan()
        for step in steps:
            if isinstance(step, Outlet):
                if step.echo_key is target:
                    plan.add(step)
            elif step.target is target:
                step.add_to(plan, self._origin, topic)
        return plan.single

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        """Add the outlets of all routes that take messages of `topic`; see `Subscriber`."""
        known = self._known.get(topic)
        if known is not None and self.hops is None:
            for step in known:
                if isinstance(step, Outlet):
                    plan.add(step)
                else:
                    step.add_to(plan, self._origin, topic)
            return
        matching = self._matching(topic)
        personal = any(route.personal for route, _ in matching)
        if personal and origin is None:
            plan.personal += ((self, options),)
            return
        decisions = (
            self.decide(topic, origin.client_id, origin.username)
            if origin is not None
            else self.decide(topic)
        )
        steps = self._add(topic, plan, decisions)
        # Rights can change without anyone telling.
        same = not personal and all(route.checked_as is None for route, _ in matching)
        if same and len(topic) <= REMEMBERED_BYTES:
            if len(self._known) >= REMEMBERED_TOPICS:
                self._known.clear()
            self._known[topic] = steps

    def _add(self, topic: bytes, plan: Plan, decisions: list[Decision]) -> list[Outlet | Way]:
        """Add the outlets; returns what can be used again for the next plan of `topic`."""
        hop = None
        if self.hops is not None:
            hop = Hop(self.source.name, topic, plan.depth, decisions)
            self.hops.append(hop)
        steps: list[Outlet | Way] = []
        for step in _steps(decisions):
            if isinstance(step, Outlet):
                plan.add(step)
                steps.append(step)
                continue
            before = len(plan.retaining)
            step.tallies = self._tallies(step.routes)
            followed = step.add_to(plan, self._origin, topic)
            if step.target.final:
                steps += plan.retaining[before:]
            else:
                steps.append(step)
            if hop is not None:
                hop.ways.append((step, followed))
        return steps

    def _tallies(self, routes: list[Route]) -> tuple[Tally, ...]:
        """What counts messages that these routes send as one: one count for all, if possible."""
        if len(routes) == 1:
            return (routes[0].tally,)
        key = tuple(routes)
        tally = self._joint.get(key)
        if tally is None:
            if len(self._joint) >= JOINT_TALLIES:
                return tuple(route.tally for route in routes)
            tally = self._joint[key] = Tally()
            for route in routes:
                route.joins(tally)
        return (tally,)

    def _matching(self, topic: bytes) -> list[tuple[Route, bytes]]:
        """The routes that `topic` matches, the first one first, each with its first such filter."""
        first: dict[Route, tuple[int, bytes]] = {}
        for route, place, filter_ in self._tree.match(topic):
            if route not in first or place < first[route][0]:
                first[route] = (place, filter_)
        ordered = sorted(first, key=self._rank.__getitem__) if len(first) > 1 else first
        return [(route, first[route][1]) for route in ordered]

    def _take(self, routes: Iterable[Route]) -> None:
        # Sorting keeps the order of those with equal priority.
        self.routes = sorted(routes, key=lambda route: -route.leg.settings.priority)
        self._rank = {route: rank for rank, route in enumerate(self.routes)}
        self._joint = {
            key: tally for key, tally in self._joint.items() if self._rank.keys() >= set(key)
        }
        self._tree = TopicTree()
        for route in self.routes:
            for place, filter_ in reversed(list(enumerate(route.leg.filters))):
                self._tree.add(filter_, route, (route, place, filter_))

    def _subscribe(self) -> None:
        """Subscribe to what the routes need, and to nothing else."""
        targets = {route.target for route in self.routes}
        for target in targets - self._watched:
            target.when_ways_change(self.forget)
        self._watched = targets
        wanted: dict[bytes, int] = {}
        for route in self.routes:
            for filter_ in route.leg.subscribed:
                wanted[filter_] = max(wanted.get(filter_, 0), route.subscribe_qos)
        gone = [filter_ for filter_ in self._subscribed if filter_ not in wanted]
        lost = {split_shared(filter_)[1] for filter_ in gone}
        for filter_, qos in wanted.items():
            if self._subscribed.get(filter_) != qos:
                self.source.subscribe(filter_, self, qos)
        for filter_ in gone:
            self.source.unsubscribe(filter_, self)
        for filter_, qos in wanted.items():
            # With and without a share group they are one filter at the exchange.
            if split_shared(filter_)[1] in lost:
                self.source.subscribe(filter_, self, qos)
        self._subscribed = wanted


def _steps(decisions: list[Decision]) -> list[Outlet | Way]:
    """What the decisions come to: refusals, and ways that lead to different places."""
    ways: dict[tuple[Endpoint, bytes, bytes | None], Way] = {}
    steps: list[Outlet | Way] = []
    for decision in decisions:
        route = decision.route
        if decision.verdict == "sent":
            place = (route.target, decision.topic, decision.connection)
            way = ways.get(place)
            if way is None:
                way = ways[place] = Way(*place)
                steps.append(way)
            way.routes.append(route)
        elif decision.code:
            # What came from a connector is not denied the way back to it.
            steps.append(
                RefusedOutlet(
                    route.drops,
                    decision.verdict,
                    decision.detail,
                    decision.code,
                    echo_key=route.target if route.target.final else None,
                )
            )
    return steps
