"""Outlets: flag tables, one lane, many lanes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from delivery_peers import Owed, attach, make_lane, payloads
from hypothesis import given
from hypothesis import strategies as st

from isthmus.delivery.lane import Lane
from isthmus.delivery.outlet import (
    KEEP,
    FanOutlet,
    LaneOutlet,
    Outlet,
    compose,
    fanned,
    flag_table,
)

FLAGS = [0, 1, 2, 3, 4, 5]
"""QoS 0 to 2, with and without retain; QoS 3 does not exist."""

tables = st.builds(
    flag_table,
    qos=st.none() | st.integers(0, 2),
    max_qos=st.integers(0, 2),
    retain=st.none() | st.booleans(),
)


@pytest.mark.parametrize("qos", [None, 0, 1, 2])
@pytest.mark.parametrize("max_qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [None, True, False])
def test_flag_table(qos, max_qos, retain):
    table = flag_table(qos=qos, max_qos=max_qos, retain=retain)
    assert len(table) == 8
    for flags in FLAGS:
        level = min(flags >> 1 if qos is None else qos, max_qos)
        bit = bool(flags & 1) if retain is None else retain
        assert table[flags] == level << 1 | bit
    assert all(flags >> 1 <= 2 for flags in table)


def test_the_table_that_keeps():
    assert [flag_table()[flags] for flags in FLAGS] == [KEEP[flags] for flags in FLAGS] == FLAGS


@given(tables, tables, tables)
def test_compose_applies_one_after_the_other(first, second, third):
    for flags in FLAGS:
        assert compose(first, second)[flags] == second[first[flags]]
        assert compose(compose(first, second), third)[flags] == third[second[first[flags]]]
    assert compose(first, KEEP) == first == compose(KEEP, first)


@given(tables, tables, st.sampled_from(FLAGS))
def test_with_flags_maps_first(table, own, flags):
    lane = make_lane()
    wire = attach(lane)
    outlet = LaneOutlet(lane, b"t", own, memory=True, echo_key="me")
    mapped = outlet.with_flags(table)
    mapped.send(flags, b"", b"1", None)
    outlet.send(table[flags], b"", b"1", None)
    one, other = wire.take()
    assert one.flags == other.flags == own[table[flags]]
    assert (mapped.echo_key, mapped.memory, mapped.lane) == ("me", True, lane)


def test_an_outlet_without_flags_of_its_own_stays_the_same():
    outlet = Outlet("key", retains=True)
    assert outlet.with_flags(KEEP) is outlet
    assert outlet.send(0, b"", b"", None) is None
    assert (outlet.echo_key, outlet.retains) == ("key", True)


# -- one lane and many ---------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"v5": True},
    {"v5": False},
    {"v5": True, "max_packet": 30},
    {"v5": False, "max_packet": 12},
    {"v5": True, "receive_maximum": 1},
]
"""Connections that differ in what a packet looks like or whether it goes; None is down."""

kinds = st.lists(
    st.tuples(st.sampled_from([None, *range(len(KINDS))]), st.booleans()), min_size=2, max_size=6
)
messages = st.lists(
    st.tuples(
        st.sampled_from(FLAGS),
        st.sampled_from([b"", b"\x02\0\0\0\x3c", b"\x03\0\x01x", b"\x26\0\x01k\0\x50" + b"v" * 80]),
        st.sampled_from([b"", b"x", b"y" * 20, b"z" * 130]),
    ),
    max_size=6,
)


def lanes(wanted: list[tuple[int | None, bool]]) -> list[Lane]:
    made = []
    for kind, blocked in wanted:
        lane = make_lane(blocks=False, max_unsent_bytes=60, max_queued=2)
        if kind is not None:
            wire = attach(lane, **KINDS[kind])
            wire.blocked = blocked
        made.append(lane)
    return made


def outcome(lane: Lane) -> Any:
    sent = []
    if lane.link is not None:
        sent = [
            (packet.flags, packet.body)
            for packet in lane.link.take(5 if lane.v5 else 4)  # type: ignore[attr-defined]
        ]
    return sent, lane.sent, lane.queued, lane.queued_bytes, lane.inflight, lane.drops.counts


@given(kinds, messages, tables)
def test_a_fan_outlet_does_what_its_outlets_do_one_by_one(wanted, sequence, table):
    together, apart = lanes(wanted), lanes(wanted)
    outlets: list[Outlet] = [LaneOutlet(lane, b"a/b", table, memory=True) for lane in together]
    (fan,) = fanned(outlets)
    assert isinstance(fan, FanOutlet)
    single = [LaneOutlet(lane, b"a/b", table, memory=True) for lane in apart]
    for flags, properties, payload in sequence:
        one, other = Owed(), Owed()
        receipts = one.receipt(), other.receipt()
        for receipt in receipts:
            receipt.ids.append(b"\0\1")
        fan.send(flags, properties, payload, receipts[0])
        for outlet in single:
            outlet.send(flags, properties, payload, receipts[1])
        for receipt in receipts:
            receipt.release()
        assert len(one.done) == len(other.done) == 1
    assert [outcome(lane) for lane in together] == [outcome(lane) for lane in apart]


def test_only_what_differs_in_the_lane_alone_is_joined():
    """A target that holds receipts or must not echo is asked by itself."""
    down = [make_lane() for _ in range(8)]
    lowered = flag_table(max_qos=0)
    other = Outlet()
    made: list[Outlet] = [
        LaneOutlet(down[0], b"t", KEEP, memory=True),
        LaneOutlet(down[1], b"t", KEEP, memory=True),
        LaneOutlet(down[2], b"t", KEEP, memory=False),
        LaneOutlet(down[3], b"t", KEEP, memory=True, echo_key="me"),
        LaneOutlet(down[4], b"u", KEEP, memory=True),
        LaneOutlet(down[5], b"t", lowered, memory=True),
        LaneOutlet(down[6], b"t", KEEP, memory=True),
        other,
    ]
    found = fanned(made)
    fans = [outlet for outlet in found if isinstance(outlet, FanOutlet)]
    assert [fan.lanes for fan in fans] == [[down[0], down[1], down[6]]]
    assert {id(outlet) for outlet in found} - {id(fans[0])} == {
        id(made[number]) for number in (2, 3, 4, 5, 7)
    }


def test_memory_does_not_hold_and_the_far_side_does():
    owed = Owed()
    lane = make_lane()
    attach(lane)
    for memory, settled in ((True, 1), (False, 1)):
        receipt = owed.receipt()
        receipt.ids.append(b"\0\1")
        LaneOutlet(lane, b"t", KEEP, memory=memory).send(2, b"", b"1", receipt)
        receipt.release()
        assert len(owed.done) == settled
    lane.acked(list(lane.entries))
    assert len(owed.done) == 2


@pytest.mark.parametrize("v5", [True, False])
@pytest.mark.parametrize(
    ("size", "properties"),
    list(itertools.product([0, 1, 119, 120, 130, 16_370, 16_384, 70_000], [0, 9, 130])),
)
@pytest.mark.parametrize("flags", [0, 3, 4])
def test_packets_of_every_size_are_framed_well(v5, size, properties, flags):
    lane = make_lane()
    wire = attach(lane, v5=v5)
    text = b"x" * (properties - 3)
    block = b"\x03" + len(text).to_bytes(2, "big") + text if properties else b""
    outlet = LaneOutlet(lane, b"topic", KEEP, memory=True)
    outlet.send(flags, block, b"p" * size, None)
    outlet.send(flags, block, b"q", None)
    packets = wire.take(5 if v5 else 4)
    assert payloads(packets) == ["p" * size, "q"]
    for packet in packets:
        assert packet.topic == "topic"
        assert packet.flags == flags
        assert (b"x" * 6 in packet.body) == bool(v5 and properties)
