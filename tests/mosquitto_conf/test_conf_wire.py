"""What a far broker sees of a bridge: the same packets from Isthmus as from Debian's Mosquitto."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from isthmus.app.mosquitto.loading import load
from mosquitto import Mosquitto, free_port
from raw import CONNECT, Packet, Raw, grant, packet, read_properties

SUBSCRIBE, UNSUBSCRIBE, PUBLISH = 8, 10, 3

MORE_PROPERTIES = {
    "session_expiry": 0xFFFFFFFF,
    "maximum_packet": 2_000_000,
    "alias_maximum": 10,
}
"""What an MQTT 5 CONNECT has here and not with 2.0, which forgets the session with the connection
although cleansession is false. The other two are as 2.1 has them."""

ONCE_PER_SESSION = 0x10
"""Retain handling 1: here retained messages come once per session, there at each reconnect."""

TOPICS = (
    "topic down/# in 1\n"
    "topic up/# out 1\n"
    "topic both/# both 2 near/ far/\n"
    "topic first in 0\n"
    "topic second/+ in 2\n"
)

OVERLAPPING = (
    "topic # in 0\n"
    "topic alarm/# in 2\n"
    "topic alarm/fire in 1\n"
    "topic +/x both 1 near/ far/\n"
    "topic far/# in 0\n"
)

CONFIGURATIONS = {
    "defaults": TOPICS,
    "lines that overlap": OVERLAPPING,
    "lines that overlap, mqtt 5": f"{OVERLAPPING}bridge_protocol_version mqttv50\n",
    "mqtt 3.1": f"{TOPICS}bridge_protocol_version mqttv31\n",
    "mqtt 5": f"{TOPICS}bridge_protocol_version mqttv50\n",
    "client id": f"{TOPICS}remote_clientid me\n",
    "login": f"{TOPICS}remote_username u\nremote_password p # c\n",
    "no bridge bit": f"{TOPICS}try_private false\n",
    "clean session": f"{TOPICS}cleansession true\nkeepalive_interval 5\n",
    "no notifications": f"{TOPICS}notifications false\n",
    "local notifications": f"{TOPICS}notifications_local_only true\n",
    "notification topic": f"{TOPICS}notification_topic bridges/a\n",
    "nothing taken back": f"{TOPICS}bridge_attempt_unsubscribe false\n",
}


def requests(found: list[Packet], version: int) -> list[tuple[int, str, int]]:
    """SUBSCRIBE and UNSUBSCRIBE: kind, filter, options; one filter in each packet."""
    result = []
    for one in found:
        at = 2
        if version == 5:
            at = read_properties(one.body, at)[1]
        size = struct.unpack_from(">H", one.body, at)[0]
        filter_ = one.body[at + 2 : at + 2 + size].decode()
        rest = one.body[at + 2 + size :]
        assert len(rest) == (one.kind == SUBSCRIBE), "more than one filter"
        result.append((one.kind, filter_, rest[0] if rest else 0))
    return result


def split_connect(body: bytes) -> tuple[int, bytes, dict[str, Any]]:
    """The version of a CONNECT, all of it without its properties, and these."""
    end = 2 + struct.unpack_from(">H", body)[0] + 4
    version = body[end - 4] & 0x7F
    if version != 5:
        return version, body, {}
    properties, at = read_properties(body, end)
    return version, body[:end] + body[at:], properties


async def opened(far: Any) -> tuple[Raw, bytes]:
    """The next bridge, with its CONNECT answered."""
    raw: Raw = await far.accept()
    connect = (await raw.expect(CONNECT)).body
    raw.version = split_connect(connect)[0]
    raw.send(packet(0x20, b"\0\0" + (b"\0" if raw.version == 5 else b"")))
    return raw, connect


async def seen(far: Any, count: int) -> tuple[bytes, list[Packet], list[Packet]]:
    """The CONNECT of the next bridge, its requests, and the messages that it sent meanwhile."""
    raw, connect = await opened(far)
    asked: list[Packet] = []
    published: list[Packet] = []
    async with asyncio.timeout(10):
        while len(asked) < count:
            one = await raw.packet()
            answer = struct.pack(">H", one.packet_id) + (b"\0" if raw.version == 5 else b"")
            if one.kind == SUBSCRIBE:
                asked.append(one)
                raw.send(packet(0x90, answer + bytes([one.body[-1] & 3])))
            elif one.kind == UNSUBSCRIBE:
                asked.append(one)
                raw.send(packet(0xB0, answer + (b"\0" if raw.version == 5 else b"")))
            elif one.kind == PUBLISH:
                published.append(one)
                raw.send(packet(0x40, struct.pack(">H", one.packet_id)))
    return connect, asked, published


@pytest_asyncio.fixture
async def real(tmp_path: Path) -> AsyncIterator[Callable[[str], Any]]:
    started: list[Mosquitto] = []

    async def start(text: str) -> None:
        found = Mosquitto(tmp_path, *text.splitlines())
        started.append(found)
        await found.start()

    yield start
    for found in started:
        found.kill()


@pytest.mark.parametrize("name", CONFIGURATIONS)
async def test_a_far_broker_sees_the_same(
    far: Any, real: Any, isthmus: Any, tmp_path: Path, name: str
) -> None:
    text = f"connection cloud\naddress 127.0.0.1:{far.port}\n{CONFIGURATIONS[name]}"
    count = 4 if "bridge_attempt_unsubscribe" in text else 5
    await real(text)
    theirs, their_requests, their_messages = await seen(far, count)
    path = tmp_path / "mosquitto.conf"
    path.write_text(text)
    await isthmus(load(path, ports=[free_port()]).settings)
    ours, our_requests, our_messages = await seen(far, count)
    version, connect, properties = split_connect(ours)
    assert (version, connect) == split_connect(theirs)[:2]
    their_properties = split_connect(theirs)[2]
    assert properties == {**their_properties, **(MORE_PROPERTIES if version == 5 else {})}
    # Each kind in the order of the file, and here UNSUBSCRIBE before SUBSCRIBE.
    expected = sorted(requests(their_requests, version), key=lambda one: one[0] == SUBSCRIBE)
    if version == 5:
        expected = [
            (kind, filter_, options | ONCE_PER_SESSION if kind == SUBSCRIBE else options)
            for kind, filter_, options in expected
        ]
    assert requests(our_requests, version) == expected
    assert [(one.topic, one.payload, one.qos, one.retain) for one in our_messages] == [
        (one.topic, one.payload, one.qos, one.retain) for one in their_messages
    ]


# -- lines that overlap ----------------------------------------------------------------------------

NARROW_LAST = "topic # in 0\ntopic alarm/# in 2\n"
LINES = {
    "the narrow line last": NARROW_LAST,
    "the narrow line first": "topic alarm/# in 2\ntopic # in 0\n",
    "the wide line has the higher qos": "topic # in 2\ntopic alarm/# in 0\n",
    "the wide line has a prefix": "topic # in 0 all/\ntopic alarm/# in 2\n",
    "the narrow line has a prefix": "topic # in 1\ntopic alarm/# in 2 some/\n",
}


async def brought(far: Any, here: Raw, copies: tuple[int, ...]) -> list[tuple[str, bytes, int]]:
    """What clients get of a far side that refuses `#`, and sends copies with these QoS."""
    bridge, _ = await opened(far)
    for _ in range(2):
        request = await bridge.packet()
        bridge._put_back = [request]
        refused = requests([request], bridge.version)[0][1] == "#"
        await grant(bridge, *([0x80] if refused else []))
    for qos in copies:
        if qos:
            await bridge.published("alarm/fire", "!", qos)
        else:
            bridge.publish("alarm/fire", "!")
    await bridge.published("alarm/end", "", 2)
    found = []
    while not (one := await here.message()).topic.endswith("alarm/end"):
        found.append((one.topic, one.payload, one.qos))
    return found


@pytest.mark.parametrize("copies", [(2,), (0, 2), (2, 0)])
@pytest.mark.parametrize("name", LINES)
async def test_what_overlapping_lines_bring_is_what_they_bring_with_mosquitto(
    far: Any, mosquitto: Any, isthmus: Any, tmp_path: Path, name: str, copies: tuple[int, ...]
) -> None:
    """Whether a far side sends one copy or one for each line, also if it refuses the wide one."""
    text = (
        f"connection cloud\naddress 127.0.0.1:{far.port}\nnotifications false\n"
        f"restart_timeout 60\n{LINES[name]}"
    )
    real = await mosquitto(*text.splitlines())
    here = await Raw.client(real.port, "here")
    await here.subscribe("#", qos=2)
    theirs = await brought(far, here, copies)
    real.kill()
    path = tmp_path / "mosquitto.conf"
    path.write_text(text)
    near = await isthmus(load(path, ports=[free_port()]).settings)
    here = await near.client("here")
    await here.subscribe("#", qos=2)
    ours = await brought(far, here, copies)
    assert len(ours) == len(copies)
    assert ours == theirs


@pytest.mark.parametrize("version", ["mqttv311", "mqttv50"])
async def test_a_real_far_side_brings_as_many_copies_as_with_mosquitto(
    mosquitto: Any, isthmus: Any, tmp_path: Path, version: str
) -> None:
    """2.0 sends one copy over MQTT 3.1.1, and one for each subscription over MQTT 5."""
    far = await mosquitto()
    text = f"address 127.0.0.1:{far.port}\nbridge_protocol_version {version}\n{NARROW_LAST}"
    real = await mosquitto("connection theirs", *text.splitlines())
    path = tmp_path / "mosquitto.conf"
    path.write_text(f"connection ours\n{text}")
    near = await isthmus(load(path, ports=[free_port()]).settings)
    await near.connected("ours")
    clients = [await Raw.client(port, "here") for port in (real.port, near.port)]
    there = await Raw.client(far.port, "there")
    for raw in clients:
        await raw.subscribe("#", qos=2)
    arrived: list[list[bytes]] = [[], []]
    async with asyncio.timeout(10):
        number = 0
        while not all(arrived):  # Mosquitto's bridge connects when it likes
            number += 1
            await there.published("alarm/fire", f"{number}", 1)
            await asyncio.sleep(0.1)
            for raw, found in zip(clients, arrived, strict=True):
                found += [one.payload for one in await raw.arrived() if one.kind == PUBLISH]
    for _, found in zip(clients, arrived, strict=True):
        found.clear()
    await there.published("alarm/fire", "last", 1)
    await asyncio.sleep(0.3)
    theirs, ours = [
        [one.payload for one in await raw.arrived() if one.kind == PUBLISH] for raw in clients
    ]
    assert theirs.count(b"last") == (1 if version == "mqttv311" else 2)
    assert ours.count(b"last") == theirs.count(b"last")
