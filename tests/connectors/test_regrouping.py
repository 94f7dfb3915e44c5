"""A pool gets other members: what becomes of what waits, and in which order."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from isthmus.app.settings import Settings
from isthmus.connectors.regrouping import STUCK_S
from raw import (
    CONNACK,
    CONNECT,
    PUBACK,
    PUBLISH,
    PUBREC,
    PUBREL,
    Raw,
    ack_packet,
    packet,
    parse_hello,
    properties,
    until,
)
from running import bridge, out


async def members(far: Any, count: int, **values: Any) -> dict[str, Raw]:
    """The connections of so many members, by client id."""
    found = {}
    for _ in range(count):
        raw, hello = await far.client(**values)
        found[hello.client_id] = raw
    return found


def configuration(far: Any, *names: str) -> dict[str, Any]:
    return bridge(far.port, routes={"out": out("out/#")}, static_client_ids={"edge": list(names)})


async def change(near: Any, data: dict[str, Any]) -> None:
    listeners = near.app.settings.model_dump(mode="json")["listeners"]
    bind = {"bind": listeners[0]["bind"]}
    await near.app.reload(Settings.model_validate({"listeners": [bind], "http": None, **data}))


def topic_of(near: Any, name: str) -> str:
    """A topic whose messages take the member with this client id."""
    return next(
        topic for topic in (f"out/{number}" for number in range(1000))
        if near.cloud.client_id_of(topic.encode()) == name
    )  # fmt: skip


async def test_what_comes_from_another_member_keeps_its_order_when_a_session_is_lost(
    isthmus: Any, far: Any
) -> None:
    near = await isthmus(configuration(far, "a", "b"))
    there = await members(far, 2, receive_maximum=2)
    await near.connected()
    here, topic = await near.client("here"), topic_of(near, "b")
    for number in range(6):  # so that the numbers of b's lane are higher than those of a's
        here.publish(topic, f"before {number}", 1)
        got = await there["b"].expect(PUBLISH)
        there["b"].send(ack_packet(PUBACK, got.packet_id))
        await here.expect(PUBACK)
    for number in range(4):
        here.publish(topic, str(number), 1)
    for number in range(2):
        assert (await there["b"].expect(PUBLISH)).payload == str(number).encode()
    await until(lambda: near.cloud.members[1].lane.queued == 2)
    far.stop_listening()
    there["b"].reset()
    await until(lambda: near.cloud.members[1].state != "connected")
    await change(near, configuration(far, "a"))
    first = [await there["a"].expect(PUBLISH) for _ in range(2)]
    assert [one.payload for one in first] == [b"0", b"1"]
    # 2 goes out after 1: both are in flight when the far side forgets everything.
    there["a"].send(ack_packet(PUBACK, first[0].packet_id))
    assert (await there["a"].expect(PUBLISH)).payload == b"2"
    there["a"].reset()
    await far.start()
    again = (await members(far, 1))["a"]
    assert [(await again.message()).payload for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_member_that_is_down_holds_the_others_up_for_a_while_only(
    isthmus: Any, far: Any
) -> None:
    near = await isthmus(configuration(far, "a", "b"))
    there = await members(far, 2, receive_maximum=1)
    await near.connected()
    here, topic = await near.client("here"), topic_of(near, "b")
    for number in range(2):
        here.publish(topic, str(number), 1)
    assert (await there["b"].expect(PUBLISH)).payload == b"0"
    there["b"].reset()
    await until(lambda: near.cloud.members[1].state != "connected")
    changing = asyncio.create_task(change(near, configuration(far, "a", "b", "c")))
    late = await far.accept()  # b and c try; nobody answers
    await changing
    here.publish(topic, "2", 1)
    assert near.cloud.regrouping
    # 1 was never sent and goes over a; 0 stays with b, and comes when b is back.
    assert (await there["a"].message()).payload == b"1"
    await until(lambda: not near.cloud.regrouping)
    assert near.cloud.members[1].lane.inflight == 1
    late.close()


async def test_while_all_are_down_nothing_is_taken_from_a_member(isthmus: Any, far: Any) -> None:
    near = await isthmus(configuration(far, "a", "b"))
    there = await members(far, 2, receive_maximum=1)
    await near.connected()
    here, topic = await near.client("here"), topic_of(near, "b")
    for number in range(2):
        here.publish(topic, str(number), 1)
    assert (await there["b"].expect(PUBLISH)).payload == b"0"
    far.stop_listening()
    for raw in there.values():
        raw.reset()
    await until(lambda: all(one.state != "connected" for one in near.cloud.members))
    await change(near, configuration(far, "a", "b", "c"))
    await asyncio.sleep(STUCK_S + 0.3)
    await far.start()
    there = {}
    while len(there) < 3:
        raw = await far.accept()
        hello = parse_hello((await raw.expect(CONNECT)).body)
        raw.version = hello.version
        there[hello.client_id] = raw
    answer = packet(CONNACK << 4, b"\0\0" + properties())
    there["a"].send(answer)
    await until(lambda: near.cloud.members[0].state == "connected")
    await asyncio.sleep(0.3)
    assert near.cloud.members[1].lane.queued == 1
    there["b"].send(answer)
    assert [(await there["b"].message()).payload for _ in range(2)] == [b"0", b"1"]


async def taken(there: Raw) -> bytes:
    got = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, got.packet_id))
    return got.payload


async def test_a_member_that_leaves_after_an_outage_does_not_hold_the_line_up(
    isthmus: Any, far: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "isthmus.connectors")
    near = await isthmus(configuration(far, "a", "b"))
    near.app.status.stop()  # the test looks itself
    there = await members(far, 2, receive_maximum=1)
    await near.connected()
    here, topic, of_b = await near.client("here"), topic_of(near, "a"), topic_of(near, "b")
    for number in range(6):
        here.publish(of_b, f"before {number}", 1)
        await taken(there["b"])
        await here.expect(PUBACK)
    far.stop_listening()
    for raw in there.values():
        raw.reset()
    await until(lambda: {one.state for one in near.cloud.members} == {"waiting"})
    for number in range(3):
        here.publish(topic, str(number), 1)
    await until(lambda: near.cloud.figures.read()["queued"] == 3)
    near.cloud.figures.look(100.0)
    await far.start()
    there = await members(far, 2, receive_maximum=1)
    await near.connected()
    near.cloud.figures.look(101.0)
    await change(near, configuration(far, "a"))
    here.publish(topic, "3", 1)
    for number in range(3):
        assert await taken(there["a"]) == str(number).encode()
    assert (await there["a"].expect(PUBLISH)).payload == b"3"  # not acknowledged
    await until(lambda: not near.cloud.regrouping)
    assert "had waited" not in caplog.text
    near.cloud.figures.look(102.0)
    assert "3 message(s), as many as had waited" in caplog.text


@pytest.mark.parametrize("received", [0, 1])
@pytest.mark.parametrize("qos", [1, 2])
async def test_what_a_member_leaves_and_another_sends_again_counts_as_retried(
    isthmus: Any, far: Any, tmp_path: Path, qos: int, received: int
) -> None:
    data = {"broker": {"data": str(tmp_path)}} if qos == 2 else {}
    near = await isthmus({**configuration(far, "a", "b"), **data})
    there = await members(far, 2)
    await near.connected()
    here, topic = await near.client("here"), topic_of(near, "b")
    for number in range(3):
        here.publish(topic, str(number), qos)
    sent = [await there["b"].expect(PUBLISH) for _ in range(3)]
    for one in sent[:received]:
        there["b"].send(ack_packet(PUBACK if qos == 1 else PUBREC, one.packet_id))
        if qos == 2:
            await there["b"].expect(PUBREL)
    far.stop_listening()
    await until(lambda: near.cloud.figures.read()["acknowledged"] == received)
    there["b"].reset()
    await until(lambda: near.cloud.members[1].state != "connected")
    await change(near, {**configuration(far, "a"), **data})
    again = 3 - received if qos == 1 else 3
    found = [(await there["a"].expect(PUBLISH)).payload for _ in range(again)]
    assert found == [b"0", b"1", b"2"][-again:]
    assert near.cloud.figures.read()["retried"] == again
