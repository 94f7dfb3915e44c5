"""The loop guard alone: hops of MQTT 5, and the memory of what may come back over MQTT 3."""

from __future__ import annotations

import logging
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from delivery_peers import TIME, attach, make_lane, send
from hypothesis import given
from hypothesis import strategies as st

from isthmus.delivery.echoes import REMEMBERED_S, Echoes
from isthmus.delivery.hops import MARK, MAX_HOPS, REMEMBERED, Hops
from isthmus.delivery.lane import Lane
from isthmus.delivery.loop_alarm import ALARM_COUNT, QUIET_S, LoopAlarm
from isthmus.delivery.publication import pack
from isthmus.metrics.drops import Drops
from isthmus.mqtt.aliases import OutboundAliases
from isthmus.mqtt.packets import PacketType
from isthmus.mqtt.properties import PropertyId, decode

OTHERS = b"\x01\x01\x26\x00\x01k\x00\x01v"  # payload format, a user property


def value_of(block: bytes) -> str:
    """The hops in a property block, read by the general decoder."""
    found = decode(block, 0, len(block), PacketType.PUBLISH)
    (value,) = [text for name, text in found[PropertyId.USER_PROPERTY] if name == "isthmus-hops"]
    return str(value)


def test_a_message_is_numbered_and_its_way_grows() -> None:
    one, two = Hops(), Hops()
    block = one.stamp()
    assert value_of(block) == f"1@{one.identity.decode()}"
    found = two.enter(b"t", OTHERS + block, "one")
    assert found is not None
    properties, two.arrived, _ = found
    assert properties == OTHERS
    assert value_of(two.stamp()) == f"1@{one.identity.decode()},{two.identity.decode()}"
    two.arrived = None
    assert value_of(two.stamp()) == f"1@{two.identity.decode()}"


def test_what_comes_back_is_dropped() -> None:
    hops = Hops()
    assert hops.enter(b"t", hops.stamp(), "far") is None
    other = Hops()
    other.arrived = hops.stamp()[len(MARK) + 2 :]
    assert hops.enter(b"t", other.stamp(), "far") is None
    assert hops.drops.counts == {"loop": 2}


def test_one_way_is_enough_but_a_repetition_passes() -> None:
    origin, here = Hops(), Hops()
    block = origin.stamp()
    assert here.enter(b"t", block, ways[0]) is not None
    assert here.enter(b"t", block, ways[1]) is None
    assert here.enter(b"t", block, ways[0]) is not None
    assert here.enter(b"other", block, ways[1]) is not None  # another result of the same message
    assert here.enter(b"t", origin.stamp(), ways[1]) is not None
    assert here.drops.counts == {"other_way": 1}


ways = ["a connector", "another connector"]


def test_memory_is_bounded() -> None:
    origin, here = Hops(), Hops()
    for _ in range(3 * REMEMBERED):
        here.enter(b"t", origin.stamp(), ways[0])
    assert len(here._young) + len(here._old) <= 2 * REMEMBERED


def test_a_message_ends_after_many_hops() -> None:
    here = Hops()
    chain: bytes = Hops().stamp()
    for number in range(MAX_HOPS - 1):
        assert here.enter(b"%d" % number, chain, ways[0]) is not None
        other = Hops()
        other.arrived = chain[len(MARK) + 2 :]
        chain = other.stamp()
    assert here.enter(b"t", chain, ways[0]) is None
    assert here.drops.counts == {"too_many_hops": 1}


@given(st.binary(max_size=60))
def test_a_value_of_somebody_else_is_taken_off_and_nothing_more(value: bytes) -> None:
    here = Hops()
    block = MARK + len(value).to_bytes(2, "big") + value
    found = here.enter(b"t", OTHERS + block + OTHERS, ways[0])
    assert found is not None
    assert found[0] == OTHERS + OTHERS


def test_a_rate_alarm_is_logged_once(caplog) -> None:
    now = [0.0]
    hops = Hops(now=lambda: now[0])
    block = hops.stamp()
    with caplog.at_level(logging.WARNING, "isthmus.delivery"):
        for _ in range(2 * ALARM_COUNT):
            hops.enter(b"t", block, ways[0])
        alarms = [record for record in caplog.records if "in a ring" in record.message]
        assert len(alarms) == 1
        caplog.clear()
        now[0] = 60.0
        for _ in range(ALARM_COUNT - 1):  # slower
            hops.enter(b"t", block, ways[0])
        assert not [record for record in caplog.records if "in a ring" in record.message]


# -- MQTT 3 ------------------------------------------------------------------------------------


def memory(*filters: bytes) -> tuple[Echoes, Drops, list[float]]:
    now = [100.0]
    drops = Drops("test", logging.getLogger("isthmus.tests"))
    return Echoes(drops, LoopAlarm(), filters or (b"#",), now=lambda: now[0]), drops, now


def test_what_the_memory_cancels_feeds_the_alarm_of_the_hops(caplog) -> None:
    now = [0.0]
    hops = Hops(now=lambda: now[0])
    block = hops.stamp()
    drops = Drops("test", logging.getLogger("isthmus.tests"))
    echoes = Echoes(drops, hops.alarm, (b"#",), now=lambda: now[0])

    def alarms(count: int) -> int:
        caplog.clear()
        for _ in range(count // 2):
            hops.enter(b"t", block, ways[0])
            echoes.sent(b"t", b"x", retain=False)
            assert echoes.returned(b"t", b"x", retain=False)
        return len([record for record in caplog.records if "in a ring" in record.message])

    with caplog.at_level(logging.WARNING, "isthmus.delivery"):
        assert alarms(ALARM_COUNT - 2) == 0
        assert alarms(4) == 1
        now[0] = QUIET_S - 1
        assert alarms(2 * ALARM_COUNT) == 0  # said a moment ago
        now[0] = QUIET_S + 1
        assert alarms(ALARM_COUNT) == 1


def test_as_many_copies_are_cancelled_as_were_sent() -> None:
    echoes, drops, _ = memory()
    for _ in range(3):
        echoes.sent(b"t", b"x", retain=False)
    assert [echoes.returned(b"t", b"x", retain=False) for _ in range(5)] == [True] * 3 + [False] * 2
    assert drops.counts == {"echo": 3}


def test_only_equal_messages_are_cancelled() -> None:
    echoes, _, _ = memory()
    echoes.sent(b"t", b"x", retain=False)
    assert not echoes.returned(b"t", b"y", retain=False)
    assert not echoes.returned(b"u", b"x", retain=False)
    assert not echoes.returned(b"t", b"x", retain=True)
    assert echoes.returned(b"t", b"x", retain=False)
    echoes.sent(b"t", b"x", retain=True)
    assert echoes.returned(b"t", b"x", retain=False)  # the flag is cleared on the way back


def test_a_copy_has_two_seconds() -> None:
    echoes, _, now = memory()
    echoes.sent(b"t", b"x", retain=False)
    now[0] += REMEMBERED_S / 2
    echoes.sent(b"t", b"x", retain=False)
    assert echoes.returned(b"t", b"x", retain=False)
    now[0] += REMEMBERED_S / 2
    assert echoes.returned(b"t", b"x", retain=False)  # the second is still young
    now[0] += REMEMBERED_S
    assert not echoes.returned(b"t", b"x", retain=False)
    assert len(echoes) == 0
    assert not echoes._equal


def test_the_property_says_its_length_whatever_the_number() -> None:
    hops = Hops()
    for number in range(1, 5000):
        value = f"{number:x}@{hops.identity.decode()}"
        stamp = hops.stamp()
        assert value_of(stamp) == value
        assert stamp == MARK + len(value).to_bytes(2, "big") + value.encode()


def test_a_message_that_was_not_made_safe_may_come_by_another_way() -> None:
    far, here = Hops(), Hops()
    stamp = far.stamp()
    entered = here.enter(b"t", stamp, "one")
    assert entered is not None
    assert here.enter(b"t", stamp, "two") is None
    here.forget(entered.key)
    assert here.enter(b"t", stamp, "two") is not None


def test_the_flag_of_a_copy_chooses_among_equal_messages() -> None:
    echoes, _, _ = memory()
    for retain in (True, False):
        echoes.sent(b"t", b"x", retain=retain)
    assert echoes.returned(b"t", b"x", retain=False)
    assert echoes.returned(b"t", b"x", retain=True)
    assert not echoes.returned(b"t", b"x", retain=False)


def test_only_topics_that_are_asked_for_are_remembered() -> None:
    echoes, _, _ = memory(b"a/#", b"b")
    found = []
    for topic in (b"a/1", b"a", b"b", b"b/1", b"c"):
        echoes.sent(topic, b"x", retain=False)
        found.append(echoes.returned(topic, b"x", retain=False))
    assert found == [True, True, True, False, False]
    echoes.sent(b"a/1", b"x", retain=False)
    echoes.limit((b"c",))
    assert echoes.returned(b"a/1", b"x", retain=False)  # it was sent when they were others
    echoes.sent(b"a/1", b"x", retain=False)
    assert not echoes.returned(b"a/1", b"x", retain=False)
    echoes.sent(b"c", b"x", retain=False)
    assert echoes.returned(b"c", b"x", retain=False)


@pytest.mark.parametrize("image", [b"#", b"+/things/#", b"$aws/#"])
def test_topics_that_begin_with_a_dollar_sign_are_remembered(image: bytes) -> None:
    """A subscription with a wildcard in front does not get them, but a route may lead there."""
    echoes, _, _ = memory(image)
    echoes.sent(b"$aws/things/x/shadow/update", b"x", retain=False)
    assert echoes.returned(b"$aws/things/x/shadow/update", b"x", retain=False)


@pytest.mark.parametrize("image", [b"#", b"t"])
def test_long_topics_take_no_memory_once_they_are_forgotten(image: bytes) -> None:
    echoes, _, now = memory(image)
    tracemalloc.start()
    try:
        for number in range(1000):
            echoes.sent(b"%060000d" % number, b"x", retain=False)
        now[0] += 2 * REMEMBERED_S
        assert not echoes.returned(b"t", b"x", retain=False)
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()


def test_so_many_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.delivery.echoes.REMEMBERED", 10)
    monkeypatch.setattr("isthmus.delivery.echoes.REMEMBERED_TOPICS", 10)
    echoes, _, _ = memory()
    for number in range(100):
        echoes.sent(b"%d" % number, b"x", retain=False)
        assert len(echoes) <= 11
    assert not echoes.returned(b"80", b"x", retain=False)
    assert echoes.returned(b"99", b"x", retain=False)
    for _ in range(100):  # what has come back takes no room
        echoes.sent(b"t", b"x", retain=False)
        assert echoes.returned(b"t", b"x", retain=False)
    assert echoes.returned(b"98", b"x", retain=False)


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python `work` takes."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        del frame, arg
        count += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("retain", [False, True])
def test_equal_messages_cost_no_more_than_others(retain: bool) -> None:
    """One client with a constant payload must not keep everybody waiting."""
    count = 1000
    other, equal, foreign = memory()[0], memory()[0], memory()[0]

    def one_by_one() -> None:
        for number in range(count):
            other.sent(b"t", b"%d" % number, retain=retain)
        for number in range(count):
            assert other.returned(b"t", b"%d" % number, retain=retain)

    def alike() -> None:
        for _ in range(count):
            equal.sent(b"t", b"x", retain=retain)
        for _ in range(count):
            assert equal.returned(b"t", b"x", retain=retain)

    def with_another_flag() -> None:
        for _ in range(count):
            foreign.sent(b"t", b"x", retain=False)
        for _ in range(count):
            assert not foreign.returned(b"t", b"x", retain=True)

    bound = 2 * steps(one_by_one)
    assert steps(alike) < bound
    assert steps(with_another_flag) < bound


# -- what lanes remember -----------------------------------------------------------------------


def remembering(**how: Any) -> Lane:
    """A lane whose memory is on the clock of the test."""
    lane = make_lane(**how)
    lane.echoes = Echoes(lane.drops, LoopAlarm(), (b"#",), now=TIME)
    return lane


def came_back(lane: Lane, *payload: str, retain: bool = False) -> list[bool]:
    """Which of these messages the memory takes for a copy."""
    assert lane.echoes is not None
    return [lane.echoes.returned(b"t", one.encode(), retain=retain) for one in payload]


@pytest.mark.parametrize("v5", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_sent_at_once_is_remembered(qos: int, v5: bool) -> None:
    lane = remembering()
    attach(lane, v5=v5)
    send(lane, "1", qos=qos)
    send(lane, "2", qos=qos, retain=True, properties=b"\x03\0\x01x")
    assert came_back(lane, "1", "1") == [True, False]
    assert came_back(lane, "2", retain=True) == [True]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_waits_is_remembered_when_it_is_sent(qos: int) -> None:
    lane = remembering(keeps_qos0=True)
    send(lane, "1", qos=qos)
    assert came_back(lane, "1") == [False]
    TIME.pass_(10 * REMEMBERED_S)
    attach(lane)
    TIME.pass_(REMEMBERED_S / 2)
    assert came_back(lane, "1", "1") == [True, False]


def test_what_waits_for_room_is_remembered_when_it_is_sent() -> None:
    lane = remembering()
    attach(lane, receive_maximum=1)
    for payload in ("1", "2"):
        send(lane, payload)
    TIME.pass_(10 * REMEMBERED_S)
    assert came_back(lane, "1", "2") == [False, False]
    lane.acked([next(iter(lane.entries))])
    assert came_back(lane, "2") == [True]


@pytest.mark.parametrize("session_present", [False, True])
def test_what_is_sent_again_is_remembered_again(session_present: bool) -> None:
    lane = remembering()
    attach(lane)
    send(lane, "1")
    lane.detach()
    TIME.pass_(10 * REMEMBERED_S)
    attach(lane, session_present=session_present)
    assert lane.resent == 1
    assert came_back(lane, "1", "1") == [True, False]


def test_what_is_not_sent_is_not_remembered() -> None:
    lane = remembering(max_unsent_bytes=10)
    wire = attach(lane, max_packet=100)
    for qos in (0, 1):
        send(lane, "x" * 100, qos=qos)
    assert came_back(lane, "x" * 100) == [False]
    wire.blocked = True
    send(lane, "1", qos=0)
    send(lane, "2", qos=0)
    assert lane.drops.counts == {"too_large": 2, "slow_consumer": 1}
    assert came_back(lane, "1", "2") == [True, False]


def test_a_payload_that_nobody_asks_for_is_not_copied() -> None:
    lane = remembering()
    assert lane.echoes is not None
    lane.echoes.limit((b"other",))
    packet = pack(0x30, b"\0\1t", b"", b"", bytes(1 << 20), v5=False)
    tracemalloc.start()
    try:
        lane.remember(packet)
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


def test_with_topic_aliases_the_topic_is_remembered() -> None:
    lane = remembering()
    attach(lane, aliases=OutboundAliases(10))
    for payload in ("1", "2"):
        send(lane, payload)
    assert came_back(lane, "1", "2") == [True, True]
