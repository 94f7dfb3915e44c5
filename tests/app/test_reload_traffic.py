"""Reloads under traffic: what is acknowledged arrives, in order, and no client is disturbed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from reloadable import Reloadable

from mosquitto import Mosquitto, free_port
from raw import OPEN, PUBACK, PUBLISH, Raw, ack_packet, publish_packet, until

pytestmark = pytest.mark.alone  # it counts on reconnects within fixed times

WINDOW = 10
QUICK = {"min": "20ms", "max": "100ms"}


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[Reloadable]:
    found = Reloadable(tmp_path)
    OPEN.clear()
    yield found
    for raw in OPEN:
        raw.writer.transport.abort()
    OPEN.clear()
    await asyncio.sleep(0)
    found.end()


class Publisher:
    """Publishes numbers on its own topics with QoS 1, `WINDOW` at a time, until it is stopped."""

    def __init__(self, raw: Raw, topics: list[str]) -> None:
        self.raw = raw
        self.topics = topics
        self.sent = 0
        self.acked: list[int] = []
        self.stopping = False
        self._open: dict[int, int] = {}

    def _publish(self) -> None:
        packet_id = self.sent % 60_000 + 1
        self._open[packet_id] = self.sent
        topic = self.topics[self.sent % len(self.topics)]
        version = self.raw.version
        self.raw.send(publish_packet(topic, str(self.sent), 1, packet_id, version=version))
        self.sent += 1

    async def run(self) -> None:
        """Ends when everything is acknowledged after `stopping`; fails if the connection does."""
        while not self.stopping or self._open:
            while not self.stopping and len(self._open) < WINDOW:
                self._publish()
            answer = await self.raw.expect(PUBACK)
            assert answer.code == 0
            self.acked.append(self._open.pop(answer.packet_id))
            await asyncio.sleep(0.001)


async def collect(raw: Raw, got: dict[str, list[int]]) -> None:
    """Acknowledge everything that arrives, and note it by topic."""
    while True:
        first = (await raw.reader.readexactly(1))[0]
        size = shift = 0
        while True:
            byte = (await raw.reader.readexactly(1))[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        body = await raw.reader.readexactly(size)
        if first >> 4 != PUBLISH:
            continue
        length = struct.unpack_from(">H", body)[0]
        topic = body[2 : 2 + length].decode()
        at = 2 + length
        if first & 6:
            raw.send(ack_packet(PUBACK, struct.unpack_from(">H", body, at)[0]))
            at += 2
        if raw.version == 5:
            at += 1 + body[at]
        got.setdefault(topic, []).append(int(body[at:]))


def first_times(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


class Scene:
    """A process with a bridge to Mosquitto, publishers at it, and a subscriber at the far side."""

    def __init__(self, process: Reloadable, far: Mosquitto, folder: Path) -> None:
        self.process = process
        self.far = far
        self.port = free_port()
        self.data = folder / "data"
        self.publishers: list[Publisher] = []
        self.got: dict[str, list[int]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def configuration(self, **cloud: Any) -> dict[str, Any]:
        return {
            "node": "edge",
            "listeners": [{"bind": f"127.0.0.1:{self.port}"}],
            "http": None,
            "broker": {"data": str(self.data)},
            "connectors": {
                "cloud": {"url": f"127.0.0.1:{self.far.port}", "reconnect": QUICK, **cloud}
            },
            "routes": {"out": {"from": "local", "topics": ["sensor/#"], "to": "cloud"}},
        }

    async def start(self, publishers: int = 4) -> None:
        await self.process.start(self.configuration())
        there = await Raw.client(self.far.port, "collector")
        await there.subscribe("sensor/#", qos=1)
        self.tasks.append(asyncio.create_task(collect(there, self.got)))
        for number in range(publishers):
            raw = await Raw.client(self.port, f"p{number}", 5 if number % 2 else 4)
            topics = [f"sensor/{number}/{part}" for part in range(5)]
            publisher = Publisher(raw, topics)
            self.publishers.append(publisher)
            self.tasks.append(asyncio.create_task(publisher.run()))

    async def finish(self) -> None:
        """Everything that was sent is acknowledged, and has arrived, in order of each topic."""
        for publisher in self.publishers:
            publisher.stopping = True
        async with asyncio.timeout(20):
            await asyncio.gather(*self.tasks[1:])
        for publisher in self.publishers:
            assert publisher.acked == list(range(publisher.sent))
            assert publisher.sent > 100, "too little traffic to show anything"
        wanted = {
            topic: [n for n in range(one.sent) if one.topics[n % len(one.topics)] == topic]
            for one in self.publishers
            for topic in one.topics
        }
        await until(
            lambda: all(len(set(self.got[topic])) >= len(wanted[topic]) for topic in wanted)
        )
        self.tasks[0].cancel()
        for topic, numbers in wanted.items():
            assert first_times(self.got[topic]) == numbers, topic

    @property
    def repeated(self) -> int:
        return sum(len(numbers) - len(set(numbers)) for numbers in self.got.values())


@pytest_asyncio.fixture
async def scene(process: Reloadable, mosquitto: Any, tmp_path: Path) -> AsyncIterator[Scene]:
    found = Scene(process, await mosquitto(), tmp_path)
    yield found
    for task in found.tasks:
        task.cancel()
    await asyncio.gather(*found.tasks, return_exceptions=True)


async def test_reloads_of_everything_lose_nothing(scene: Scene, mosquitto: Any) -> None:
    other, extra = await mosquitto(), free_port()
    base = scene.configuration()
    more = scene.configuration()
    more["connectors"]["other"] = {"url": f"127.0.0.1:{other.port}"}
    more["routes"] |= {
        "copy": {"from": "local", "topics": ["sensor/1/#"], "to": "other"},
        "in": {"from": "other", "topics": ["control/#"], "to": "local"},
        "back": {"from": "cloud", "topics": ["control/#"], "to": "local"},
    }
    more["listeners"].append({"bind": f"127.0.0.1:{extra}"})
    steps = [
        more,
        scene.configuration(keepalive="50s"),
        base,
        more,
        scene.configuration(pool=3),
        scene.configuration(pool=2, ack_timeout="30s"),
        scene.configuration(version="3.1.1"),
        scene.configuration(rate_limit="5000/s"),
        scene.configuration(client_id="edge-fixed"),
    ]
    await scene.start()
    idle = await Raw.client(scene.port, "idle")
    loop = asyncio.get_running_loop()
    end, step = loop.time() + 5, 0
    while loop.time() < end or step < len(steps):
        next_at = loop.time() + 0.2
        changes = await scene.process.changed(steps[step % len(steps)])
        assert changes
        step += 1
        await asyncio.sleep(max(0, next_at - loop.time()))
    await scene.process.changed(base)
    await scene.finish()
    await idle.nothing()
    assert "Traceback" not in scene.process.log


@pytest.mark.parametrize("changes", [
    [{"keepalive": "50s"}, {"keepalive": "51s"}, {"receive_maximum": 77}],
    [{"pool": 4}, {"pool": 1}, {"pool": 3}, {"pool": 2}],
    [{"rate_limit": "2000/s"}, {"rate_limit": "3000/s"}, {}],
    [{"client_id": "a"}, {"client_id": "b"}, {}],
], ids=["new connections", "pool", "rate", "client id"])  # fmt: skip
async def test_a_connector_in_use_changes_without_loss(
    scene: Scene, changes: list[dict[str, Any]]
) -> None:
    await scene.start(2)
    await until(lambda: sum(map(len, scene.got.values())) > 50)
    for change in changes:
        assert any("connector cloud" in line for line in
                   await scene.process.changed(scene.configuration(**change)))  # fmt: skip
        await asyncio.sleep(0.5)
    await scene.finish()
    # What is in flight settles before a connection is made anew.
    assert scene.repeated == 0


async def test_a_pool_changes_while_the_far_side_is_down(scene: Scene) -> None:
    await scene.start(2)
    await until(lambda: sum(map(len, scene.got.values())) > 50)
    scene.far.pause()
    await asyncio.sleep(0.2)
    await scene.process.changed(scene.configuration(pool=3))
    await asyncio.sleep(0.2)
    scene.far.resume()
    before = sum(map(len, scene.got.values()))
    await until(lambda: sum(map(len, scene.got.values())) > before + 300)
    await scene.finish()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_pool_changes_and_nothing_from_the_far_side_is_missed(
    scene: Scene, version: str
) -> None:
    def configuration(pool: int) -> dict[str, Any]:
        found = scene.configuration(pool=pool, version=version)
        topics = [f"control/{number}" for number in range(20)]
        found["routes"]["in"] = {"from": "cloud", "topics": topics, "to": "local"}
        return found

    await scene.process.start(configuration(1))
    here = await Raw.client(scene.port, "here")
    await here.subscribe("control/#", qos=1)
    await until(lambda: "Sending SUBACK to cloud" in scene.far.log.read_text())
    scene.tasks.append(asyncio.create_task(collect(here, scene.got)))
    there = await Raw.client(scene.far.port, "there")
    publisher = Publisher(there, [f"control/{number}" for number in range(20)])
    scene.publishers.append(publisher)
    scene.tasks.append(asyncio.create_task(publisher.run()))
    for pool in (3, 2, 5, 1):
        assert await scene.process.changed(configuration(pool)) == [
            "connector cloud: changed (pool)"
        ]
        await asyncio.sleep(0.5)
    await scene.finish()


async def test_a_node_without_client_ids_keeps_messages_until_it_has_some(scene: Scene) -> None:
    def ids(*found: str) -> dict[str, Any]:
        return {"static_client_ids": {"edge": list(found), "other": ["x"]}}

    await scene.start(2)
    await until(lambda: sum(map(len, scene.got.values())) > 50)
    for found in ((), ("a", "b"), ("b",), (), ("c",)):
        await scene.process.changed(scene.configuration(**ids(*found)))
        await asyncio.sleep(0.4)
    await scene.finish()
