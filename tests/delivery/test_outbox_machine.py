"""The promise over crashes: the machine of `test_promise_machine` with an outbox and a disk.

The writer begins and ends when the dice say so; the process dies between any two steps, with the
last transaction on disk or not. A publisher is acknowledged only for what the far side or the disk
has, and what the disk has arrives.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from delivery_peers import TIME, make_lane
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from stepped_store import SteppedStore, Timers, new_disk
from test_promise_machine import (
    REACTOR,
    FarSide,
    PromiseMachine,
    Publisher,
    connections,
    steps,
)

from isthmus.delivery.lane import Lane
from isthmus.delivery.logged_ids import FIRST_ID, PeerSession
from isthmus.delivery.outbox import Outbox
from isthmus.delivery.queue_limits import QueueLimits


class OutboxMachine(PromiseMachine):
    """See the head of this file."""

    @initialize(version=st.sampled_from([4, 5]), window=st.integers(1, 5), first=connections)
    def start(self, version: int, window: int, first: dict[str, Any]) -> None:
        self.window = window
        self.crashes = 0
        self.crossed: set[str] = set()
        self.store = SteppedStore(new_disk())
        self.lane = self.new_lane()
        self.far = FarSide(self.lane)
        if self.old_session:
            ids = [*range(1, 1000), *range(FIRST_ID, FIRST_ID + 3000)]
            self.far.received = dict.fromkeys(ids, "before")
        self.publisher = Publisher(self.lane, version)
        self.connect_far(**{**first, "present": self.old_session})

    def new_lane(self) -> Lane:
        self.timers = Timers()
        lane = make_lane(max_inflight=self.window)
        self.outbox = Outbox(
            lane,
            self.store.log("outbox"),
            self.timers,  # type: ignore[arg-type]
            spill_after_s=0.02,
            limits=QueueLimits(max_bytes=self.max_bytes),
        )
        return lane

    max_bytes = 1 << 30
    old_session = False

    # -- the disk --------------------------------------------------------------------------------

    @rule()
    def the_writer_begins(self) -> None:
        self.store.begin()

    @rule()
    def the_writer_is_done(self) -> None:
        self.store.finish()

    @rule(fail=st.booleans())
    def something_is_loaded(self, fail: bool) -> None:
        self.store.serve(fail=fail)

    @rule(seconds=st.sampled_from([0.01, 0.02, 0.5, 2.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        TIME.pass_(seconds, REACTOR)
        self.timers.fire()

    @rule(arrived=st.floats(0, 1), written=st.booleans())
    def the_process_dies_and_starts_again(self, arrived: float, written: bool) -> None:
        if self.far_up():
            self.far.cut(arrived)
        # What a publisher had sent and what was not acknowledged, it sends again. That a QoS 2
        # message was received is not kept on disk here: it comes twice then.
        self.crossed |= {payload for _, payload, _ in self.publisher.inflight.values()}
        self.publisher.cut()
        self.publisher.qos2 = None
        self.store = self.store.crash(written=written)
        self.crashes += 1
        self.lane = self.far.lane = self.publisher.lane = self.new_lane()
        self.publisher.connect()

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        if hasattr(self, "far"):
            refused = {payload for payload, _ in self.far.refused}
            missing = set(self.publisher.acknowledged) - set(self.far.taken) - refused
            if missing:
                missing -= set(self.store.kept())
            assert not missing

    @invariant()
    def qos_2_comes_once_while_the_sessions_live(self) -> None:
        if (
            hasattr(self, "far")
            and self.far.sessions_lost <= 1
            and self.outbox.log.begun != PeerSession.OLD  # there it comes at least once
        ):
            # One whose identifier was not taken goes by another, which a crash forgets.
            renamed = {payload for payload, code in self.far.refused if code == 0x91}
            once = [
                payload
                for payload in self.far.taken
                if self.sent[payload][1] == 2 and payload not in self.crossed | renamed
            ]
            assert len(once) == len(set(once))

    @invariant()
    def what_is_counted_is_true(self) -> None:
        if hasattr(self, "far"):
            lane = self.lane
            assert lane.inflight <= lane.max_inflight
            assert lane.waiting or not lane.queued
            assert lane.queued >= 0

    @invariant()
    def what_a_crash_would_repeat_is_bounded(self) -> None:
        if hasattr(self, "far") and self.outbox.logged:
            assert self.lane.inflight + self.outbox.unrecorded <= 2 * self.window

    @precondition(lambda self: hasattr(self, "far"))
    @invariant()
    def order_is_kept_per_topic(self) -> None:
        """As in memory; but what a crash made the publisher send again may come later."""
        seen = self.far.seen
        self.far.seen = [found for found in seen if found[1] not in self.crossed]
        try:
            super().order_is_kept_per_topic()
        finally:
            self.far.seen = seen

    # -- the end ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Everything heals: whatever was published comes to its end, and nothing stays behind."""
        if self.far_up():
            self.far.cut(0)
        self.connect_far(version=5, present=True, receive_maximum=100)
        for again in range(2):
            for _ in range(4 * self.publisher.publishes + 20):
                self.far.read()
                while self.far.owing:
                    self.answer(0, 0)
                self.publisher.read()
                self.store.begin()
                self.store.finish()
                self.store.serve()
                self.time_passes(0.02)
                self.time_passes(31)
            if not again:
                # A publisher with MQTT 3 was told nothing of what was refused.
                self.publisher.cut()
                self.publisher.connect()
        assert not self.publisher.inflight, "messages without an end"
        assert not self.publisher.releasing
        assert (self.lane.inflight, self.lane.queued) == (0, 0)
        assert self.publisher.near is not None
        assert self.publisher.near.unacked == 0
        assert not self.store.kept()
        assert not self.store.disk.execute("SELECT count(*) FROM batches").fetchone()[0]
        assert not self.outbox.logged, "the log is never left"
        for check in CHECKS:
            check(self)


CHECKS = [
    OutboxMachine.nothing_acknowledged_is_lost,
    OutboxMachine.a_refusal_was_the_far_sides,
    OutboxMachine.nothing_is_invented,
    OutboxMachine.qos_2_comes_once_while_the_sessions_live,
    OutboxMachine.order_is_kept_per_topic,
    OutboxMachine.what_is_counted_is_true,
    OutboxMachine.what_a_crash_would_repeat_is_bounded,
]

TestOutboxPromise = OutboxMachine.TestCase
TestOutboxPromise.settings = settings(max_examples=100, stateful_step_count=40)


def durable_steps(
    machine: OutboxMachine, dice: random.Random
) -> list[tuple[int, Callable[[], None]]]:
    """What may happen next, and how often."""
    return [
        *steps(machine, dice),
        (20, machine.the_writer_begins),
        (20, machine.the_writer_is_done),
        (8, lambda: machine.something_is_loaded(fail=dice.random() < 0.2)),
        (8, lambda: machine.time_passes(0.01)),
        (
            2,
            lambda: machine.the_process_dies_and_starts_again(
                arrived=dice.random(), written=dice.random() < 0.5
            ),
        ),
    ]


def live(seed: int, present: float, monkeypatch, *, old_session: bool = False) -> None:
    """300 steps, and then all heals."""
    dice = random.Random(f"{seed} {present}")
    machine = OutboxMachine()
    machine.present = present
    machine.old_session = old_session
    if seed % 3 == 0:
        # Hardly anything stays in memory.
        monkeypatch.setattr("isthmus.delivery.backlog.MEMORY_BYTES", 60)
    if seed % 4 == 1:
        machine.max_bytes = 200
    first = {"version": 5, "present": False, "receive_maximum": dice.randrange(1, 7)}
    machine.start(version=dice.choice([4, 5]), window=dice.randrange(1, 6), first=first)
    for _ in range(300):
        choices = durable_steps(machine, dice)
        (step,) = dice.choices([what for _, what in choices], [often for often, _ in choices])
        step()
        for check in CHECKS:
            check(machine)
    assert machine.far.taken
    machine.teardown()


@pytest.mark.parametrize("present", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_the_promise_over_crashes(seed, present, monkeypatch):
    live(seed, present, monkeypatch)


@pytest.mark.parametrize("seed", range(12))
def test_the_promise_to_a_session_that_holds_every_identifier_from_before(seed, monkeypatch):
    live(seed, 1.0, monkeypatch, old_session=True)
