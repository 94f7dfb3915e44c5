"""Rings and meshes of brokers: each message arrives once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import combinations

import pytest

from isthmus.delivery.echoes import REMEMBERED_S
from isthmus.delivery.loop_alarm import ALARM_COUNT
from mosquitto import free_port
from raw import PUBACK, PUBLISH, Raw, ack_packet, grant, publish_packet, until
from running import QUICK, Isthmus, back, bridge, out

BOTH = {"direction": "both", "topics": ["#"], "from": "local"}


def node(port: int, others: dict[str, int], version: str = "5", **route) -> dict:
    return {
        "listeners": [{"bind": f"127.0.0.1:{port}"}],
        "connectors": {
            name: {"url": f"127.0.0.1:{other}", "reconnect": QUICK, "version": version}
            for name, other in others.items()
        },
        "routes": {f"to-{name}": {**BOTH, "to": name, **route} for name in others},
    }


async def started(isthmus, configurations) -> list[Isthmus]:
    nodes = [await isthmus(configuration) for configuration in configurations]
    for one in nodes:
        for name in one.app.connectors:
            await one.connected(name)
    return nodes


async def heard(raw: Raw, seconds: float = 0.3) -> Counter[tuple[str, bytes]]:
    await asyncio.sleep(seconds)
    return Counter((found.topic, found.payload) for found in await raw.arrived())


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
async def test_a_ring_delivers_each_message_once(isthmus, count: int, qos: int) -> None:
    ports = [free_port() for _ in range(count)]
    nodes = await started(
        isthmus,
        [node(port, {"next": ports[(i + 1) % count]}) for i, port in enumerate(ports)],
    )
    clients = [await one.client("client") for one in nodes]
    for raw in clients:
        await raw.subscribe("#", qos=qos)
    expected = Counter({(f"t/{i}", b"x%d" % n): 1 for i in range(count) for n in range(3)})
    for i, one in enumerate(nodes):
        publisher = await one.client("publisher")
        for n in range(3):
            await publisher.published(f"t/{i}", f"x{n}", qos)
    for raw in clients:
        found: Counter[tuple[str, bytes]] = Counter()
        await asyncio.sleep(0.3)
        for message in await raw.arrived():
            assert message.kind == PUBLISH
            assert "user" not in message.properties  # no client sees the hops
            found[message.topic, message.payload] += 1
        assert found == expected
    assert all(one.app.broker.hops.drops.total for one in nodes if count > 2)


async def test_a_full_mesh_delivers_each_message_once(isthmus) -> None:
    ports = [free_port() for _ in range(4)]
    links: list[dict[str, int]] = [{} for _ in ports]
    for a, b in combinations(range(4), 2):
        links[a][f"n{b}"] = ports[b]
    nodes = await started(isthmus, [node(port, links[i]) for i, port in enumerate(ports)])
    clients = [await one.client("client") for one in nodes]
    for raw in clients:
        await raw.subscribe("#")
    for i, one in enumerate(nodes):
        publisher = await one.client("publisher")
        await publisher.published(f"t/{i}", "x", 1, user=("mine", "stays"))
    for raw in clients:
        found = await heard(raw)
        assert found == {(f"t/{i}", b"x"): 1 for i in range(4)}


async def test_retained_messages_and_deletes_go_round_once(isthmus) -> None:
    ports = [free_port() for _ in range(3)]
    nodes = await started(
        isthmus, [node(port, {"next": ports[(i + 1) % 3]}) for i, port in enumerate(ports)]
    )
    publisher = await nodes[0].client("publisher")
    await publisher.published("kept", "1", 1, retain=True)
    for one in nodes:
        await asyncio.sleep(0.2)
        raw = await one.client("late")
        await raw.subscribe("kept")
        assert (await raw.message()).payload == b"1"
        await raw.nothing()
    await publisher.published("kept", "", 1, retain=True)
    await asyncio.sleep(0.3)
    assert [one.app.broker.retained.get(b"kept") for one in nodes] == [None, None, None]


async def test_a_ring_through_mosquitto(isthmus, mosquitto) -> None:
    """Two of ours and a Mosquitto, each bridged to the next over MQTT 5."""
    one, two = free_port(), free_port()
    third = await mosquitto(
        "connection back",
        f"address 127.0.0.1:{one}",
        "bridge_protocol_version mqttv50",
        "topic # both 1",
        "notifications false",
        "try_private false",
        "restart_timeout 1",
        "cleansession true",
    )
    nodes = await started(isthmus, [node(one, {"next": two}), node(two, {"next": third.port})])
    await until(lambda: any("back" in name for name in nodes[0].app.broker.sessions))
    await asyncio.sleep(0.5)
    ports = [one, two, third.port]
    clients = [await Raw.client(port, "client") for port in ports]
    for raw in clients:
        await raw.subscribe("#", qos=1)
    for i, port in enumerate(ports):
        publisher = await Raw.client(port, "publisher")
        await publisher.published(f"t/{i}", "x", 1)
    await asyncio.sleep(0.5)
    counts = [await heard(raw, 0.1) for raw in clients]
    # Mosquitto has no guard. What reaches it by both ways it delivers twice, and what it publishes
    # itself comes to the others by both ways, without a number. Nothing goes round.
    for count in counts[:2]:
        assert count == {("t/0", b"x"): 1, ("t/1", b"x"): 1, ("t/2", b"x"): 2}
    assert max(counts[2].values()) <= 3  # its own, and that back by both ways
    assert len(counts[2]) == 3


async def test_a_route_without_hops_sends_none(isthmus, far) -> None:
    for how, expected in ((True, 1), (False, 0)):
        near = await isthmus({
            "connectors": {"cloud": {"url": f"127.0.0.1:{far.port}", "reconnect": QUICK}},
            "routes": {"r": out("a", loop_guard={"hops": how})},
        })  # fmt: skip
        there, _ = await far.client()
        raw = await near.client("x")
        raw.publish("a", "x", 0)
        found = await there.expect(PUBLISH)
        assert len(found.properties.get("user", [])) == expected


# -- MQTT 3.1.1 ------------------------------------------------------------------------------------


def two_way(port: int, **guard) -> dict:
    return {
        "connectors": {
            "cloud": {
                "url": f"127.0.0.1:{port}",
                "version": "3.1.1",
                "bridge_bit": False,
                "reconnect": QUICK,
            }
        },
        "routes": {
            "out": out("#", loop_guard=guard, qos=1),
            "in": back("#", qos=1),
        },
    }


async def test_the_memory_cancels_what_a_far_side_sends_back(isthmus, mosquitto) -> None:
    real = await mosquitto()
    near = await isthmus(two_way(real.port, memory=True))
    await near.connected()
    here, there = await near.client("here"), await Raw.client(real.port, "there")
    await here.subscribe("#")
    await there.subscribe("#")
    publisher = await near.client("publisher")
    for number in range(20):
        await publisher.published("a", str(number % 3), 1)
    await asyncio.sleep(0.5)
    assert sum((await heard(there, 0)).values()) == 20
    assert sum((await heard(here, 0)).values()) == 20
    assert near.cloud.drops.counts == {"echo": 20}


EQUAL = 10_000
PART = 250
"""So many at a time: what comes back does so long before it is forgotten."""


class Counting:
    """A client that counts the messages it gets, which all have to be the same one."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.count = 0

    async def has(self, count: int) -> None:
        """Wait for so many in all, and for what comes after them."""
        deadline = asyncio.get_running_loop().time() + 8
        while self.count < count:
            await self._take()
            assert asyncio.get_running_loop().time() < deadline, f"{self.count} of {count}"
        await self._take()
        assert self.count == count

    async def _take(self) -> None:
        for found in await self.raw.arrived():
            assert (found.kind, found.topic, found.payload) == (PUBLISH, "same", b"same")
            self.count += 1


async def equal(publisher: Raw, count: int) -> None:
    """Publish so many equal messages, and wait for their acknowledgements."""
    for _ in range(count):
        publisher.publish("same", "same", 1)
    acknowledged = 0
    while acknowledged < count:
        acknowledged += (await publisher.packet()).kind == PUBACK


@pytest.mark.parametrize("sides", ["near", "far", "both"])
async def test_equal_messages_of_a_publisher_all_arrive(isthmus, mosquitto, sides: str) -> None:
    """10,000 equal messages through a two-way route with the memory on, from one side or both.

    Each subscriber gets each of them once: what the far side sends back is cancelled, and nothing
    of what somebody published there.
    """
    real = await mosquitto("max_queued_messages 0", "max_inflight_messages 0")
    near = await isthmus(two_way(real.port, memory=True))
    await near.connected()
    here = Counting(await near.client("here"))
    there = Counting(await Raw.client(real.port, "there"))
    publishers = []
    if sides != "far":
        publishers.append(await near.client("near publisher"))
    if sides != "near":
        publishers.append(await Raw.client(real.port, "far publisher"))
    for one in (here, there):
        await one.raw.subscribe("same")
    each = EQUAL // len(publishers)
    sent = 0
    for _ in range(each // PART):
        await asyncio.gather(*(equal(publisher, PART) for publisher in publishers))
        sent += PART * len(publishers)
        await here.has(sent)
        await there.has(sent)
    assert sent == EQUAL
    # The far side sends back what it got from here, and nothing else comes twice.
    assert near.cloud.drops.counts == ({} if sides == "far" else {"echo": each})
    # What came from there never goes back there.
    assert near.cloud.members[0].lane.sent == (0 if sides == "far" else each)


def with_session(port: int) -> dict:
    """The memory, towards a far side that keeps the session."""
    found = two_way(port, memory=True)
    found["connectors"]["cloud"]["client_id"] = "me"
    return found


async def returned(there: Raw, count: int) -> None:
    """The part of a far side that sends the messages it gets back, acknowledged to the end."""
    for _ in range(count):
        while (found := await there.packet()).kind != PUBLISH:
            pass  # a SUBSCRIBE
        if found.qos:
            there.send(ack_packet(PUBACK, found.packet_id))
        there.publish(found.topic, found.payload)


@pytest.mark.parametrize("on_disk", [False, True])
async def test_the_memory_holds_for_what_has_waited(isthmus, far, tmp_path, on_disk: bool) -> None:
    """The far side was away for longer than copies may take to come back."""
    count = 100
    data = {"broker": {"data": str(tmp_path / "data")}} if on_disk else {}
    near = await isthmus({**with_session(far.port), **data})
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    far.stop_listening()
    there.close()
    await until(lambda: near.cloud.state != "connected")
    here = Counting(await near.client("here"))
    await here.raw.subscribe("same")
    publisher = await near.client("publisher")
    for _ in range(count):
        publisher.publish("same", "same", 1)
    await until(lambda: near.cloud.figures.read()["queued"] == count)
    await asyncio.sleep(REMEMBERED_S + 0.2)
    await far.start()
    there, _ = await far.client(session_present=True)
    await returned(there, count)
    await until(lambda: near.cloud.drops.counts == {"echo": count})
    await here.has(count)


@pytest.mark.parametrize("qos", [0, 1])
async def test_the_memory_holds_for_what_a_rate_limit_delays(isthmus, far, qos: int) -> None:
    count = 40
    limited = two_way(far.port, memory=True)
    limited["connectors"]["cloud"]["rate_limit"] = "10/s"
    limited["routes"]["out"]["qos"] = qos
    near = await isthmus(limited)
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    here = Counting(await near.client("here"))
    await here.raw.subscribe("same")
    publisher = await near.client("publisher")
    for _ in range(count):
        publisher.publish("same", "same", qos)
    await returned(there, count)
    await until(lambda: near.cloud.drops.counts == {"echo": count})
    await here.has(count)


async def test_what_is_sent_again_is_remembered_again(isthmus, far) -> None:
    near = await isthmus(with_session(far.port))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    here = Counting(await near.client("here"))
    await here.raw.subscribe("same")
    publisher = await near.client("publisher")
    publisher.publish("same", "same", 1)
    await there.expect(PUBLISH)
    await asyncio.sleep(REMEMBERED_S + 0.2)
    there.close()
    there, _ = await far.client(session_present=True)
    await returned(there, 1)
    await until(lambda: near.cloud.drops.counts == {"echo": 1})
    await here.has(1)


async def test_the_memory_is_of_the_routes_that_ask_for_it(isthmus, far) -> None:
    """Also after a change of the configuration."""
    listener = {"bind": f"127.0.0.1:{free_port()}"}
    configuration = {"listeners": [listener], **two_way(far.port)}
    configuration["routes"] |= {
        "out": out("with/#", qos=1, topic="far/${topic}", loop_guard={"memory": True}),
        "other": out("without/#", qos=1, topic="far/${topic}"),
    }
    near = await isthmus(configuration)
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    here = await near.client("here")
    await here.subscribe("far/#")
    publisher = await near.client("publisher")
    for topic in ("with/1", "without/1", "with/2", "without/2"):
        publisher.publish(topic, "x", 1)
    await returned(there, 4)
    assert [(await here.message()).topic for _ in range(2)] == ["far/without/1", "far/without/2"]
    await until(lambda: near.cloud.drops.counts == {"echo": 2})
    configuration["routes"]["other"]["loop_guard"] = {"memory": True}
    await near.reload(configuration)
    publisher.publish("without/1", "x", 1)
    await returned(there, 1)
    await until(lambda: near.cloud.drops.counts == {"echo": 3})
    for route in ("out", "other"):
        del configuration["routes"][route]["loop_guard"]
    await near.reload(configuration)
    publisher.publish("with/1", "x", 1)
    await returned(there, 1)
    assert (await here.message()).topic == "far/with/1"


async def test_the_memory_holds_for_topics_that_begin_with_a_dollar_sign(isthmus, far) -> None:
    shadows = "$aws/things/+/shadow/update"
    routes = {
        "out": out("cloud/#", qos=1, strip="cloud/", loop_guard={"memory": True}),
        "in": back(shadows, prepend="cloud/"),
    }
    near = await isthmus(bridge(far.port, routes=routes, version="3.1.1", bridge_bit=False))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    here = await near.client("here")
    here.publish("cloud/$aws/things/x/shadow/update", "x", 1)
    await returned(there, 1)
    await until(lambda: near.cloud.drops.counts == {"echo": 1})


async def test_very_many_copies_over_mqtt_3_are_an_alarm(isthmus, mosquitto, caplog) -> None:
    real = await mosquitto("max_queued_messages 0", "max_inflight_messages 0")
    near = await isthmus(two_way(real.port, memory=True))
    await near.connected()
    here = await near.client("here")
    for _ in range(ALARM_COUNT // PART):
        await equal(here, PART)
    await until(lambda: near.cloud.drops.counts == {"echo": ALARM_COUNT})
    alarms = [record for record in caplog.records if "came back within" in record.message]
    assert len(alarms) == 1


async def test_a_ring_over_mqtt_3_without_a_guard_is_noticed(isthmus, monkeypatch, caplog) -> None:
    """One message goes round until somebody ends it; each process says so, once."""
    monkeypatch.setattr("isthmus.delivery.ring_watch.LASTING_S", 1)
    ports = [free_port() for _ in range(3)]
    nodes = await started(
        isthmus,
        [node(port, {"next": ports[(i + 1) % 3]}, "3.1.1") for i, port in enumerate(ports)],
    )
    publisher = await nodes[0].client("publisher")
    publisher.publish("round", "and round")

    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if "one and the same message" in line]

    await until(said)
    assert "'round'" in said()[0]
    assert "use MQTT 5 on all connections" in said()[0]
    await nodes[1].app.connectors["next"].stop()  # which ends it


async def test_a_publisher_of_many_messages_over_mqtt_3_is_no_ring(
    isthmus, far, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("isthmus.delivery.ring_watch.LASTING_S", 1)
    near = await isthmus(two_way(far.port))
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    for number in range(400):
        there.publish("t", f"{number}")
        await asyncio.sleep(0.006)
    assert near.status()["state"] == "connected"
    assert not [record for record in caplog.records if "the same message" in record.message]


HOPS = ("isthmus-hops", "1@aaaaaaaaaaaa")


@pytest.mark.parametrize("comes_back_as", ["bridge", "another"])
async def test_what_was_not_acknowledged_may_come_again(isthmus, far, comes_back_as) -> None:
    """A bridge that begins a new session, or takes another client id, sends it again: it must not
    be acknowledged before the far side has it."""
    near = await isthmus(bridge(far.port, routes={"out": out("t")}))
    there, _ = await far.client()
    first = await near.client("bridge", 5)
    first.send(publish_packet("t", "precious", 1, 1, user=[HOPS]))
    assert (await there.expect(PUBLISH)).payload == b"precious"  # and no acknowledgement
    first.reset()
    await until(lambda: near.app.broker.connected == 0)
    second = await near.client(comes_back_as, 5)
    second.send(publish_packet("t", "precious", 1, 1, user=[HOPS]))
    again = await there.expect(PUBLISH)
    assert again.payload == b"precious"
    await second.nothing()
    there.send(ack_packet(PUBACK, again.packet_id))
    assert (await second.expect(PUBACK)).code == 0
    # Now it is safe, and a copy by another way is one too many.
    third = await near.client("third", 5)
    third.send(publish_packet("t", "precious", 1, 1, user=[HOPS]))
    assert (await third.expect(PUBACK)).code == 0
    third.publish("t", "next")
    assert (await there.expect(PUBLISH)).payload == b"next"


async def test_what_a_bridge_brought_is_not_dropped_for_it_will_not_be_sent_again(isthmus) -> None:
    """A copy that came by another way has been acknowledged for it."""
    near = await isthmus(
        bridge(free_port(), routes={"out": out("t", queue={"max_bytes": "64KiB"})})
    )
    first = await near.client("first", 5)
    first.send(publish_packet("t", "precious", 1, 1, user=[HOPS]))
    await first.nothing()
    second = await near.client("second", 5)
    second.send(publish_packet("t", "precious", 1, 1, user=[HOPS]))
    assert (await second.expect(PUBACK)).code == 0
    first.reset()
    await until(lambda: near.app.broker.connected == 1)
    filler = await near.client("filler", 5)
    for number in range(1, 121):
        filler.send(publish_packet("t", "z" * 700, 1, number))
    await asyncio.sleep(0.2)
    drops = near.cloud.drops.counts
    assert "orphaned" not in drops
