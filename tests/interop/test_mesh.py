"""Meshes of Isthmus and real Mosquittos with `#` both ways on every link.

Every test publishes one message at each broker and counts the copies that a client of each broker
gets. docs/routes.md says how many they may be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from bridge_kinds import VERSIONS

from mosquitto import free_port
from raw import PUBLISH, Raw, until
from running import QUICK, Isthmus

ROUTE = {"from": "local", "topics": ["#"], "direction": "both"}
STILL_S = 0.4
"""So long without a message: what goes round comes every few milliseconds."""

ONCE = [[1] * 4] * 4

PROTOCOLS = ["mqttv311", "mqttv50"]


def node(links: dict[str, int], port: int = 0, version: str = "5", **guard: bool) -> dict[str, Any]:
    """An Isthmus on `port` with a connector and a route for each link."""
    how = {"reconnect": QUICK, "version": version}
    return {
        "listeners": [{"bind": f"127.0.0.1:{port}"}],
        "connectors": {name: {"url": f"127.0.0.1:{to}", **how} for name, to in links.items()},
        "routes": {f"to-{name}": {**ROUTE, "to": name, "loop_guard": guard} for name in links},
    }


def edge(name: str, port: int, protocol: str) -> list[str]:
    """A bridge of Mosquitto to `port`."""
    return [
        f"connection {name}",
        f"address 127.0.0.1:{port}",
        f"bridge_protocol_version {protocol}",
        f"remote_clientid {name}",
        "topic # both 2",
        "notifications false",
        "restart_timeout 1",
        "try_private true",
    ]


async def connected(*nodes: Isthmus) -> None:
    for one in nodes:
        for name in one.app.connectors:
            await one.connected(name)


async def triangle(
    isthmus: Any, mosquitto: Any, opens: str, protocol: str, version: str = "5", **guard: bool
) -> tuple[Isthmus, list[int]]:
    """Isthmus and two Mosquittos, all bridged with each other; the ports, ours first.

    Between the Mosquittos is a bridge of Mosquitto; `opens` says who bridges the first of them with
    Isthmus.
    """
    second = await mosquitto()
    own = free_port()
    links = {"m2": second.port}
    lines = edge("edge", second.port, protocol)
    if opens == "mosquitto":
        near = await isthmus(node(links, own, version, **guard))
        first = await mosquitto(*lines, *edge("up", own, protocol))
        sessions = near.app.broker.sessions
        await until(lambda: "up" in sessions and sessions["up"].subscriptions)
    else:
        first = await mosquitto(*lines)
        near = await isthmus(node({**links, "m1": first.port}, own, version, **guard))
    await until(lambda: "Sending SUBACK to edge" in second.log.read_text())
    await connected(near)
    return near, [own, first.port, second.port]


class Ear:
    """A client that counts what comes to one broker."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.seen: Counter[str] = Counter()

    async def listen(self) -> int:
        """Take what has come; how much it was."""
        found = [one for one in await self.raw.arrived() if one.kind == PUBLISH]
        self.seen.update(one.topic for one in found)
        return len(found)


Copies = list[list[int]]
"""How often each broker, in order, delivers what was published at each broker, in order."""


async def delivered(ports: list[int], least: Copies, most: Copies, qos: int = 1) -> None:
    """Publish `from/N` once at each broker; what each of them delivers is within the bounds."""
    ears = [Ear(await Raw.client(port, "ear")) for port in ports]
    for ear in ears:
        await ear.raw.subscribe("from/#")
    for number, port in enumerate(ports):
        publisher = await Raw.client(port, "publisher")
        await publisher.published(f"from/{number}", "x", qos)

    def counts() -> Copies:
        return [[ear.seen[f"from/{number}"] for number in range(len(ports))] for ear in ears]

    def within(low: Copies, high: Copies) -> bool:
        return all(
            x <= y
            for one, two in zip(low, high, strict=True)
            for x, y in zip(one, two, strict=True)
        )

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(8):
            while not within(least, counts()):
                for ear in ears:
                    await ear.listen()
            heard = 1
            while heard:
                await asyncio.sleep(STILL_S)
                heard = sum([await ear.listen() for ear in ears])
    assert within(least, counts()), counts()
    assert within(counts(), most), counts()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_star_of_mosquittos_around_one_isthmus_delivers_once(
    isthmus, mosquitto, version: str, qos: int
) -> None:
    """Nothing but the hub connects them, so no guard is needed, and MQTT 3 does as well."""
    leaves = [(await mosquitto()).port for _ in range(3)]
    hub = await isthmus(node({f"m{i}": port for i, port in enumerate(leaves)}, version=version))
    await connected(hub)
    await delivered([hub.port, *leaves], ONCE, ONCE, qos)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_star_that_mosquittos_open_delivers_once(isthmus, mosquitto, protocol: str) -> None:
    hub = await isthmus({})
    ports = [
        (await mosquitto(*edge(f"edge-{i}", hub.port, protocol), "cleansession true")).port
        for i in range(3)
    ]
    sessions = hub.app.broker.sessions
    await until(
        lambda: all(
            f"edge-{i}" in sessions and sessions[f"edge-{i}"].subscriptions for i in range(3)
        )
    )
    await delivered([hub.port, *ports], ONCE, ONCE)


async def test_a_full_mesh_of_two_and_two_over_mqtt_5_ends(isthmus, mosquitto) -> None:
    """Each Isthmus is bridged to both Mosquittos and to the other Isthmus."""
    leaves = [(await mosquitto()).port for _ in range(2)]
    links = {f"m{i}": port for i, port in enumerate(leaves)}
    first = free_port()
    a = await isthmus(node(links, first))
    b = await isthmus(node({**links, "a": first}))
    await connected(a, b)
    # What begins at one of ours has a number from the beginning: once at each of ours, and at a
    # Mosquitto once by each of its two links. What begins at a Mosquitto comes to both of ours
    # without a number: each gives it one, and both go everywhere.
    ours, theirs = [1, 1, 2, 2], [2, 2, 1 + 2 * 2, 1 + 2 * 2]
    await delivered(
        [a.port, b.port, *leaves], [ours, ours, [1] * 4, [1] * 4], [ours, ours, theirs, theirs]
    )


@pytest.mark.parametrize("opens", ["isthmus", "mosquitto"])
async def test_a_bridge_of_mosquitto_over_mqtt_5_that_closes_a_ring_is_no_loop(
    isthmus, mosquitto, opens: str
) -> None:
    """The property stays on the message on all three links, so it ends where it began."""
    _, ports = await triangle(isthmus, mosquitto, opens, "mqttv50")
    # Both ways round bring what begins at Isthmus, and what begins at a Mosquitto comes to it by
    # both links without a number, and gets two.
    ours, theirs = [1, 2, 2], [2, 1 + 2 * 2, 1 + 2 * 2]
    await delivered(ports, [ours, [2, 1, 1], [2, 1, 1]], [ours, theirs, theirs])


@pytest.mark.parametrize("guard", [{}, {"memory": True}])
@pytest.mark.parametrize(("version", "protocol"), [("5", "mqttv311"), ("3.1.1", "mqttv50")])
async def test_a_ring_with_one_link_of_mqtt_3_goes_round_and_is_noticed(
    isthmus, mosquitto, monkeypatch, caplog, version: str, protocol: str, guard: dict[str, bool]
) -> None:
    """The bridge of Mosquitto speaks 3.1.1 if nobody says otherwise, and drops the property."""
    monkeypatch.setattr("isthmus.delivery.ring_watch.LASTING_S", 1)
    near, ports = await triangle(isthmus, mosquitto, "isthmus", protocol, version, **guard)
    # What begins at a Mosquitto goes round even with the memory, which knows one link at a time.
    publisher = await Raw.client(ports[1], "publisher")
    publisher.publish("round", "and round")
    await until(lambda: "one and the same message" in caplog.text)
    assert "'round'" in caplog.text
    for name in near.app.connectors:
        await near.app.connectors[name].stop()  # which ends it


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_with_the_memory_what_begins_at_isthmus_ends_in_a_ring_of_any_version(
    isthmus, mosquitto, version: str
) -> None:
    """It was sent by both links, and is known when it comes back by the other one."""
    near, ports = await triangle(isthmus, mosquitto, "isthmus", "mqttv311", version, memory=True)
    ears = [Ear(await Raw.client(port, "ear")) for port in ports]
    for ear in ears:
        await ear.raw.subscribe("from/#")
    publisher = await near.client("publisher")
    for number in range(10):
        await publisher.published(f"from/{number}", "x", 1)
    links = near.app.connectors.values()
    await until(lambda: sum(link.drops.counts.get("echo", 0) for link in links) == 20)
    for ear, each in zip(ears, (1, 2, 2), strict=True):
        await ear.listen()
        assert ear.seen == {f"from/{number}": each for number in range(10)}
