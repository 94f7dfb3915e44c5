"""The outbox of a connector: what waits for a far side is on disk, and outlives the process."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from isthmus.app.settings import Settings
from isthmus.connectors.outboxes import logs_of
from isthmus.delivery import trust
from isthmus.store.writer import Writer
from raw import (
    CONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    FarSide,
    Raw,
    ack_packet,
    packet,
    until,
    within,
)
from running import Isthmus, bridge, out


def durable(port: int, folder: Path, *, route: dict[str, Any] | None = None, **connector: Any):
    """A bridge for `out/#` with a data folder."""
    data = bridge(port, routes={"out": out("out/#", **(route or {}))}, **connector)
    return {**data, "broker": {"data": str(folder / "data")}}


async def acknowledged(client: Raw, count: int) -> None:
    for _ in range(count):
        await client.expect(PUBACK)


async def taken(far: Raw, count: int) -> list[str]:
    """The payloads of the next messages, each acknowledged."""
    found = []
    for _ in range(count):
        got = await far.expect(PUBLISH)
        found.append(got.payload.decode())
        far.send(ack_packet(PUBACK, got.packet_id))
    return found


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def send(client: Raw, count: int, topic: str = "out/a", qos: int = 1) -> None:
    for payload in numbers(count):
        client.publish(topic, payload, qos)


async def test_while_the_far_side_keeps_up_nothing_is_written(isthmus, far, tmp_path):
    near = await isthmus(durable(far.port, tmp_path, spill_after="5s"))
    there, _ = await far.client()
    await near.connected()
    await near.app.store.settle()
    here = await near.client("here")
    before = near.app.store.commits
    for payload in numbers(50):
        here.publish("out/a", payload, 1)
        assert await taken(there, 1) == [payload]
        await here.expect(PUBACK)
    await near.app.store.settle()
    assert near.app.store.commits == before


async def test_what_is_not_acknowledged_in_time_goes_to_disk_and_releases_its_publisher(
    isthmus, far, tmp_path
):
    near = await isthmus(durable(far.port, tmp_path, spill_after="20ms"))
    there, _ = await far.client()
    here = await near.client("here")
    await send(here, 5)
    await acknowledged(here, 5)
    assert near.cloud.stored == 5
    assert await taken(there, 5) == numbers(5)
    await until(lambda: near.cloud.stored == 0)


async def received(far: Raw, seconds: float) -> list[str]:
    """The payloads of what comes until nothing has come for so long; none is acknowledged."""
    found = []
    while True:
        try:
            found.append((await within(far.expect(PUBLISH), seconds)).payload.decode())
        except TimeoutError:
            return found


async def test_a_far_side_that_does_not_answer_gets_no_more_until_it_does(isthmus, far, tmp_path):
    near = await isthmus(durable(far.port, tmp_path, spill_after="20ms"))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    await send(here, 5)
    await until(lambda: near.cloud.stored == 5)  # the first five are late
    await send(here, 95)
    await acknowledged(here, 100)
    first = [await there.expect(PUBLISH) for _ in range(trust.DOUBTED)]
    assert await received(there, 0.2) == []
    there.send(ack_packet(PUBACK, first[0].packet_id))
    more = await received(there, 0.2)
    assert len(more) in (16, 17)  # the acknowledged one counts until the disk knows of it
    for one in first[1:]:
        there.send(ack_packet(PUBACK, one.packet_id))
        await asyncio.sleep(0.002)  # each in a read of its own
    assert len(await received(there, 0.2)) == 100 - 16 - len(more)


async def test_one_that_acknowledges_many_at_once_gets_them(isthmus, far, tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "MORE_S", 0.05)
    near = await isthmus(durable(far.port, tmp_path, spill_after="20ms"))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    await send(here, 300)
    assert await taken_at_once(there, 300) == numbers(300)
    await until(lambda: near.cloud.stored == 0)


async def taken_at_once(far: Raw, count: int) -> list[str]:
    """As `taken`, but the acknowledgements come when all is there."""
    found = [await far.expect(PUBLISH) for _ in range(count)]
    far.send(*(ack_packet(PUBACK, one.packet_id) for one in found))
    return [one.payload.decode() for one in found]


async def test_a_far_side_that_is_down_holds_nobody_up(isthmus, far, tmp_path):
    far.stop_listening()
    near = await isthmus(durable(far.port, tmp_path))
    here = await near.client("here")
    await send(here, 300)
    await acknowledged(here, 300)
    assert near.cloud.stored == 300
    assert near.status()["queued"] == 300
    await far.start()
    there, _ = await far.client()
    assert await taken(there, 300) == numbers(300)
    await until(lambda: near.cloud.stored == 0)
    assert near.status()["queued"] == 0


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_what_waits_outlives_the_process(isthmus, far, tmp_path, version):
    far.stop_listening()
    first = await Isthmus.start(durable(far.port, tmp_path, version=version))
    here = await first.client("here")
    await send(here, 20)
    await acknowledged(here, 20)
    here.close()
    await first.app.stop()
    await far.start()
    near = await isthmus(durable(far.port, tmp_path))
    there, _ = await far.client()
    late = await near.client("late")
    late.publish("out/a", "20", 1)
    assert await taken(there, 21) == numbers(21)


async def test_it_goes_past_the_disk_again_when_the_far_side_keeps_up(isthmus, far, tmp_path):
    near = await isthmus(durable(far.port, tmp_path, spill_after="100ms"))
    there, _ = await far.client()
    here = await near.client("here")
    await send(here, 3)
    await acknowledged(here, 3)
    assert await taken(there, 3) == numbers(3)
    (member,) = near.cloud.members
    payload = 3
    async with asyncio.timeout(10):
        while member.lane.outbox.logged:
            here.publish("out/a", str(payload), 1)
            assert await taken(there, 1) == [str(payload)]
            await here.expect(PUBACK)
            payload += 1
    before = near.app.store.commits
    here.publish("out/a", "past", 1)
    assert await taken(there, 1) == ["past"]
    await here.expect(PUBACK)
    await near.app.store.settle()
    assert near.app.store.commits == before


async def test_qos_2_is_on_disk_before_it_is_sent_and_taken_before_pubrel(isthmus, far, tmp_path):
    near = await isthmus(durable(far.port, tmp_path))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    commits = near.app.store.commits
    here.publish("out/a", "1", 2)
    got = await there.expect(PUBLISH)
    assert near.app.store.commits > commits
    await here.expect(PUBREC)
    commits = near.app.store.commits
    there.send(ack_packet(PUBREC, got.packet_id))
    assert (await there.expect(PUBREL)).packet_id == got.packet_id
    assert near.app.store.commits > commits
    there.send(ack_packet(PUBCOMP, got.packet_id))
    await until(lambda: near.cloud.stored == 0)


async def test_a_stop_keeps_the_identifier_of_a_qos_2_message(isthmus, far, tmp_path):
    first = await Isthmus.start(durable(far.port, tmp_path))
    there, _ = await far.client()
    here = await first.client("here")
    here.publish("out/a", "1", 2)
    here.publish("out/a", "2", 2)
    one, two = await there.expect(PUBLISH), await there.expect(PUBLISH)
    await here.expect(PUBREC)
    await here.expect(PUBREC)
    there.send(ack_packet(PUBREC, one.packet_id))
    await there.expect(PUBREL)
    far.stop_listening()
    there.reset()
    here.close()
    await first.app.stop()
    await far.start()
    await isthmus(durable(far.port, tmp_path))
    there, _ = await far.client(session_present=True)
    again = [await there.packet(), await there.packet()]
    assert {(packet.kind, packet.packet_id) for packet in again} == {
        (PUBREL, one.packet_id),
        (PUBLISH, two.packet_id),
    }
    (publish,) = [packet for packet in again if packet.kind == PUBLISH]
    assert publish.dup
    assert publish.payload == b"2"


async def test_a_session_that_the_far_side_lost_makes_new_messages_of_all(isthmus, far, tmp_path):
    first = await Isthmus.start(durable(far.port, tmp_path))
    there, _ = await far.client()
    here = await first.client("here")
    here.publish("out/a", "1", 2)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, got.packet_id))
    await there.expect(PUBREL)
    here.publish("out/a", "2", 2)
    await there.expect(PUBLISH)
    await within(until(lambda: first.cloud.stored == 2))
    far.stop_listening()
    there.reset()
    await first.app.stop()
    await far.start()
    near = await isthmus(durable(far.port, tmp_path))
    there, _ = await far.client(session_present=False)
    for payload in (b"1", b"2"):  # whether the first went on from there is not known
        publish = await there.expect(PUBLISH)
        assert (publish.payload, publish.dup) == (payload, False)
    assert near.cloud.stored == 2


async def test_identifiers_that_the_far_side_holds_for_a_lost_folder_are_freed(
    isthmus, far, tmp_path
):
    near = await isthmus(durable(far.port, tmp_path))
    there, _ = await far.client(session_present=True)
    here = await near.client("here")
    here.publish("out/a", "1", 2)
    freed = await there.expect(PUBREL)
    publish = await there.expect(PUBLISH)
    assert freed.packet_id == publish.packet_id
    assert not publish.dup


async def test_a_message_that_expires_on_disk_is_not_sent(isthmus, far, tmp_path):
    far.stop_listening()
    first = await Isthmus.start(durable(far.port, tmp_path))
    here = await first.client("here")
    here.publish("out/a", "short", 1, expiry=1)
    here.publish("out/a", "long", 1, expiry=100)
    await acknowledged(here, 2)
    await first.app.stop()
    await asyncio.sleep(1.1)
    await far.start()
    near = await isthmus(durable(far.port, tmp_path))
    there, _ = await far.client()
    got = await there.expect(PUBLISH)
    assert got.payload == b"long"
    assert 95 <= got.properties["expiry"] < 100
    there.send(ack_packet(PUBACK, got.packet_id))
    await until(lambda: near.cloud.stored == 0)
    assert near.cloud.drops.counts["expired"] == 1


async def test_a_full_outbox_withholds_acknowledgements_and_loses_nothing(isthmus, far, tmp_path):
    far.stop_listening()
    queue = {"queue": {"max_bytes": "2KiB"}}
    near = await isthmus(durable(far.port, tmp_path, route=queue))
    here = await near.client("here")
    for number in range(40):
        here.publish("out/a", f"{number:0100}", 1)
    await acknowledged(here, 10)
    await asyncio.sleep(0.2)
    waiting = 40 - 10 - len([packet for packet in await here.arrived() if packet.kind == PUBACK])
    assert 5 < waiting < 30
    await far.start()
    there, _ = await far.client()
    assert await taken(there, 40) == [f"{number:0100}" for number in range(40)]
    await acknowledged(here, waiting)


async def test_what_waits_for_a_client_id_that_is_there_no_more_goes_by_another(
    isthmus, far, tmp_path
):
    far.stop_listening()
    ids = {"static_client_ids": {"edge": ["a", "b"]}}
    first = await Isthmus.start(durable(far.port, tmp_path, **ids))
    here = await first.client("here")
    for number in range(20):
        here.publish(f"out/{number}", str(number), 1)
    await acknowledged(here, 20)
    lanes = [member.lane for member in first.cloud.members]
    assert all(lane.outbox.stored for lane in lanes)
    here.close()
    await first.app.stop()
    await far.start()
    near = await isthmus(durable(far.port, tmp_path, static_client_ids={"edge": ["a"]}))
    there, _ = await far.client()
    assert sorted(await taken(there, 20), key=int) == numbers(20)
    await until(lambda: logs_of("cloud", near.app.store) == ["outbox/cloud/a"])


async def test_a_connection_that_is_down_holds_up_a_new_pool_for_two_seconds(
    isthmus, far, tmp_path, caplog
):
    def pool(*names: str) -> dict[str, Any]:
        return durable(far.port, tmp_path, static_client_ids={"edge": list(names)})

    far.stop_listening()
    first = await Isthmus.start(pool("a"))
    here = await first.client("here")
    await send(here, 10)
    await acknowledged(here, 10)
    here.close()
    await first.app.stop()
    await far.start()
    near = await isthmus(pool("a", "b"))
    links = {}
    for _ in range(2):
        there = await far.accept()
        there.version = 5
        hello = await there.expect(CONNECT)
        links[hello.body[-1:]] = there
    links[b"b"].send(packet(0x20, b"\0\0\0"))  # the other one never gets its CONNACK
    here = await near.client("here")
    topic = next(
        name
        for name in (f"out/{number}" for number in range(99))
        if near.cloud.client_id_of(name.encode()) == "b"
    )
    here.publish(topic, "new", 1)
    await here.expect(PUBACK)
    started = time.monotonic()
    assert await taken(links[b"b"], 1) == ["new"]
    assert time.monotonic() - started > 1.5
    assert "holds up the others no longer" in caplog.text
    await until(lambda: near.cloud.stored == 10)


async def test_what_waits_is_told_where_nothing_is_kept_any_more(isthmus, far, tmp_path, caplog):
    far.stop_listening()
    first = await Isthmus.start(durable(far.port, tmp_path))
    here = await first.client("here")
    await send(here, 3)
    await acknowledged(here, 3)
    here.close()
    await first.app.stop()
    data = durable(far.port, tmp_path)
    data["broker"]["persistence"] = False
    await isthmus(data)
    assert "isthmus.db has 3 message(s), which are not sent" in caplog.text


async def reloaded(near: Isthmus, data: dict[str, Any]) -> None:
    bind = {"bind": f"127.0.0.1:{near.port}"}
    await near.app.reload(Settings.model_validate({"listeners": [bind], "http": None, **data}))


async def test_a_pool_that_shrinks_while_it_is_down_keeps_what_waits(isthmus, far, tmp_path):
    far.stop_listening()

    def pool(*names: str) -> dict[str, Any]:
        return durable(far.port, tmp_path, static_client_ids={"edge": list(names)})

    near = await isthmus(pool("a", "b", "c"))
    here = await near.client("here")
    for number in range(30):
        here.publish(f"out/{number}", str(number), 1)
    await acknowledged(here, 30)
    await reloaded(near, pool("b"))
    assert near.cloud.stored == 30
    await far.start()
    there, _ = await far.client()
    assert sorted(await taken(there, 30), key=int) == numbers(30)
    await until(lambda: near.cloud.stored == 0)
    await until(lambda: logs_of("cloud", near.app.store) == ["outbox/cloud/b"])
    late = await near.client("late")
    late.publish("out/1", "more", 1)
    assert await taken(there, 1) == ["more"]
    await late.expect(PUBACK)


async def test_what_waits_for_a_connector_that_is_removed_stays_for_its_return(
    isthmus, far, tmp_path, caplog
):
    far.stop_listening()
    data = durable(far.port, tmp_path)
    near = await isthmus(data)
    here = await near.client("here")
    await send(here, 5)
    await acknowledged(here, 5)
    await reloaded(near, {**data, "connectors": {}, "routes": {}})
    assert "They stay on disk" in caplog.text
    await far.start()
    await reloaded(near, data)
    there, _ = await far.client()
    assert await taken(there, 5) == numbers(5)


@pytest.mark.parametrize("kind", [{"rate_limit": "200/s"}, {"start": "lazy"}])
async def test_connectors_that_queue_everything_keep_it_on_disk_too(isthmus, tmp_path, kind):
    far = FarSide()
    await far.start()
    far.stop_listening()
    first = await Isthmus.start(durable(far.port, tmp_path, **kind))
    here = await first.client("here")
    await send(here, 30)
    await acknowledged(here, 30)
    here.close()
    await first.app.stop()
    await far.start()
    near = await isthmus(durable(far.port, tmp_path, **kind))
    if "start" in kind:
        poke = await near.client("poke")
        poke.publish("out/a", "30", 1)
    there, _ = await far.client()
    count = 31 if "start" in kind else 30
    assert await taken(there, count) == numbers(count)
    await until(lambda: near.cloud.stored == 0)
    await far.stop()


async def test_a_stop_hands_what_is_on_its_way_to_the_disk_and_acknowledges_it(
    isthmus, far, tmp_path
):
    near = await isthmus(durable(far.port, tmp_path, spill_after="60s"))
    there, _ = await far.client()
    here = await near.client("here")
    await send(here, 3)
    for _ in range(3):
        await there.expect(PUBLISH)
    await here.nothing()
    there.reset()
    far.stop_listening()
    await acknowledged(here, 3)
    await near.app.stop()


async def test_messages_of_a_memory_route_are_acknowledged_at_once_and_keep_their_place(
    isthmus, far, tmp_path
):
    far.stop_listening()
    routes = {
        "kept": out("out/kept"),
        "quick": out("out/quick", durability="memory"),
    }
    data = {**bridge(far.port, routes=routes), "broker": {"data": str(tmp_path / "data")}}
    near = await isthmus(data)
    here = await near.client("here")
    for number in range(10):
        here.publish("out/kept" if number % 2 else "out/quick", str(number), 1)
    await acknowledged(here, 10)
    await far.start()
    there, _ = await far.client()
    assert await taken(there, 10) == numbers(10)


async def test_a_far_side_is_not_blamed_for_a_disk_that_does_not_answer(
    isthmus, far, tmp_path, monkeypatch
):
    """PUBREL waits for the disk, so the far side has nothing to answer."""
    near = await isthmus(durable(far.port, tmp_path, ack_timeout="2s"))
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    here.publish("out/a", "1", 2)
    got = await there.expect(PUBLISH)
    answers = threading.Event()
    write = Writer.write

    def wait(self: Writer, *what: object) -> object:
        assert answers.wait(60)
        return write(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "write", wait)
    there.send(ack_packet(PUBREC, got.packet_id))
    await asyncio.sleep(5)  # more than twice as long as the far side has for an answer
    assert near.status()["connects"] == 1
    answers.set()
    assert (await there.expect(PUBREL)).packet_id == got.packet_id
    there.send(ack_packet(PUBCOMP, got.packet_id))
    await until(lambda: near.cloud.stored == 0)
    # But what has been sent to it is for it to answer.
    here.publish("out/a", "2", 2)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBREC, got.packet_id))
    await there.expect(PUBREL)
    await until(lambda: "PUBREL" in near.status()["reason"])
