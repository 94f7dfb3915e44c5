"""Plans and exchanges: the cached answer is the one that would be given anew."""

from __future__ import annotations

import gc
from itertools import pairwise
from typing import Any

import pytest
from delivery_peers import make_lane
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from isthmus.delivery.endpoint import Origin
from isthmus.delivery.exchange import MAX_DEPTH, Exchange
from isthmus.delivery.outlet import KEEP, FanOutlet, LaneOutlet, Outlet
from isthmus.delivery.plan import Plan, PlanCache
from isthmus.mqtt.topics import matches


class Mark(Outlet):
    """Says who put it there, and what for."""

    def __init__(self, *what: Any, echo_key: object = None, retains: bool = False) -> None:
        super().__init__(echo_key, retains=retains)
        self.what = what


class Reader:
    """A subscriber that gets everything once."""

    def __init__(self, name: str, *, echo_key: object = None, personal: bool = False) -> None:
        self.name = name
        self.echo_key = echo_key
        self.personal = personal
        self.asked = 0

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        self.asked += 1
        if self.personal and origin is None:
            plan.personal += ((self, options),)
            return
        client = origin.client_id if origin is not None and self.personal else ""
        plan.add(Mark(self.name, topic, max(options), client, echo_key=self.echo_key))


class Road:
    """A route between two exchanges of the test: what goes in comes out as another topic."""

    def __init__(self, target: Exchange, old: bytes, new: bytes, origin: Origin) -> None:
        self.target = target
        self.old = old
        self.new = new
        self.origin = origin

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        mapped = self.new + topic.removeprefix(self.old)
        self.target.extend(plan, mapped, origin=self.origin, flags=KEEP)


NOBODY = Origin("nobody")


def found(plan: Plan) -> list[Any]:
    return sorted(outlet.what for outlet in plan.outlets if isinstance(outlet, Mark))


def names(plan: Plan) -> list[str]:
    return sorted(outlet.what[0] for outlet in plan.outlets if isinstance(outlet, Mark))


# -- plans ---------------------------------------------------------------------------------------


def test_retaining_outlets_are_only_used_with_the_flag():
    plan = Plan()
    always, retain = Outlet(), Outlet(retains=True)
    plan.add(always)
    plan.add(retain)
    plan.close()
    assert plan.outlets == [always]
    assert plan.retaining == [always, retain]


def test_close_joins_lanes_and_keeps_the_rest():
    plan = Plan()
    for outlet in (
        LaneOutlet(make_lane(), b"t", KEEP, memory=True),
        Outlet(retains=True),
        LaneOutlet(make_lane(), b"t", KEEP, memory=True),
    ):
        plan.add(outlet)
    plan.close()
    assert [type(outlet) for outlet in plan.outlets] == [FanOutlet]
    assert sorted(type(outlet).__name__ for outlet in plan.retaining) == ["FanOutlet", "Outlet"]


def test_what_was_made_from_a_plan_expires_with_it():
    top = Plan()
    child = top.derive()
    grandchild = child.derive()
    two_parents = Plan()
    two_parents.depends_on(child)
    other = Plan()
    two_parents.depends_on(other)
    top.expire()
    assert all(plan.stale for plan in (top, child, grandchild, two_parents))
    assert not other.stale
    top.expire()
    other.expire()


def test_a_long_chain_of_plans_expires_without_recursion():
    plans = [Plan()]
    for _ in range(5000):
        plans.append(plans[-1].derive())
    plans[0].expire()
    assert all(plan.stale for plan in plans)


def test_a_plan_that_nobody_holds_costs_its_parent_nothing():
    top = Plan()
    for _ in range(100):
        top.derive()
    gc.collect()
    assert not len(top.children or ())


def test_a_circle_of_dependencies_ends():
    one, two = Plan(), Plan()
    one.depends_on(two)
    two.depends_on(one)
    one.expire()
    assert two.stale


# -- the cache -----------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_forgets_the_oldest():
    cache = PlanCache(size=10)
    plans = {b"%d" % n: Plan() for n in range(100)}
    for topic, plan in plans.items():
        cache.put(topic, plan)
        assert len(cache) <= 20
    assert cache.get(b"99") is plans[b"99"]
    assert cache.get(b"0") is None
    for topic, plan in plans.items():
        assert plan.stale == (cache.get(topic) is not plan), "forgotten plans say so"


@given(st.lists(st.integers(0, 60), max_size=400))
def test_the_cache_is_bounded_whatever_is_asked(asked):
    cache = PlanCache(size=8)
    for number in asked:
        topic = b"%d" % number
        if cache.get(topic) is None:
            cache.put(topic, Plan())
        assert len(cache) <= 2 * cache.size


def test_topics_that_are_used_again_and_again_do_not_grow_the_cache():
    """One message per known topic between two new ones: nothing may be kept for that."""
    cache = PlanCache(size=8)
    for number in range(100):
        for known in range(number):
            cache.get(b"%d" % known)
        cache.put(b"%d" % number, Plan())
    assert len(cache) <= 3 * cache.size


def test_a_topic_in_use_survives_a_flood_of_others():
    cache = PlanCache(size=10)
    plan = Plan()
    cache.put(b"busy", plan)
    for number in range(100):
        if number % 5 == 0:
            assert cache.get(b"busy") is plan
        cache.put(b"%d" % number, Plan())
    assert not plan.stale


def test_a_stale_plan_keeps_its_place():
    cache = PlanCache()
    plan = Plan()
    cache.put(b"t", plan)
    plan.expire()
    assert cache.get(b"t") is plan


def test_a_plan_is_good_again_when_its_subscriptions_are_what_they_were():
    exchange = Exchange("x")
    first, second = Reader("first"), Reader("second")
    exchange.subscribe(b"a/b", first, 0)
    plan = exchange.plan(b"a/b")
    exchange.subscribe(b"a/+", second, 0)
    exchange.unsubscribe(b"a/+", second)
    assert not plan.stale
    exchange.subscribe(b"a/+", second, 0)
    exchange.subscribe(b"a/#", second, 0)
    exchange.unsubscribe(b"a/+", second)
    exchange.unsubscribe(b"a/#", second)
    assert plan.stale
    assert exchange.plan(b"a/b") is plan
    assert not plan.stale
    assert first.asked == 1
    exchange.subscribe(b"a/+", second, 0)
    assert names(exchange.plan(b"a/b")) == ["first", "second"]
    exchange.subscribe(b"a/b", first, 1)
    assert names(exchange.plan(b"a/b")) == ["first", "second"]
    assert first.asked == 3


def test_a_plan_over_a_route_becomes_stale_also_where_the_route_makes_a_long_topic():
    """Plans of long topics are not kept for themselves, but what depends on one must hear."""
    near, far = Exchange("near"), Exchange("far")
    reader = Reader("r")
    new = b"long/" * 60
    near.subscribe(b"a", Road(far, b"a", new + b"a", NOBODY), 0)
    plan = near.plan(b"a")
    assert names(plan) == []
    far.subscribe(new + b"a", reader, 0)
    assert plan.stale
    assert names(near.plan(b"a")) == ["r"]


TOPICS = [b"a", b"b", b"a/b", b"a/b/c", b"a/c", b"b/b", b"a/", b"/", b"$S/a", b"$S/b"]
FILTERS = [b"#", b"+", b"+/b", b"a/#", b"a/+", b"a/+/c", b"a/b/#", b"/+", b"$S/#", b"$S/+"]
FILTERS += TOPICS


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("size", [3, 100])
def test_invalidation_hits_what_can_change_and_is_graded(filter_, size):
    cache = PlanCache(size=size)
    plans = {topic: Plan() for topic in TOPICS}
    for topic, plan in plans.items():
        cache.put(topic, plan)
    known = {topic: plan for topic, plan in plans.items() if not plan.stale}
    subscription = object()
    cache.came(filter_, subscription)
    for topic, plan in known.items():
        if matches(filter_, topic):
            assert plan.stale
        elif filter_[:1] not in (b"+", b"#"):
            assert not plan.stale
            assert cache.get(topic) is plan
    cache.went(filter_, subscription)
    for topic, plan in known.items():
        if filter_[:1] in (b"+", b"#") and matches(filter_, topic):
            assert plan.stale  # forgotten: nobody finds it any more
        elif filter_[:1] not in (b"+", b"#"):
            assert not plan.stale


def test_a_plan_is_good_again_only_when_the_one_thing_that_it_missed_has_gone():
    cache = PlanCache()
    plan = Plan()
    cache.put(b"a/b", plan)
    first, second = object(), object()
    cache.came(b"a/+", first)
    cache.came(b"a/#", second)
    cache.went(b"a/+", first)
    assert plan.stale
    cache.went(b"a/#", second)
    assert plan.stale  # it cannot tell any more; `renew` can


def test_a_subscription_that_replaces_another_is_not_undone_by_its_end():
    exchange = Exchange("x")
    reader = Reader("r")
    exchange.subscribe(b"a", reader, 1)
    plan = exchange.plan(b"a")
    assert len(plan.outlets) == 1
    exchange.subscribe(b"a", reader, 2)
    exchange.unsubscribe(b"a", reader)
    assert plan.stale
    assert exchange.plan(b"a").outlets == []


def test_a_subscription_that_ends_without_having_been_changes_nothing():
    exchange = Exchange("x")
    plan = exchange.plan(b"a")
    exchange.subscribe(b"a", Reader("r"), 1)
    exchange.unsubscribe(b"a", Reader("other"))
    assert plan.stale


def test_a_plan_that_was_asked_for_while_the_subscription_lasted_is_not_good_afterwards():
    exchange = Exchange("x")
    reader = Reader("r")
    before = exchange.plan(b"a/b")
    exchange.subscribe(b"a/+", reader, 1)
    during = exchange.plan(b"a/b")
    assert during is not before
    assert len(during.outlets) == 1
    exchange.unsubscribe(b"a/+", reader)
    assert during.stale
    assert exchange.plan(b"a/b").outlets == []


def test_clear_forgets_everything():
    cache = PlanCache(size=3)
    plans = [Plan() for _ in range(5)]
    for number, plan in enumerate(plans):
        cache.put(b"%d" % number, plan)
    cache.clear()
    assert all(plan.stale for plan in plans)
    assert len(cache) == 0
    cache.came(b"1/#", None)


# -- the exchange --------------------------------------------------------------------------------


def test_a_subscriber_is_asked_once_per_topic_with_all_of_its_options():
    exchange = Exchange("x")
    reader = Reader("r")
    assert exchange.subscribe(b"a/#", reader, 0)
    assert exchange.subscribe(b"a/+", reader, 2)
    assert not exchange.subscribe(b"a/+", reader, 1)
    assert len(exchange) == 2
    for _ in range(3):
        assert found(exchange.plan(b"a/b")) == [("r", b"a/b", 1, "")]
    assert reader.asked == 1


def test_a_plan_in_hand_says_when_it_is_over():
    exchange = Exchange("x")
    reader = Reader("r")
    plan = exchange.plan(b"a/b")
    other = exchange.plan(b"b")
    exchange.subscribe(b"a/#", reader, 0)
    assert plan.stale
    assert not other.stale
    plan = exchange.plan(b"a/b")
    exchange.unsubscribe(b"a/#", reader)
    assert plan.stale
    assert found(exchange.plan(b"a/b")) == []


def test_what_would_echo_is_left_out_for_its_origin_alone():
    exchange = Exchange("x")
    me = object()
    exchange.subscribe(b"t", Reader("echo", echo_key=me), 0)
    exchange.subscribe(b"t", Reader("other"), 0)
    mine = exchange.plan_for(b"t", Origin(me))
    assert names(mine) == ["other"]
    assert names(exchange.plan_for(b"t", Origin(object()))) == ["echo", "other"]
    exchange.subscribe(b"t", Reader("new"), 0)
    assert mine.stale
    assert names(exchange.plan_for(b"t", Origin(me))) == ["new", "other"]


def test_a_subscriber_that_wants_to_know_the_publisher_is_asked_again():
    exchange = Exchange("x")
    exchange.subscribe(b"t", Reader("p", personal=True), 0)
    exchange.subscribe(b"t", Reader("r"), 0)
    one = exchange.plan_for(b"t", Origin(1, "one"))
    two = exchange.plan_for(b"t", Origin(2, "two"))
    assert found(one) == [("p", b"t", 0, "one"), ("r", b"t", 0, "")]
    assert found(two) == [("p", b"t", 0, "two"), ("r", b"t", 0, "")]
    exchange.subscribe(b"t", Reader("s"), 0)
    assert one.stale
    assert two.stale


def linked(origin: Origin = NOBODY) -> tuple[Exchange, Exchange]:
    """Everything below `out/` of the first is published below `in/` of the second."""
    first, second = Exchange("first"), Exchange("second")
    first.subscribe(b"out/#", Road(second, b"out", b"in", origin), 0)
    return first, second


def test_a_plan_over_a_route_follows_the_other_endpoints_subscriptions():
    first, second = linked()
    plan = first.plan(b"out/a")
    assert names(plan) == []
    reader = Reader("r")
    second.subscribe(b"in/+", reader, 0)
    assert plan.stale
    plan = first.plan(b"out/a")
    assert names(plan) == ["r"]
    second.unsubscribe(b"in/+", reader)
    assert plan.stale
    assert names(first.plan(b"out/a")) == []


@pytest.mark.parametrize("why", ["echo", "personal"])
def test_a_plan_over_a_route_follows_them_where_the_answer_depends_on_the_origin(why):
    """Both directions of one bridge: the plan in between is made for this origin alone."""
    far = object()
    first, second = linked(Origin(far))
    second.subscribe(b"in/#", Reader(why, echo_key=far, personal=why == "personal"), 0)
    plan = first.plan(b"out/a")
    gc.collect()
    second.subscribe(b"in/a", Reader("new"), 0)
    assert plan.stale
    assert "new" in names(first.plan(b"out/a"))


def test_a_plan_over_a_route_for_an_origin_is_made_anew_when_the_far_end_changes():
    me = object()
    first, second = linked()
    second.subscribe(b"in/#", Reader("echo", echo_key=me), 0)
    plan = first.plan_for(b"out/a", Origin(me))
    second.subscribe(b"in/a", Reader("new"), 0)
    assert plan.stale
    assert names(first.plan_for(b"out/a", Origin(me))) == ["new"]


# -- routes in a circle --------------------------------------------------------------------------


def test_a_route_that_leads_to_itself_stops():
    exchange = Exchange("x")
    exchange.subscribe(b"a/#", Road(exchange, b"", b"a/", NOBODY), 0)
    exchange.subscribe(b"#", Reader("r"), 0)
    assert 1 <= len(exchange.plan(b"a/1").outlets) <= MAX_DEPTH + 1


def test_two_routes_in_a_circle_stop():
    first, second = Exchange("first"), Exchange("second")
    first.subscribe(b"a", Road(second, b"a", b"b", NOBODY), 0)
    second.subscribe(b"b", Road(first, b"b", b"a", NOBODY), 0)
    first.subscribe(b"a", Reader("r"), 0)
    plan = first.plan(b"a")
    assert names(plan) == ["r"]


def test_where_a_circle_was_cut_is_not_remembered_for_others():
    """What is published there directly must reach its subscribers."""
    exchange = Exchange("x")
    exchange.subscribe(b"a/#", Road(exchange, b"", b"a/", NOBODY), 0)
    exchange.subscribe(b"#", Reader("r"), 0)
    exchange.plan(b"a/1")
    for depth in range(1, 12):
        assert names(exchange.plan(b"a/" * depth + b"1")), f"nobody gets it {depth} levels deep"


def test_a_circle_follows_changes_of_subscriptions():
    first, second = Exchange("first"), Exchange("second")
    first.subscribe(b"a", Road(second, b"a", b"b", NOBODY), 0)
    second.subscribe(b"b", Road(first, b"b", b"a", NOBODY), 0)
    first.plan(b"a")
    second.plan(b"b")
    first.subscribe(b"a", Reader("r"), 0)
    assert "r" in names(first.plan(b"a"))
    assert "r" in names(second.plan(b"b"))


def test_routes_one_after_the_other_are_followed_to_the_end():
    chain = [Exchange(str(n)) for n in range(12)]
    for near, far in pairwise(chain):
        near.subscribe(b"#", Road(far, b"", b"", NOBODY), 0)
    chain[-1].subscribe(b"t", Reader("r"), 0)
    assert names(chain[0].plan(b"t")) == ["r"]


# -- against an oracle ---------------------------------------------------------------------------

SUBSCRIBERS = ["one", "two", "echo", "personal"]
FEW_TOPICS = [b"a/b", b"b/b", b"b/c", b"a", b"$S/a"]
FEW_FILTERS = [b"b/b", b"a/b", b"b/+", b"a/#", b"+/b", b"#", b"b/#", b"$S/#"]
ORIGINS = {"me": "client-me", "you": "client-you"}


class ExchangeMachine(RuleBasedStateMachine):
    """After any sequence of changes a plan in use is what an exchange without a cache would say.

    Two exchanges: what is published below `a/` of the first is also published below `b/` of the
    second, by an origin of its own. Plans are held as links hold them, and asked for again only
    when they are stale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exchanges = [Exchange("first"), Exchange("second")]
        for exchange in self.exchanges:
            exchange.plans.size = 3
        keys = {name: object() for name in ORIGINS}
        self.origins = {name: Origin(keys[name], ORIGINS[name]) for name in ORIGINS}
        self.readers = {
            name: Reader(
                name,
                echo_key=keys["me"] if name == "echo" else None,
                personal=name == "personal",
            )
            for name in SUBSCRIBERS
        }
        road = Road(self.exchanges[1], b"a/", b"b/", self.origins["me"])
        self.exchanges[0].subscribe(b"a/+", road, 0)
        self.subscriptions: dict[tuple[int, bytes, str], int] = {}
        self.held: dict[tuple[int, bytes, str], Plan] = {}

    @rule(
        where=st.integers(0, 1),
        filter_=st.sampled_from(FEW_FILTERS),
        who=st.sampled_from(SUBSCRIBERS),
        option=st.integers(0, 2),
    )
    def subscribe(self, where: int, filter_: bytes, who: str, option: int) -> None:
        key = (where, filter_, who)
        new = self.exchanges[where].subscribe(filter_, self.readers[who], option)
        assert new == (key not in self.subscriptions)
        self.subscriptions[key] = option

    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        if self.subscriptions:
            key = data.draw(st.sampled_from(sorted(self.subscriptions)))
            del self.subscriptions[key]
            self.exchanges[key[0]].unsubscribe(key[1], self.readers[key[2]])

    @rule(where=st.integers(0, 1), filter_=st.sampled_from(FEW_FILTERS))
    def unsubscribe_what_is_not_there(self, where: int, filter_: bytes) -> None:
        self.exchanges[where].unsubscribe(filter_, Reader("stranger"))

    @rule(
        where=st.integers(0, 1),
        topic=st.sampled_from(FEW_TOPICS),
        who=st.sampled_from(sorted(ORIGINS)),
    )
    def publish(self, where: int, topic: bytes, who: str) -> None:
        key = (where, topic, who)
        plan = self.held.get(key)
        if plan is None or plan.stale:
            plan = self.exchanges[where].plan_for(topic, self.origins[who])
            if not plan.stale:
                self.held[key] = plan
        assert found(plan) == sorted(self.wanted(where, topic, who))

    def wanted(self, where: int, topic: bytes, who: str) -> list[Any]:
        result: list[Any] = []
        for name in SUBSCRIBERS:
            options = [
                option
                for (place, filter_, whose), option in self.subscriptions.items()
                if (place, whose) == (where, name) and matches(filter_, topic)
            ]
            if options and not (name == "echo" and who == "me"):
                client = ORIGINS[who] if name == "personal" else ""
                result.append((name, topic, max(options), client))
        if where == 0 and matches(b"a/+", topic):
            # The route publishes as "me"; the result goes through the first exchange's echo test.
            result += self.wanted(1, b"b/" + topic[2:], "me")
        return result

    @invariant()
    def what_is_held_is_true(self) -> None:
        for (where, topic, who), plan in self.held.items():
            if not plan.stale:
                assert found(plan) == sorted(self.wanted(where, topic, who))

    @invariant()
    def bounded(self) -> None:
        for exchange in self.exchanges:
            assert len(exchange.plans) <= 3 * exchange.plans.size


TestExchange = ExchangeMachine.TestCase
TestExchange.settings = settings(max_examples=150, stateful_step_count=50)


def test_a_plan_that_a_source_still_holds_does_not_survive_a_forgetting():
    exchange = Exchange("e")
    reader = Reader("r")
    exchange.subscribe(b"a/+", reader, 1)
    held = exchange.plan(b"a/b")
    exchange.subscribe(b"+/b", Reader("other"), 1)
    exchange.unsubscribe(b"+/b", Reader("other"))
    exchange.forget()
    assert held.stale
    assert not held.renew()
    assert exchange.plan(b"a/b") is not held
