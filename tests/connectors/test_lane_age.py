"""How old the oldest message is, from looks once a second and without time stamps in messages."""

from __future__ import annotations

from isthmus.connectors.lane_age import FINENESS, Notes
from raw import PUBACK, PUBLISH, ack_packet, publish_packet, until
from running import bridge, out


def test_a_day_of_notes_is_small_and_exact_to_one_percent() -> None:
    notes = Notes()
    per_s = 7
    for second in range(86_400):
        notes.note(second * per_s, float(second))
    now = 86_400.0
    assert len(notes) < 10 * FINENESS
    for second in (10, 1000, 40_000, 80_000):
        number = second * per_s  # came in the second that follows
        notes.forget(number)
        true_s = now - second
        # As exact as one part in a hundred of the time from the oldest message to this one.
        assert true_s - 1 - 86_400 / FINENESS <= notes.age_s(number, now) <= true_s


def test_what_is_newer_than_every_note_has_no_age_yet() -> None:
    notes = Notes()
    assert notes.age_s(0, 5.0) == 0.0
    notes.note(3, 1.0)
    assert notes.age_s(2, 5.0) == 4.0
    assert notes.age_s(3, 5.0) == 0.0
    notes.forget(2)
    assert len(notes) == 1
    notes.forget(3)
    assert len(notes) == 0


def age_s(near, now: float) -> float:
    """The figure at `now`, a monotonic time that the test chooses."""
    figures = near.cloud.figures
    return max(age.oldest_s(lane, now) for lane, age in figures._ages.items())


async def test_what_is_in_flight_and_what_waits_grow_old(isthmus, far) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, max_inflight=1))
    near.app.status.stop()  # the test looks itself
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    figures = near.cloud.figures
    figures.look(100.0)
    assert age_s(near, 100.0) == 0.0

    here.send(publish_packet("out/a", "1", 1, 1))
    first = await there.expect(PUBLISH)
    figures.look(110.0)
    assert age_s(near, 113.0) == 3.0
    here.send(publish_packet("out/a", "2", 1, 2))
    await until(lambda: near.status()["queued"] == 1)
    figures.look(120.0)
    assert age_s(near, 120.0) == 10.0  # the first one still is the oldest

    there.send(ack_packet(PUBACK, first.packet_id))
    second = await there.expect(PUBLISH)
    await here.expect(PUBACK)
    here.send(publish_packet("out/a", "3", 1, 3))
    await until(lambda: near.status()["queued"] == 1)
    figures.look(130.0)
    here.send(publish_packet("out/a", "4", 1, 4))
    await until(lambda: near.status()["queued"] == 2)
    figures.look(140.0)
    assert age_s(near, 140.0) == 10.0

    there.send(ack_packet(PUBACK, second.packet_id))
    await here.expect(PUBACK)
    for _ in range(2):
        await there.message()
        await here.expect(PUBACK)
    figures.look(150.0)
    assert age_s(near, 160.0) == 0.0


async def test_a_backlog_of_a_far_side_that_is_down_has_the_age_of_its_first_message(
    isthmus, far
) -> None:
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}))
    near.app.status.stop()
    there, _ = await far.client()
    await near.connected()
    far.stop_listening()
    there.close()
    await until(lambda: near.cloud.state != "connected")
    here = await near.client("here")
    for number in range(1, 6):
        here.send(publish_packet("out/a", str(number), 1, number))
        await until(lambda: near.status()["queued"] == number)  # noqa: B023
        near.cloud.figures.look(100.0 + number)
    assert age_s(near, 201.0) == 100.0
    assert near.cloud.figures.read()["queued"] == 5
