"""`topic` lines: what they say, and which one a message takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.app.mosquitto.topic_lines import overlap
from isthmus.app.mosquitto.translation import translate
from isthmus.mqtt.topics import matches


def routes(folder: Path, *lines: str, more: str = "") -> dict[str, Any]:
    file = folder / "mosquitto.conf"
    topics = "".join(f"topic {line}\n" for line in lines)
    file.write_text(f"{more}connection far\naddress far.example\n{topics}")
    draft = translate(file)
    assert draft.problems == []
    return draft.data.get("routes", {})


def out(*topics: str, qos: int = 0, **more: Any) -> dict[str, Any]:
    return {"from": "local", "to": "far", "topics": list(topics), "max_qos": qos} | more


def back(*topics: str, qos: int = 0, **more: Any) -> dict[str, Any]:
    return {"from": "far", "to": "local", "topics": list(topics), "max_qos": qos} | more


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("#", {"far-1": out("#")}),
        ("a/# out 1", {"far-1": out("a/#", qos=1)}),
        ("a/# IN 2", {"far-1": back("a/#", qos=2)}),
        ("a both 1", {"far-1-out": out("a", qos=1), "far-1-in": back("a", qos=1)}),
        ("# out 1 a/ r/", {"far-1": out("a/#", qos=1, strip="a/", prepend="r/")}),
        ("# in 1 a/ r/", {"far-1": back("r/#", qos=1, strip="r/", prepend="a/")}),
        ('# out 0 "" r/', {"far-1": out("#", prepend="r/")}),
        ("# in 0 l/", {"far-1": back("#", prepend="l/")}),
        ("ic/+ out 0 l4/top r", {"far-1": out("l4/topic/+", strip="l4/top", prepend="r")}),
        ('"" out 1 here there', {"far-1": out("here", qos=1, strip="here", prepend="there")}),
        ('"with space/#" out 2', {"far-1": out("with space/#", qos=2)}),
        ("a out 1 # comment", {"far-1": out("a", qos=1)}),
        ("a out 1 l/ # comment", {"far-1": out("l/a", qos=1, strip="l/")}),
        ("$SYS/broker/load/# in 1", {"far-1": back("$SYS/broker/load/#", qos=1)}),
    ],
)  # fmt: skip
def test_a_line_is_a_route(tmp_path: Path, line: str, expected: dict[str, Any]) -> None:
    assert routes(tmp_path, line) == expected


def test_a_line_without_a_qos_is_0_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text("connection a\naddress b\ntopic x\ntopic y out\ntopic z out 1\n")
    draft = translate(file)
    said = [note for note in draft.notes if "has no QoS" in note.text]
    assert [note.statement.line for note in said if note.statement] == [3, 4]
    assert [route["max_qos"] for route in draft.data["routes"].values()] == [0, 0, 1]


# -- overlapping lines -----------------------------------------------------------------------------


def test_the_first_line_that_matches_takes_the_message(tmp_path: Path) -> None:
    found = routes(tmp_path, 'a/# out 0 "" x/', 'a/b out 0 "" y/', '+/c out 1 "" z/')
    assert found == {
        "far-1": out("a/#", prepend="x/"),
        # a/b never reaches its line: 2.0 sends x/a/b once, 2.1 twice
        "far-3": out("+/c", "!a/#", qos=1, prepend="z/"),
    }


def test_lines_with_a_prefix_come_first(tmp_path: Path) -> None:
    """Mosquitto skips lines without a prefix when it looks for what to do with a topic."""
    found = routes(tmp_path, "a/# out 1", 'a/b out 0 "" r/')
    assert found == {
        "far-1": out("a/#", "!a/b", qos=1),
        "far-2": out("a/b", prepend="r/"),
    }


def test_a_wide_line_does_not_lower_a_narrow_one(tmp_path: Path) -> None:
    found = routes(tmp_path, "# in 0", "alarm/# in 2", "debug in 0")
    assert found == {
        "far-1": back("#", "!alarm/#"),
        "far-2": back("alarm/#", qos=2),
        "far-3": back("debug"),
    }


def test_a_line_that_brings_nothing_of_its_own_is_subscribed_all_the_same(tmp_path: Path) -> None:
    """The far side may refuse the line that takes its messages, which are made the same of."""
    found = routes(tmp_path, "# in 0 all/", "alarm/# in 2", "alarm/# out 1", "# out 2")
    assert found == {
        "far-1": back("#", prepend="all/"),
        "far-2": back("alarm/#", qos=2, prepend="all/"),
        # What goes out is subscribed nowhere.
        "far-4": out("#", qos=2),
    }
    # Of the lines before it those that come before the one that takes its messages count too.
    found = routes(tmp_path, "+/x in 2 one/", "# in 1 two/", "a/# in 0 three/")
    assert found["far-3"] == back("a/#", "!+/x", prepend="two/")
    assert found["far-2"] == back("#", "!+/x", qos=1, prepend="two/")


def test_each_direction_has_its_own_order(tmp_path: Path) -> None:
    found = routes(tmp_path, "# both 1 a/ b/", "b/# out 1")
    assert found["far-1-out"]["topics"] == ["a/#"]
    assert found["far-1-in"]["topics"] == ["b/#"]
    assert found["far-2"]["topics"] == ["b/#"]


def test_lines_that_share_nothing_stay_as_they_are(tmp_path: Path) -> None:
    found = routes(tmp_path, *(f"s{number}/# out 1" for number in range(50)))
    assert [route["topics"] for route in found.values()] == [[f"s{n}/#"] for n in range(50)]


def test_outgoing_options_of_the_bridge(tmp_path: Path) -> None:
    file = tmp_path / "mosquitto.conf"
    file.write_text(
        "upgrade_outgoing_qos true\nconnection far\naddress b\ntopic x both 2\n"
        "bridge_outgoing_retain false\n"
    )
    found = translate(file).data["routes"]
    assert found["far-1-out"] == {
        "from": "local", "to": "far", "topics": ["x"], "qos": 2, "retain": "clear"
    }  # fmt: skip
    assert found["far-1-in"] == back("x", qos=2)


LEVEL = st.sampled_from(["a", "b", "", "$s"])
FILTER = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)
TOPIC = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)


@given(FILTER, FILTER, TOPIC)
def test_filters_that_a_topic_matches_overlap(one: str, other: str, topic: str) -> None:
    if matches(one.encode(), topic.encode()) and matches(other.encode(), topic.encode()):
        assert overlap(one, other)
        assert overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "b"), ("a/+", "b/+"), ("a/#", "b/#"), ("#", "$SYS/#"), ("+/b", "a/+/c"), ("a/b", "a")],
)
def test_filters_that_share_no_topic_do_not_overlap(one: str, other: str) -> None:
    assert not overlap(one, other)
    assert not overlap(other, one)
