"""A bridge loses its network: what is published meanwhile, on either side, arrives after it."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path

import pytest
from bridge_kinds import KINDS, VERSIONS, bridged
from bridge_lines import FAR, NEAR, Expected, Line
from bridge_side import Side, fence

from raw import Raw

LINES = [
    Line("o/#", "out", 2, "", "r/"),
    Line("i/#", "in", 2, "l/", ""),
    Line("b/#", "both", 2),
    Line("low/#", "both", 1),
    Line("fence", "both", 2),
]


async def leave(side: Side, number: int, topic: str, payload: str, qos: int) -> None:
    """Publish with a client of its own, and wait for the acknowledgement, however long it takes.

    Isthmus acknowledges what goes to a far side when that has it.
    """
    client = await Raw.client(side.port, f"{side.name}-{number}")
    assert await client.published(topic, payload, qos) in (0, 0x10)
    client.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_published_while_the_network_is_away_arrives_once(
    kind: str, version: str, tmp_path: Path
) -> None:
    expected = Expected()
    async with bridged(kind, version, LINES, tmp_path, connected=True) as bridge:
        sides = {
            NEAR: await Side.open(bridge.near_port, NEAR),
            FAR: await Side.open(bridge.far_port, FAR),
        }
        try:
            await fence(sides[NEAR], sides[FAR], "fence", "start")
            await bridge.network.stop()
            tasks = []
            for number, (line, qos, side) in enumerate(product(LINES, (1, 2), sides)):
                if not line.pattern.endswith("#"):
                    continue
                topic, payload = line.topic(side, f"{side}-{qos}"), f"{line} {side} {qos}"
                # Mosquitto asks an MQTT 5 far side to forget its session with the connection.
                forgotten = kind == "mosquitto" and version == "5" and side == FAR
                expected.published(side, topic, payload, qos, False, None if forgotten else line)
                task = leave(sides[side], number, topic, payload, qos)
                tasks.append(asyncio.create_task(task))
                await asyncio.sleep(0.01)
            await bridge.network.start()
            await asyncio.gather(*tasks)
            for name, side in sides.items():
                await side.has(expected.arrived[name])
            await fence(sides[NEAR], sides[FAR], "fence", "end")
        finally:
            for side in sides.values():
                await side.close()
        for name, side in sides.items():
            got = {seen: n for seen, n in side.seen.items() if seen.topic != "fence"}
            assert got == expected.arrived[name]


@pytest.mark.parametrize("kind", ["connector", "file"])
async def test_retained_messages_are_the_same_on_both_sides_after_an_outage(
    kind: str, tmp_path: Path
) -> None:
    """Those that were changed and those that were deleted, also over a line with QoS 0."""
    lines = [Line("zero/#", "out", 0), Line("one/#", "out", 1), Line("fence", "both", 2)]
    async with bridged(kind, "3.1.1", lines, tmp_path) as bridge:
        near = await Side.open(bridge.near_port, NEAR)
        far = await Side.open(bridge.far_port, FAR)
        try:
            for topic in ("zero/kept", "zero/changed", "zero/deleted", "one/kept"):
                await near.publish(topic, "before", 0, retain=True)
            await bridge.network.start()
            await fence(near, far, "fence", "start")
            assert len(await far.retained(4)) == 4
            await bridge.network.stop()
            # What QoS 0 writes to a connection before its end is noticed is lost with it.
            await asyncio.sleep(0.5)
            await near.publish("zero/changed", "after", 0, retain=True)
            await near.publish("zero/deleted", "", 0, retain=True)
            await bridge.network.start()
            await fence(near, far, "fence", "end")
            assert await far.retained(3) == {
                "zero/kept": "before",
                "zero/changed": "after",
                "one/kept": "before",
            }
            # Once per session, and not again with every connection.
            sent = [seen for seen in far.order if seen.topic == "zero/kept"]
            assert len(sent) == 1
        finally:
            await near.close()
            await far.close()
