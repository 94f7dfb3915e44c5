"""Routes that change topics, with a real Mosquitto at the far end, in both directions."""

from __future__ import annotations

import pytest

from raw import PUBLISH, Raw
from running import back, bridge, out

VERSIONS = ["3.1", "3.1.1", "5"]
NO_LOCAL = 4


async def ends(mosquitto, isthmus, routes, version="5"):
    far = await mosquitto()
    near = await isthmus(bridge(far.port, routes=routes, version=version))
    await near.connected()
    return near, await near.client("here"), await Raw.client(far.port, "there", 5)


async def topics(raw: Raw) -> list[str]:
    return sorted(found.topic for found in await raw.arrived() if found.kind == PUBLISH)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("direction", ["in", "out", "both"])
@pytest.mark.parametrize(
    ("strip", "prepend"), [("l/", "r/"), ("l/", ""), ("", "r/"), ("", ""), ("l/a/", "r/s/t/")]
)
async def test_prefixes_in_every_direction(mosquitto, isthmus, version, direction, strip, prepend):
    route = out(f"{strip}x/#", f"!{strip}x/no/#", strip=strip, prepend=prepend, direction=direction)
    _, here, there = await ends(mosquitto, isthmus, {"r": route}, version)
    await here.subscribe(f"{strip}x/#", qos=2, options=NO_LOCAL)
    await there.subscribe(f"{prepend}x/#", qos=2, options=NO_LOCAL)
    for qos in (0, 1, 2):
        for publisher, reader, near, far, goes in (
            (here, there, strip, prepend, direction in ("out", "both")),
            (there, here, prepend, strip, direction in ("in", "both")),
        ):
            assert await publisher.published(f"{near}x/no/1", "", qos) == 0
            assert await publisher.published(f"{near}x/1", str(qos), qos) == 0
            if goes:
                got = await reader.message()
                assert (got.topic, got.payload, got.qos) == (f"{far}x/1", str(qos).encode(), qos)
    await here.published("end", "", 1)
    assert (await topics(here), await topics(there)) == ([], [])  # no echo, and nothing excluded


async def test_the_level_above_a_prefix(mosquitto, isthmus):
    """Mosquitto's own bridge sends `r/a/b` for `topic # out 0 a/b/ r/`."""
    route = out("a/b/#", strip="a/b/", prepend="r/", direction="both")
    _, here, there = await ends(mosquitto, isthmus, {"r": route})
    await there.subscribe("#", qos=1)
    await here.published("a/b", "up", 1)
    assert (await there.message()).topic == "r"
    await there.unsubscribe("#")
    await here.subscribe("#", qos=1)
    await there.published("r", "down", 1)
    assert (await here.message()).topic == "a/b"


async def test_captures_flatten_and_turn_topics(mosquitto, isthmus):
    routes = {
        "up": out("site/+/sensor/+/#", topic="${2}/${1}/${3}"),
        "down": back("cmd/+/+", topic="${topic[-1]}/do/${topic[1]}", qos=1),
    }
    _, here, there = await ends(mosquitto, isthmus, routes)
    await there.subscribe("#", qos=1)
    await here.published("site/7/sensor/t1/a/b", "x", 1)
    assert (await there.message()).topic == "t1/7/a/b"
    await there.unsubscribe("#")
    await here.subscribe("#", qos=1)
    await there.published("cmd/valve/open", "x", 0)
    got = await here.message()
    assert (got.topic, got.qos) == ("open/do/valve", 1)


async def test_two_routes_to_one_topic_send_one_copy(mosquitto, isthmus):
    """Mosquitto 2.1 sends two copies for `topic # out` and `topic a/# out`."""
    _, here, there = await ends(mosquitto, isthmus, {"all": out("#"), "some": out("a/#", qos=1)})
    await there.subscribe("#", qos=2)
    await here.published("a/1", "x", 2)
    got = await there.message()
    assert (got.topic, got.qos) == ("a/1", 2)
    await here.published("a/2", "x", 0)
    got = await there.message()
    assert (got.topic, got.qos) == ("a/2", 1)
    assert await topics(there) == []
