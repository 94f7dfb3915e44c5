"""The outbox of a lane, on a disk that writes when the test says so."""

from __future__ import annotations

import pytest
from delivery_peers import TIME, Owed, Wire, attach, make_lane, payloads, send, wire_id
from stepped_store import SteppedStore, Timers, new_disk

from isthmus.delivery import backlog, logged_ids
from isthmus.delivery.lane import Lane
from isthmus.delivery.outbox import Outbox
from isthmus.delivery.queue_limits import QueueLimits
from raw import PUBLISH, PUBREL

TIMERS = Timers()
WIDE = QueueLimits(max_bytes=1 << 30)


@pytest.fixture
def store() -> SteppedStore:
    return SteppedStore(new_disk())


def box(
    store: SteppedStore, name: str, *, limits: QueueLimits = WIDE, **how
) -> tuple[Lane, Outbox]:
    lane = make_lane(**how)
    outbox = Outbox(lane, store.log(name), TIMERS, spill_after_s=0.02, limits=limits)  # type: ignore[arg-type]
    return lane, outbox


def commit(store: SteppedStore) -> None:
    for _ in range(2):
        store.begin()
        store.finish()


def tick(seconds: float) -> None:
    TIME.pass_(seconds)
    TIMERS.fire()


def drained(store: SteppedStore, lane: Lane, wire: Wire) -> list[str]:
    """What the peer gets while it acknowledges everything."""
    found = []
    for _ in range(400):
        store.serve()
        packets = wire.take()
        found += payloads(packets)
        ids = [wire_id(packet.packet_id) for packet in packets if packet.kind == PUBLISH]
        if ids:
            lane.acked(ids)
        commit(store)
        tick(0.5)
    return found


def heir(store: SteppedStore, name: str, of: str, **how) -> tuple[Lane, Outbox]:
    """A lane that has taken over what is on disk for another one."""
    lane, outbox = box(store, name, **how)
    gone, _ = box(store, of)
    lane.inherit(gone)
    return lane, outbox


def test_what_waits_for_room_goes_along_when_a_lane_is_gone(store):
    old, outbox = box(store, "old", limits=QueueLimits(max_bytes=100))
    near = Owed()
    for number in range(6):
        receipt = near.receipt()
        send(old, f"{number:040}", receipt=receipt)
        receipt.release()
        commit(store)
    assert (len(near.done), len(outbox.log)) == (3, 3)
    lane, _ = box(store, "new")
    lane.inherit(old)
    wire = attach(lane)
    assert drained(store, lane, wire) == [f"{number:040}" for number in range(6)]
    assert len(near.done) == 6
    assert list(store.logs) == ["new"]


def test_nothing_new_overtakes_what_a_lane_that_is_gone_has_left(store):
    old, _ = box(store, "old")
    for number in range(3000):
        send(old, f"{number:04}" + "x" * 500)
        if number % 100 == 0:
            commit(store)
    commit(store)
    store = store.crash(written=True)
    lane, _ = heir(store, "new", "old")
    wire = attach(lane)
    commit(store)
    store.serve()
    send(lane, "9999")
    found = [int(payload[:4]) for payload in drained(store, lane, wire)]
    assert found == [*range(3000), 9999]


def test_a_lane_of_another_kind_goes_on_with_what_others_have_left(store):
    old, _ = box(store, "old")
    send(old, "old")
    commit(store)
    store = store.crash(written=True)
    lane, _ = heir(store, "new", "old")
    send(lane, "own")
    commit(store)
    other = make_lane()
    other.replace(lane)
    wire = attach(other)
    assert drained(store, other, wire) == ["old", "own"]


def test_an_identifier_is_not_used_again_while_its_message_is_on_its_way(store, monkeypatch):
    monkeypatch.setattr(logged_ids, "IDS", 600)
    monkeypatch.setattr(backlog, "MAX_AHEAD", 300)
    lane, outbox = box(store, "a", max_inflight=1000)
    send(lane, "first")
    wire = attach(lane)
    commit(store)
    store.serve()
    (first,) = wire.take()
    for number in range(1000):
        send(lane, str(number))
        commit(store)
        packets = wire.take()
        assert first.packet_id not in [packet.packet_id for packet in packets]
        lane.acked([wire_id(packet.packet_id) for packet in packets])
    lane.acked([wire_id(first.packet_id)])
    assert drained(store, lane, wire)
    assert not outbox.stored


def test_only_a_part_of_the_log_is_in_memory_while_the_peer_is_slow(store):
    lane, outbox = box(store, "a", max_inflight=10)
    attach(lane)
    commit(store)
    for _ in range(3000):
        send(lane, b"x" * 2000)
        tick(0.02)
        commit(store)
    assert outbox.stored == 3000
    assert lane.queue is not None
    assert lane.queue.size < 2 * backlog.MEMORY_BYTES


def test_a_larger_limit_takes_in_what_was_held(store):
    lane, outbox = box(store, "a", limits=QueueLimits(max_bytes=100))
    near = Owed()
    for number in range(20):
        receipt = near.receipt()
        send(lane, f"{number:040}", receipt=receipt)
        receipt.release()
        commit(store)
    assert len(near.done) == 3
    outbox.limit(WIDE)
    commit(store)
    assert len(near.done) == 20
    assert not lane.full


def test_what_is_too_large_gives_no_identifier_of_the_log_to_others(store):
    lane, _ = box(store, "a")
    for _ in range(50):
        send(lane, b"z" * 300)
    commit(store)
    wire = attach(lane, max_packet=200)
    drained(store, lane, wire)
    assert all(packet_id < logged_ids.FIRST_LOGGED for packet_id in lane.window.free)
    assert lane.drops.counts["too_large"] == 50


def test_a_session_that_ends_before_it_is_written_leaves_nothing(store):
    for number in range(5):
        lane, _ = box(store, f"session/{number}", blocks=False)
        send(lane, b"z" * 1000)
        lane.clear()
        commit(store)
    assert store.disk.execute("SELECT count(*) FROM batches").fetchone() == (0,)
    assert store.disk.execute("SELECT count(*) FROM logs").fetchone() == (0,)


def test_identifiers_that_no_log_knows_are_freed_after_a_crash(store):
    """What goes by another connection has one of these: the peer may hold it for a message."""
    old, _ = box(store, "old")
    for number in range(2):
        send(old, f"M{number}", qos=2)
    commit(store)
    store = store.crash(written=True)
    lane, _ = heir(store, "new", "old", max_inflight=1)
    wire = attach(lane)
    commit(store)
    for _ in range(3):
        store.serve()
        commit(store)
    first = wire.take()[-1]
    lane.recorded(first.packet_id, 0)
    commit(store)
    store = store.crash(written=True)
    lane, _ = heir(store, "new", "old", max_inflight=1)
    wire = attach(lane, session_present=True)
    commit(store)
    for _ in range(3):
        store.serve()
        commit(store)
    freed, second = wire.take()
    assert (freed.kind, freed.packet_id) == (PUBREL, second.packet_id)
    assert second.payload == b"M1"


def test_what_is_written_behind_something_that_the_peer_does_not_read_goes_to_disk_in_time(store):
    lane, outbox = box(store, "a")
    wire = attach(lane)
    commit(store)
    near = Owed()
    wire.blocked = True
    send(lane, "q0", qos=0)
    tick(0.02)
    tick(0.02)
    receipt = near.receipt()
    send(lane, "q1", receipt=receipt)
    receipt.release()
    for _ in range(10):
        tick(0.02)
        commit(store)
    assert outbox.logged
    assert len(near.done) == 1


def test_what_waits_for_a_refusal_to_pass_goes_to_disk_in_time(store):
    lane, _ = box(store, "a")
    wire = attach(lane)
    commit(store)
    near = Owed()
    receipt = near.receipt()
    send(lane, "1", receipt=receipt)
    receipt.release()
    (packet,) = wire.take()
    lane.rejected(packet.packet_id, 0x97, qos=1)
    for _ in range(10):
        tick(0.02)
        commit(store)
    assert len(near.done) == 1


def test_what_is_held_is_taken_when_there_is_room_beside_what_is_inherited(
    store,
):
    old, _ = box(store, "old")
    for number in range(3000):
        send(old, f"{number:04}" + "x" * 500)
        if number % 100 == 0:
            commit(store)
    commit(store)
    store = store.crash(written=True)
    lane, outbox = heir(store, "new", "old", limits=QueueLimits(max_bytes=1_000_000))
    near = Owed()
    receipt = near.receipt()
    send(lane, "new", receipt=receipt)
    receipt.release()
    commit(store)
    assert not near.done
    wire = attach(lane)
    while not near.done:
        assert outbox.stored > 100
        store.serve()
        packets = wire.take()
        ids = [wire_id(packet.packet_id) for packet in packets if packet.kind == PUBLISH]
        if ids:
            lane.acked(ids)
        commit(store)
        tick(0.1)


def test_a_receipt_that_fails_costs_nobody_else_an_acknowledgement(store):
    class Broken(Owed):
        def settled(self, receipt):
            raise RuntimeError("once")

    lane, _ = box(store, "a")
    near = Owed()
    for owed in (Broken(), near):
        receipt = owed.receipt()
        send(lane, "x", receipt=receipt)
        receipt.release()
    commit(store)
    send(lane, "y")
    commit(store)
    assert len(near.done) == 1


def test_what_a_lane_inherits_goes_behind_what_waits_for_room(store):
    lane, outbox = box(store, "a", limits=QueueLimits(max_bytes=100))
    generation = make_lane()
    near = Owed()
    for number, way in enumerate([*[lane] * 5, generation, generation]):
        receipt = near.receipt()
        send(way, f"{number:040}", receipt=receipt)
        receipt.release()
        commit(store)
    assert (outbox.stored, outbox.queued - outbox.stored) == (3, 2)
    lane.inherit(generation)
    commit(store)
    assert outbox.stored == 3, "more than the limit is on disk"
    assert len(near.done) == 3
    wire = attach(lane)
    commit(store)
    assert drained(store, lane, wire) == [f"{number:040}" for number in range(7)]
    assert len(near.done) == 7
    assert not lane.full


def test_a_log_that_is_full_stays_so_while_the_peer_takes_what_is_in_memory(store):
    lane, outbox = box(store, "a", limits=QueueLimits(max_bytes=100), max_inflight=1)
    wire = attach(lane)
    commit(store)
    outbox.spill()
    near = Owed()
    for number in range(5):
        receipt = near.receipt()
        send(lane, f"{number:040}", receipt=receipt)
        receipt.release()
        commit(store)
    store.serve()
    assert lane.full
    (packet,) = wire.take()
    lane.acked([wire_id(packet.packet_id)])
    # Two wait for room, so that what nobody waits for has none.
    assert lane.full
    send(lane, "no room")
    assert lane.drops.counts["queue_full"] == 1
    assert drained(store, lane, wire) == [f"{number:040}" for number in range(1, 5)]
    assert not lane.full


class Keeper:
    """A peer that keeps its session: of QoS 2 it takes what has an identifier that is free."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.got: list[str] = []

    def read(self, wire: Wire) -> list[int]:
        """Take what has come; the identifiers of its messages."""
        ids = []
        for packet in wire.take():
            if packet.kind == PUBREL:
                self.held.discard(packet.packet_id)
                continue
            assert packet.kind == PUBLISH
            ids.append(packet.packet_id)
            if packet.packet_id not in self.held:
                self.held.add(packet.packet_id)
                self.got.append(packet.payload.decode())
        return ids

    def exchange(self, store: SteppedStore, lane: Lane, wire: Wire) -> None:
        """Take what comes, to the end of its exchange."""
        for _ in range(12):
            commit(store)
            store.serve()
            for packet_id in self.read(wire):
                lane.recorded(packet_id, 0)
                commit(store)
                self.read(wire)
                lane.completed(packet_id)


@pytest.fixture
def few_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The identifiers of the log go round after four messages."""
    monkeypatch.setattr(logged_ids, "IDS", 4)
    monkeypatch.setattr(backlog, "MAX_AHEAD", 2)


def used(store: SteppedStore) -> SteppedStore:
    """What a process leaves that had a session of its own."""
    lane, _ = box(store, "a")
    attach(lane)
    commit(store)
    lane.detach()
    commit(store)
    return store.crash(written=True)


@pytest.mark.usefixtures("few_ids")
@pytest.mark.parametrize("restart", [False, True])
def test_an_old_session_holds_nothing_against_new_messages_after_a_fail_over(store, restart):
    store = used(store)
    lane, _ = box(store, "a", max_inflight=1)
    first, second = Keeper(), Keeper()
    wire = attach(lane, session_present=True)
    send(lane, "0", qos=2)
    commit(store)
    assert first.read(wire) == [logged_ids.FIRST_ID + 1]
    lane.detach()
    wire = attach(lane, moved=True)
    second.exchange(store, lane, wire)
    lane.detach()
    if restart:
        commit(store)
        store = store.crash(written=True)
        lane, _ = box(store, "a", max_inflight=1)
    wire = attach(lane, session_present=True, moved=True)
    sent = [str(number) for number in range(1, 10)]
    for payload in sent:
        send(lane, payload, qos=2)
        first.exchange(store, lane, wire)
    assert second.got == ["0"]
    assert first.got == ["0", *sent]


@pytest.mark.usefixtures("few_ids")
@pytest.mark.parametrize("orderly", [False, True])
def test_what_was_on_its_way_to_an_old_session_comes_twice_after_a_crash_and_once_after_a_stop(
    store, orderly
):
    """A stop waits until what is on its way has arrived. Nothing is lost in either case."""
    store = used(store)
    lane, _ = box(store, "a", max_inflight=1)
    peer = Keeper()
    attach(lane, moved=True)
    commit(store)
    lane.detach()
    wire = attach(lane, session_present=True, moved=True)
    send(lane, "first", qos=2)
    commit(store)
    if orderly:
        peer.exchange(store, lane, wire)
        lane.detach()
    else:
        peer.read(wire)
    assert peer.got == ["first"]
    store = store.crash(written=True)
    lane, _ = box(store, "a", max_inflight=1)
    wire = attach(lane, session_present=True)
    peer.exchange(store, lane, wire)
    send(lane, "more", qos=2)
    peer.exchange(store, lane, wire)
    assert peer.got == (["first", "more"] if orderly else ["first", "first", "more"])


def test_an_old_session_holds_nothing_against_what_waited_through_a_restart(store):
    """Nobody knows how much of it was sent before the restart, so none of it counts as sent."""
    store = used(store)
    lane, _ = box(store, "a")
    attach(lane, moved=True)
    commit(store)
    lane.detach()
    wire = attach(lane, session_present=True, moved=True)
    lane.detach()
    sent = [str(number) for number in range(5)]
    for payload in sent:
        send(lane, payload, qos=2)
    commit(store)
    store = store.crash(written=True)
    lane, _ = box(store, "a")
    peer = Keeper()
    peer.held = set(range(logged_ids.FIRST_ID, logged_ids.FIRST_ID + 10))
    wire = attach(lane, session_present=True)
    peer.exchange(store, lane, wire)
    assert peer.got == sent


def old_session(store: SteppedStore, *, disk: bool) -> tuple[Lane, Wire]:
    """A lane at a peer that has an old session for it."""
    if not disk:
        lane = make_lane()
        return lane, attach(lane, session_present=True)
    lane, _ = box(store, "a")
    wire = attach(lane, session_present=True, moved=True)
    commit(store)
    return lane, wire


@pytest.mark.parametrize("disk", [False, True])
def test_an_identifier_that_a_lost_connection_was_to_free_is_freed_on_the_next(store, disk):
    lane, wire = old_session(store, disk=disk)
    send(lane, "new", qos=2)
    commit(store)
    peer = Keeper()
    peer.held = {packet.packet_id for packet in wire.take()}  # of which it got none
    lane.detach()
    wire = attach(lane, session_present=True)
    peer.read(wire)
    assert peer.got == ["new"]


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_what_an_old_session_has_taken_comes_twice_only_if_no_pubcomp_came(store, disk, answered):
    lane, wire = old_session(store, disk=disk)
    send(lane, "new", qos=2)
    commit(store)
    peer = Keeper()
    (packet_id,) = peer.read(wire)
    if answered:
        lane.completed(packet_id)  # and its PUBREC is lost
    lane.detach()
    wire = attach(lane, session_present=True)
    peer.read(wire)
    assert peer.got == (["new"] if answered else ["new", "new"])


@pytest.mark.parametrize("received", [0, 1, 3])
def test_what_goes_to_a_session_anew_counts_as_sent_again(store, received):
    lane, _ = box(store, "a")
    wire = attach(lane)
    commit(store)
    for number in range(6):
        send(lane, str(number), qos=2)
    commit(store)
    sent = wire.take()
    assert payloads(sent) == [*"012345"]
    for packet in sent[:received]:
        lane.recorded(packet.packet_id, 0)
    commit(store)
    lane.detach()
    wire = attach(lane, session_present=False)
    again = []
    for _ in range(3):
        commit(store)
        store.serve()
        again += payloads(wire.take())
    assert again == [*"012345"]
    assert lane.resent == 6
