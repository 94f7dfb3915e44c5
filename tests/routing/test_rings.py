"""Rings that one configuration shows, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.app.explanation import explain
from isthmus.app.settings import Settings
from isthmus.mqtt.topics import matches
from isthmus.routing.rings import common


def said(routes: dict, **urls: str) -> list[str]:
    connectors = {
        name: {"url": url, "version": "5"} for name, url in {"a": "one", "b": "two", **urls}.items()
    }
    settings = Settings.model_validate({"connectors": connectors, "routes": routes, "node": "n"})
    return [line for line in explain(settings) if line.startswith(("A ring", "What goes"))]


def from_to(source: str, target: str, *topics: str, **route) -> dict:
    return {"from": source, "to": target, "topics": list(topics) or ["#"], **route}


RINGS = {
    "two connectors to one far side": (
        {"up": from_to("local", "a"), "down": from_to("c", "local")}, "up (local to a), down"
    ),
    "with prefixes that fit": (
        {"up": from_to("local", "a", "s/#", prepend="x/"),
         "down": from_to("c", "local", "x/s/#", strip="x/")}, "up (local to a), down"
    ),
    "without the broker of this process": (
        {"over": from_to("a", "b"), "back": from_to("b2", "c")}, "over (a to b), back (b2 to c)"
    ),
    "over three places": (
        {"one": from_to("a", "local"), "two": from_to("local", "b"), "three": from_to("b2", "c")},
        "one (a to local), two (local to b), three (b2 to c)",
    ),
    "inside": (
        {"x": from_to("local", "local", "a/#", strip="a/", prepend="b/"),
         "y": from_to("local", "local", "b/+", strip="b/", prepend="a/")}, "x (local to local), y"
    ),
    "one route alone": ({"x": from_to("local", "local", "a/#", prepend="a/")}, "A ring of one"),
    "a template": (
        {"up": from_to("local", "a", "s/+", topic="t/${1}/x"), "down": from_to("c", "local", "t/#"),
         "in": from_to("local", "local", "t/#", topic="s/${topic[1]}")}, "up (local to a), down"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RINGS)
def test_rings(name: str) -> None:
    routes, way = RINGS[name]
    found = said(routes, c="one", b2="two")
    assert len(found) == 1, found
    assert way in found[0]


@pytest.mark.parametrize(
    ("hops", "end"), [(True, "the loop guard drops them"), (False, "can go round for ever")]
)
def test_a_ring_that_the_loop_guard_breaks(hops: bool, end: str) -> None:
    routes = {
        "up": from_to("local", "a", loop_guard={"hops": hops}),
        "down": from_to("c", "local"),
    }
    (found,) = said(routes, c="one")
    assert end in found


NO_RINGS = {
    "both ways with one connector": {"both": from_to("local", "a", direction="both")},
    "two far sides, both ways": {
        "x": from_to("local", "a", direction="both"), "y": from_to("local", "b", direction="both")
    },
    "other topics": {"up": from_to("local", "a", "x/#"), "down": from_to("c", "local", "y/#")},
    "excluded": {"up": from_to("local", "a", "#", "!x/#"), "down": from_to("c", "local", "x/#")},
    "mapped away": {
        "up": from_to("local", "a", prepend="up/"), "down": from_to("c", "local", "d/#")
    },
    "what came from it": {"in": from_to("a", "local"), "out": from_to("local", "a", prepend="x/")},
    "a leading dollar": {"up": from_to("local", "a", "$SYS/#"), "down": from_to("c", "local", "#")},
}  # fmt: skip


@pytest.mark.parametrize("name", NO_RINGS)
def test_what_is_no_ring(name: str) -> None:
    assert said(NO_RINGS[name], c="one") == []


def test_what_comes_back_over_mqtt_3() -> None:
    routes = {"up": from_to("local", "a", "s/#"), "down": from_to("a", "local", "+/x")}
    settings = {"connectors": {"a": {"url": "one", "version": "3.1.1"}}, "routes": routes}
    lines = list(explain(Settings.model_validate(settings)))
    assert lines[-1].startswith("What goes to a by up comes back once by down, unless one is Mosq")
    assert lines[-1].endswith("`loop_guard: {memory: true}` on up would drop what comes back.")
    routes["up"]["loop_guard"] = {"memory": True}
    lines = list(explain(Settings.model_validate(settings)))
    assert lines[-1].endswith("on up drops what comes back.")
    settings["connectors"]["a"]["bridge_bit"] = False
    lines = list(explain(Settings.model_validate(settings)))
    assert lines[-1].startswith("What goes to a by up comes back once by down: MQTT 3.1.1 cannot")
    routes["down"]["topics"] = ["t/#"]
    lines = list(explain(Settings.model_validate(settings)))
    assert not lines[-1].startswith("What goes")


def test_many_routes_are_searched_in_bounded_time() -> None:
    routes = {}
    for number in range(300):
        routes[f"u{number}"] = from_to("local", "a", f"s/{number}/#")
        routes[f"d{number}"] = from_to("c", "local", f"s/{number}/#")
    assert len(said(routes, c="one")) == 20


LEVELS = st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=1, max_size=4)
FILTER = LEVELS.flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"]), "#"])
).filter(bool)
NAME = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=5).map("/".join)


@given(a=FILTER, b=FILTER, topic=NAME.filter(bool))
def test_what_two_filters_have_in_common(a: str, b: str, topic: str) -> None:
    ours, theirs, name = a.encode(), b.encode(), topic.encode()
    both = common(ours, theirs)
    assert (both is not None and matches(both, name)) == (
        matches(ours, name) and matches(theirs, name)
    )
