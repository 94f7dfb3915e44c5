"""Topic maps and templates: what becomes of a topic, and of a filter, and the way back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from isthmus.app.settings import Settings
from isthmus.config.loader import parse_text
from isthmus.errors import ProtocolViolation
from isthmus.mqtt.topics import matches
from isthmus.routing.leg import legs
from isthmus.routing.settings import RouteSettings
from isthmus.routing.template import Template
from isthmus.routing.topic_map import TopicMap


def route(**values) -> RouteSettings:
    return RouteSettings.model_validate(
        {"from": "local", "to": "cloud", "topics": ["sensor/#"], **values}
    )


@pytest.mark.parametrize(
    ("template", "topic", "filter_", "expected"),
    [
        ("x/${topic}", "a/b", "#", "x/a/b"),
        ("${1}", "a/b/c", "a/+/c", "b"),
        ("${2}/${1}", "a/b/c/d", "a/+/#", "c/d/b"),
        ("all/${1}", "a/b", "#", "all/a/b"),
        ("t/${1}", "a", "a/#", "t/"),  # `#` stands for no level
        ("${topic[0]}", "a/b/c", "#", "a"),
        ("${topic[1]}", "a/b/c", "#", "b"),
        ("${topic[-1]}", "a/b/c", "#", "c"),
        ("${topic[2:]}", "a/b/c/d", "#", "c/d"),
        ("${topic[:2]}", "a/b/c/d", "#", "a/b"),
        ("${topic[1:3]}", "a/b/c/d", "#", "b/c"),
        ("${topic[-2:]}", "a/b/c/d", "#", "c/d"),
        ("${topic[:-1]}", "a/b/c", "#", "a/b"),
        ("${topic[:2]}/${topic[2:]}", "a/b/c", "#", "a/b/c"),
        ("x${topic[3:]}", "a/b", "#", "x"),
        ("${node}/${clientid}/${username}/${connection.client_id}", "a", "#", "n/c/u/k"),
        ("${topic[1]}", "a//c", "#", ""),
    ],
)
def test_templates(template: str, topic: str, filter_: str, expected: str) -> None:
    found = TopicMap(template, node="n").apply(
        topic.encode(), filter_.encode(), client_id="c", username="u", connection="k"
    )
    assert found == expected.encode()


def test_a_level_that_a_topic_does_not_have() -> None:
    with pytest.raises(ProtocolViolation, match="has no level 2"):
        Template("${topic[2]}").fill(b"a/b", b"#")
    with pytest.raises(ProtocolViolation, match="has no level -3"):
        Template("${topic[-3]}").fill(b"a/b", b"#")


@pytest.mark.parametrize(
    ("topics", "template", "problem"),
    [
        (["sensor/#"], "${2}", "'${2}' does not exist: 'sensor/#' has only 1 wildcard"),
        (["a/b"], "x/${1}", "'a/b' has no wildcard"),
        (["+/#", "a/+"], "x/${2}", "'a/+' has only 1 wildcard"),
        (["$share/g/a/+"], "${2}", "'a/+' has only 1 wildcard"),
        (["a/+"], "${topic[2]}", "topics of 'a/+' have only the levels 0 to 1"),
        (["a"], "${topic[-2]}", "topics of 'a' have only level 0"),
        (["a/+"], "x/${topic[2:]}", "it is empty for every topic of 'a/+'"),
        (["a/+/#", "b"], "x/${topic[2:]}", "it is empty for every topic of 'b'"),
        (["#"], "${0}", "'${0}' is unknown"),
        (["#"], "${topic[]}", "'${topic[]}' is unknown"),
        (["#"], "${topic[1:2:3]}", "is unknown"),
    ],
)
def test_what_never_exists_is_an_error(topics: list[str], template: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        route(topics=topics, topic=template)
    assert problem in str(caught.value)


def test_an_exclusion_needs_no_capture() -> None:
    assert route(topics=["a/+", "!a/b"], topic="${1}").excluded == ("a/b",)


@pytest.mark.parametrize(
    ("strip", "prepend", "topic", "expected"),
    [
        ("a/b/", "r/", "a/b/c", "r/c"),
        # Mosquitto makes `r/a/b` of it: `a/b/#` stands for `a/b` too, and `r/#` for `r`.
        ("a/b/", "r/", "a/b", "r"),
        ("a/b/", "", "a/b", ""),
        ("a/b", "r", "a/b/c", "r/c"),
        ("a/b/", "r/", "x/y", "r/x/y"),
        ("", "r/", "a", "r/a"),
        ("a", "", "a", ""),
    ],
)
def test_prefixes(strip: str, prepend: str, topic: str, expected: str) -> None:
    assert TopicMap(strip=strip, prepend=prepend).apply(topic.encode()) == expected.encode()


def test_a_template_that_is_a_prefix_is_a_prefix() -> None:
    assert TopicMap("${node}/x/${topic}", node="n").inverse().apply(b"n/x/a") == b"a"
    assert TopicMap("${topic}/x").inverse() is None


# -- the way back ----------------------------------------------------------------------------------

LEVEL = st.sampled_from(["", "a", "b", "ab", "x-"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
PREFIX = st.lists(LEVEL, max_size=3).map(lambda levels: "".join(f"{level}/" for level in levels))
REST = st.lists(st.sampled_from(["", "a", "b", "+"]), min_size=1, max_size=3).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"]), "#"])
)


@given(strip=PREFIX, prepend=PREFIX, rests=st.lists(REST, min_size=1, max_size=3), data=st.data())
def test_both_ways_are_each_others_inverse(strip, prepend, rests, data) -> None:
    """Whatever the filters take comes back as what it was, and nothing else comes back."""
    filters = [strip + rest for rest in rests if strip + rest]
    if not filters or not all(prepend + rest for rest in rests):
        return
    there, back = legs(
        {"r": route(topics=filters, strip=strip, prepend=prepend, direction="both")}, ""
    )
    topic = data.draw(TOPIC | TOPIC.map(lambda rest: strip + rest)).encode()
    if any(matches(filter_, topic) for filter_ in there.filters):
        mapped = there.topics.apply(topic)
        if mapped:  # else it is refused
            # A leading wildcard does not match what begins with `$`, and there is none here.
            assert any(matches(filter_, mapped) for filter_ in back.filters)
            assert back.topics.apply(mapped) == topic
    far = data.draw(TOPIC | TOPIC.map(lambda rest: prepend + rest)).encode()
    if any(matches(filter_, far) for filter_ in back.filters):
        mapped = back.topics.apply(far)
        if mapped and there.selection.includes(mapped):
            assert there.topics.apply(mapped) == far


@given(
    strip=PREFIX,
    prepend=PREFIX | st.just("x-"),
    filter_=REST.filter(bool),
    topic=TOPIC,
    template=st.sampled_from(
        [
            None,
            "x/${topic}",
            "p-${topic}",
            "q/${topic[0]}",
            "${1}",
            "${topic}/z",
            "x/p-${topic[0]}-s/y/${topic[-1]}",
            "${clientid}/x${1}y/z",
            "d/${username}${clientid}",
            "d-${topic[1:]}/${topic[0]}",
        ]
    ),
)
def test_the_image_of_a_filter_matches_what_becomes_of_its_topics(
    strip, prepend, filter_, topic, template
) -> None:
    name = topic.encode()
    if not matches(filter_.encode(), name):
        return
    found = (
        TopicMap(strip=strip, prepend=prepend) if template is None else TopicMap(template, node="")
    )
    try:
        mapped = found.apply(name, filter_.encode(), client_id="c1", username="u1")
    except ProtocolViolation:
        return
    if mapped:
        assert matches(found.image(filter_.encode()), mapped)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"topic": "x/${1}"}, "cannot be turned round for 'direction: both'"),
        ({"topic": "${topic}/x"}, "cannot be turned round"),
        ({"strip": "plant/"}, "does not begin with 'plant/'"),
        ({"topics": ["$share/g/a"]}, "is a shared subscription"),
        ({"strip": "sensor/", "prepend": "x-"}, "has a wildcard behind 'x-'"),
        ({"topics": ["a"], "strip": "a"}, "the topic filter is empty"),
        ({"topics": ["#", "!a"], "direction": "in", "connection": "x"}, "is of no use"),
    ],
)
def test_what_cannot_be_turned_round(values: dict, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        route(**{"direction": "both", **values})
    assert problem in str(caught.value)


def test_the_directions_of_a_route() -> None:
    values = {"topics": ["sensor/#", "!sensor/x"], "strip": "sensor/", "prepend": "up/"}
    (out,) = legs({"r": route(**values)}, "n")
    (back,) = legs({"r": route(direction="in", **values)}, "n")
    both = list(legs({"r": route(direction="both", **values)}, "n"))
    assert (out.name, out.source, out.target, out.subscribed) == (
        "r", "local", "cloud", (b"sensor/#",)
    )  # fmt: skip
    assert (back.name, back.source, back.target, back.subscribed) == (
        "r", "cloud", "local", (b"up/#",)
    )  # fmt: skip
    assert [leg.name for leg in both] == ["r", "r.back"]


# -- the page about routes -------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "routes.md").read_text()


def shown_topics() -> list[tuple[str, str, str, str]]:
    """Every comment "X leaves as Y", "goes up as", "comes down as" behind a route of the page."""
    found = []
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        for name, before, after in re.findall(
            r"^  (\w+): +# (\S+) (?:leaves as|goes up as|comes down as) (\S+)$", block, re.MULTILINE
        ):
            found.append((block, name, before, after))
    return found


@pytest.mark.parametrize(("block", "name", "before", "after"), shown_topics())
def test_topics_of_the_page(block: str, name: str, before: str, after: str) -> None:
    settings = parse_text(Settings, block)
    (leg,) = legs({name: settings.routes[name]}, settings.node)
    topic = before.encode()
    filter_ = next(filter_ for filter_ in leg.filters if matches(filter_, topic))
    assert leg.topics.apply(topic, filter_).decode() == after


def test_the_table_of_templates() -> None:
    rows = re.findall(r"^\| (`\$.*?) \| .*? \| (`.*?) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for templates, results in rows:
        got = [
            Template(template).fill(b"a/b/c/d", b"a/+/#").decode()
            for template in re.findall(r"`(.+?)`", templates)
        ]
        assert got == re.findall(r"`(.+?)`", results)


@pytest.mark.parametrize(
    ("template", "image"),
    [
        ("up/${topic}/raw", b"up/#"),
        ("${clientid}/data", b"+/data"),
        ("d/${topic[1]}/${username}-x/end", b"d/+/+/end"),
        ("all", b"all"),
        ("x-${topic[1:]}", b"#"),
        ("x/${1}", b"x/#"),
    ],
)
def test_the_image_of_a_template_is_no_wider_than_it_has_to_be(template, image) -> None:
    assert TopicMap(template, node="").image(b"+/+") == image
