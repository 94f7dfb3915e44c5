"""Sources: from the bytes of a read to the outlets, and what a peer may have unacknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from delivery_peers import TIME, Near, Wire, attach, ids, make_lane, payloads, send

from isthmus.delivery import source as source_module
from isthmus.delivery.outlet import KEEP, LaneOutlet, Outlet
from isthmus.delivery.plan import Plan
from isthmus.delivery.receipt import Receipt
from isthmus.delivery.ring_watch import RingWatch
from isthmus.delivery.source import OVERRUN, LinkPlans
from isthmus.errors import LocalProtocolError, MQTTError
from isthmus.mqtt.packets import Pingreq
from raw import PUBACK, PUBCOMP, PUBREC, PUBREL, ack_packet, packet, publish_packet


class Note(Outlet):
    """Notes what comes; holds QoS 1 and 2 if told to."""

    def __init__(self, *, holds: bool = False, retains: bool = False) -> None:
        super().__init__(retains=retains)
        self.holds = holds
        self.got: list[tuple[int, bytes, bytes]] = []
        self.held: list[Receipt] = []

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        self.got.append((flags, properties, payload))
        if receipt is not None and self.holds:
            receipt.holds += 1
            self.held.append(receipt)

    @property
    def payloads(self) -> list[str]:
        return [payload.decode() for _, _, payload in self.got]

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self.held.pop(0).release()


def publish(number: int, qos: int = 1, *, topic: str = "t", version: int = 5, **how: Any) -> bytes:
    return publish_packet(topic, str(number), qos, number if qos else 0, version=version, **how)


def many(numbers: range, qos: int = 1, **how: Any) -> bytes:
    return b"".join(publish(number, qos, **how) for number in numbers)


# -- the message path ----------------------------------------------------------------------------


def test_messages_of_a_read_go_out_in_order():
    note = Note()
    near = Near({b"t": [note], b"u": [note]})
    near.send(publish(1, 0), publish(2, 1), publish(3, 2), publish(4, 0, topic="u"), publish(5, 1))
    assert note.payloads == ["1", "2", "3", "4", "5"]
    assert near.received == 5
    assert near.asked == [b"t", b"u"], "asked once per topic"


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("dup", [False, True])
def test_mqtt_3_3_1_3_dup_is_not_passed_on_and_retain_chooses_the_outlets(qos, retain, dup):
    always, retained = Note(), Note(retains=True)
    near = Near({b"t": [always, retained]})
    answers = near.send(publish(1, qos, retain=retain, dup=dup and qos > 0))
    assert [flags for flags, _, _ in always.got] == [qos << 1 | retain]
    assert bool(retained.got) == retain
    assert len(answers) == bool(qos)


def test_properties_pass_as_a_block():
    note = Note()
    near = Near({b"t": [note]})
    near.send(publish(1, 1, expiry=60, user=[("k", "v")]))
    assert note.got[0][1] == b"\x02\0\0\0\x3c\x26\0\x01k\0\x01v"


def test_a_stale_plan_is_asked_for_again():
    one, two = Note(), Note()
    near = Near({b"t": [one]})
    plans: list[Plan] = []
    known: list[bool] = []
    near_find = Near.find_plan

    class Asking(Near):
        def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
            known.append(allowed)
            plans.append(near_find(self, topic, allowed=allowed))
            return plans[-1]

    near = Asking({b"t": [one]})
    near.send(publish(1))
    plans[0].expire()
    near.outlets[b"t"] = [two]
    near.send(publish(2), publish(3))
    assert (one.payloads, two.payloads) == (["1"], ["2", "3"])
    assert near.asked == [b"t", b"t"]
    assert known == [False, True]  # the right to publish need not be asked for again


def test_a_half_packet_waits_for_its_rest():
    note = Note()
    near = Near({b"t": [note]})
    data = publish(1) + publish(2)
    for at in range(len(data)):
        near.receive(data[at : at + 1])
    assert note.payloads == ["1", "2"]
    assert ids(near.wire.take()) == [1, 2]


def test_what_is_valid_before_an_error_is_delivered():
    note = Note()
    near = Near({b"t": [note]})
    near.send(publish(1, 0), b"\x36\x05\x00\x01t\x00\x01")
    assert note.payloads == ["1"]
    (error,) = near.handled
    assert isinstance(error, MQTTError)


def test_other_packets_are_handled_in_their_place():
    """A subscription counts for what comes behind it in the same read, and not before."""
    note = Note()
    order: list[Any] = []

    class Ordered(Near):
        def handle(self, event: Any) -> None:
            order.append((type(event), len(note.got)))

    near = Ordered({b"t": [note]})
    near.send(publish(1), packet(0xC0), publish(2))
    assert order == [(Pingreq, 1)]
    assert note.payloads == ["1", "2"]


def test_mqtt_2_2_1_acknowledgements_reach_the_lane_whatever_their_form():
    lane = make_lane(blocks=False)
    near = Near(lane=lane)
    attach(lane, near.wire)
    for number in range(4):
        send(lane, str(number))
    send(lane, "2", qos=2)
    sent = near.wire.take()
    near.send(
        ack_packet(PUBACK, sent[0].packet_id),
        ack_packet(PUBACK, sent[1].packet_id),
        ack_packet(PUBACK, sent[2].packet_id, 0x10),
        ack_packet(PUBACK, sent[3].packet_id, 0x87),
    )
    assert lane.inflight == 1
    assert lane.refused == 1
    assert [p.kind for p in near.send(ack_packet(PUBREC, sent[4].packet_id))] == [PUBREL]
    near.send(ack_packet(PUBCOMP, sent[4].packet_id))
    assert lane.inflight == 0


def test_a_wrong_acknowledgement_is_answered_like_any_other_error():
    """PUBACK for a QoS 2 message: 0x82, by the way that all protocol errors go."""
    lane = make_lane(blocks=False)
    near = Near(lane=lane)
    attach(lane, near.wire)
    send(lane, "1", qos=2)
    (sent,) = near.wire.take()
    near.send(ack_packet(PUBACK, sent.packet_id))
    (error,) = near.handled
    assert isinstance(error, MQTTError)
    assert error.reason == 0x82


# -- hold and unhold -----------------------------------------------------------------------------


class Slow(Near):
    """Stops at PINGREQ, as a client does at CONNECT while its password is checked."""

    def handle(self, event: Any) -> None:
        self.handled.append(event)
        if isinstance(event, Pingreq):
            self.hold()


def test_what_is_held_comes_in_order_and_once():
    note = Note()
    near = Slow({b"t": [note]})
    ping = packet(0xC0)
    answers = near.send(publish(1), ping, publish(2), ping, publish(3))
    assert note.payloads == ["1"]
    assert ids(answers) == [1]
    assert near.wire.paused
    near.unhold()
    assert note.payloads == ["1", "2"]
    assert near.wire.paused
    near.unhold()
    assert note.payloads == ["1", "2", "3"]
    assert not near.wire.paused
    near.unhold()
    assert ids(near.wire.take()) == [2, 3]


def test_what_is_held_ends_with_the_connection():
    note = Note()
    near = Slow({b"t": [note]})
    near.send(packet(0xC0), publish(1))
    near.end()
    near.unhold()
    assert note.got == []


class Laborious(Near):
    """Needs a millisecond for each packet that is no message."""

    def handle(self, event: Any) -> None:
        TIME.pass_(0.001)
        super().handle(event)

    def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
        TIME.pass_(0.001)
        return super().find_plan(topic, allowed=allowed)


def test_a_read_with_much_work_lets_others_have_their_turn():
    note = Note()
    near = Laborious({b"t": [note]})
    ping = packet(0xC0)
    near.receive(b"".join([ping * 100, publish(1), ping * 100, publish(2)]))
    turns = 1
    assert len(near.handled) < 50
    assert near.wire.paused
    near.receive(publish(3))
    while near.wire.reactor.soon:
        before = len(near.handled)
        near.wire.reactor.soon.pop()()
        assert len(near.handled) < before + 50
        turns += 1
    assert turns > 4
    assert len(near.handled) == 200
    assert note.payloads == ["1", "2", "3"]
    assert not near.wire.paused
    assert ids(near.wire.take()) == [1, 2, 3]


def test_new_topics_count_as_work_and_a_pause_outlasts_it():
    near = Laborious()
    near.receive(b"".join(publish(0, 0, topic=f"t{number}") for number in range(100)))
    assert len(near.asked) < 50
    near.paused = True
    while near.wire.reactor.soon:
        near.wire.reactor.soon.pop()()
    assert len(near.asked) == 100
    assert near.received == 100
    assert near.wire.paused


class Looks(RingWatch):
    """Notes how much each look saw."""

    def __init__(self) -> None:
        super().__init__("far")
        self.seen: list[int] = []

    def look(self, events: list[Any], now: float) -> None:
        self.seen.append(len(events))


def test_a_read_is_looked_at_once_for_rings_however_often_it_is_put_off():
    near = Laborious()
    near.ring_watch = looks = Looks()
    near.receive(b"".join(publish(0, 0, topic=f"t{number}") for number in range(100)))
    near.receive(publish(0, 0) + publish(0, 0))  # while the first is put off
    turns = 0
    while near.wire.reactor.soon:
        near.wire.reactor.soon.pop()()
        turns += 1
    assert turns > 2
    assert near.received == 102
    assert looks.seen == [100, 2]


def test_an_error_in_what_was_put_off_closes_the_connection(caplog):
    class Broken(Laborious):
        def handle(self, event: Any) -> None:
            super().handle(event)
            if len(self.handled) == 60:
                raise RuntimeError("a defect")

    near = Broken()
    near.receive(packet(0xC0) * 100)
    while near.wire.reactor.soon:
        near.wire.reactor.soon.pop()()
    assert near.closed
    assert "a defect" in caplog.text
    assert len(near.handled) == 60


# -- flow control --------------------------------------------------------------------------------


def test_mqtt_3_3_4_9_more_than_the_receive_maximum_closes_in_v5():
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=3)
    near.send(many(range(1, 4)))
    assert near.excess == 0
    near.send(publish(4))
    assert near.excess == 1


def test_acknowledged_messages_do_not_count():
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=3)
    for start in range(1, 30, 3):
        near.send(many(range(start, start + 3)))
        note.release(3)
    assert near.excess == 0
    assert near.unacked == 0


def test_what_is_safe_at_once_does_not_count():
    near = Near({b"t": [Note()]}, max_unacked=3)
    assert len(near.send(many(range(1, 50)))) == 49
    assert near.excess == 0


@pytest.mark.parametrize("version", [4, 5])
def test_what_waits_behind_another_message_counts(version):
    """Each of these is safe, and none is acknowledged: a list that grows with every message."""
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=3, version=version)
    near.send(publish(1, version=version))
    for number in range(2, 100):
        if near.wire.paused or near.closed:
            break
        near.send(publish(number, topic="local", version=version))
    assert near.wire.paused or near.excess
    assert near.unacked <= 5


def test_mqtt_3_3_4_9_qos_2_counts_until_pubrel():
    near = Near({b"t": [Note()]}, max_unacked=3)
    near.send(many(range(1, 4), 2))
    assert near.excess == 0
    near.send(ack_packet(PUBREL, 2), publish(4, 2))
    assert near.excess == 0
    near.send(publish(5, 2))
    assert near.excess == 1


def test_a_qos_2_message_beyond_the_limit_is_new_on_the_next_connection():
    """It was not delivered: its identifier must not be known as received."""
    note = Note()
    near = Near({b"t": [note]}, max_unacked=2)
    near.send(many(range(1, 4), 2))
    assert near.excess == 1
    assert note.payloads == ["1", "2"]
    after = Near({b"t": [note]}, max_unacked=2)
    after.received_qos2 = near.received_qos2
    after.send(ack_packet(PUBREL, 1), ack_packet(PUBREL, 2))
    assert ids(after.send(publish(3, 2, dup=True)), PUBREC) == [3]
    assert note.payloads == ["1", "2", "3"]


def test_nothing_behind_what_closed_the_connection_is_delivered():
    """The receive maximum is exceeded in the middle of a read."""
    note = Note(holds=True)
    total = LinkPlans.total
    near = Near({b"t": [note]}, max_unacked=2)
    near.send(many(range(1, 4)), publish(4, 2), publish(5, 0), publish(6, 0, topic="new"))
    assert near.excess == 1
    assert note.payloads == ["1", "2", "3"]
    assert LinkPlans.total == total
    assert not near.received_qos2


@pytest.mark.parametrize("version", [3, 4])
def test_a_pure_publisher_of_mqtt_3_is_paused_until_half_is_acknowledged(version):
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=4, version=version)
    for number in range(1, 5):
        near.send(publish(number, version=version))
    assert not near.wire.paused
    near.send(publish(5, version=version))
    assert near.wire.paused
    near.send(publish(6, version=version))  # was on its way already
    paused = []
    while near.unacked:
        note.release()
        paused.append((near.unacked, near.wire.paused))
    assert paused == [(5, True), (4, True), (3, True), (2, False), (1, False), (0, False)]
    assert (near.wire.pauses, near.wire.resumes, near.excess) == (1, 1, 0)


def test_an_mqtt_3_link_that_subscribes_is_never_paused_and_closed_far_beyond_the_limit():
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=4, version=4, pausable=False)
    near.send(many(range(1, 4 * OVERRUN + 1), version=4))
    assert (near.wire.pauses, near.excess) == (0, 0)
    near.send(publish(99, version=4))
    assert (near.wire.pauses, near.excess) == (0, 1)


def test_a_v5_link_is_not_paused():
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=4)
    near.send(many(range(1, 9)))
    assert near.wire.pauses == 0


def test_a_paused_link_that_is_read_for_a_moment_is_paused_again():
    """Keep alive has to be looked at now and then."""
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=2, version=4)
    near.send(many(range(1, 4), version=4))
    near.go_on()
    assert not near.wire.paused
    near.send(publish(4, version=4))
    assert near.wire.paused
    note.release(4)
    assert not near.wire.paused


def test_a_link_that_ended_while_it_was_paused_is_not_read_again():
    note = Note(holds=True)
    near = Near({b"t": [note]}, max_unacked=2, version=4)
    near.send(many(range(1, 4), version=4))
    near.end()
    note.release(3)
    near.go_on()
    assert near.wire.resumes == 0


def test_acknowledgements_and_pubrel_go_on_while_messages_wait():
    """Two links that wait for each other's acknowledgements must not stop each other."""
    one, other = make_lane(), make_lane()
    left = Near({b"t": [LaneOutlet(other, b"t", KEEP, memory=False)]}, version=4, lane=one)
    right = Near({b"t": [LaneOutlet(one, b"t", KEEP, memory=False)]}, version=4, lane=other)
    left.pausable = right.pausable = False
    attach(one, left.wire, v5=False, receive_maximum=5)
    attach(other, right.wire, v5=False, receive_maximum=5)
    left.receive(many(range(1, 51), version=4))
    right.receive(many(range(1, 51), version=4))
    got: dict[Near, list[str]] = {left: [], right: []}
    acknowledged: dict[Near, list[int]] = {left: [], right: []}
    for _ in range(100):
        for near in (left, right):
            packets = near.wire.take(4)
            got[near] += payloads(packets)
            acknowledged[near] += ids(packets)
            for found in packets:
                if found.qos and found.kind == 3:
                    near.receive(ack_packet(PUBACK, found.packet_id))
    for near in (left, right):
        assert got[near] == [str(number) for number in range(1, 51)]
        assert acknowledged[near] == list(range(1, 51))


# -- the plans of links --------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans per link, small enough to count."""
    monkeypatch.setattr(source_module, "PLANS_PER_LINK", 10)
    monkeypatch.setattr(source_module, "PLANS_PER_CROWDED_LINK", 3)
    before = LinkPlans.total
    yield
    assert LinkPlans.total == before, "a link that has ended remembers nothing"


def known(near: Near) -> int:
    return len(near._plans) + len(near._old_plans or ())


def topics(*numbers: int) -> bytes:
    return b"".join(publish(1, 0, topic=f"topic/{number}") for number in numbers)


@pytest.mark.usefixtures("small")
def test_random_topics_do_not_grow_a_link():
    before = LinkPlans.total
    near = Near()
    for number in range(200):
        near.send(topics(number, number % 7))
        assert known(near) <= 20
        assert LinkPlans.total - before == known(near)
    near.end()


@pytest.mark.usefixtures("small")
def test_topics_in_use_are_not_asked_for_again():
    near = Near()
    for number in range(100):
        near.send(topics(0, 1, 2, 100 + number))
    assert near.asked.count(b"topic/0") == 1
    near.end()


@pytest.mark.usefixtures("small")
def test_topics_that_are_used_again_and_again_do_not_grow_a_link():
    near = Near()
    for number in range(60):
        near.send(topics(*range(number)))
        assert known(near) <= 21
    near.end()


@pytest.mark.usefixtures("small")
def test_many_links_together_are_bounded(monkeypatch):
    monkeypatch.setattr(source_module, "LINK_PLANS_IN_ALL", LinkPlans.total + 40)
    links = [Near() for _ in range(30)]
    before = LinkPlans.total
    for near in links:
        near.send(topics(*range(50)))
    assert LinkPlans.total - before <= 40 + 20 + 6 * len(links)
    assert sum(known(near) for near in links[10:]) <= 6 * 20
    for near in links:
        near.end()


@pytest.mark.usefixtures("small")
def test_stale_plans_are_counted_once():
    before = LinkPlans.total
    near = Near()

    class Stale(Near):
        def find_plan(self, topic: bytes, *, allowed: bool) -> Plan:
            plan = super().find_plan(topic, allowed=allowed)
            plan.expire()
            return plan

    near = Stale()
    for number in range(50):
        near.send(topics(number % 13, number % 13))
        assert LinkPlans.total - before == known(near)
    near.forget_plans()
    assert LinkPlans.total == before
    assert known(near) == 0
    near.end()


@pytest.mark.usefixtures("small")
def test_forgotten_plans_are_asked_for_again():
    near = Near()
    near.send(topics(1, 1))
    near.forget_plans()
    near.send(topics(1))
    assert near.asked == [b"topic/1", b"topic/1"]
    near.end()


@pytest.mark.usefixtures("small")
def test_plans_forgotten_in_the_middle_of_a_read_are_not_used_behind_it():
    """Rights that change with a packet count for what comes after it."""

    class Changing(Near):
        def handle(self, event: Any) -> None:
            self.forget_plans()

    near = Changing()
    near.send(topics(1), packet(0xC0), topics(1))
    assert near.asked == [b"topic/1", b"topic/1"]
    near.end()


def test_a_wire_is_a_link():
    """The doubles here stand in for the real thing; compiled, nothing else would be taken."""
    wire = Wire()
    wire.write(publish_packet("t", "1"))
    assert payloads(wire.take()) == ["1"]


@pytest.mark.parametrize("kind", [PUBACK, PUBREC])
def test_what_came_before_a_wrong_acknowledgement_in_the_same_read_is_answered(kind):
    """The messages before it have gone to all of their outlets."""
    lane = make_lane()
    wire = attach(lane)
    send(lane, "out", qos=2 if kind == PUBACK else 1)
    (sent,) = wire.take()
    note = Note()
    near = Near({b"t": [note]}, lane=lane)
    answers = near.send(publish(1), publish(2), ack_packet(kind, sent.packet_id), publish(3))
    assert note.payloads == ["1", "2"]
    assert ids(answers) == [1, 2]
    assert (near.received, near.traffic.received, near.traffic.packets_received) == (2, 2, 3)
    (error,) = near.handled
    assert isinstance(error, MQTTError)
    assert near.unacked == 0


class Broken(Note):
    """Has no room for a message of QoS 1 or 2."""

    def send(self, *what: Any) -> None:
        raise LocalProtocolError("no identifier is free", 0x97)


def test_a_message_that_cannot_go_to_all_of_its_outlets_is_not_answered():
    near = Near({b"t": [Note()], b"u": [Note(), Broken()]})
    assert near.send(publish(1), publish(2, topic="u")) == []
    assert near.received == 2


def test_a_qos_2_message_that_could_not_go_to_all_of_its_outlets_is_new_on_the_next_connection():
    """Else its receipt would wait for the first one for ever, and hold up all that come after."""
    first = Note(holds=True)
    near = Near({b"t": [first, Broken()]})
    assert near.send(publish(1, 2)) == []
    near.end()
    first.release()
    note = Note()
    after = Near({b"t": [note]})
    after.received_qos2 = near.received_qos2
    answers = after.send(publish(1, 2, dup=True), publish(2))
    assert note.payloads == ["1", "2"]
    assert (ids(answers, PUBREC), ids(answers)) == ([1], [2])
