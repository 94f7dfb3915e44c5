"""Dead letters: what could not be delivered is kept with its reason, and nothing is lost between.

The far side is a script, so that every answer comes when the test says so.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from isthmus import clock
from isthmus.app import dead_letter_desk
from isthmus.app.dead_letter_desk import DeadLetterDesk
from isthmus.delivery.dead_letter import DeadLetter, seal, unseal
from isthmus.delivery.record import message
from isthmus.store.store import Store
from isthmus.store.writer import Writer
from raw import PUBACK, PUBLISH, PUBREC, FarSide, Raw, ack_packet, until
from running import Isthmus, bridge, out, waiting


def config(port: int, data: Path, connector: dict[str, Any] | None = None, **queue: Any) -> Any:
    routes = {"out": out("out/#", queue=queue)}
    found = bridge(port, routes=routes, client_id="edge-1", **(connector or {}))
    return {**found, "broker": {"data": str(data)}}


def letters(near: Isthmus) -> Any:
    found = near.cloud.dead_letters
    assert found is not None
    return found


async def ask(near: Isthmus, do: str, **request: Any) -> dict[str, Any]:
    request = {"do": do, "connector": "cloud", **request}
    return await DeadLetterDesk(near.app).answer(request)


async def listed(near: Isthmus) -> list[tuple[Any, ...]]:
    answer = await ask(near, "list")
    assert (answer["status"], answer["next"]) == (0, None)
    keys = ("number", "reason", "topic")
    return [tuple(letter[key] for key in keys) for letter in answer["letters"]]


async def refuse(there: Raw, code: int, kind: int = PUBACK) -> None:
    got = await there.expect(PUBLISH)
    there.send(ack_packet(kind, got.packet_id, code))


async def down(near: Isthmus, there: Raw) -> None:
    there.reset()
    await until(lambda: near.cloud.state != "connected")


async def reconnected(far: FarSide, near: Isthmus, **how: Any) -> Raw:
    there, _ = await far.client(**how)
    await near.connected()
    return there


@pytest.mark.parametrize("code", [0x87, 0x90, 0x99])
@pytest.mark.parametrize("qos", [1, 2])
async def test_a_logged_message_that_is_refused_for_good(isthmus, far, tmp_path, code, qos) -> None:
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    here.publish("out/a", "1", 1)
    await here.expect(PUBACK)
    here.publish("out/b", "2", qos)
    await here.expect(PUBACK if qos == 1 else PUBREC)
    there = await reconnected(far, near)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id))
    await refuse(there, code, PUBACK if qos == 1 else PUBREC)
    await until(lambda: not waiting(near))
    await until(lambda: len(letters(near)) == 1 and letters(near).log.stored == 2)
    assert await listed(near) == [(1, f"refused_0x{code:02x}", "out/b")]
    assert not near.cloud.drops.counts
    assert near.cloud.figures.read()["dead_letters"] == 1
    # It left the one log and came to the other in one transaction.
    await near.app.close()
    store = Store(tmp_path)
    store.start()
    assert {name: len(store.log(name)) for name in store.names()} == {
        "outbox/cloud/edge-1": 0,
        "dead/cloud": 1,
    }
    await store.stop()


async def test_the_two_logs_change_in_one_transaction(isthmus, far, tmp_path, monkeypatch) -> None:
    written: list[dict[str, tuple[int, int]]] = []
    write = Writer.write

    def noted(self: Writer, statements: Any, *more: Any) -> Any:
        logs = [row for one in statements if "INTO logs" in one.text for row in one.rows]
        written.append({row.name: (row.next, row.recorded) for row in logs})
        return write(self, statements, *more)

    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    for number in range(3):
        here.publish(f"out/{number}", "x" * 100 * number, 1)
        await here.expect(PUBACK)
    monkeypatch.setattr(Writer, "write", noted)
    there = await reconnected(far, near, maximum_packet=200)
    await refuse(there, 0x99)
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id))
    await until(lambda: not waiting(near) and len(letters(near)) == 2)
    await until(lambda: letters(near).log.stored == 3)
    done = 0
    for logs in written:
        if "dead/cloud" in logs:
            _, recorded = logs["outbox/cloud/edge-1"]
            # Number 3, the too large one, may be done while number 1 is still on its way.
            done = logs["dead/cloud"][0] - 1
            assert recorded > 1 or done == 1
    assert done == 2


async def test_an_mqtt_5_publisher_that_waits_gets_the_code(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path, {"spill_after": "10s"}))
    there = await reconnected(far, near)
    here = await near.client("here")
    here.publish("out/a", "1", 1)
    await refuse(there, 0x87)
    assert (await here.expect(PUBACK)).code == 0x87
    assert len(letters(near)) == 0
    assert near.cloud.drops.counts == {"refused_0x87": 1}


@pytest.mark.parametrize("what", ["refused", "too large"])
async def test_for_an_mqtt_3_publisher_it_is_a_dead_letter_and_acknowledged(
    isthmus, far, tmp_path, what
) -> None:
    near = await isthmus(config(far.port, tmp_path, {"spill_after": "10s"}))
    there = await reconnected(far, near, maximum_packet=100)
    here = await near.client("here", 4)
    if what == "refused":
        here.publish("out/a", "1", 1)
        await refuse(there, 0x87)
    else:
        here.publish("out/a", "x" * 200, 1)
    await here.expect(PUBACK)
    reason = "refused_0x87" if what == "refused" else "too_large"
    assert await listed(near) == [(1, reason, "out/a")]
    assert letters(near).put_aside.counts == {reason: 1}
    assert not near.cloud.drops.counts


async def test_a_logged_message_that_is_too_large(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here")
    here.publish("out/a", "x" * 200, 1, content_type="text/plain")
    await here.expect(PUBACK)
    await reconnected(far, near, maximum_packet=100)
    await until(lambda: not waiting(near))
    await until(lambda: letters(near).log.stored == 2)
    assert await listed(near) == [(1, "too_large", "out/a")]
    answer = await ask(near, "show", number=1)
    import base64

    found = unseal(base64.b64decode(answer["letter"]))
    item = message(found.record, None)
    assert (found.connection, item.topic[2:], item.payload) == ("edge-1", b"out/a", b"x" * 200)
    assert item.properties.startswith(b"\x03\x00\x0atext/plain")


async def test_too_large_after_a_reconnect(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path))
    there = await reconnected(far, near)
    here = await near.client("here")
    here.publish("out/a", "x" * 200, 1)
    await there.expect(PUBLISH)
    await here.expect(PUBACK)
    await down(near, there)
    await reconnected(far, near, session_present=True, maximum_packet=100)
    await until(lambda: letters(near).log.stored == 2)
    assert await listed(near) == [(1, "too_large", "out/a")]
    await until(lambda: not waiting(near))


async def test_what_the_queue_has_no_room_for(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path, when_full="dead_letter", max_messages=3))
    here = await near.client("here")
    old = await near.client("old", 4)
    for number in range(5):
        here.publish("out/a", str(number), 1)
        assert (await here.expect(PUBACK)).code in (None, 0)
    old.publish("out/a", "5", 1)
    await old.expect(PUBACK)
    assert await listed(near) == [(n, "queue_full", "out/a") for n in (1, 2, 3)]
    assert waiting(near) == 3
    there = await reconnected(far, near)
    for number in range(3):
        got = await there.expect(PUBLISH)
        assert got.payload == b"%d" % number
        there.send(ack_packet(PUBACK, got.packet_id))
    await until(lambda: not waiting(near))


async def test_what_is_too_old(isthmus, far, tmp_path, monkeypatch) -> None:
    near = await isthmus(config(far.port, tmp_path, when_full="dead_letter", max_age="1h"))
    here = await near.client("here")
    here.publish("out/a", "old", 1)
    await here.expect(PUBACK)
    later = clock.wall() + 7200
    monkeypatch.setattr("isthmus.clock.wall", lambda: later)
    here.publish("out/a", "new", 1)
    await here.expect(PUBACK)
    there = await reconnected(far, near)
    got = await there.expect(PUBLISH)
    assert got.payload == b"new"
    there.send(ack_packet(PUBACK, got.packet_id))
    await until(lambda: letters(near).log.stored == 2)
    assert await listed(near) == [(1, "too_old", "out/a")]


async def test_the_oldest_go_when_there_are_too_many(isthmus, far, tmp_path) -> None:
    how = {"max_dead_letters": "20KiB"}
    near = await isthmus(config(far.port, tmp_path, how, when_full="dead_letter", max_messages=1))
    here = await near.client("here")
    for number in range(41):
        here.publish(f"out/{number}", "x" * 1000, 1)
        await here.expect(PUBACK)
    assert 15 <= len(letters(near)) <= 20
    assert letters(near).size <= 20 << 10
    numbers = [number for number, _, _ in await listed(near)]
    assert numbers == list(range(41 - len(numbers), 41))
    assert near.cloud.drops.counts == {"dead_letters_full": 40 - len(numbers)}


@pytest.fixture
async def refused(isthmus: Any, far: FarSide, tmp_path: Path) -> Any:
    """Three dead letters, and the far side that refused them."""
    near = await isthmus(config(far.port, tmp_path))
    here = await near.client("here", 4)
    there = await reconnected(far, near)
    for number in range(3):
        here.publish(f"out/{number}", f"payload {number}", 1, retain=number == 1)
        await refuse(there, 0x87)
        await here.expect(PUBACK)
    assert len(await listed(near)) == 3
    return near, there


async def test_one_is_replayed_and_only_then_done(refused) -> None:
    near, there = refused
    answer = asyncio.ensure_future(ask(near, "replay", number=2))
    got = await there.expect(PUBLISH)
    assert (got.topic, got.payload, got.qos, got.retain) == ("out/1", b"payload 1", 1, True)
    assert len(letters(near)) == 3
    there.send(ack_packet(PUBACK, got.packet_id))
    found = await answer
    assert (found["status"], found["replayed"], found["kept"]) == (0, 1, [])
    assert [number for number, _, _ in await listed(near)] == [1, 3]


async def test_all_are_replayed_and_what_is_refused_again_stays(refused) -> None:
    near, there = refused
    answer = asyncio.ensure_future(ask(near, "replay"))
    sent = [await there.expect(PUBLISH) for _ in range(3)]
    assert [got.payload for got in sent] == [b"payload 0", b"payload 1", b"payload 2"]
    for got, code in zip(sent, (0, 0x87, 0), strict=True):
        there.send(ack_packet(PUBACK, got.packet_id, code))
    found = await answer
    assert found["replayed"] == 2
    # What was put on disk meanwhile is a dead letter anew, under another number.
    assert len(letters(near)) == 1
    assert (await listed(near))[0][1:] == ("refused_0x87", "out/1")


async def test_what_is_refused_again_at_once_stays_and_is_not_counted(refused) -> None:
    near, there = refused
    before = dict(letters(near).put_aside.counts)
    answer = asyncio.ensure_future(ask(near, "replay", number=2))
    await refuse(there, 0x87)
    assert (await answer)["replayed"] == 0
    assert len(letters(near)) == 3
    assert near.cloud.drops.counts == {}
    assert letters(near).put_aside.counts == before


async def test_a_replay_without_a_connection_goes_to_the_outbox(refused) -> None:
    near, there = refused
    await down(near, there)
    found = await ask(near, "replay")
    assert (found["replayed"], found["kept"], found["next"]) == (3, [], None)
    assert (len(letters(near)), waiting(near)) == (0, 3)


async def test_one_is_dropped_and_then_all(refused) -> None:
    near, _ = refused
    assert await ask(near, "drop", number=2) == {"status": 0, "dropped": 1}
    assert (await ask(near, "drop", number=2))["status"] == 1
    assert [number for number, _, _ in await listed(near)] == [1, 3]
    assert (await ask(near, "drop"))["dropped"] == 2
    assert await listed(near) == []
    assert letters(near).size == 0


async def test_what_cannot_be_asked_for(refused) -> None:
    near, _ = refused
    assert (await ask(near, "list", connector="nobody"))["status"] == 2
    assert (await ask(near, "list", connector=None))["status"] == 2
    assert (await ask(near, "burn"))["status"] == 2
    for number in (0, 4, 1 << 70, -1):
        assert (await ask(near, "show", number=number))["status"] == 1
    assert (await ask(near, "replay", number=99))["status"] == 1


async def test_many_come_in_pages(refused, monkeypatch) -> None:
    near, there = refused
    monkeypatch.setattr(dead_letter_desk, "PAGE_BYTES", 1)
    numbers, first, pages = [], 1, 0
    while first is not None:
        answer = await ask(near, "list", **{"from": first})
        numbers += [letter["number"] for letter in answer["letters"]]
        first, pages = answer["next"], pages + 1
    assert (numbers, pages) == ([1, 2, 3], 3)
    # All are refused again, come back behind these, and are not replayed a second time.
    first, last = 1, None
    count = 0
    while first is not None:
        more = {} if last is None else {"last": last}
        answer = asyncio.ensure_future(ask(near, "replay", **{"from": first}, **more))
        await refuse(there, 0x87)
        found = await answer
        count += len(found["kept"]) + found["replayed"]
        first, last = found["next"], found["last"]
    assert (count, last, len(letters(near))) == (3, 3, 3)


async def test_a_drop_that_cannot_be_written_says_so(refused, monkeypatch) -> None:
    near, _ = refused
    monkeypatch.setattr(dead_letter_desk, "REPLAY_S", 0.2)

    def write(self: Writer, *what: object) -> object:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Writer, "write", write)
        answer = await ask(near, "drop")
        assert answer["status"] == 1
        assert "deleted, but not on disk yet" in answer["errors"][0]


async def test_they_are_there_after_a_restart(isthmus, far, refused, tmp_path) -> None:
    near, _ = refused
    before = await listed(near)
    await near.app.close()
    near = await isthmus(config(far.port, tmp_path))
    assert await listed(near) == before
    assert near.cloud.figures.read()["dead_letters"] == 3


async def test_a_message_whose_life_is_over_is_not_replayed(isthmus, far, tmp_path) -> None:
    near = await isthmus(config(far.port, tmp_path, when_full="dead_letter", max_messages=1))
    here = await near.client("here")
    here.publish("out/a", "0", 1)
    await here.expect(PUBACK)
    here.publish("out/a", "1", 1, expiry=1)
    await here.expect(PUBACK)
    await asyncio.sleep(1.1)
    found = await ask(near, "replay")
    assert found["replayed"] == 0
    assert found["kept"] == [{"number": 1, "why": "its message expiry is over"}]
    assert len(letters(near)) == 1


def test_a_dead_letter_is_read_as_it_was_written() -> None:
    letter = DeadLetter(12.5, "refused_0x87", "edge-ü", b"\x02\x00\x01t\x00payload")
    assert unseal(seal(letter)) == letter
    for data in (b"", b"\x01", b"\x07" + seal(letter)[1:]):
        with pytest.raises(ValueError, match="dead letter"):
            unseal(data)
