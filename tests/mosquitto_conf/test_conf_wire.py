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
from raw import CONNECT, Packet, packet, read_properties

SUBSCRIBE, UNSUBSCRIBE, PUBLISH = 8, 10, 3

TOPICS = (
    "topic down/# in 1\n"
    "topic up/# out 1\n"
    "topic both/# both 2 near/ far/\n"
    "topic first in 0\n"
    "topic second/+ in 2\n"
)

CONFIGURATIONS = {
    "defaults": TOPICS,
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
        # Without retain handling: here it is 1, so that retained messages come once per session.
        result.append((one.kind, filter_, rest[0] & 0x0F if rest else 0))
    return result


def split_connect(body: bytes) -> tuple[int, bytes, dict[str, Any]]:
    """The version of a CONNECT, all of it without its properties, and these."""
    end = 2 + struct.unpack_from(">H", body)[0] + 4
    version = body[end - 4] & 0x7F
    if version != 5:
        return version, body, {}
    properties, at = read_properties(body, end)
    return version, body[:end] + body[at:], properties


async def seen(far: Any, count: int) -> tuple[bytes, list[Packet], list[Packet]]:
    """The CONNECT of the next bridge, its requests, and the messages that it sent meanwhile."""
    raw = await far.accept()
    connect = (await raw.expect(CONNECT)).body
    raw.version = split_connect(connect)[0]
    raw.send(packet(0x20, b"\0\0" + (b"\0" if raw.version == 5 else b"")))
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
    # Theirs forgets the session with the connection, although cleansession is false.
    assert properties.pop("session_expiry", None) in (None, 0xFFFFFFFF)
    for name_, value in their_properties.items():
        assert properties[name_] == value
    for kind in (SUBSCRIBE, UNSUBSCRIBE):
        assert [one for one in requests(our_requests, version) if one[0] == kind] == [
            one for one in requests(their_requests, version) if one[0] == kind
        ]
    assert [(one.topic, one.payload, one.qos, one.retain) for one in our_messages] == [
        (one.topic, one.payload, one.qos, one.retain) for one in their_messages
    ]
