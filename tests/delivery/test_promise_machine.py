"""The promise, driven at random: publisher -> source -> lane -> far side, with cuts everywhere.

A publisher and a far broker are played by the book: both keep their sessions over lost connections,
resend what they owe, and check what they see. Between them is the code under test. Every message
has a payload of its own, so that it can be followed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from delivery_peers import TIME, Near, Reactor, Wire, attach, make_lane
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isthmus import clock
from isthmus.delivery.lane import Lane
from isthmus.delivery.outlet import KEEP, LaneOutlet
from raw import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, ack_packet, publish_packet

RETRIED = [0x80, 0x83, 0x97]
FINAL = [0x87, 0x90, 0x99]
TOPICS = ["a", "b"]


class Publisher:
    """A client with a session. `acknowledged` are the payloads that it need not keep any longer.

    `publishes` counts what it sent, repetitions too: all of it goes through the lane.
    """

    def __init__(self, lane: Lane, version: int) -> None:
        self.lane = lane
        self.version = version
        self.inflight: dict[int, tuple[str, str, int]] = {}
        self.releasing: list[int] = []
        self.acknowledged: list[str] = []
        self.refused: dict[str, int] = {}
        self.publishes = 0
        self.near: Near | None = None
        self.qos2: Any = None
        self._next = 0
        self._inbox: list[Packet] = []
        self.connect()

    def connect(self) -> None:
        plans = {
            topic.encode(): [LaneOutlet(self.lane, topic.encode(), KEEP, memory=False)]
            for topic in TOPICS
        }
        self.near = Near(plans, version=self.version, max_unacked=1000)
        self.near.received_qos2 = self.qos2
        self.publishes += len(self.inflight)
        data = [
            publish_packet(topic, payload, qos, packet_id, dup=True, version=self.version)
            for packet_id, (topic, payload, qos) in self.inflight.items()
        ]
        data += [ack_packet(PUBREL, packet_id) for packet_id in self.releasing]
        if data:
            self.near.receive(b"".join(data))

    def cut(self) -> None:
        assert self.near is not None
        self.qos2 = self.near.received_qos2
        self.near.end()
        self.near = None
        self._inbox = []

    def publish(self, messages: list[tuple[str, str, int]]) -> None:
        assert self.near is not None
        self.publishes += len(messages)
        data = []
        for topic, payload, qos in messages:
            packet_id = 0
            if qos:
                self._next = self._next % 65_535 + 1
                packet_id = self._next
                self.inflight[packet_id] = (topic, payload, qos)
            data.append(publish_packet(topic, payload, qos, packet_id, version=self.version))
        self.near.receive(b"".join(data))

    def read(self) -> None:
        """Take what was answered, and answer it."""
        assert self.near is not None
        owed = list(self.inflight)
        for packet in self.near.wire.take(self.version):
            packet_id = packet.packet_id
            if packet.kind in (PUBACK, PUBREC):
                if packet_id not in self.inflight:
                    assert packet.kind == PUBREC, "PUBACK twice"
                    assert packet_id in self.releasing, "PUBREC for nothing"
                    continue
                if self.version == 5:
                    assert owed[0] == packet_id, "acknowledgements are not in order"
                    owed.pop(0)
                _, payload, qos = self.inflight.pop(packet_id)
                assert packet.kind == (PUBACK if qos == 1 else PUBREC)
                if packet.code >= 0x80:
                    self.refused[payload] = packet.code
                    continue
                self.acknowledged.append(payload)
                if qos == 2:
                    self.releasing.append(packet_id)
                    self.near.receive(ack_packet(PUBREL, packet_id))
            elif packet.kind == PUBCOMP:
                self.releasing.remove(packet_id)
            else:
                raise AssertionError(f"a publisher got {packet}")


class FarSide:
    """A broker. `taken` are the payloads that it owns, in order of arrival, with repetitions."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.wire: Wire | None = None
        self.version = 5
        self.receive_maximum = 0
        self.seen: list[tuple[str, str, int]] = []
        self.taken: list[str] = []
        self.refused: list[tuple[str, int]] = []
        # What is in flight on this connection, in order: kind to answer with, identifier, payload.
        self.owing: list[tuple[int, int, str]] = []
        self.received: dict[int, str] = {}
        self.sessions_lost = 0
        self.near: Near | None = None

    def connect(self, *, version: int, present: bool, receive_maximum: int) -> None:
        self.version = version
        self.receive_maximum = receive_maximum
        self.owing = []
        if not present:
            self.received = {}
            self.sessions_lost += 1
        # The far side's packets come through a source, which decodes them for the lane.
        self.near = Near(version=version, lane=self.lane, max_unacked=1000)
        self.wire = self.near.wire
        self.wire.reactor = REACTOR
        attach(
            self.lane,
            self.wire,
            v5=version == 5,
            session_present=present,
            receive_maximum=receive_maximum,
        )

    def cut(self, arrived: float) -> None:
        """Lose the connection; a part of what was sent still arrives."""
        assert self.wire is not None
        assert self.near is not None
        packets = self.wire.take(self.version)
        self.arrive(packets[: int(len(packets) * arrived)])
        self.near.end()
        self.lane.detach()
        self.near = self.wire = None

    def read(self) -> None:
        assert self.wire is not None
        self.arrive(self.wire.take(self.version))

    def arrive(self, packets: list[Packet]) -> None:
        for packet in packets:
            if packet.kind == PUBREL:
                self.received.pop(packet.packet_id, None)
                # Else an identifier is freed that this side may have held, before it is used.
                known = packet.packet_id.to_bytes(2, "big") in self.lane.window.releasing
                self.owing.append((PUBCOMP, packet.packet_id, "" if known else "unknown"))
                continue
            assert packet.kind == PUBLISH
            payload = packet.payload.decode()
            self.seen.append((packet.topic, payload, packet.qos))
            if not packet.qos:
                self.taken.append(payload)
                continue
            in_use = [packet_id for _, packet_id, what in self.owing if what != "unknown"]
            assert packet.packet_id not in in_use, "an identifier in use"
            self.owing.append((PUBACK if packet.qos == 1 else PUBREC, packet.packet_id, payload))
            outstanding = {packet_id for _, packet_id, _ in self.owing} | self.awaiting_pubrel()
            assert len(outstanding) <= self.receive_maximum, "more than the receive maximum"

    def awaiting_pubrel(self) -> set[int]:
        """Identifiers that PUBREC was sent for on this connection and no PUBREL came yet."""
        return set(self.received) & self.recorded_now

    recorded_now: set[int] = set()

    def answer(self, number: int, code: int) -> None:
        assert self.near is not None
        kind, packet_id, payload = self.owing.pop(number)
        if kind == PUBCOMP:
            self.near.receive(ack_packet(PUBCOMP, packet_id))
            return
        if kind == PUBREC and packet_id in self.received:
            code = 0  # a repetition of what it owns
            assert self.received[packet_id] == payload, "an identifier means two messages"
        elif code >= 0x80:
            self.refused.append((payload, code))
        else:
            self.taken.append(payload)
            if kind == PUBREC:
                self.received[packet_id] = payload
        self.near.receive(ack_packet(kind, packet_id, code if self.version == 5 else None))


REACTOR = Reactor()

batches = st.lists(
    st.tuples(st.sampled_from(TOPICS), st.sampled_from([1, 2, 0])), min_size=1, max_size=4
)
CODES = [0, 0, 0, 0x10, 0x91, *RETRIED, *FINAL]
codes = st.sampled_from(CODES)
answers = st.lists(st.tuples(st.integers(0, 9), codes), max_size=5)
connections = st.fixed_dictionaries(
    {
        "version": st.sampled_from([5, 5, 4]),
        "present": st.booleans(),
        "receive_maximum": st.integers(1, 6),
    }
)


class PromiseMachine(RuleBasedStateMachine):
    """See the head of this file."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(clock, "monotonic", TIME)
        self.count = 0
        self.present = 0.5
        self.sent: dict[str, tuple[str, int]] = {}

    @initialize(version=st.sampled_from([4, 5]), window=st.integers(1, 5), first=connections)
    def start(self, version: int, window: int, first: dict[str, Any]) -> None:
        self.lane = make_lane(max_inflight=window)
        self.far = FarSide(self.lane)
        self.publisher = Publisher(self.lane, version)
        self.connect_far(**{**first, "present": False})

    def teardown(self) -> None:
        try:
            if hasattr(self, "far"):
                self.settle()
        finally:
            self.patch.undo()

    # -- the publisher ---------------------------------------------------------------------------

    @rule(messages=batches)
    def publish(self, messages: list[tuple[str, int]]) -> None:
        batch = []
        for topic, qos in messages:
            self.count += 1
            payload = str(self.count)
            self.sent[payload] = (topic, qos)
            batch.append((topic, payload, qos))
        self.publisher.publish(batch)

    @rule()
    def publisher_reads(self) -> None:
        self.publisher.read()

    @rule(reads_first=st.booleans(), meanwhile=answers)
    def publisher_is_cut_and_returns(
        self, reads_first: bool, meanwhile: list[tuple[int, int]]
    ) -> None:
        if reads_first:
            self.publisher.read()
        self.publisher.cut()
        if meanwhile and self.far_up():
            self.far_answers(meanwhile)
        self.publisher.connect()

    # -- the far side ----------------------------------------------------------------------------

    def far_up(self) -> bool:
        return self.far.near is not None

    def connect_far(self, version: int, present: bool, receive_maximum: int) -> None:
        self.far.recorded_now = set()
        self.far.connect(version=version, present=present, receive_maximum=receive_maximum)

    @precondition(lambda self: not self.far_up())
    @rule(how=connections)
    def far_connects(self, how: dict[str, Any]) -> None:
        self.connect_far(**how)

    @precondition(far_up)
    @rule(arrived=st.floats(0, 1))
    def far_is_cut(self, arrived: float) -> None:
        self.far.cut(arrived)

    @precondition(far_up)
    @rule(arrived=st.floats(0, 1), how=connections)
    def far_is_cut_and_connects(self, arrived: float, how: dict[str, Any]) -> None:
        self.far.cut(arrived)
        self.connect_far(**how)

    @precondition(far_up)
    @rule(answers=answers)
    def far_answers(self, answers: list[tuple[int, int]]) -> None:
        self.far.read()
        for place, code in answers:
            if self.far.owing:
                number = place % len(self.far.owing)
                self.answer(number, code if self.far.version == 5 else 0)

    @precondition(far_up)
    @rule(places=st.lists(st.integers(0, 9), min_size=1, max_size=9))
    def far_takes_everything(self, places: list[int]) -> None:
        for number in range(100):
            self.far.read()
            if not self.far.owing:
                break
            self.answer(places[number % len(places)] % len(self.far.owing), 0)
        self.publisher.read()

    def answer(self, number: int, code: int) -> None:
        kind, packet_id, _ = self.far.owing[number]
        if kind == PUBREC and code < 0x80:
            self.far.recorded_now = self.far.recorded_now | {packet_id}
        if kind == PUBCOMP:
            self.far.recorded_now = self.far.recorded_now - {packet_id}
        self.far.answer(number, code)

    @rule(seconds=st.sampled_from([0.5, 2.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        TIME.pass_(seconds, REACTOR)

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        if hasattr(self, "far"):
            assert set(self.publisher.acknowledged) <= set(self.far.taken)

    @invariant()
    def a_refusal_was_the_far_sides(self) -> None:
        if hasattr(self, "far"):
            for payload, code in self.publisher.refused.items():
                assert (payload, code) in self.far.refused

    @invariant()
    def nothing_is_invented(self) -> None:
        if hasattr(self, "far"):
            for topic, payload, qos in self.far.seen:
                assert self.sent[payload] == (topic, qos)

    @invariant()
    def qos_0_comes_once_at_most(self) -> None:
        if hasattr(self, "far"):
            once = [payload for _, payload, qos in self.far.seen if not qos]
            assert len(once) == len(set(once))

    @invariant()
    def qos_2_comes_once_while_the_sessions_live(self) -> None:
        if hasattr(self, "far") and self.far.sessions_lost <= 1:
            once = [payload for payload in self.far.taken if self.sent[payload][1] == 2]
            assert len(once) == len(set(once))

    @invariant()
    def order_is_kept_per_topic(self) -> None:
        """First arrivals, of what was never refused: a retry is a new publication."""
        if not hasattr(self, "far"):
            return
        refused = {payload for payload, _ in self.far.refused}
        for topic in TOPICS:
            for levels in ((0,), (1, 2)):
                first = list(
                    dict.fromkeys(
                        payload
                        for where, payload, qos in self.far.seen
                        if where == topic and qos in levels and payload not in refused
                    )
                )
                assert first == sorted(first, key=int)

    @invariant()
    def what_is_counted_is_true(self) -> None:
        if hasattr(self, "far"):
            lane = self.lane
            assert lane.inflight <= lane.max_inflight
            assert lane.waiting or not lane.queued
            assert (lane.queued_bytes > 0) == (lane.queued > 0)

    # -- the end ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Everything heals: whatever was published comes to its end, and nothing stays behind."""
        if self.far_up():
            self.far.cut(0)
        self.connect_far(version=5, present=True, receive_maximum=100)
        for _ in range(4 * self.publisher.publishes + 20):
            self.far.read()
            while self.far.owing:
                self.answer(0, 0)
            self.publisher.read()
            TIME.pass_(31, REACTOR)
        if self.publisher.version < 5:
            # It was told nothing of what was refused; it sends that again when it is back.
            self.publisher.cut()
            self.publisher.connect()
            for _ in range(4 * self.publisher.publishes + 20):
                self.far.read()
                while self.far.owing:
                    self.answer(0, 0)
                self.publisher.read()
        assert not self.publisher.inflight, "messages without an end"
        assert not self.publisher.releasing
        for payload, (_, qos) in self.sent.items():
            if qos:
                assert (payload in self.publisher.acknowledged) != (
                    payload in self.publisher.refused
                )
        assert (self.lane.inflight, self.lane.queued, self.lane.queued_bytes) == (0, 0, 0)
        assert self.publisher.near is not None
        assert self.publisher.near.unacked == 0
        self.nothing_acknowledged_is_lost()
        self.qos_2_comes_once_while_the_sessions_live()
        self.order_is_kept_per_topic()


TestPromise = PromiseMachine.TestCase
TestPromise.settings = settings(max_examples=120, stateful_step_count=40)


def steps(machine: PromiseMachine, dice: random.Random) -> list[tuple[int, Callable[[], None]]]:
    """What may happen next, and how often."""

    def messages() -> list[tuple[str, int]]:
        count = dice.choice([1, 1, 2, 3, 8])
        return [(dice.choice(TOPICS), dice.choice([0, 1, 1, 2, 2])) for _ in range(count)]

    def some() -> list[tuple[int, int]]:
        wanted = CODES if dice.random() < 0.6 else [0]
        return [(dice.randrange(10), dice.choice(wanted)) for _ in range(dice.randrange(1, 7))]

    def connection() -> dict[str, Any]:
        return {
            "version": dice.choice([5, 4]),
            "present": dice.random() < machine.present,
            "receive_maximum": dice.randrange(1, 7),
        }

    def blip() -> None:
        machine.publisher_is_cut_and_returns(
            reads_first=dice.random() < 0.5, meanwhile=some() if dice.random() < 0.5 else []
        )

    always: list[tuple[int, Callable[[], None]]] = [
        (20, lambda: machine.publish(messages())),
        (15, machine.publisher_reads),
        (4, blip),
        (10, lambda: machine.time_passes(dice.choice([0.5, 2.0, 60.0]))),
    ]
    if machine.far_up():
        return [
            *always,
            (40, lambda: machine.far_answers(some())),
            (4, lambda: machine.far_takes_everything([dice.randrange(10) for _ in range(5)])),
            (2, lambda: machine.far_is_cut(dice.random())),
            (8, lambda: machine.far_is_cut_and_connects(dice.random(), connection())),
        ]
    return [*always, (20, lambda: machine.far_connects(connection()))]


@pytest.mark.parametrize("present", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(16))
def test_the_promise_over_a_long_run(seed, present):
    """The same machine with loaded dice: far more happens than hypothesis gets to."""
    dice = random.Random(f"{seed} {present}")
    machine = PromiseMachine()
    machine.present = present
    first = {"version": 5, "present": False, "receive_maximum": dice.randrange(1, 7)}
    machine.start(version=dice.choice([4, 5]), window=dice.randrange(1, 6), first=first)
    for _ in range(300):
        choices = steps(machine, dice)
        (step,) = dice.choices([what for _, what in choices], [often for often, _ in choices])
        step()
        for check in CHECKS:
            check(machine)
    assert len(machine.far.taken) > 50
    machine.teardown()


CHECKS = [
    PromiseMachine.nothing_acknowledged_is_lost,
    PromiseMachine.a_refusal_was_the_far_sides,
    PromiseMachine.nothing_is_invented,
    PromiseMachine.qos_0_comes_once_at_most,
    PromiseMachine.qos_2_comes_once_while_the_sessions_live,
    PromiseMachine.order_is_kept_per_topic,
    PromiseMachine.what_is_counted_is_true,
]
