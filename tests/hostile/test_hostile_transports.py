"""WebSocket and PROXY protocol: attacks in front of MQTT, and those of MQTT behind them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
import zlib

import pytest
from framed import Framed, frame, request
from test_hostile_packets import FIRST, LATER
from victim import flat

from mosquitto import free_port
from raw import (
    CONNACK,
    DISCONNECT,
    Raw,
    connect_packet,
    packet,
    publish_packet,
    text,
    until,
    varint,
    within,
)

WEB, PROXIED, NARROW = (free_port() for _ in range(3))

SITE = "https://dashboard.example.com"

PLACES = 60

LOGIN_BYTES = 16 << 10


def configuration(folder):
    del folder
    return {
        "listeners": [
            {"bind": f"127.0.0.1:{free_port()}"},
            {"bind": f"127.0.0.1:{WEB}", "transport": "websocket", "origins": [SITE]},
            {"bind": f"127.0.0.1:{PROXIED}", "proxy_protocol": True},
            {"bind": f"127.0.0.1:{NARROW}", "transport": "websocket", "proxy_protocol": True},
        ],
        # Who comes through a load balancer comes from anywhere.
        "auth": {"allow_anonymous": True, "insecure_public_anonymous": True},
        "broker": {
            "max_packet_size": "64KiB",
            "limits": {
                "connections": PLACES,
                "connect_timeout": "1s",
                "subscriptions_per_session": 50,
                "topic_levels": 8,
                "client_id_bytes": 100,
                "will_bytes": 1000,
                "login_bytes": LOGIN_BYTES,
            },
        },
    }


# -- MQTT behind WebSocket -----------------------------------------------------------------------


async def test_cve_2026_25627_everything_malformed_also_in_frames(victim):
    """CVE-2026-25627: what is tried on the plain port, in one frame and in frames of a byte."""
    for data, code in FIRST.values():
        for pieces in (1, 20):
            raw = await Framed.open(WEB)
            size = max(1, len(data) // pieces)
            raw.raw_send(b"".join(frame(data[at : at + size]) for at in range(0, len(data), size)))
            raw.raw_send(b"\x88\x80\0\0\0\0")
            answer = await raw.closed()
            assert not answer or answer[0] == 0x20
            if code is not None:
                assert answer[3] == code or {answer[3], code} == {0x81, 0x82}
            raw.close()
    for data, _, code in LATER.values():
        raw = await Framed.client(WEB, "bad")
        raw.send(data)
        goodbye = await raw.expect(DISCONNECT)
        assert goodbye.code == code or {goodbye.code, code} == {0x81, 0x82}
        assert await raw.closed() == b""
        raw.close()


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2026_25627_a_length_beyond_the_frame(victim, served, version):
    """CVE-2026-25627: a packet ends where its length says, wherever a frame does."""

    async def attack() -> None:
        raw = await Framed.client(WEB, "beyond", version)
        raw.send(b"\x30" + varint(60_000) + text("good/5"))
        assert served() < 1
        raw.send(b"\xc0\0" * 10)  # the payload of that PUBLISH, and no PINGREQ
        with pytest.raises(TimeoutError):
            await within(raw._read(), 0.02)
        raw.close()

    await flat(victim, attack, times=5)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x", 0x81), 1003),
        *((frame(b"x", 0x80 | kind), 1002) for kind in (3, 7, 11, 15)),
        *((frame(b"x", 0x82 | bit), 1002) for bit in (0x40, 0x20, 0x10)),
        (frame(b"x", 0x80), 1002),
        (frame(b"x", 0x02) + frame(b"x", 0x82), 1002),
        (frame(b"x", 0x02) + frame(b"x", 0x02), 1002),
        (frame(b"x", 0x09), 1002),
        (frame(b"x" * 126, 0x89), 1002),
        (b"\x82\x01x", 1002),
        (frame(b"", size=1 << 20), 1009),
        (frame(b"", size=1 << 63), 1009),
        (frame(b"", size=(1 << 64) - 1), 1009),
        (frame(b"\x03", 0x88), 1002),
        (frame(b"\x03\xed", 0x88), 1002),
        (frame(b"\x03\xe8\xff\xfe", 0x88), 1007),
    ],
)
async def test_frames_of_every_illegal_kind(victim, data, code):
    """RFC 6455: each ends the connection with the code that it has there."""

    async def attack() -> None:
        raw = await Framed.open(WEB)
        raw.send(connect_packet("illegal"))
        assert (await raw.expect(CONNACK)).code == 0
        raw.raw_send(data)
        await raw.closed()
        assert struct.unpack(">H", raw.closing[:2]) == (code,)
        raw.close()

    await flat(victim, attack, times=5)


async def test_fragments_without_end(victim, served):
    """Empty pieces, a million of them, cost no memory; a packet in pieces has its usual limit."""
    raw = await Framed.client(WEB, "pieces")
    before = victim.rss_kib
    raw.raw_send(frame(b"", 0x02))
    for _ in range(40):
        raw.raw_send(frame(b"", 0x00) * 5000 + frame(b"ping", 0x89))
        await raw.writer.drain()
        assert served() < 1
    raw.raw_send(frame(b"\xc0\0", 0x80))
    assert (await raw.packet()).kind == 13
    assert victim.rss_kib - before < 2048
    raw.raw_send(frame(b"\x30" + varint(1 << 20), 0x02))
    assert (await raw.expect(DISCONNECT)).code == 0x95


async def test_random_frames(victim):
    """Nothing is known of what was sent, so everything is."""
    found = random.Random(59)
    for _ in range(150):
        raw = await Framed.open(WEB)
        data = frame(connect_packet("random")) if found.random() < 0.5 else b""
        for _ in range(found.randrange(1, 5)):
            part = frame(found.randbytes(found.randrange(200)), found.choice([0x82, 2, 0, 0x89]))
            if found.random() < 0.3:
                part = bytes(found.choice([byte, found.randrange(256)]) for byte in part)
            data += part
        raw.raw_send(data)
        end(raw)
        await raw.closed()
        raw.close()


def end(raw: Raw) -> None:
    """Say that nothing more comes, unless the broker has left already."""
    with contextlib.suppress(OSError):
        raw.writer.write_eof()


# -- requests ------------------------------------------------------------------------------------


async def asked(port: int, data: bytes) -> bytes:
    """What a request is answered with; b"" if the connection was closed."""
    raw = await Raw.open(port)
    raw.send(data)
    end(raw)
    answer = await raw.closed()
    raw.close()
    return answer


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://dashboard.example.com",
        SITE + ".evil.example",
        SITE + ":8443",
        SITE + "@evil.example",
        SITE + "/",
        "null",
        "",
        "evil://127.0.0.1:{web}@evil.example",
        "http://127.0.0.1:{web}.evil.example",
        "http://evil.example\r\nOrigin: " + SITE,
        SITE + "\r\nOrigin: http://evil.example",
    ],
)
async def test_13_websocket_bad_origin(victim, origin):
    """13-websocket-bad-origin: a page of another site gets no connection."""
    line = f"Origin: {origin.format(web=WEB)}\r\n"
    assert (await asked(WEB, request(WEB, line))).split(b" ")[1:2] in ([b"403"], [b"400"])


async def test_13_websocket_bad_origin_a_name_that_was_turned_here(victim):
    """13-websocket-bad-origin: DNS rebinding makes a stranger's name ours; it is not welcome."""
    data = request(WEB, f"Origin: http://evil.example:{WEB}\r\n", host=f"evil.example:{WEB}")
    assert b" 403 " in await asked(WEB, data)
    for origin in (SITE, SITE.upper(), f"http://127.0.0.1:{WEB}"):
        assert b" 101 " in await asked(WEB, request(WEB, f"Origin: {origin}\r\n"))


@pytest.mark.parametrize(
    "data",
    [
        b"GET /mqtt HTTP/1.1\r\n\r\n",
        b"GET /mqtt\r\n\r\n",
        b"GET /mqtt HTTP/9.9\r\n\r\n",
        b"POST /mqtt HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET " + b"/" * 12_000 + b" HTTP/1.1\r\n\r\n",
        b"G" * 20_000,
        b"GET /mqtt HTTP/1.1\r\n" + b"a: b\r\n" * 2500 + b"\r\n",
        b"GET /mqtt HTTP/1.1\r\na\r\n\r\n",
        b"GET /mqtt HTTP/1.1\r\n a: folded\r\n\r\n",
        b"GET /mqtt HTTP/1.1\r\n\xff\xfe: \0\r\n\r\n",
        b"GET \xff\0\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\n\n\nGET",
        b"\x16\x03\x01\0\x05hello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        connect_packet("plain"),
        *(
            request(1).replace(old, new)
            for old, new in [
                (b"websocket", b"h2c"),
                (b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
                (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff" * 16),
                (b"Version: 13", b"Version: 8"),
                (b"Version: 13", b"Version: " + b"9" * 5000),
                (b"Protocol: mqtt", b"Protocol: chat"),
                (b"Protocol: mqtt", b"Protocol: " + b"," * 5000),
                (b"Protocol: mqtt", b'Protocol: "'),
                (b"Connection: Upgrade", b"Connection: close"),
                (b"Upgrade: websocket", b"Transfer-Encoding: chunked\r\nUpgrade: websocket"),
                (b"/mqtt", b"/mqtt/../mqtt"),
                (b"/mqtt", b"http://x/mqtt"),
            ]
        ),
    ],
)
async def test_requests_that_are_no_welcome(victim, data):
    """Each is answered with an error of HTTP, or closed; the log shows no control characters."""

    async def attack() -> None:
        answer = await asked(WEB, data)
        assert not answer or (answer.startswith(b"HTTP/1.1 4") and b"Traceback" not in answer)

    before = len(victim.log)
    await flat(victim, attack, times=5)
    assert victim.log[before:].replace("\n", "").isprintable()
    assert "None" not in victim.log[before:]


async def test_random_requests(victim):
    """A good request with some of its bytes changed: an answer or a close, and no more."""
    found = random.Random(6455)
    whole = request(WEB, "Origin: http://x\r\nSec-WebSocket-Extensions: permessage-deflate\r\n")
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(found.randrange(1, 6)):
            data[found.randrange(len(data) - 4)] = found.choice([0, 10, 13, 32, 44, 58, 255, 34])
        await asked(WEB, bytes(data))


async def test_slowloris_a_request_byte_by_byte(victim, served):
    """slowloris: the whole way to the end of CONNECT has deadlines, whatever stands in front."""
    data = request(WEB)

    async def drip(port: int, what: bytes, *, first: bytes = b"") -> float:
        begin = time.monotonic()
        raw = await Raw.open(port)
        raw.send(first)
        for at in range(len(what)):
            if raw.reader.at_eof() or raw.writer.transport.is_closing():
                break
            raw.send(what[at : at + 1])
            await asyncio.sleep(0.1)
        await within(raw.closed(), 15)
        raw.close()
        return time.monotonic() - begin

    slow = [
        drip(WEB, data),
        drip(NARROW, data, first=PROXY_LINE),
        drip(PROXIED, b"PROXY TCP4 " + b"1" * 400),
        drip(PROXIED, SIGNATURE + b"\x21\x11\x0f\xff" + b"x" * 400),
        drip(WEB, frame(connect_packet("slow" * 20)), first=data),
        drip(PROXIED, connect_packet("slow" * 20), first=PROXY_LINE),
    ]
    took = await asyncio.gather(*slow)
    assert max(took[:4]) < 12
    assert max(took[4:]) < 4
    assert served() < 1


# -- the limits ----------------------------------------------------------------------------------


async def test_cl_2_1_1_limits_hold_on_every_transport(victim):
    """CL 2.1.1: connections, sizes, levels, subscriptions, wills, client ids, the deadline."""
    for open_, port in ((Raw, victim.port), (Framed, WEB)):
        raw = await open_.open(port)
        assert await raw.closed() == b""  # no CONNECT in time
        raw = await open_.open(port)
        raw.send(connect_packet("c" * 101))
        assert (await raw.expect(CONNACK)).code == 0x85
        raw = await open_.open(port)
        raw.send(connect_packet("will", will=("will", b"m" * 1000, 0, False)))
        assert (await raw.expect(CONNACK)).code == 0x97
        raw = await open_.client(port, "limits")
        assert await raw.subscribe("a/" * 8 + "a") == [0x8F]
        assert await raw.published("a/" * 8 + "a", "x", 1) == 0x90
        codes = await raw.subscribe(*(f"many/{n}" for n in range(51)))
        assert codes == [0] * 50 + [0x97]
        raw.publish("large", b"x" * 70_000)
        assert (await raw.expect(DISCONNECT)).code == 0x95
        raws = [await open_.client(port, f"c{n}", keep_alive=0) for n in range(PLACES - 2)]
        for where in (victim.port, WEB, PROXIED, NARROW):
            proxy = PROXY_LINE if where in (PROXIED, NARROW) else b""
            more = request(where) if where in (WEB, NARROW) else connect_packet("one too many")
            assert await asked(where, proxy + more) == b""
        for one in raws:
            one.close()
        await until(lambda: victim.descriptors < 30)


async def test_cl_2_1_1_a_subscriber_behind_websocket_that_does_not_read(victim, served):
    """CL 2.1.1, EMQX #2494: frames do not hide what waits for a client."""
    before = victim.rss_kib
    slow = await Framed.client(WEB, "slow")
    await slow.subscribe("slow")
    slow.pump.cancel()
    slow.writer.transport.pause_reading()
    fast = await Framed.client(WEB, "fast")
    for _ in range(20):
        fast.raw_send(frame(publish_packet("slow", b"x" * 1000) * 400))
        await fast.writer.drain()
        assert served() < 1
    assert victim.rss_kib - before < 6 * 1024 + 4096  # unsent_bytes is 4 MiB


async def test_cl_2_1_1_strangers_who_send_much(victim, served):
    """CL 2.1.1: before its login a client has little kept, in frames too; 0x95 where it can be."""
    for _ in range(2):
        before = victim.rss_kib
        raws = [await Framed.open(WEB) for _ in range(50)]
        for raw in raws:
            raw.raw_send(frame(b"\x10") + frame(b"", size=120_000) + b"x" * 60_000)
        assert served() < 1
        assert victim.rss_kib - before < 50 * (LOGIN_BYTES + (64 << 10)) // 1024 + 1024
        for raw in raws:
            raw.raw_send(b"x" * 40_000)
            assert await raw.closed() == b""
            assert struct.unpack(">H", raw.closing[:2]) == (1009,)
            raw.close()
        await until(lambda: victim.descriptors < 30)
    for open_, port in ((Raw, victim.port), (Framed, WEB)):
        for version, answer in ((5, b"\x20"), (4, b"")):
            raw = await open_.open(port, version)
            raw.send(connect_packet("x", version, username="u" * LOGIN_BYTES))
            found = await raw.closed()
            assert found[:1] == answer
            assert not found or found[3] == 0x95
            raw.close()
    raw = await Framed.client(WEB, "known")
    raw.send(publish_packet("large", b"x" * 60_000, 1, 1))
    assert (await raw.packet()).code in (0, 0x10)


async def test_pings_without_reading(victim, served):
    """A peer that pings and does not read gets one pong, and no memory is kept for the others."""
    raw = await Framed.client(WEB, "pinging")
    raw.pump.cancel()
    raw.writer.transport.pause_reading()
    before = victim.rss_kib
    for _ in range(200):
        raw.raw_send(frame(b"p" * 125, 0x89) * 500)
        await raw.writer.drain()
    assert served() < 1
    assert victim.rss_kib - before < 2048


# -- PROXY ---------------------------------------------------------------------------------------

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PROXY_LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n"


@pytest.mark.parametrize(
    "data",
    [
        connect_packet("none"),
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 \xb2 1\r\n",
        b"PROXY TCP4 192.0.2.999 192.0.2.2 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP6 fe80::1%\x1b[31mroot ::1 1 1\r\n",
        b"PROXY TCP6 fe80::1%\nforged ::1 1 1\r\n",
        b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 1\r\n",
        PROXY_LINE[:-2] + b"\n",
        SIGNATURE[:-1] + b"X" + b"\x21\x11\0\x0c" + b"x" * 12,
        SIGNATURE + b"\x31\x11\0\x0c" + b"x" * 12,
        SIGNATURE + b"\x22\x11\0\x0c" + b"x" * 12,
        SIGNATURE + b"\x21\x11\0\x0b" + b"x" * 11,
        SIGNATURE + b"\x21\x12\0\x0c" + b"x" * 12,
        SIGNATURE + b"\x21\x21\0\x23" + b"x" * 35,
        SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 5000,
    ],
)
async def test_proxy_headers_that_are_none(victim, data):
    """Closed without an answer; no byte of the header is taken for MQTT, nor for the log."""
    before = len(victim.log)
    for number, port in enumerate((PROXIED, NARROW)):
        # Of each address one line is logged.
        host = f"127.0.{number}.{zlib.crc32(data) % 250 + 1}"
        raw = await Raw.open(port, local_addr=(host, 0))
        raw.send(data)
        end(raw)
        assert await raw.closed() == b""
        raw.close()
    await until(lambda: victim.log.count("PROXY", before) >= 2)
    assert victim.log[before:].replace("\n", "").isprintable()
    assert not any(line.startswith("forged") for line in victim.log[before:].splitlines())


async def test_a_proxy_header_twice_is_no_packet(victim):
    """Only the first one counts; a client behind the balancer cannot add its own."""
    raw = await Raw.open(PROXIED)
    raw.send(PROXY_LINE + b"PROXY TCP4 203.0.113.9 192.0.2.2 1 1\r\n" + connect_packet("twice"))
    assert await raw.closed() == b""
    await until(lambda: "192.0.2.1" in victim.log)
    assert "203.0.113.9" not in victim.log


async def test_random_proxy_headers(victim):
    """Random bytes behind the signature, in reads of every size."""
    found = random.Random(2)
    for _ in range(100):
        size = found.choice([0, 1, 12, 36, 216, 300])
        data = SIGNATURE + found.randbytes(2) + struct.pack(">H", size) + found.randbytes(size)
        if found.random() < 0.5:
            data = PROXY_LINE[: found.randrange(40)] + found.randbytes(20) + b"\r\n"
        raw = await Raw.open(PROXIED)
        cut = found.randrange(len(data))
        raw.send(data[:cut])
        await asyncio.sleep(0)
        raw.send(data[cut:] + packet(0xF0))
        end(raw)
        await raw.closed()
        raw.close()


async def test_peers_that_break_off_at_every_step(victim):
    """Resets in the header, the handshake, a frame: no descriptor stays, as the fixture sees."""
    del victim
    for port, data in ((PROXIED, PROXY_LINE), (WEB, request(WEB)), (NARROW, PROXY_LINE)):
        for size in range(0, len(data) + 1, 7):
            sock = socket.create_connection(("127.0.0.1", port), 5)
            sock.send(data[:size])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
