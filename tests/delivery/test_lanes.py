"""Lanes: window, queue, connections that come and go, refusals, limits."""

from __future__ import annotations

from typing import Any

import pytest
from delivery_peers import (
    TIME,
    Near,
    Owed,
    Reactor,
    Wire,
    attach,
    expiry,
    make_lane,
    payloads,
    send,
    wire_id,
)

from isthmus.delivery.lane import RETRY_MAX_S, RETRY_MIN_S, Lane
from isthmus.delivery.outlet import KEEP, LaneOutlet
from isthmus.delivery.publication import largest_body
from isthmus.errors import ProtocolViolation
from isthmus.mqtt.wire import varint
from raw import PUBLISH, PUBREL, Packet, publish_packet


def ack(lane: Lane, *packets: Packet) -> None:
    lane.acked([wire_id(packet.packet_id) for packet in packets])


def fill(lane: Lane, *names: str, **how: Any) -> None:
    for name in names:
        send(lane, name, **how)


# -- the window and the queue --------------------------------------------------------------------


def test_mqtt_3_3_4_9_no_more_in_flight_than_the_receive_maximum():
    lane = make_lane()
    wire = attach(lane, receive_maximum=2)
    fill(lane, "1", "2", "3", "4")
    first = wire.take()
    assert payloads(first) == ["1", "2"]
    assert (lane.inflight, lane.queued, lane.waiting) == (2, 2, True)
    ack(lane, first[1])
    second = wire.take()
    assert payloads(second) == ["3"]
    ack(lane, first[0], *second)
    assert payloads(wire.take()) == ["4"]
    assert not lane.waiting


def test_our_own_limit_counts_where_the_peers_is_larger():
    lane = make_lane(max_inflight=3)
    wire = attach(lane)
    fill(lane, *"12345")
    assert payloads(wire.take()) == ["1", "2", "3"]


def test_qos_2_counts_against_the_window_until_pubcomp():
    lane = make_lane()
    wire = attach(lane, receive_maximum=2)
    fill(lane, *"1234", qos=2)
    first, second = wire.take()
    lane.recorded(first.packet_id, 0)
    assert [packet.kind for packet in wire.take()] == [PUBREL]
    lane.recorded(second.packet_id, 0)
    wire.take()
    lane.completed(second.packet_id)
    assert payloads(wire.take()) == ["3"]
    lane.completed(first.packet_id)
    assert payloads(wire.take()) == ["4"]


def test_what_is_queued_is_not_overtaken():
    """Room in the window is for the queue first."""
    lane = make_lane()
    fill(lane, "1", "2")
    wire = attach(lane, receive_maximum=1)
    (first,) = wire.take()
    fill(lane, "3")
    ack(lane, first)
    (second,) = wire.take()
    fill(lane, "4")
    ack(lane, second)
    (third,) = wire.take()
    ack(lane, third)
    assert payloads([first, second, third, *wire.take()]) == ["1", "2", "3", "4"]


def test_a_queue_without_a_connection_is_sent_in_order_when_there_is_one():
    lane = make_lane(max_inflight=100)
    fill(lane, *(str(n) for n in range(20)))
    assert lane.queued == 20
    wire = attach(lane)
    sent = wire.take()
    assert payloads(sent) == [str(n) for n in range(20)]
    assert not any(packet.dup for packet in sent)
    assert (lane.queued, lane.queued_bytes) == (0, 0)


def test_mqtt_2_2_1_3_identifiers_in_flight_are_not_used_again():
    lane = make_lane(max_inflight=40)
    wire = attach(lane)
    send(lane, "first", qos=2)
    send(lane, "second")
    kept = {packet.packet_id for packet in wire.take()}
    for _ in range(66_000):
        send(lane, "x")
        ((_, entry),) = [item for item in lane.entries.items() if item[0] not in map(wire_id, kept)]
        assert entry[2] == 0
        lane.acked([key for key in lane.entries if key not in map(wire_id, kept)])
    used = [packet.packet_id for packet in wire.take()]
    assert not kept & set(used)
    assert set(used) | kept == set(range(1, 65_536))


def test_an_acknowledgement_of_nothing_is_harmless():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1")
    (first,) = wire.take()
    lane.acked([wire_id(first.packet_id + 1)])
    lane.completed(first.packet_id)
    lane.rejected(first.packet_id + 1, 0x87, qos=1)
    assert lane.inflight == 1


def test_pubrec_of_an_unknown_identifier_is_answered_so_that_the_peer_can_forget_it():
    lane = make_lane()
    wire = attach(lane)
    lane.recorded(77, 0)
    assert [(packet.kind, packet.packet_id) for packet in wire.take()] == [(PUBREL, 77)]


@pytest.mark.parametrize("blocks", [True, False])
def test_puback_for_a_qos_2_message_is_a_protocol_violation_and_pays_what_came_before(blocks):
    """The holds of messages that were acknowledged before it must not be lost with it."""
    owed = Owed()
    lane = make_lane(blocks=blocks)
    wire = attach(lane)
    receipt = owed.receipt()
    send(lane, "1", receipt=receipt)
    receipt.release()
    send(lane, "2", qos=2)
    one, two = wire.take()
    with pytest.raises(ProtocolViolation) as error:
        ack(lane, one, two)
    assert error.value.reason == 0x82
    assert owed.done == [receipt]
    assert lane.inflight == 1


def test_mqtt_4_6_0_1_a_wrong_puback_does_not_change_the_order_of_resending():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1")
    send(lane, "2", qos=2)
    fill(lane, "3")
    with pytest.raises(ProtocolViolation):
        ack(lane, wire.take()[1])
    lane.detach()
    assert payloads(attach(lane, session_present=True).take()) == ["1", "2", "3"]


def test_acknowledgements_of_another_qos_are_protocol_violations():
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1")
    send(lane, "2", qos=2)
    one, two = wire.take()
    for call in (
        lambda: lane.recorded(one.packet_id, 0),
        lambda: lane.recorded(one.packet_id, 0x97),
        lambda: lane.rejected(two.packet_id, 0x97, qos=1),
    ):
        with pytest.raises(ProtocolViolation):
            call()
    assert lane.inflight == 2


# -- connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [(4, 4), (5, 5), (4, 5), (5, 4), (3, 5)])
def test_mqtt_4_4_0_1_session_present_the_same_identifiers_with_dup_in_order(versions):
    old, new = versions
    lane = make_lane()
    wire = attach(lane, v5=old == 5)
    fill(lane, "1", retain=True, properties=expiry(30) if old == 5 else b"")
    send(lane, "2", qos=2, topic=b"other")
    fill(lane, "3", "4")
    before = wire.take(old)
    ack(lane, before[2])
    lane.detach()
    fill(lane, "5")
    after = attach(lane, v5=new == 5, session_present=True).take(new)
    assert payloads(after) == ["1", "2", "4", "5"]
    assert [packet.dup for packet in after] == [True, True, True, False]
    kept = [before[0], before[1], before[3]]
    for was, now in zip(kept, after[:3], strict=True):
        assert (now.packet_id, now.topic, now.qos, now.retain) == (
            was.packet_id,
            was.topic,
            was.qos,
            was.retain,
        )


def test_mqtt_4_4_0_1_session_present_pubrel_is_sent_again_in_order():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, *"123", qos=2)
    one, two, three = wire.take()
    lane.recorded(two.packet_id, 0)
    lane.recorded(one.packet_id, 0)
    lane.detach()
    after = attach(lane, session_present=True).take()
    assert [(packet.kind, packet.packet_id) for packet in after] == [
        (PUBREL, two.packet_id),
        (PUBREL, one.packet_id),
        (PUBLISH, three.packet_id),
    ]
    lane.completed(two.packet_id)
    lane.completed(one.packet_id)
    assert lane.inflight == 1


@pytest.mark.parametrize("versions", [(4, 4), (5, 5), (4, 5), (5, 4)])
def test_without_the_session_what_was_in_flight_goes_first_as_new_publications(versions):
    old, new = versions
    lane = make_lane()
    wire = attach(lane, v5=old == 5, receive_maximum=3)
    fill(lane, "1", topic=b"one", retain=True)
    fill(lane, "2", "3", "4")
    before = wire.take(old)
    ack(lane, before[1])
    wire.take(old)
    lane.detach()
    fill(lane, "5")
    after = attach(lane, v5=new == 5).take(new)
    assert payloads(after) == ["1", "3", "4", "5"]
    assert not any(packet.dup for packet in after)
    assert (after[0].topic, after[0].retain, after[0].qos) == ("one", True, 1)
    assert len({packet.packet_id for packet in after}) == 4


def test_without_the_session_a_qos_2_message_that_was_recorded_is_not_sent_again():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1", "2", qos=2)
    one, _ = wire.take()
    lane.recorded(one.packet_id, 0)
    lane.detach()
    after = attach(lane)
    assert payloads(after.take()) == ["2"]
    assert lane.inflight == 1


def test_nothing_is_sent_again_on_a_live_connection():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1")
    wire.take()
    TIME.pass_(10_000, wire.reactor)
    lane.pump()
    assert wire.take() == []


def test_three_outages_in_a_row():
    lane = make_lane()
    fill(lane, "1", "2")
    for present in (False, True, False, True):
        wire = attach(lane, session_present=present)
        after = wire.take()
        assert payloads(after) == ["1", "2"]
        assert [packet.dup for packet in after] == [present] * 2
        lane.detach()
    ack(lane, *after)
    assert lane.inflight == 0


def test_mqtt_4_9_0_2_a_smaller_receive_maximum_holds_for_what_is_sent_again():
    """The far side may take less than before: the rest waits for acknowledgements."""
    lane = make_lane()
    wire = attach(lane)
    fill(lane, *"12345")
    wire.take()
    lane.detach()
    wire = attach(lane, session_present=True, receive_maximum=2)
    sent: list[str] = []
    for _ in range(6):
        now = wire.take()
        assert len(now) <= 2
        sent += payloads(now)
        for packet in now:
            ack(lane, packet)
    assert sent == ["1", "2", "3", "4", "5"]


def test_a_smaller_receive_maximum_without_the_session():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, *"123")
    wire.take()
    lane.detach()
    wire = attach(lane, receive_maximum=1)
    assert payloads(wire.take()) == ["1"]
    assert lane.queued == 2


def test_mqtt_3_1_2_24_what_is_sent_again_is_not_larger_than_the_peer_takes():
    """The far side's limit may be lower on the next connection."""
    lane = make_lane()
    wire = attach(lane, max_packet=1000)
    fill(lane, "x" * 500, "small")
    wire.take()
    lane.detach()
    wire = attach(lane, session_present=True, max_packet=100)
    assert payloads(wire.take()) == ["small"]
    assert lane.drops.counts == {"too_large": 1}


@pytest.mark.parametrize("present", [True, False])
def test_a_refusal_after_a_change_of_version_hits_the_right_message(present):
    """MQTT 3 has no codes; what was sent with it may still be refused over MQTT 5."""
    owed = Owed()
    lane = make_lane()
    attach(lane, v5=False)
    receipt = owed.receipt()
    fill(lane, "1", "2", receipt=receipt)
    receipt.release()
    lane.detach()
    _, second = attach(lane, v5=True, session_present=present).take()
    lane.rejected(second.packet_id, 0x87, qos=1)
    assert receipt.codes == {1: 0x87}


def test_a_session_that_ended_leaves_nothing_behind():
    lane = make_lane(blocks=False)
    wire = attach(lane, receive_maximum=1)
    fill(lane, "1", "2")
    send(lane, "3", qos=2)
    wire.take()
    lane.clear()
    assert (lane.inflight, lane.queued, lane.queued_bytes, lane.waiting) == (0, 0, 0, False)
    assert attach(lane).take() == []


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("code", [0x80, 0x83, 0x97])
def test_mqtt_4_4_0_2_a_refusal_that_may_pass_is_retried_later_as_a_new_publication(code, qos):
    owed = Owed()
    lane = make_lane()
    wire = attach(lane)
    receipt = owed.receipt()
    send(lane, "1", qos=qos, receipt=receipt)
    receipt.release()
    (first,) = wire.take()
    refuse(lane, first, code)
    assert wire.take() == []
    TIME.pass_(RETRY_MIN_S / 2, wire.reactor)
    assert wire.take() == []
    TIME.pass_(RETRY_MIN_S, wire.reactor)
    (second,) = wire.take()
    assert (second.payload, second.dup, second.qos) == (b"1", False, qos)
    assert second.packet_id != first.packet_id
    assert owed.done == []
    if qos == 1:
        ack(lane, second)
    else:
        lane.recorded(second.packet_id, 0)
    assert owed.done == [receipt]
    assert receipt.codes is None


def refuse(lane: Lane, packet: Packet, code: int) -> None:
    if packet.qos == 1:
        lane.rejected(packet.packet_id, code, qos=1)
    else:
        lane.recorded(packet.packet_id, code)


def test_the_wait_before_a_retry_grows_and_is_bounded():
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1")
    waits = []
    for _ in range(9):
        (packet,) = wire.take()
        refuse(lane, packet, 0x97)
        started = TIME.now
        while not wire.out:
            TIME.pass_(0.25, wire.reactor)
        waits.append(TIME.now - started)
    assert waits == sorted(waits)
    assert waits[0] < RETRY_MIN_S * 1.5
    assert waits[4] > 10 * RETRY_MIN_S
    assert max(waits) < RETRY_MAX_S + 1


def test_the_wait_begins_anew_once_something_went_through():
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1")
    for _ in range(6):
        refuse(lane, wire.take()[0], 0x97)
        TIME.pass_(RETRY_MAX_S + 1, wire.reactor)
    ack(lane, *wire.take())
    send(lane, "2")
    refuse(lane, wire.take()[0], 0x97)
    TIME.pass_(2 * RETRY_MIN_S, wire.reactor)
    assert payloads(wire.take()) == ["2"]


def test_a_retry_goes_before_its_successors():
    lane = make_lane()
    wire = attach(lane, receive_maximum=1)
    fill(lane, "1", "2", "3")
    refuse(lane, wire.take()[0], 0x97)
    fill(lane, "4")
    assert wire.take() == [], "nothing overtakes it while it waits"
    sent = []
    TIME.pass_(RETRY_MIN_S + 0.1, wire.reactor)
    while packets := wire.take():
        sent += payloads(packets)
        ack(lane, *packets)
    assert sent == ["1", "2", "3", "4"]


@pytest.mark.parametrize("codes", [(0x97, 0x97, 0x97), (0x80, 0x83, 0x97), (0x97, 0x91, 0x97)])
def test_several_retries_keep_their_order(codes):
    lane = make_lane()
    wire = attach(lane, receive_maximum=3)
    fill(lane, "1", "2", "3", "4")
    for packet, code in zip(wire.take(), codes, strict=True):
        refuse(lane, packet, code)
    TIME.pass_(RETRY_MIN_S + 0.1, wire.reactor)
    again = wire.take()
    ack(lane, *again)
    assert payloads(again + wire.take()) == ["1", "2", "3", "4"]


def test_a_retry_that_waits_goes_before_its_successors_in_flight_when_the_session_is_lost():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1", "2", "3")
    refuse(lane, wire.take()[0], 0x97)
    lane.detach()
    assert payloads(attach(lane).take()) == ["1", "2", "3"]


def test_an_outage_during_the_wait_ends_the_wait():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1", "2")
    one, _ = wire.take()
    refuse(lane, one, 0x97)
    lane.detach()
    TIME.pass_(60, wire.reactor)
    after = attach(lane, session_present=True)
    assert payloads(after.take()) == ["2", "1"]
    TIME.pass_(60, after.reactor)
    assert after.take() == []


def test_acknowledgements_during_the_wait_do_not_open_the_window():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1", "2")
    send(lane, "3", qos=2)
    one, two, three = wire.take()
    refuse(lane, one, 0x97)
    fill(lane, "4")
    ack(lane, two)
    lane.recorded(three.packet_id, 0)
    lane.completed(three.packet_id)
    assert payloads(wire.take()) == []
    TIME.pass_(RETRY_MIN_S + 0.1, wire.reactor)
    assert payloads(wire.take()) == ["1", "4"]


def test_0x91_is_answered_at_once_with_another_identifier():
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1", qos=2)
    (first,) = wire.take()
    refuse(lane, first, 0x91)
    (second,) = wire.take()
    assert (second.payload, second.dup) == (b"1", False)
    assert second.packet_id != first.packet_id


def test_0x91_is_not_answered_for_ever():
    """A far side that always says so must not get the same message at the speed of the network."""
    owed = Owed()
    lane = make_lane()
    wire = attach(lane)
    receipt = owed.receipt()
    send(lane, "1", receipt=receipt)
    receipt.release()
    tries = 0
    while (packets := wire.take()) and tries < 20:
        tries += 1
        refuse(lane, packets[0], 0x91)
    assert tries <= 3


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("code", [0x87, 0x90, 0x99])
def test_a_refusal_for_good_ends_the_message_and_is_counted(code, qos):
    owed = Owed()
    lane = make_lane()
    wire = attach(lane, receive_maximum=2)
    receipt = owed.receipt()
    fill(lane, "1", "2", "3", qos=qos, receipt=receipt)
    receipt.release()
    one, two = wire.take()
    refuse(lane, two, code)
    assert payloads(wire.take()) == ["3"]
    assert lane.drops.counts == {f"refused_0x{code:02x}": 1}
    assert lane.refused == 1
    assert receipt.codes == {1: code}
    assert owed.done == []
    for packet_id in (one.packet_id, 3):
        if qos == 1:
            lane.acked([wire_id(packet_id)])
        else:
            lane.recorded(packet_id, 0)
    assert owed.done == [receipt]


@pytest.mark.parametrize("code", [0x80, 0x83, 0x97, 0x91, 0x87])
def test_a_client_that_refuses_is_not_asked_again(code):
    lane = make_lane(blocks=False)
    wire = attach(lane)
    send(lane, "1")
    refuse(lane, wire.take()[0], code)
    TIME.pass_(60, wire.reactor)
    assert wire.take() == []
    assert lane.drops.total == 1


def test_0x10_no_matching_subscribers_is_success():
    owed = Owed()
    lane = make_lane()
    wire = attach(lane)
    receipt = owed.receipt()
    send(lane, "1", qos=2, receipt=receipt)
    receipt.release()
    lane.recorded(wire.take()[0].packet_id, 0x10)
    assert owed.done == [receipt]
    assert [packet.kind for packet in wire.take()] == [PUBREL]


def test_what_was_in_flight_goes_before_what_came_back_earlier():
    """Two connections are lost one after the other, the second with a smaller window."""
    lane = make_lane()
    wire = attach(lane, receive_maximum=2)
    fill(lane, "3", "4", "5")
    assert payloads(wire.take()) == ["3", "4"]
    lane.detach()
    wire = attach(lane, receive_maximum=1)
    assert payloads(wire.take()) == ["3"]
    lane.detach()
    wire = attach(lane, receive_maximum=3)
    assert payloads(wire.take()) == ["3", "4", "5"]


# -- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [5, 127, 128, 129, 130, 131, 16_385, 16_386, 16_387, 16_388, 16_389, 2_097_155, 70_000]
)
def test_largest_body_is_the_largest_that_fits(size):
    body = largest_body(size)
    assert 1 + len(varint(body)) + body <= size
    assert 1 + len(varint(body + 1)) + body + 1 > size


@pytest.mark.parametrize("v5", [True, False])
@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mqtt_3_1_2_24_a_packet_of_exactly_the_maximum_goes_and_one_more_byte_does_not(
    v5, down, qos
):
    lane = make_lane()
    overhead = 2 + 2 + 1 + (2 if qos else 0) + v5
    if not down:
        wire = attach(lane, v5=v5, max_packet=100)
    elif not qos:
        return
    for extra in (1, 0):
        send(lane, "x" * (100 - overhead + extra), qos=qos)
    if down:
        wire = attach(lane, v5=v5, max_packet=100)
    (packet,) = wire.take(5 if v5 else 4)
    assert len(packet.payload) == 100 - overhead
    assert lane.drops.counts == {"too_large": 1}


@pytest.mark.parametrize("down", [True, False])
def test_a_message_that_is_too_large_for_the_far_side_is_refused(down):
    owed = Owed()
    lane = make_lane()
    if not down:
        attach(lane, max_packet=100)
    receipt = owed.receipt()
    fill(lane, "1", "x" * 200, "3", receipt=receipt)
    receipt.release()
    if down:
        attach(lane, max_packet=100)
    assert lane.inflight == 2
    lane.acked(list(lane.entries))
    assert owed.done == [receipt]
    assert receipt.codes == {1: 0x83}


def test_mqtt_3_1_2_25_a_message_that_is_too_large_for_a_client_counts_as_delivered():
    lane = make_lane(blocks=False)
    wire = attach(lane, max_packet=100)
    owed = Owed()
    receipt = owed.receipt()
    send(lane, "x" * 200, receipt=receipt, memory=True)
    receipt.release()
    assert owed.done == [receipt]
    assert receipt.codes is None
    send(lane, "2")
    assert payloads(wire.take()) == ["2"]


# -- expiry --------------------------------------------------------------------------------------


def test_mqtt_3_3_2_5_what_expired_in_the_queue_is_not_sent_and_is_counted():
    owed = Owed()
    lane = make_lane()
    receipt = owed.receipt()
    send(lane, "1", properties=expiry(10), receipt=receipt)
    send(lane, "2", properties=expiry(60), receipt=receipt)
    receipt.release()
    TIME.pass_(10)
    wire = attach(lane)
    assert payloads(wire.take()) == ["2"]
    assert lane.drops.counts == {"expired": 1}
    lane.acked(list(lane.entries))
    assert owed.done == [receipt]
    assert receipt.codes is None


def test_mqtt_3_3_2_6_the_expiry_of_what_waited_is_lower_by_the_wait():
    lane = make_lane()
    send(lane, "1", properties=expiry(60))
    TIME.pass_(25)
    (packet,) = attach(lane).take()
    assert packet.properties == {"expiry": 35}


def test_the_expiry_of_what_did_not_wait_is_as_it_was():
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1", properties=expiry(60))
    assert wire.take()[0].properties == {"expiry": 60}


def test_an_expiry_that_is_almost_over_is_not_sent_as_none():
    """0 would mean that it expires at once; it is sent while there is still time."""
    lane = make_lane()
    send(lane, "1", properties=expiry(10))
    TIME.pass_(9.5)
    assert attach(lane).take()[0].properties == {"expiry": 1}


def test_messages_expire_for_mqtt_3_peers_too():
    lane = make_lane()
    send(lane, "1", properties=expiry(10))
    send(lane, "2")
    TIME.pass_(11)
    assert payloads(attach(lane, v5=False).take(4)) == ["2"]


def test_mqtt_3_3_2_6_the_life_of_what_is_in_flight_goes_on_during_an_outage():
    """A message must not live longer for having been sent before the session was lost."""
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1", properties=expiry(10))
    send(lane, "2", properties=expiry(100))
    wire.take()
    lane.detach()
    TIME.pass_(30)
    after = attach(lane).take()
    assert payloads(after) == ["2"]
    assert after[0].properties == {"expiry": 70}


def test_a_message_that_is_retried_expires():
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1", properties=expiry(20))
    for _ in range(50):
        if packets := wire.take():
            refuse(lane, packets[0], 0x97)
        TIME.pass_(2, wire.reactor)
    assert lane.drops.counts == {"expired": 1}


# -- what the far side allows --------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_mqtt_3_2_2_11_what_waited_is_sent_with_the_qos_that_the_far_side_takes(qos):
    owed = Owed()
    lane = make_lane()
    receipt = owed.receipt()
    send(lane, "1", qos=qos, receipt=receipt)
    receipt.release()
    assert owed.done == []
    (packet,) = attach(lane, max_qos=0).take()
    assert (packet.qos, packet.payload) == (0, b"1")
    assert owed.done == [receipt]
    assert lane.inflight == 0


def test_qos_2_to_a_far_side_that_takes_1():
    lane = make_lane()
    send(lane, "1", qos=2)
    (packet,) = attach(lane, max_qos=1).take()
    assert packet.qos == 1
    ack(lane, packet)
    assert lane.inflight == 0


def test_mqtt_3_2_2_11_what_was_in_flight_is_sent_with_the_qos_that_the_new_session_takes():
    lane = make_lane()
    wire = attach(lane)
    send(lane, "1", qos=2)
    wire.take()
    lane.detach()
    (packet,) = attach(lane, max_qos=1).take()
    assert packet.qos == 1


def test_mqtt_3_2_2_14_retain_is_taken_off_what_waited_for_a_far_side_without_it():
    lane = make_lane()
    send(lane, "1", retain=True)
    (packet,) = attach(lane, retain=False).take()
    assert not packet.retain


def test_retain_is_kept_otherwise():
    lane = make_lane()
    send(lane, "1", retain=True)
    (packet,) = attach(lane).take()
    assert packet.retain


# -- limits --------------------------------------------------------------------------------------


def test_a_sessions_queue_is_bounded_in_messages_and_drops_are_counted():
    lane = make_lane(blocks=False, max_queued=3)
    fill(lane, *"12345")
    assert lane.drops.counts == {"queue_full": 2}
    assert payloads(attach(lane).take()) == ["1", "2", "3"]


def test_a_sessions_queue_is_bounded_in_bytes_and_overhead_counts():
    lane = make_lane(blocks=False, max_queued_bytes=1000)
    fill(lane, *"123456789")
    assert lane.queued_bytes <= 1000
    assert 1 < lane.queued < 9
    assert lane.drops.counts == {"queue_full": 9 - lane.queued}
    wire = attach(lane)
    assert lane.queued_bytes == 0
    lane.acked([wire_id(packet.packet_id) for packet in wire.take()])
    fill(lane, "a")
    assert payloads(wire.take()) == ["a"]


def test_a_connectors_queue_says_when_it_is_full_and_when_it_is_not():
    """Publishers are asked to send less; what they sent is kept."""
    lane = make_lane(max_queued_bytes=1000, max_inflight=1)
    owed = Owed()
    receipt = owed.receipt()
    fill(lane, *"1234", receipt=receipt)
    assert (lane.full, owed.pressed) == (False, 0)
    fill(lane, *"56789", receipt=receipt)
    assert lane.full
    assert owed.pressed
    receipt.release()
    wire = attach(lane)
    seen = [lane.full]
    while packets := wire.take():
        ack(lane, *packets)
        seen.append(lane.full)
        assert lane.full or lane.queued_bytes <= 1000
    assert seen == sorted(seen, reverse=True), "it changes once"
    assert not lane.full
    assert lane.drops.total == 0
    assert owed.done == [receipt]


def test_what_nobody_waits_for_is_dropped_and_counted_while_the_queue_is_full():
    lane = make_lane(max_queued_bytes=1000, max_inflight=1)
    fill(lane, *"123456789")
    assert lane.full
    kept = lane.queued
    assert lane.drops.counts == {"queue_full": 9 - kept}
    wire = attach(lane)
    while packets := wire.take():
        ack(lane, *packets)
    fill(lane, "x")
    assert payloads(wire.take()) == ["x"]


def test_a_full_connector_keeps_acknowledgements_back_even_where_memory_counts_as_safe():
    owed = Owed()
    lane = make_lane(max_queued_bytes=1000)
    early = owed.receipt()
    send(lane, "1", memory=True, receipt=early)
    early.release()
    assert owed.done == [early]
    fill(lane, *"23456789")
    late = owed.receipt()
    send(lane, "x", memory=True, receipt=late)
    late.release()
    assert owed.done == [early]
    wire = attach(lane)
    ack(lane, *wire.take())
    assert owed.done == [early, late]


def test_qos_0_without_a_connection_is_dropped_and_counted():
    lane = make_lane()
    fill(lane, "1", "2", qos=0)
    assert lane.drops.counts == {"link_down": 2}
    assert attach(lane).take() == []


def test_qos_0_to_a_peer_that_does_not_read_is_dropped_beyond_the_limit_and_counted():
    lane = make_lane(max_unsent_bytes=100)
    wire = attach(lane, v5=False)
    wire.blocked = True
    fill(lane, *("x" * 20 for _ in range(9)), qos=0)
    kept = len(wire.take(4))
    assert kept == 4
    assert lane.drops.counts == {"slow_consumer": 5}
    wire.blocked = False
    wire.on_drained()
    fill(lane, "y", qos=0)
    wire.blocked = True
    fill(lane, *("x" * 20 for _ in range(9)), qos=0)
    assert len(wire.take(4)) == 5
    assert lane.sent == 9


def test_what_a_lost_connection_had_not_taken_does_not_count_for_the_next():
    lane = make_lane(max_unsent_bytes=100)
    wire = attach(lane)
    wire.blocked = True
    fill(lane, *("x" * 20 for _ in range(9)), qos=0)
    lane.detach()
    wire = attach(lane)
    wire.blocked = True
    fill(lane, "x" * 20, qos=0)
    assert len(wire.take()) == 1


def test_qos_1_to_a_blocked_link_is_not_dropped():
    lane = make_lane(max_unsent_bytes=10)
    wire = attach(lane)
    wire.blocked = True
    fill(lane, "x" * 50, "y" * 50)
    assert len(wire.take()) == 2
    assert lane.drops.total == 0


def test_the_queue_of_a_connector_is_bounded_by_its_limit():
    """Publishers that reconnect send again what nobody could acknowledge to them.

    The far side is down. Without a bound their copies add up for as long as it is.
    """
    lane = make_lane(max_queued_bytes=20_000)
    for _ in range(200):
        near = Near({b"t": [LaneOutlet(lane, b"t", KEEP, memory=False)]}, version=4)
        data = [publish_packet("t", str(n), 1, n, version=4) for n in range(1, 11)]
        assert near.send(*data) == []
        near.end()
    assert lane.queued_bytes < 2 * 20_000


def test_a_lane_counts():
    lane = make_lane()
    wire = attach(lane, receive_maximum=1)
    fill(lane, "1", "2")
    fill(lane, "3", qos=0)
    refuse(lane, wire.take()[0], 0x87)
    assert (lane.sent, lane.acknowledged, lane.resent, lane.refused) == (3, 0, 0, 1)
    assert (lane.queued, lane.queued_bytes, lane.inflight) == (0, 0, 1)


def test_a_timer_of_a_lost_connection_does_not_fire_into_the_next():
    reactor = Reactor()
    lane = make_lane()
    wire = attach(lane, Wire(reactor))
    fill(lane, "1")
    refuse(lane, wire.take()[0], 0x97)
    lane.detach()
    assert len(reactor.wheel) == 0
    wire = attach(lane, Wire(reactor))
    (packet,) = wire.take()
    refuse(lane, packet, 0x97)
    TIME.pass_(RETRY_MIN_S + 0.1, reactor)
    assert payloads(wire.take()) == ["1"]


# -- other lanes -----------------------------------------------------------------------------------


def test_a_lane_that_goes_hands_everything_on_in_order_with_its_receipts():
    old, heir = make_lane(), make_lane()
    owed = Owed()
    wire = attach(old, receive_maximum=2)
    fill(heir, "0")
    receipt = owed.receipt()
    fill(old, *"1234", receipt=receipt)
    receipt.release()
    assert payloads(wire.take()) == ["1", "2"]
    old.detach()
    assert heir.inherit(old) == 4
    assert (old.queued, old.inflight, old.waiting) == (0, 0, False)
    new = attach(heir)
    sent = new.take()
    assert payloads(sent) == ["0", "1", "2", "3", "4"]
    assert not any(packet.dup for packet in sent)
    ack(heir, *sent[:-1])
    assert not owed.done
    ack(heir, sent[-1])
    assert owed.done == [receipt]


def test_a_lane_that_rests_sends_nothing_new_until_the_next_connection():
    lane = make_lane()
    wire = attach(lane)
    fill(lane, "1")
    first = wire.take()
    lane.rest()
    fill(lane, "2")
    ack(lane, *first)
    assert wire.take() == []
    lane.detach()
    assert payloads(attach(lane).take()) == ["2"]


def test_a_lane_of_another_kind_carries_on_with_the_window():
    old, new = make_lane(), make_lane()
    first = attach(old, receive_maximum=1)
    fill(old, "1", "2", qos=2)
    (sent,) = first.take()
    old.detach()
    new.replace(old)
    again, other = attach(new, session_present=True).take()
    assert (again.payload, again.packet_id, again.dup) == (b"1", sent.packet_id, True)
    assert (other.payload, other.dup) == (b"2", False)


def test_a_lane_of_another_kind_keeps_the_order_over_a_lost_session():
    old, new = make_lane(), make_lane()
    wire = attach(old, receive_maximum=4)
    fill(old, "1", "2", "3", "4", "5")
    ack(old, *wire.take()[:2])
    old.detach()
    new.replace(old)
    assert (new.sent, new.queued, old.queued) == (5, 0, 0)
    attach(new, session_present=True)
    fill(new, "6")
    new.detach()
    assert payloads(attach(new).take()) == ["3", "4", "5", "6"]


def test_queued_qos_0_messages_do_not_go_past_the_limit_of_a_peer_that_does_not_read():
    lane = make_lane(keeps_qos0=True, max_unsent_bytes=100)
    fill(lane, *"123", qos=0)
    wire = Wire()
    wire.blocked = True
    for _ in range(50):
        send(lane, "x" * 20, qos=0)
    attach(lane, wire)
    sent = wire.take()
    assert sum(2 + len(packet.body) for packet in sent) <= 100
    assert lane.drops.counts == {"slow_consumer": 53 - len(sent)}


def test_an_abandoned_lane_counts_what_it_drops_and_refuses_it():
    lane = make_lane()
    owed = Owed()
    wire = attach(lane, receive_maximum=1)
    receipt = owed.receipt()
    fill(lane, "1", "2", receipt=receipt)
    receipt.release()
    wire.take()
    lane.detach()
    assert lane.abandon("connector_removed", 0x83) == 2
    assert lane.drops.counts == {"connector_removed": 2}
    assert owed.done == [receipt]
    assert receipt.codes == {0: 0x83, 1: 0x83}
    assert (lane.queued, lane.inflight) == (0, 0)
