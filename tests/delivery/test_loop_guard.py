"""The loop guard alone: hops of MQTT 5, and the memory of what may come back over MQTT 3."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from isthmus.delivery.echoes import REMEMBERED_S, Echoes
from isthmus.delivery.hops import MARK, MAX_HOPS, REMEMBERED, Hops
from isthmus.delivery.loop_alarm import ALARM_COUNT, QUIET_S, LoopAlarm
from isthmus.metrics.drops import Drops
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


def memory() -> tuple[Echoes, Drops, list[float]]:
    now = [100.0]
    drops = Drops("test", logging.getLogger("isthmus.tests"))
    return Echoes(drops, LoopAlarm(), now=lambda: now[0]), drops, now


def test_what_the_memory_cancels_feeds_the_alarm_of_the_hops(caplog) -> None:
    now = [0.0]
    hops = Hops(now=lambda: now[0])
    block = hops.stamp()
    drops = Drops("test", logging.getLogger("isthmus.tests"))
    echoes = Echoes(drops, hops.alarm, now=lambda: now[0])

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
    assert not echoes._sent
    assert not echoes._order


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
