"""Topic aliases in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import ProtocolViolation
from isthmus.mqtt.aliases import InboundAliases, OutboundAliases


def test_mqtt_3_3_2_12_an_alias_is_changed() -> None:
    aliases = InboundAliases(2)
    assert aliases.resolve(2, b"a") == b"a"
    assert aliases.resolve(2, b"") == b"a"
    assert aliases.resolve(2, b"b") == b"b"
    assert aliases.resolve(2, b"") == b"b"


@pytest.mark.parametrize(
    ("alias", "topic", "reason"), [(0, b"a", 0x94), (3, b"a", 0x94), (1, b"", 0x82)]
)
def test_mqtt_3_3_2_8_illegal_aliases(alias: int, topic: bytes, reason: int) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        InboundAliases(2).resolve(alias, topic)
    assert caught.value.reason == reason


@settings(max_examples=100)
@given(st.integers(0, 4), st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])))
def test_what_one_side_assigns_the_other_resolves(maximum: int, topics: list[bytes]) -> None:
    ours, theirs = OutboundAliases(maximum), InboundAliases(maximum)
    for topic in topics:
        alias, known = ours.assign(topic)
        assert alias <= maximum
        if alias:
            assert theirs.resolve(alias, b"" if known else topic) == topic
        else:
            assert not known


def test_topics_seen_once_do_not_push_out_others() -> None:
    aliases = OutboundAliases(2)
    assert [aliases.assign(topic) for topic in (b"a", b"b", b"a")] == [
        (1, False),
        (2, False),
        (1, True),
    ]
    for number in range(50):
        assert aliases.assign(b"%d" % number) == (0, False)
    assert aliases.assign(b"b") == (2, True)
    assert aliases.assign(b"c") == (0, False)
    assert aliases.assign(b"c") == (1, False)
    assert aliases.assign(b"c") == (1, True)
