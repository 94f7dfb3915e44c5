"""Receipts: what one read owes, and when it is paid."""

from __future__ import annotations

from typing import Any

import pytest
from delivery_peers import (
    Near,
    Owed,
    attach,
    ids,
    make_lane,
    send,
    wire_id,
)

from isthmus.delivery.outlet import KEEP, LaneOutlet, Outlet
from isthmus.delivery.receipt import Receipt
from raw import PUBACK, PUBCOMP, PUBREC, PUBREL, ack_packet, publish_packet


class Holding(Outlet):
    """Takes a hold on every message, until the test gives it back."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Receipt, int]] = []
        self.payloads: list[bytes] = []

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        self.payloads.append(payload)
        if receipt is not None:
            receipt.holds += 1
            self.held.append((receipt, len(receipt.ids) - 1))

    def safe(self, number: int) -> None:
        self.held[number][0].release()

    def refused(self, number: int, code: int) -> None:
        receipt, index = self.held[number]
        receipt.refuse(index, code)
        receipt.release()


class Instant(Outlet):
    """Holds and releases at once, as a target does that is safe in memory."""

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        if receipt is not None:
            receipt.holds += 1
            receipt.release()


def published(*qos: int, topic: str = "t", start: int = 1, version: int = 5, **how: Any) -> bytes:
    return b"".join(
        publish_packet(topic, str(number), level, number, version=version, **how)
        for number, level in enumerate(qos, start)
    )


# -- holds ---------------------------------------------------------------------------------------


def test_the_source_holds_while_it_fans_out():
    """The first target is safe at once; the second has not even been asked by then."""
    slow = Holding()
    near = Near({b"t": [Instant(Outlet), slow, Instant(Outlet)]})
    assert near.send(published(1)) == []
    slow.safe(0)
    assert ids(near.wire.take()) == [1]


def test_a_read_is_acknowledged_as_one_when_its_last_message_is_safe():
    slow = Holding()
    near = Near({b"t": [slow]})
    assert near.send(published(1, 1, 1)) == []
    slow.safe(2)
    slow.safe(0)
    assert near.wire.take() == []
    slow.safe(1)
    assert ids(near.wire.take()) == [1, 2, 3]


def test_a_message_without_targets_is_safe_at_once():
    near = Near()
    assert ids(near.send(published(1, 0, 1))) == [1, 3]


def test_an_entry_releases_its_hold_once():
    """A second PUBACK for the same identifier must not pay for another target's hold."""
    owed = Owed()
    one, other = make_lane(), make_lane()
    attach(one)
    attach(other)
    receipt = owed.receipt()
    send(one, "1", receipt=receipt)
    LaneOutlet(other, b"t", KEEP, memory=False).send(2, b"", b"1", receipt)
    receipt.release()
    first = next(iter(one.entries))
    for _ in range(3):
        one.acked([first])
        one.acked([first, first])
    assert owed.done == []
    other.acked(list(other.entries))
    assert owed.done == [receipt]


def test_a_refusal_and_an_acknowledgement_of_one_message_release_once():
    owed = Owed()
    one, other = make_lane(), make_lane()
    for lane in (one, other):
        attach(lane)
    receipt = owed.receipt()
    send(one, "1", receipt=receipt)
    LaneOutlet(other, b"t", KEEP, memory=False).send(2, b"", b"1", receipt)
    receipt.release()
    one.rejected(1, 0x87, qos=1)
    one.acked([wire_id(1)])
    one.rejected(1, 0x87, qos=1)
    assert owed.done == []
    other.acked([wire_id(1)])
    assert owed.done == [receipt]


def test_pubrec_releases_and_a_second_pubrec_does_not():
    owed = Owed()
    one, other = make_lane(), make_lane()
    for lane in (one, other):
        attach(lane)
    receipt = owed.receipt()
    send(one, "1", qos=2, receipt=receipt)
    LaneOutlet(other, b"t", KEEP, memory=False).send(4, b"", b"1", receipt)
    receipt.release()
    one.recorded(1, 0)
    one.recorded(1, 0)
    one.completed(1)
    one.recorded(1, 0)
    assert owed.done == []
    other.recorded(1, 0)
    assert owed.done == [receipt]


def test_a_batch_of_pubacks_over_several_receipts_releases_each_by_its_count():
    owed = Owed()
    lane = make_lane()
    attach(lane)
    first, second, third = (owed.receipt() for _ in range(3))
    for receipt in (first, second, first, third, second):
        send(lane, "x", receipt=receipt)
    for receipt in (first, second, third):
        receipt.release()
    send(lane, "free")
    lane.acked([wire_id(n) for n in (1, 6, 2, 3)])
    assert owed.done == [first]
    lane.acked([wire_id(n) for n in (5, 4)])
    assert owed.done == [first, second, third]


# -- the order of acknowledgements ---------------------------------------------------------------


def test_mqtt_4_6_0_2_pubacks_leave_in_order_of_arrival():
    slow = Holding()
    near = Near({b"t": [slow]})
    for number in (1, 2, 3):
        assert near.send(published(1, start=number)) == []
    slow.safe(2)
    slow.safe(1)
    assert near.wire.take() == []
    slow.safe(0)
    assert ids(near.wire.take()) == [1, 2, 3]


def test_mqtt_4_6_0_2_a_local_message_waits_behind_one_that_is_on_its_way():
    slow = Holding()
    near = Near({b"t": [slow]})
    near.send(published(1))
    assert near.send(published(1, start=2, topic="local")) == []
    slow.safe(0)
    assert ids(near.wire.take()) == [1, 2]


def test_mqtt_4_6_0_3_pubrecs_leave_in_order_of_arrival():
    slow = Holding()
    near = Near({b"t": [slow]})
    near.send(published(2, 2, 2))
    slow.safe(1)
    slow.safe(2)
    assert near.wire.take() == []
    slow.safe(0)
    assert ids(near.wire.take(), PUBREC) == [1, 2, 3]


def test_mqtt_4_6_0_3_pubacks_and_pubrecs_of_one_read_keep_their_order():
    slow = Holding()
    near = Near({b"t": [slow]})
    near.send(published(1, 2, 1, 1, 2))
    for number in (4, 2, 0, 3):
        slow.safe(number)
    # 2 and 5 are QoS 2: what came before the first leaves, the rest waits for it.
    first = near.wire.take()
    assert [(packet.kind, packet.packet_id) for packet in first] == [(PUBACK, 1)]
    slow.safe(1)
    rest = near.wire.take()
    assert [(packet.kind, packet.packet_id) for packet in rest] == [
        (PUBREC, 2),
        (PUBACK, 3),
        (PUBACK, 4),
        (PUBREC, 5),
    ]


# -- codes ---------------------------------------------------------------------------------------


def test_a_v5_publisher_gets_the_code_of_the_message_that_failed():
    slow = Holding()
    near = Near({b"t": [slow]})
    near.send(published(1, 1, 1))
    slow.safe(0)
    slow.refused(1, 0x87)
    slow.safe(2)
    answers = near.wire.take()
    assert [(packet.packet_id, packet.code) for packet in answers] == [(1, 0), (2, 0x87), (3, 0)]


@pytest.mark.parametrize("version", [3, 4])
def test_a_v3_publisher_gets_no_puback_for_it_and_what_is_behind_is_not_held_up(version):
    slow = Holding()
    near = Near({b"t": [slow]}, version=version)
    near.send(published(1, 1, 1, version=version))
    near.send(published(1, start=4, version=version))
    slow.safe(0)
    slow.safe(2)
    slow.safe(3)
    slow.refused(1, 0x99)
    assert ids(near.wire.take(version)) == [1, 3, 4]
    assert near.unacked == 0


@pytest.mark.parametrize("version", [4, 5])
def test_a_read_of_which_every_message_failed_is_not_in_the_way(version):
    slow = Holding()
    near = Near({b"t": [slow]}, version=version)
    near.send(published(1, version=version))
    near.send(published(1, start=2, version=version))
    slow.refused(0, 0x90)
    slow.safe(1)
    answers = near.wire.take(version)
    wanted = [(1, 0x90), (2, 0)] if version == 5 else [(2, 0)]
    assert [(packet.packet_id, packet.code) for packet in answers] == wanted


def test_the_first_code_of_a_message_stays():
    """Two targets refuse; a target that took it does not make the refusal good."""
    one, two, three = Holding(), Holding(), Holding()
    near = Near({b"t": [one, two, three]})
    near.send(published(1))
    two.refused(0, 0x97)
    one.refused(0, 0x87)
    three.safe(0)
    assert [packet.code for packet in near.wire.take()] == [0x97]


@pytest.mark.parametrize("version", [4, 5])
def test_a_refused_qos_2_message_is_over_and_its_identifier_free(version):
    slow = Holding()
    near = Near({b"t": [slow]}, version=version)
    near.send(published(2, version=version))
    slow.refused(0, 0x97)
    answers = near.wire.take(version)
    assert [(packet.kind, packet.code) for packet in answers] == (
        [(PUBREC, 0x97)] if version == 5 else []
    )
    # The publisher tries again under the same identifier: that is a new message.
    near.send(published(2, version=version))
    assert len(slow.payloads) == 2
    slow.safe(1)
    assert ids(near.wire.take(version), PUBREC) == [1]


# -- the connection ------------------------------------------------------------------------------


def test_a_receipt_dies_with_its_connection():
    """A client that comes back uses identifier 1 for another message."""
    slow = Holding()
    old = Near({b"t": [slow]})
    old.send(published(1))
    old.end()
    new = Near({b"t": [slow]})
    new.send(published(1))
    slow.safe(0)
    assert old.wire.take() == []
    assert new.wire.take() == []
    slow.safe(1)
    assert ids(new.wire.take()) == [1]


def test_a_refusal_after_the_connection_ended_says_nothing():
    slow = Holding()
    near = Near({b"t": [slow]})
    near.send(published(1, 2))
    near.end()
    slow.refused(0, 0x87)
    slow.refused(1, 0x87)
    assert near.wire.take() == []


def again(old: Near, plans: Any, version: int = 5) -> Near:
    """The client is back; its session is the same."""
    new = Near(plans, version=version)
    old.end()
    new.received_qos2 = old.received_qos2
    return new


@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_4_3_3_10_a_repeated_qos_2_message_is_not_delivered_again(version):
    """DUP of a message that is still on its way: PUBREC waits for the first one's target."""
    slow = Holding()
    old = Near({b"t": [slow]}, version=version)
    old.send(published(2, version=version))
    new = again(old, {b"t": [slow]}, version)
    assert new.send(published(2, dup=True, version=version)) == []
    assert len(slow.payloads) == 1
    slow.safe(0)
    assert old.wire.take() == []
    assert ids(new.wire.take(version), PUBREC) == [1]
    assert [packet.kind for packet in new.send(ack_packet(PUBREL, 1))] == [PUBCOMP]
    # Released: the same identifier is a new message.
    new.send(published(2, version=version))
    assert len(slow.payloads) == 2


def test_a_repeated_qos_2_message_over_three_connections():
    slow = Holding()
    first = Near({b"t": [slow]})
    first.send(published(2))
    second = again(first, {b"t": [slow]})
    second.send(published(2, dup=True))
    third = again(second, {b"t": [slow]})
    assert third.send(published(2, dup=True)) == []
    slow.safe(0)
    assert second.wire.take() == []
    assert ids(third.wire.take(), PUBREC) == [1]
    assert len(slow.payloads) == 1


def test_a_qos_2_message_that_became_safe_while_nobody_was_there():
    slow = Holding()
    old = Near({b"t": [slow]})
    old.send(published(2))
    old.end()
    slow.safe(0)
    new = again(old, {b"t": [slow]})
    assert ids(new.send(published(2, dup=True)), PUBREC) == [1]
    assert len(slow.payloads) == 1


def test_a_qos_2_message_that_was_refused_while_nobody_was_there_is_taken_anew():
    slow = Holding()
    old = Near({b"t": [slow]})
    old.send(published(2))
    old.end()
    slow.refused(0, 0x97)
    new = again(old, {b"t": [slow]})
    new.send(published(2, dup=True))
    slow.safe(1)
    assert ids(new.wire.take(), PUBREC) == [1]


def test_a_repeated_qos_2_message_gets_the_code_of_the_first():
    slow = Holding()
    old = Near({b"t": [slow]})
    old.send(published(2))
    new = again(old, {b"t": [slow]})
    new.send(published(2, dup=True))
    slow.refused(0, 0x99)
    assert [(packet.kind, packet.code) for packet in new.wire.take()] == [(PUBREC, 0x99)]


def test_mqtt_4_6_0_3_a_repeated_qos_2_message_keeps_its_place():
    slow = Holding()
    old = Near({b"t": [slow]})
    old.send(published(2))
    new = again(old, {b"t": [slow]})
    new.send(published(2, dup=True), published(1, start=2, topic="local"))
    assert new.wire.take() == []
    slow.safe(0)
    answers = new.wire.take()
    assert [(packet.kind, packet.packet_id) for packet in answers] == [(PUBREC, 1), (PUBACK, 2)]


def test_a_new_session_knows_nothing_of_old_identifiers():
    slow = Holding()
    old = Near({b"t": [slow]})
    old.send(published(2))
    old.end()
    new = Near({b"t": [slow]})
    new.send(published(2))
    assert len(slow.payloads) == 2
    slow.safe(0)
    assert new.wire.take() == []
    slow.safe(1)
    assert ids(new.wire.take(), PUBREC) == [1]


def test_pubrel_of_an_unknown_identifier_is_answered():
    """MQTT 5 has a code for it; before that a PUBCOMP has none (MQTT-4.3.3-11)."""
    assert [(p.kind, p.code) for p in Near().send(ack_packet(PUBREL, 9))] == [(PUBCOMP, 0x92)]
    near = Near(version=4)
    assert [(p.kind, p.code) for p in near.send(ack_packet(PUBREL, 9))] == [(PUBCOMP, 0)]
