"""Every kind of bridge, version, QoS, direction, prefix: each message arrives once, nowhere else.

One pair of brokers for each kind and version carries all the lines. What has to arrive is worked
out by `bridge_lines` from the reading of `topic` lines that Mosquitto documents.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from bridge_kinds import KINDS, VERSIONS, bridged
from bridge_lines import FAR, NEAR, Expected, Line, other
from bridge_side import Side, fence

PREFIXES = {
    "none": ("", ""),
    "local": ("l/", ""),
    "remote": ("", "r/s/"),
    "both": ("l/", "r/"),
    "half-level": ("l/x-", "r-"),  # put in front as they are, without a slash
}
FENCE = Line("fence", "both", 2)


def lines() -> list[Line]:
    found = []
    for direction, qos in product(("out", "in", "both"), (0, 1, 2)):
        for name, (local, remote) in PREFIXES.items():
            found.append(Line(f"{direction}{qos}-{name}/#", direction, qos, local, remote))
        exact = f"{direction}{qos}-exact"
        found.append(Line("", direction, qos, f"l/{exact}", f"r/{exact}"))
        found.append(Line(f"{direction}{qos}/+/plus", direction, qos, "", "r/"))
    return found


LINES = lines()


async def before(sides: dict[str, Side], expected: Expected) -> None:
    """Retained on both sides before there is a bridge.

    With QoS 0 on the near side: what has more waits for the bridge besides being retained.
    """
    for line, (side, qos) in product(LINES, {NEAR: 0, FAR: 1}.items()):
        if line.pattern or side == NEAR:  # one topic for both sides would have two values
            topic, payload = line.topic(side, f"before-{side}"), f"before {line} {side}"
            expected.published(side, topic, payload, qos, True, line)
            await sides[side].publish(topic, payload, qos, retain=True)


async def through(sides: dict[str, Side], expected: Expected, side: str) -> None:
    """Everything from one side, through the bridge."""
    for line, qos, retain in product(LINES, (0, 1, 2), (False, True)):
        topic = line.topic(side, f"from-{side}-{qos}-{retain:d}")
        payload = f"{line} from {side} {qos} {retain}"
        expected.published(side, topic, payload, qos, retain, line)
        await sides[side].publish(topic, payload, qos, retain=retain)


async def astray(sides: dict[str, Side], expected: Expected, side: str) -> None:
    """Topics that no line takes: with the prefix of the other side, without one, with a `$`."""
    theirs = {line.topic(side, "x") for line in LINES}
    for line in LINES:
        if line.local == line.remote:
            continue
        bare = line.topic(side, "x").removeprefix(line.prefix(side)) or "nothing"
        for topic in {line.topic(other(side), "x"), bare} - theirs:
            payload = f"astray {line} {side}"
            expected.published(side, topic, payload, 1, False, None)
            await sides[side].publish(topic, payload, 1)
    await sides[side].publish("$x/out2-none/y", "hidden", 1)


def differences(found: dict, expected: dict) -> dict:
    """What is not as it should be, as (found, expected)."""
    return {
        key: (found.get(key), expected.get(key))
        for key in {*found, *expected}
        if found.get(key) != expected.get(key)
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_message_arrives_once_where_it_should(
    kind: str, version: str, tmp_path: Path
) -> None:
    expected = Expected()
    async with bridged(kind, version, [*LINES, FENCE], tmp_path) as bridge:
        sides = {
            NEAR: await Side.open(bridge.near_port, NEAR),
            FAR: await Side.open(bridge.far_port, FAR),
        }

        async def settle(mark: str) -> None:
            for name, side in sides.items():
                await side.has(expected.arrived[name])
            await fence(sides[NEAR], sides[FAR], "fence", mark)

        try:
            await before(sides, expected)
            await bridge.network.start()
            await settle("start")
            for side in sides:
                await through(sides, expected, side)
                await astray(sides, expected, side)
                await settle(side)
        finally:
            for side in sides.values():
                await side.close()
        for name, side in sides.items():
            got = {seen: n for seen, n in side.seen.items() if seen.topic != "fence"}
            assert differences(got, expected.arrived[name]) == {}
            retained = await side.retained(len(expected.retained[name]))
            assert differences(retained, expected.retained[name]) == {}
