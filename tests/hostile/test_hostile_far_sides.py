"""Far brokers that attack the bridge: each is left with a reason, and asked again soon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mosquitto import free_port
from raw import (
    CONNECT,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    PUBREC,
    FarSide,
    Hello,
    Raw,
    ack_packet,
    grant,
    packet,
    parse_hello,
    publish_packet,
    text,
)

PORTS = {5: free_port(), 4: free_port()}


def configuration(folder):
    return {
        "connectors": {
            f"far{version}": {
                "url": f"127.0.0.1:{port}",
                "version": "5" if version == 5 else "3.1.1",
                "reconnect": {"min": "10ms", "max": "30ms"},
                "max_packet_size": "64KiB",
            }
            for version, port in PORTS.items()
        },
        "routes": {
            name: route
            for version in PORTS
            for name, route in {
                f"out{version}": {
                    "from": "local", "topics": [f"out{version}/#"], "to": f"far{version}"
                },
                f"in{version}": {
                    "from": f"far{version}", "topics": ["in/#"], "to": "local", "strip": "in/"
                },
            }.items()
        },
    }  # fmt: skip


@pytest_asyncio.fixture(params=[5, 4])
async def evil(request: pytest.FixtureRequest) -> AsyncIterator[FarSide]:
    side = FarSide(request.param)
    side.port = PORTS[request.param]
    await side.start()
    yield side
    await side.stop()


async def caller(side: FarSide) -> tuple[Raw, Hello]:
    """The next connection, its CONNECT read and not answered."""
    while True:
        raw = await side.accept()
        try:
            hello = parse_hello((await raw.expect(CONNECT)).body)
        except (EOFError, OSError):  # it began before this side listened
            continue
        raw.version = hello.version
        return raw, hello


def connack(version: int) -> bytes:
    return packet(0x20, b"\0\0\0" if version == 5 else b"\0\0")


async def still_good(side: FarSide, port: int) -> None:
    """The bridge comes back, and a message goes each way."""
    there, _ = await caller(side)
    there.send(connack(there.version))
    await grant(there)
    here = await Raw.client(port, "here")
    await here.subscribe("good-again")
    there.send(publish_packet("in/good-again", "in", 0, version=there.version))
    assert (await here.message()).payload == b"in"
    await goes_out(side, there, here)


async def goes_out(side: FarSide, there: Raw, here: Raw) -> None:
    """A message of `here` reaches the far side, and its acknowledgement comes back."""
    name = next(name for name, port in PORTS.items() if port == side.port)
    packet_id = here.publish(f"out{name}/x", "out", 1)
    got = await there.expect(PUBLISH)
    assert got.payload == b"out"
    there.send(ack_packet(PUBACK, got.packet_id))
    assert (await here.expect(PUBACK)).packet_id == packet_id


# What comes in an open session, in MQTT 5 and 3.1.1, and the code of our DISCONNECT.
LATER: dict[str, Any] = {
    "CVE-2024-10525 SUBACK without codes": lambda v5, i: (packet(0x90, i + b"\0" * v5), 0x82),
    "paho.c#986 SUBACK with too many codes": lambda v5, i: (
        packet(0x90, i + b"\0" * v5 + b"\0\0\0"), 0x82
    ),
    "paho.c#986 SUBACK with a code that is none": lambda v5, i: (
        packet(0x90, i + b"\0" * v5 + b"\x55"), 0x82
    ),
    "paho.c#986 SUBACK to nothing": lambda v5, i: (
        packet(0x90, b"\x7f\x7f" + b"\0" * (v5 + 1)), 0x82
    ),
    "CVE-2019-17210 a topic longer than the packet": lambda v5, i: (
        packet(0x30, b"\xff\xffin/x"), 0x81
    ),
    "CVE-2019-17210 a PUBLISH of one byte": lambda v5, i: (packet(0x30, b"\0"), 0x81),
    "CVE-2021-41036 a packet above our maximum": lambda v5, i: (b"\x30\xff\xff\xff\x7f", 0x95),
    "libcurl mqtt_decode_len in a PUBLISH": lambda v5, i: (b"\x30\xff\xff\xff\xff\x01", 0x81),
    "CVE-2017-10910 packet id 0": lambda v5, i: (
        publish_packet("in/x", "x", 1, 0, version=5 if v5 else 4), 0x82
    ),
    "CVE-2024-3935 an empty topic": lambda v5, i: (
        publish_packet("", "x", version=5 if v5 else 4), 0x82
    ),
    "CVE-2024-3935 a topic with a wildcard": lambda v5, i: (
        publish_packet("in/#", "x", version=5 if v5 else 4), 0x90
    ),
    "CVE-2017-7653 a topic that is no UTF-8": lambda v5, i: (
        publish_packet(b"in/\xc3\x28", "x", version=5 if v5 else 4), 0x81
    ),
    "CVE-2021-28166 CONNACK again": lambda v5, i: (connack(5 if v5 else 4), 0x82),
    "CVE-2021-28166 CONNECT": lambda v5, i: (packet(0x10, b"\0\4MQTT\4\2\0\0\0\0"), 0x82),
    "mosquitto#2325 packet type 0": lambda v5, i: (b"\0\0", 0x81),
}  # fmt: skip


@pytest.mark.parametrize("what", LATER)
async def test_packets_of_a_far_side(victim, evil, what):
    for _ in range(2):
        there, hello = await caller(evil)
        assert evil.port == PORTS[hello.version]
        there.send(connack(hello.version))
        request = await there.expect(8)
        data, code = LATER[what](hello.version == 5, request.body[:2])
        there.send(data)
        if hello.version == 5:
            goodbye = await there.expect(DISCONNECT)
            assert goodbye.code == code or {goodbye.code, code} == {0x81, 0x82}
        assert await there.closed() == b""
        there.close()
    await still_good(evil, victim.port)


async def test_cve_2024_3935_what_a_mapped_topic_can_become(victim, evil):
    """CVE-2024-3935: `in/` alone leaves no topic, `in/$SYS/...` the broker's own; both are dropped.

    The far side may send them, so it gets its acknowledgement and stays connected.
    """
    there, hello = await caller(evil)
    there.send(connack(hello.version))
    await grant(there)
    here = await Raw.client(victim.port, "here")
    await here.subscribe("#", "$SYS/#", "$share")
    await here.arrived()
    for number, topic in enumerate(["in/", "in/$SYS/broker/version", "other/x", "in//"], 1):
        there.send(publish_packet(topic, "crafted", 1, number, retain=True, version=hello.version))
        answer = await there.expect(PUBACK)
        assert answer.packet_id == number
    found = [one for one in await here.arrived() if one.payload == b"crafted"]
    assert [one.topic for one in found] == ["/"]
    here.publish("/", "", 0, retain=True)


async def test_cve_2017_10910_packet_ids_again_and_of_nothing(victim, evil):
    """CVE-2017-10910: ids used twice and acknowledgements of nothing change nothing."""
    there, hello = await caller(evil)
    there.send(connack(hello.version))
    await grant(there)
    here = await Raw.client(victim.port, "here")
    await here.subscribe("x")
    for _ in range(200):
        there.send(publish_packet("in/x", "q2", 2, 7, dup=True, version=hello.version))
        assert (await there.expect(PUBREC)).packet_id == 7
        there.send(ack_packet(PUBACK, 9), ack_packet(7, 10))
    assert [one.payload for one in await here.arrived()] == [b"q2"]
    await goes_out(evil, there, here)


async def test_cve_2021_41036_what_a_far_side_announces_takes_no_memory(victim, evil):
    """CVE-2021-41036, CVE-2019-17210: 60 KB in a packet that never ends, over and over."""
    before = victim.rss_kib
    for _ in range(60):
        there, hello = await caller(evil)
        there.send(connack(hello.version), b"\x30" + b"\xf0\xff\x03" + text("in/x") + b"x" * 60_000)
        there.reset()
    await still_good(evil, victim.port)
    assert victim.rss_kib - before < 2 * 1024


# At the end: a far side that closes on every MQTT 5 CONNECT is asked in 3.1.1 from then on.
ANSWERS: dict[str, Any] = {
    "libcurl mqtt_decode_len five bytes": lambda v5: b"\x20\xff\xff\xff\xff\x01" + b"\0" * 20,
    "CVE-2021-41036 the largest length": lambda v5: b"\x20\xff\xff\xff\x7f\0\0",
    "CVE-2021-41036 a length of 0": lambda v5: b"\x20\0",
    "CVE-2019-17210 a length of 1": lambda v5: b"\x20\1\0",
    "nanomq#2145 reserved flags": lambda v5: packet(0x20, b"\xff\0" + b"\0" * v5),
    "nanomq#2145 a reserved code": lambda v5: packet(0x20, b"\0\x7f" + b"\0" * v5),
    "nanomq#2145 a session present and a refusal": lambda v5: packet(
        0x20, b"\1" + (b"\x88\0" if v5 else b"\3")
    ),
    "nanomq#2145 flags in the first byte": lambda v5: packet(0x2F, b"\0\0" + b"\0" * v5),
    "nanomq#2351 PUBLISH instead of CONNACK": lambda v5: publish_packet(
        "in/x", "early", version=5 if v5 else 4
    ),
    "nanomq#2351 SUBACK instead of CONNACK": lambda v5: packet(0x90, b"\0\1" + b"\0" * (v5 + 1)),
    "paho.c#985 properties longer than the packet": lambda v5: packet(0x20, b"\0\0\x7f\x21\0"),
    "paho.c#985 a property length of five bytes": lambda v5: packet(
        0x20, b"\0\0\xff\xff\xff\xff\x01"
    ),
    "paho.c#985 receive maximum 0": lambda v5: packet(0x20, b"\0\0\3\x21\0\0"),
    "paho.c#985 a string that is cut off": lambda v5: packet(0x20, b"\0\0\4\x12\0\x09x"),
    "CVE-2017-7653 a client id that is no UTF-8": lambda v5: packet(0x20, b"\0\0\4\x12\0\1\xff"),
}


@pytest.mark.parametrize("what", ANSWERS)
async def test_answers_to_connect(victim, evil, what):
    for _ in range(2):
        there, hello = await caller(evil)
        there.send(ANSWERS[what](hello.version == 5))
        await there.closed()
        there.close()
    await still_good(evil, victim.port)
