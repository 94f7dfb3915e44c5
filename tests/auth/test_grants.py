"""Rights that come with a login."""

from __future__ import annotations

from typing import Any

import pytest

from isthmus.auth.grants import EVERYTHING, MAX_RULES, parse_grants
from isthmus.auth.principal import Principal
from isthmus.auth.rights import Rights

ANNA = Principal("anna", "c1")


def may(data: Any, who: Principal = ANNA) -> tuple[str, str]:
    """Which of a few topics may be written, and read."""
    grants = parse_grants(data, who.username)
    topics = ("a", "a/b", "b", "in/c1", "in/anna", "in/x", "$SYS/x")
    return tuple(  # type: ignore[return-value]
        " ".join(topic for topic in topics if ask(who, topic.encode()))
        for ask in (grants.may_write, grants.may_read)
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, ("", "")),
        ([], ("", "")),
        ({"pub": ["a"], "sub": ["b"]}, ("a", "b")),
        ({"publish": ["a/#"], "subscribe": ["+"]}, ("a a/b", "a b")),
        ({"all": ["in/${clientid}"], "sub": ["in/${username}"]}, ("in/c1", "in/c1 in/anna")),
        ({"all": ["in/%c"], "pub": ["in/%u"]}, ("in/c1 in/anna", "in/c1")),
        ({"all": ["#"]}, ("a a/b b in/c1 in/anna in/x", "a a/b b in/c1 in/anna in/x")),
        ([{"permission": "allow", "action": "publish", "topic": "a"}], ("a", "")),
        (
            [
                {"permission": "allow", "action": "all", "topic": "+"},
                {"permission": "deny", "action": "publish", "topic": "b"},
            ],
            ("a", "a b"),
        ),
    ],
)
def test_both_forms(data: Any, expected: tuple[str, str]) -> None:
    assert may(data) == expected


@pytest.mark.parametrize("client_id", ["+", "#", "a/b", "x/+", ""])
def test_names_do_not_widen_them(client_id: str) -> None:
    grants = parse_grants({"all": ["in/${clientid}", "own"]}, "anna")
    who = Principal("anna", client_id)
    assert not grants.may_read(who, b"in/x")
    assert not grants.may_read(who, f"in/{client_id}".encode())
    assert not grants.may_subscribe(who, b"in/#")
    assert grants.may_read(who, b"own")


@pytest.mark.parametrize(
    "data",
    [
        "#", 7, {"pub": "a"}, {"all": [7]}, {"all": ["a/#/b"]}, {"everything": ["#"]},
        {"all": [""]}, {"all": ["a"] * (MAX_RULES + 1)}, ["#"],
        [{"permission": "allow", "action": "publish"}],
        [{"permission": "yes", "action": "publish", "topic": "a"}],
        [{"permission": "allow", "action": ["all"], "topic": "a"}],
        [{"permission": "allow", "action": "publish", "topic": "a", "qos": [0]}],
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"is |rule|permission|more"):
        parse_grants(data, "anna")


def test_a_superuser_is_not_above_what_nobody_may() -> None:
    rights = Rights(None, 8)
    root = Principal("root", "c", grants=EVERYTHING)
    assert rights.refusal(root, b"a") == 0
    assert rights.refusal(root, b"$SYS/x") == 0x87
    assert rights.refusal(root, b"a/" * 9) == 0x90


def test_equal_rights_are_equal() -> None:
    assert parse_grants({"pub": ["a"]}, "anna") == parse_grants({"pub": ["a"]}, "anna")
    assert parse_grants({"pub": ["a"]}, "anna") != parse_grants({"sub": ["a"]}, "anna")
