"""Memory, processor time, descriptors: what strangers can make the broker spend."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from victim import GoodClient, Victim, flat

from isthmus.app.settings import Settings
from raw import (
    CONNACK,
    DISCONNECT,
    OPEN,
    PUBACK,
    Raw,
    connect_packet,
    packet,
    publish_packet,
    text,
    until,
    varint,
    within,
)

pytestmark = pytest.mark.alone

CONNECT_TIMEOUT_S = 1.0

PATIENT_S = 1.0
"""What a good client may have to wait under attack, on a machine with other work."""


def configuration(folder):
    return {
        "broker": {
            "limits": {
                "connections": 300,
                "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
                "queued_bytes": "1MiB",
                "unsent_bytes": "256KiB",
                "login_bytes": "1MiB",
            }
        }
    }


@pytest.mark.parametrize("first", [b"\x10", b"\x30", b"\x80", b"\x82"])
async def test_cve_2017_7651_lengths_that_are_only_announced(victim, served, first):
    """CVE-2017-7651, CVE-2023-0809, hmq#177: memory follows the bytes that came."""
    before = victim.rss_kib
    raws = [await Raw.open(victim.port) for _ in range(150)]
    for raw in raws:
        raw.send(first + varint(1_000_000) + b"x" * 500)
    assert served() < PATIENT_S
    assert victim.rss_kib - before < 3 * 1024
    for raw in raws:
        await raw.closed()  # a CONNECT by its deadline, anything else at once


async def test_slowloris_a_connect_byte_by_byte(victim, served):
    """slowloris: the deadline is that of the whole CONNECT, and is 10 s where nothing is said."""
    assert Settings().broker.limits.connect_timeout <= 10
    begin = time.monotonic()
    raws = [await Raw.open(victim.port) for _ in range(40)]
    silent = [await Raw.open(victim.port) for _ in range(40)]
    data = connect_packet("slow" * 20)

    async def drip(raw: Raw) -> None:
        for at in range(len(data)):
            if raw.writer.transport.is_closing() or raw.reader.at_eof():
                return
            raw.send(data[at : at + 1])
            await asyncio.sleep(0.05)
        raise AssertionError("it was let go on")

    drips = [asyncio.ensure_future(drip(raw)) for raw in raws]
    assert served() < PATIENT_S
    for raw in [*raws, *silent]:
        assert await raw.closed() == b""
    assert time.monotonic() - begin < CONNECT_TIMEOUT_S + 1.5
    await asyncio.gather(*drips)
    assert served() < PATIENT_S


def _drip_cpu_s(victim: Victim, size: int) -> float:
    """Processor time of a PUBLISH whose properties of `size` bytes come one at a time."""
    block = (b"\x26" + text("k" * 20) + text("v" * 20)) * (size // 45)
    data = packet(0x32, text("good/drip") + b"\0\1" + varint(len(block)) + block)
    with socket.create_connection(("127.0.0.1", victim.port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(connect_packet("drip"))
        sock.recv(100)
        before = victim.cpu_s
        for at in range(len(data)):
            sock.send(data[at : at + 1])
        assert sock.recv(10)[0] == PUBACK << 4
        return victim.cpu_s - before


async def test_cve_2026_44248_properties_one_byte_at_a_time(victim):
    """CVE-2026-44248: what came is not read again with every byte; work is linear."""
    _drip_cpu_s(victim, 2_000)
    small = min(_drip_cpu_s(victim, 10_000) for _ in range(2))
    # 4 times is linear, 16 is not; how many bytes one read finds is a matter of chance.
    assert _drip_cpu_s(victim, 40_000) < 8 * small + 0.3


@pytest.mark.parametrize("many", [b"\x26\0\0\0\0", b"\x0b\1"], ids=["user", "identifiers"])
async def test_cve_2021_41039_very_many_user_properties(victim, served, many):
    """CVE-2021-41039: more than 1,024 of them are refused (0x97) before they cost anything."""
    block = (many * 500_000)[:1_000_000]

    async def attack() -> None:
        for kind in (0x10, 0x32, 0x82):
            raw = await (Raw.open if kind == 0x10 else Raw.client)(victim.port)
            before = victim.cpu_s
            head = text("MQTT") + b"\5\2\0\x3c" if kind == 0x10 else b"\0\1"
            head = text("many") + head if kind == 0x32 else head
            raw.send(packet(kind, head + varint(len(block)) + block + text("many")))
            answer = await raw.packet()
            # A client may not send the identifiers at all, which is seen at once or at the end.
            allowed = {0x97} if many[0] == 0x26 else {0x97, 0x81, 0x82}
            assert (answer.body[1] if kind == 0x10 else answer.code) in allowed
            assert await raw.closed() == b""
            assert victim.cpu_s - before < 0.1
            raw.close()
        assert served() < PATIENT_S

    await flat(victim, attack, times=3)


async def test_cve_2021_41039_as_many_as_are_allowed(victim):
    """CVE-2021-41039: 1,024 of them pass, whole."""
    raw = await Raw.client(victim.port, "allowed")
    await raw.subscribe("many")
    pairs = [(str(number), "v" * 900) for number in range(1024)]
    raw.publish("many", "x", user=pairs)
    assert (await raw.message()).properties["user"] == pairs


async def test_cve_2021_33175_crafted_messages_do_not_pile_up(victim, served):
    """CVE-2021-33175, CVE-2021-33176, CVE-2021-22116: everything new, everything large."""
    count = 0

    async def attack() -> None:
        nonlocal count
        raw = await Raw.client(victim.port, "bloat", session_expiry=0)
        for _ in range(10):
            count += 1
            name = f"{count}/" + "t" * 30_000
            raw.publish(name, b"p" * 1000, 1, correlation=b"c" * 30_000, content_type=str(count))
            assert (await raw.expect(PUBACK)).code in (0, 0x10)
            assert await raw.subscribe(name, f"{count}/+/#") == [0, 0]
            raw.publish(f"alias/{count}", b"", 0, alias=count % 10 + 1)
        raw.close()

    await flat(victim, attack)
    assert served() < PATIENT_S


@pytest.mark.parametrize("version", [5, 4])
async def test_emqx_2494_a_subscriber_that_does_not_read(victim, served, version):
    """EMQX #2494: 20 MB for one reader that sleeps; its queue is capped, others do not wait."""
    before = victim.rss_kib
    slow = await Raw.client(victim.port, "slow", version)
    await slow.subscribe("slow/#", qos=1)
    slow.reader._transport.pause_reading()
    away = await Raw.client(victim.port, "away", clean=False, session_expiry=60)
    await away.subscribe("slow/#", qos=1)
    away.close()
    fast = await Raw.client(victim.port, "fast")
    one = publish_packet("slow/x", b"x" * 1000, 0)
    for _ in range(40):
        fast.send(one * 500)
        await fast.writer.drain()
        assert served() < PATIENT_S
    for number in range(1, 2001, 200):
        messages = (
            publish_packet("slow/x", b"y" * 1000, 1, number + at, version=5) for at in range(200)
        )
        fast.send(*messages)
        for _ in range(200):
            await fast.expect(PUBACK)
    # 1 MiB for each of two queues, 256 KiB unsent, and what Python puts around a message.
    assert victim.rss_kib - before < 6 * 1024
    assert served() < PATIENT_S
    again = await Raw.client(victim.port, "away", session_expiry=0)
    again.send(packet(0xE0))
    await again.closed()


async def test_emqx_12344_a_payload_of_90_mb(victim, served):
    """EMQX #12344: refused by its length (0x95), before it is there."""
    raw = await Raw.client(victim.port, "big")
    raw.send(b"\x30" + varint(90_000_000) + b"x" * 10_000)
    assert (await raw.expect(DISCONNECT)).code == 0x95
    await raw.closed()
    assert served() < PATIENT_S


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2020_13849_silence_ends_a_connection(victim, version):
    """CVE-2020-13849: a client holds its place no longer than its keep alive allows."""
    begin = time.monotonic()
    raws = [await Raw.client(victim.port, f"k{n}", version, keep_alive=1) for n in range(30)]
    for raw in raws:
        if version == 5:
            assert (await raw.expect(DISCONNECT)).code == 0x8D
        assert await raw.closed() == b""
    assert 1.4 < time.monotonic() - begin < 4


async def test_cve_2020_13849_places_are_limited_and_come_back(victim, served):
    """CVE-2020-13849: whoever holds places with keep alive 0, the number of them is a setting."""
    raws = [await Raw.client(victim.port, f"hold{n}", keep_alive=0) for n in range(298)]
    for _ in range(5):
        refused = await Raw.open(victim.port)
        assert await refused.closed() == b""
    assert served() < PATIENT_S
    for raw in raws:
        raw.close()
    await until(lambda: victim.descriptors < 40)
    await Raw.client(victim.port, "place")


async def test_cve_2020_13849_the_longest_keep_alive_is_a_setting(tmp_path):
    """CVE-2020-13849: who asks for more or for none is told what holds, or refused (3.1.1)."""
    victim = Victim(tmp_path, {"broker": {"max_keepalive": "1s"}})
    try:
        for keep_alive in (0, 2, 65_535):
            raw = await Raw.client(victim.port, "five", keep_alive=keep_alive)
            assert raw.hello.properties["server_keep_alive"] == 1
            old = await Raw.open(victim.port, 4)
            old.send(connect_packet("four", 4, keep_alive=keep_alive))
            assert (await old.expect(CONNACK)).code == 2
            assert await old.closed() == b""
        begin = time.monotonic()
        short = await Raw.client(victim.port, "short", 4, keep_alive=1)
        assert (await raw.expect(DISCONNECT)).code == 0x8D
        assert await short.closed() == b""
        assert time.monotonic() - begin < 4
    finally:
        for raw in OPEN:
            raw.writer.transport.abort()
        OPEN.clear()
        assert victim.stop() == 0


async def test_cve_2023_5632_idle_sockets_cost_nothing(victim):
    """CVE-2023-5632: 200 of them, some half closed, some with data that nobody takes."""
    raws = [
        await Raw.client(victim.port, f"idle{n}", 4 + n % 2, keep_alive=300) for n in range(200)
    ]
    for raw in raws[:40]:
        await raw.subscribe("idle")
        raw.reader._transport.pause_reading()
    for raw in raws[40:80]:
        raw.writer.write_eof()
    loud = await Raw.client(victim.port, "loud")
    for _ in range(20):
        loud.send(publish_packet("idle", b"x" * 60_000))
    await loud.nothing()
    await asyncio.sleep(0.5)
    before, begin = victim.cpu_s, time.monotonic()
    await asyncio.sleep(1.5)
    assert (victim.cpu_s - before) / (time.monotonic() - begin) < 0.01


@pytest.mark.parametrize(
    "request_",
    [
        (
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600,
    ],
    ids=["WebSocket", "TLS"],
)
async def test_13_websocket_bad_origin_other_protocols_on_the_mqtt_port(victim, request_):
    """13-websocket-bad-origin: an upgrade request on the plain port gets no answer at all."""

    async def attack() -> None:
        raw = await Raw.open(victim.port)
        raw.send(request_)
        assert await within(raw.closed(), 3) == b""
        raw.close()

    # A CONNECT is awaited until its deadline where the first bytes could be one.
    await asyncio.gather(*(attack() for _ in range(20)))


def test_cve_2017_7652_no_descriptors_left(tmp_path):
    """CVE-2017-7652: with 64 descriptors and 100 peers it waits, does not spin, and comes back."""
    victim = Victim(tmp_path, {"broker": {"limits": {"connect_timeout": "60s"}}}, descriptors=64)
    try:
        good = GoodClient(victim.port)
        crowd = [socket.create_connection(("127.0.0.1", victim.port), 5) for _ in range(100)]
        victim.wait_for(lambda: "cannot accept" in victim.log, "it did not say why")
        before, begin = victim.cpu_s, time.monotonic()
        time.sleep(1)
        assert (victim.cpu_s - before) / (time.monotonic() - begin) < 0.05
        assert good.served() < PATIENT_S
        for sock in crowd:
            sock.close()
        GoodClient(victim.port, 4).served()
        good.served()
    finally:
        assert victim.stop() == 0
