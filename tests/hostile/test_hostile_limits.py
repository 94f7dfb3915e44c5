"""Slow and many: strangers that hold connections open, or open them without end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

import pytest
import trustme
from framed import frame, request
from victim import flat

from mosquitto import free_port
from raw import CONNACK, PUBACK, Raw, connect_packet, publish_packet, until

pytestmark = pytest.mark.alone

TIMEOUT_S = 1.0
"""`connect_timeout`: once for what comes ahead of MQTT, once for the CONNECT."""

PATIENT_S = 1.0

PLACES = 30

PORTS = {kind: free_port() for kind in ("tcp", "tls", "ws", "wss", "proxy", "proxy-wss")}

CROWD = "127.0.0.77"
"""Where strangers come from; good clients are at 127.0.0.1."""


def configuration(folder):
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    tls = {"certificate": str(folder / "server.pem")}
    carriers = {
        "tcp": {},
        "tls": {"tls": tls},
        "ws": {"transport": "websocket"},
        "wss": {"transport": "websocket", "tls": tls},
        "proxy": {"proxy_protocol": True},
        "proxy-wss": {"proxy_protocol": True, "transport": "websocket", "tls": tls},
    }
    listeners = [{"bind": f"127.0.0.1:{PORTS[kind]}", **how} for kind, how in carriers.items()]
    return {
        "listeners": listeners,
        "auth": {"allow_anonymous": True, "insecure_public_anonymous": True},
        "broker": {
            "limits": {
                "connect_timeout": f"{TIMEOUT_S}s",
                "connections_per_address": PLACES,
                "packet_rate": "1000/s",
            }
        },
    }


PROXY_LINE = b"PROXY TCP4 192.0.2.1 127.0.0.1 50000 1883\r\n"


def over(raw: Raw) -> bool:
    """Whether the broker has closed; a byte that it had not read makes that a reset."""
    return raw.reader.at_eof() or raw.reader.exception() is not None


def client_hello() -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


CONNECT = connect_packet("slow" * 30)

FIRST = {
    "tcp": lambda port: CONNECT,
    "tls": lambda port: client_hello(),
    "ws": lambda port: request(port),
    "wss": lambda port: client_hello(),
    "proxy": lambda port: PROXY_LINE + CONNECT,
    "proxy-wss": lambda port: PROXY_LINE + client_hello(),
}


@pytest.mark.parametrize("silent", [False, True], ids=["drip", "silent"])
@pytest.mark.parametrize("kind", PORTS)
async def test_slowloris_on_every_carrier(victim, served, kind, silent):
    """slowloris: one byte at a time, on each stage, stretches no deadline."""
    port = PORTS[kind]
    data = FIRST[kind](port)
    begin = time.monotonic()
    raws = [await Raw.open(port) for _ in range(8)]

    async def drip(raw: Raw) -> float:
        at = 0
        while not over(raw):
            if not silent and at < len(data) - 1:
                raw.send(data[at : at + 1])
                at += 1
            assert time.monotonic() - begin < 2 * TIMEOUT_S + 2, "it was let go on"
            await asyncio.sleep(0.02)
        return time.monotonic() - begin

    drips = [asyncio.ensure_future(drip(raw)) for raw in raws]
    await asyncio.sleep(TIMEOUT_S / 2)
    assert served() < PATIENT_S
    took_s = await asyncio.gather(*drips)
    assert min(took_s) > TIMEOUT_S * 0.8
    assert max(took_s) < 2 * TIMEOUT_S + 1


async def test_slowloris_frame_by_frame_behind_a_handshake(victim, served):
    """slowloris: a CONNECT in frames of a byte has the deadline of a CONNECT."""
    begin = time.monotonic()
    raw = await Raw.open(PORTS["ws"])
    raw.send(request(PORTS["ws"]))
    await raw.reader.readuntil(b"\r\n\r\n")
    for at in range(len(CONNECT) - 1):
        if over(raw):
            break
        raw.send(frame(CONNECT[at : at + 1]))
        await asyncio.sleep(0.02)
    await raw.closed()
    assert time.monotonic() - begin < 2 * TIMEOUT_S + 1
    assert served() < PATIENT_S


@pytest.mark.parametrize("kind", ["tcp", "tls", "ws"])
async def test_one_address_opens_connections_without_end(victim, served, kind):
    """Its places are few, those of others stay free, and nothing is left of the rest."""
    before = victim.descriptors

    async def attack() -> None:
        raws = [await Raw.open(PORTS[kind], local_addr=(CROWD, 0)) for _ in range(2 * PLACES)]
        await until(lambda: sum(map(over, raws)) >= PLACES)
        assert sum(map(over, raws)) == PLACES
        assert served() < PATIENT_S
        good = await Raw.client(PORTS["tcp"])
        await good.nothing()
        for raw in [*raws, good]:
            raw.close()
        # What is open has to be seen as closed before the next round counts.
        await until(lambda: victim.descriptors <= before)

    await flat(victim, attack, times=3)


async def test_connections_as_fast_as_they_come(victim, served):
    """Refused ones cost little: thousands of them, and good clients wait for nothing."""
    held = [await Raw.open(PORTS["tls"], local_addr=(CROWD, 0)) for _ in range(PLACES)]
    before, cpu = victim.rss_kib, victim.cpu_s
    begin = time.monotonic()
    count = 0
    while time.monotonic() - begin < 0.7:
        for _ in range(50):
            sock = socket.socket()
            sock.bind((CROWD, 0))
            sock.connect(("127.0.0.1", PORTS["tls"]))
            sock.close()
            count += 1
        assert served() < PATIENT_S
    # Less than a thousandth of a second for each, which one TLS handshake would cost.
    assert (victim.cpu_s - cpu) / count < 0.001
    assert victim.rss_kib - before < 2 * 1024
    for raw in held:
        raw.close()


@pytest.mark.parametrize("subscribed", [False, True])
async def test_a_flood_of_messages_is_slowed_down(victim, served, subscribed):
    """The rate of one client: its messages wait at its side, memory stays, others are served."""
    before = victim.rss_kib
    raw = await Raw.client(PORTS["tcp"], "flood", keep_alive=60)
    if subscribed:
        await raw.subscribe("other")
    one = publish_packet("flood/x", b"x" * 200)

    async def flood() -> None:
        while True:
            raw.send(one * 200)
            await raw.writer.drain()

    flooding = asyncio.ensure_future(flood())
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < 1.5:
            assert served() < PATIENT_S
            await asyncio.sleep(0.05)
    finally:
        flooding.cancel()
        raw.reset()  # who leaves in peace has what it sent read to the end, at its rate
    assert victim.rss_kib - before < 2 * 1024
    assert "client 'flood' sends too fast, and is slowed down" in victim.log


async def test_the_good_come_in_beside_the_crowd(victim, served):
    """A crowd of one address at its limit, and a whole exchange of somebody else."""
    crowd = [await Raw.open(PORTS["tcp"], local_addr=(CROWD, 0)) for _ in range(3 * PLACES)]
    raw = await Raw.open(PORTS["tcp"])
    raw.send(connect_packet("good"), publish_packet("t", b"", 1, 1))
    assert (await raw.expect(CONNACK)).code == 0
    assert (await raw.expect(PUBACK)).code in (0, 0x10)
    assert served() < PATIENT_S
    for other in crowd:
        other.close()
