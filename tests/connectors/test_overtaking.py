"""Routes with `may_overtake`: what is new is sent before what an outage has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isthmus.delivery.logged_ids import IDS
from raw import PUBACK, PUBLISH, PUBREC, PUBREL, FarSide, Raw, ack_packet, until
from running import bridge, out

LEFT = 60
"""Messages that an outage has left."""


def config(port: int, data: Path, **more: Any) -> dict[str, Any]:
    route = more.pop("route", {})
    routes = {"out": out("out/#", may_overtake=True, **route), "old": out("old/#")}
    more.setdefault("drain_rate", "20/s")
    found = bridge(port, routes=routes, client_id="edge-1", **more)
    return {**found, "broker": {"data": str(data)}}


async def leave(here: Raw, count: int = LEFT) -> None:
    for number in range(count):
        here.publish("out/a", f"left {number}", 1)
        await here.expect(PUBACK)


async def taken(there: Raw) -> bytes:
    got = await there.expect(PUBLISH)
    if got.qos:
        there.send(ack_packet(PUBACK, got.packet_id))
    return got.payload


async def test_what_is_new_goes_before_what_is_left_and_nothing_is_lost(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    await leave(here)
    there, _ = await far.client()
    assert await taken(there) == b"left 0"
    for number in range(5):
        here.publish("out/a", f"new {number}", 1)
    here.publish("old/a", "not before its turn", 1)
    found = [await taken(there) for _ in range(LEFT + 5)]
    new = [payload for payload in found if payload.startswith(b"new")]
    assert new == [b"new %d" % number for number in range(5)]
    assert found.index(b"new 4") < 15
    assert found[-1] == b"not before its turn"
    left = [payload for payload in found if payload.startswith(b"left")]
    assert left == [b"left %d" % number for number in range(1, LEFT)]
    await until(lambda: not near.cloud.unsettled)


async def test_order_is_kept_where_no_outage_has_left_anything(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, spill_after="20ms", max_inflight=5))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    for number in range(100):  # the peer is slow: they go to disk, and by it
        here.publish("out/a", str(number), 1)
    assert [await taken(there) for _ in range(100)] == [b"%d" % n for n in range(100)]


async def test_its_publisher_waits_for_the_far_side(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    await leave(here)
    there, _ = await far.client()
    here.publish("out/a", "new", 1)
    while (got := await there.expect(PUBLISH)).payload != b"new":
        there.send(ack_packet(PUBACK, got.packet_id))
    await here.nothing()
    there.send(ack_packet(PUBACK, got.packet_id))
    await here.expect(PUBACK)


@pytest.mark.parametrize("session_present", [True, False])
@pytest.mark.parametrize("sent", [True, False])
async def test_what_was_before_its_turn_when_the_link_went_is_safe(
    isthmus: Any, far: FarSide, tmp_path: Path, sent: bool, session_present: bool
) -> None:
    """Whether it was sent, or waited in memory for room in the window."""
    more = {} if sent else {"max_inflight": 1}
    near = await isthmus(config(far.port, tmp_path, drain_rate="1000/s", **more))
    here = await near.client("here")
    await leave(here)
    there, _ = await far.client()
    first = await there.expect(PUBLISH)
    here.publish("out/a", "new 0", 1)
    here.publish("out/a", "new 1", 1)
    if sent:
        while (await there.expect(PUBLISH)).payload != b"new 1":
            pass
    await here.nothing()
    there.close()
    await here.expect(PUBACK)
    await here.expect(PUBACK)
    there, _ = await far.client(session_present=session_present)
    found = [await taken(there) for _ in range(LEFT + 2)]
    assert first.payload == b"left 0"
    assert set(found) == {b"left %d" % n for n in range(LEFT)} | {b"new 0", b"new 1"}
    assert len(found) == len(set(found))
    assert [p for p in found if p.startswith(b"left")] == [b"left %d" % n for n in range(LEFT)]
    await until(lambda: not near.cloud.unsettled)


async def test_it_waits_for_room_in_the_window_and_goes_first(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, drain_rate="1000/s", max_inflight=2))
    here = await near.client("here")
    await leave(here)
    there, _ = await far.client()
    waiting = [await there.expect(PUBLISH) for _ in range(2)]
    for number in range(10):
        here.publish("out/a", f"new {number}", 1)
    await here.nothing()
    for got in waiting:
        there.send(ack_packet(PUBACK, got.packet_id))
    assert [await taken(there) for _ in range(10)] == [b"new %d" % n for n in range(10)]
    assert [await taken(there) for _ in range(LEFT - 2)] == [b"left %d" % n for n in range(2, LEFT)]


async def test_qos_2_keeps_its_turn_and_qos_0_does_not_wait(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, route={"queue_qos0": True}))
    here = await near.client("here")
    await leave(here, 20)
    there, _ = await far.client()
    assert await taken(there) == b"left 0"
    here.publish("out/a", "twice the care", 2, packet_id=7)
    there_first = await here.expect(PUBREC)
    here.send(ack_packet(PUBREL, there_first.packet_id))
    here.publish("out/a", "at once")
    found = [await taken(there) for _ in range(20)]
    assert found.index(b"at once") < 8
    last = await there.expect(PUBLISH)
    assert (last.payload, last.qos) == (b"twice the care", 2)


async def test_much_of_it_does_not_fill_the_memory(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, drain_rate="1000/s", max_inflight=1))
    here = await near.client("here")
    await leave(here)
    there, _ = await far.client()
    first = await there.expect(PUBLISH)
    for number in range(40):
        here.publish("out/a", f"{number:06}" + "x" * 60_000, 1)
    await until(lambda: near.cloud.stored > LEFT + 20)  # those that have no room go to disk
    there.send(ack_packet(PUBACK, first.packet_id))
    found = [await taken(there) for _ in range(LEFT - 1 + 40)]
    new = [payload[:6] for payload in found if not payload.startswith(b"left")]
    assert new == [b"%06d" % number for number in range(40)]
    await until(lambda: not near.cloud.unsettled)


async def test_a_rate_limit_that_comes_with_a_reload_holds_them_too(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    settings = config(far.port, tmp_path, drain_rate="1000/s", max_inflight=1, start="lazy")
    near = await isthmus(settings)
    here = await near.client("here")
    await leave(here, 10)
    there, _ = await far.client()
    first = await there.expect(PUBLISH)
    here.publish("out/a", "new", 1)
    await here.nothing()
    cloud = {**settings["connectors"]["cloud"], "rate_limit": "1000/s"}
    del cloud["drain_rate"]
    await near.reload({**settings, "connectors": {"cloud": cloud}})
    there.send(ack_packet(PUBACK, first.packet_id))
    found = {await taken(there) for _ in range(10)}
    assert found == {b"new", *(b"left %d" % n for n in range(1, 10))}


@pytest.mark.parametrize("session_present", [True, False])
async def test_what_went_to_disk_under_way_is_there_after_a_restart(
    isthmus: Any, far: FarSide, tmp_path: Path, session_present: bool
) -> None:
    settings = config(far.port, tmp_path)
    near = await isthmus(settings)
    here = await near.client("here")
    await leave(here)
    there, _ = await far.client()
    assert await taken(there) == b"left 0"
    here.publish("out/a", "new", 1)
    while (await there.expect(PUBLISH)).payload != b"new":
        pass
    there.close()
    await here.expect(PUBACK)
    there, _ = await far.client(session_present=True)
    await near.app.stop()
    again = await isthmus(settings)
    there, _ = await far.client(session_present=session_present)
    found = set()
    while not found >= {b"new", *(b"left %d" % n for n in range(1, LEFT))}:
        found.add(await taken(there))
    await until(lambda: not again.cloud.unsettled)


async def test_one_that_is_far_ahead_of_its_log_takes_no_identifier_of_another(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    """MQTT-2.2.1-3: identifiers of what is on disk follow from the place there, and repeat."""
    near = await isthmus(config(far.port, tmp_path, max_inflight=10))
    here = await near.client("here")
    for _ in range(IDS // 500):
        for number in range(500):
            here.publish("out/a", f"left {number}", 1)
        for _ in range(500):
            await here.expect(PUBACK)
    there, _ = await far.client()
    assert (await there.expect(PUBLISH)).payload == b"left 0"
    here.publish("out/a", "new", 1)
    while (await there.expect(PUBLISH)).payload != b"new":
        pass
    there.close()
    await here.expect(PUBACK)
    there, _ = await far.client(session_present=False)
    found: dict[int, bytes] = {}
    while b"new" not in found.values() or b"left 0" not in found.values():
        got = await there.expect(PUBLISH)
        assert got.packet_id not in found
        found[got.packet_id] = got.payload


@pytest.mark.parametrize("code", [0x97, 0x83])
async def test_one_that_was_refused_for_now_goes_to_disk_with_the_link(
    isthmus: Any, far: FarSide, tmp_path: Path, code: int
) -> None:
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    await leave(here, 20)
    there, _ = await far.client()
    first = await there.expect(PUBLISH)
    here.publish("out/a", "new", 1)
    while (got := await there.expect(PUBLISH)).payload != b"new":
        pass
    there.send(ack_packet(PUBACK, first.packet_id, code))
    there.send(ack_packet(PUBACK, got.packet_id, code))
    await here.nothing()
    there.close()
    await here.expect(PUBACK)
    there, _ = await far.client(session_present=True)
    found = [await taken(there) for _ in range(21)]
    assert set(found) == {b"new", *(b"left %d" % number for number in range(20))}


async def test_a_retained_message_keeps_its_turn(
    isthmus: Any, far: FarSide, tmp_path: Path
) -> None:
    near = await isthmus(config(far.port, tmp_path, send_retained=False))
    here = await near.client("here")
    for number in range(20):
        here.publish("out/a", f"left {number}", 1, retain=True)
        await here.expect(PUBACK)
    there, _ = await far.client()
    assert await taken(there) == b"left 0"
    here.publish("out/a", "new", 1, retain=True)
    await here.expect(PUBACK)
    found = [await taken(there) for _ in range(20)]
    assert found == [*(b"left %d" % number for number in range(1, 20)), b"new"]
