"""`$SYS` topics: what Mosquitto publishes there, with figures that are true."""

from __future__ import annotations

import asyncio

import pytest

from isthmus.metrics.load import Load
from raw import PUBLISH, Raw

ABSENT = {
    # Not in Mosquitto 2.0 any more, or only where it was built with it.
    "$SYS/broker/timestamp",
    "$SYS/broker/changeset",
}


async def figures(raw: Raw, seconds: float = 1.3) -> dict[str, str]:
    """What is retained below `$SYS`, and its updates."""
    await raw.subscribe("$SYS/#")
    await asyncio.sleep(seconds)
    found = {}
    for message in await raw.arrived():
        if message.kind == PUBLISH:
            found[message.topic] = message.payload.decode()
    return found


async def test_every_topic_of_mosquitto_is_there(isthmus, mosquitto) -> None:
    near = await isthmus({"broker": {"sys_interval": "1s"}})
    real = await mosquitto("sys_interval 1")
    theirs = await figures(await Raw.client(real.port, "x"), 2.5)
    ours = await figures(await near.client("x"))
    assert len(theirs) > 20
    assert set(theirs) - set(ours) <= ABSENT


async def test_figures_are_true(isthmus) -> None:
    near = await isthmus({"broker": {"sys_interval": "200ms"}})
    one = await near.client("one")
    gone = await near.client("gone", session_expiry=60)
    await gone.subscribe("a", "b")
    await gone.subscribe("$share/g/a")
    gone.close()
    for _ in range(10):
        await one.published("a", "12345", 1)
    await one.published("kept", "x", 1, retain=True)
    found = await figures(one, 0.5)
    found = {name.removeprefix("$SYS/broker/"): value for name, value in found.items()}
    assert found["clients/connected"] == found["clients/active"] == "1"
    assert found["clients/disconnected"] == found["clients/inactive"] == "1"
    assert found["clients/total"] == found["clients/maximum"] == "2"
    assert found["subscriptions/count"] == "4"  # with $SYS/#
    assert found["shared_subscriptions/count"] == "1"
    assert int(found["publish/messages/received"]) == 11
    assert int(found["publish/bytes/received"]) == 51
    assert int(found["messages/received"]) >= 14
    assert int(found["messages/sent"]) >= 11
    assert int(found["bytes/received"]) > 200
    assert int(found["bytes/sent"]) > 100
    assert int(found["heap/maximum"]) >= int(found["heap/current"]) > 1 << 20
    assert float(found["load/publish/received/1min"]) > float(found["load/publish/received/15min"])
    assert found["version"].startswith("isthmus version ")


async def test_no_topics_without_an_interval(isthmus) -> None:
    near = await isthmus({"broker": {"sys_interval": 0}})
    assert await figures(await near.client("x"), 0.1) == {}


def test_a_load_average_nears_the_rate() -> None:
    load = Load()
    for step in range(1, 3600):
        load.update(step * 10, 1.0)  # 600 per minute
    assert load.averages == pytest.approx([600, 600, 600 * (1 - 2.72**-4)], rel=0.01)


async def test_the_highest_memory_is_never_below_what_there_is_now(isthmus, monkeypatch) -> None:
    monkeypatch.setattr("isthmus.broker.sys_topics.highest_resident_bytes", lambda: 1)
    found = (await isthmus()).app.sys_topics.values(1.0)
    assert found["heap/maximum"] == found["heap/current"] != "1"
