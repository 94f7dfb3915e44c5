"""How many connections one address may have, how fast they may come, and how long they may take."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time

import pytest

from isthmus.app.settings import Settings
from mosquitto import free_port
from raw import CONNACK, OPEN, Raw, connect_packet, packet, until

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.9"

BURST_S = 10


def limited(*listeners: dict[str, object], **limits: object) -> dict[str, object]:
    """A broker with these listeners in front of a plain one, all of whose clients are let in."""
    return {
        "listeners": [{"bind": "127.0.0.1:0", **found} for found in (*listeners, {})],
        "auth": {"allow_anonymous": True, "insecure_public_anonymous": True},
        "broker": {"limits": limits, "sys_interval": 0},
    }


@pytest.fixture
def lines(caplog):
    """The lines of the broker's log so far."""
    caplog.set_level(logging.INFO, "isthmus.broker")
    return lambda: [
        found.message
        for found in caplog.records
        if found.name in ("isthmus.broker", "isthmus.broker.clients.faults")
    ]


async def come(port: int, host: str = HERE, *, first: bytes = b"", **how: object) -> Raw:
    """A connection from an address, with its session open; `first` comes before MQTT."""
    raw = await Raw.open(port, local_addr=(host, 0), **how)
    if first:
        raw.send(first)
    await log_in(raw)
    return raw


async def log_in(raw: Raw) -> None:

    raw.send(connect_packet())
    assert (await raw.expect(CONNACK)).code == 0


async def turned_away(port: int, host: str = HERE, first: bytes = b"") -> None:
    """A connection from an address is closed, and nothing was said to it: no TLS, no CONNACK."""
    raw = await Raw.open(port, local_addr=(host, 0))
    if first:
        raw.send(first)
    assert await raw.closed() == b""


def proxied(host: str) -> bytes:
    family = "TCP6" if ":" in host else "TCP4"
    target = "::1" if ":" in host else "127.0.0.1"
    return f"PROXY {family} {host} {target} 50000 1883\r\n".encode()


# -- connections of one address ------------------------------------------------------------------


async def test_one_connection_too_many_of_an_address_is_closed(isthmus, lines):
    near = await isthmus(limited(connections_per_address=3))
    port = near.ports[-1]
    there = [await come(port) for _ in range(3)]
    for _ in range(5):
        await turned_away(port)
    await come(port, ELSEWHERE)
    for raw in there:
        await raw.nothing()
    broker = near.app.broker
    assert broker.limits_met.counts == {"connections_per_address": 5}
    assert broker.refusals == {0x97: 5}
    (line,) = [line for line in lines() if "refused" in line]
    assert line.startswith("client 127.0.0.1:")
    assert line.endswith("too many connections; see broker.limits.connections_per_address")
    there[0].close()
    await until(lambda: broker.connected == 3)
    await come(port)
    await turned_away(port)


@pytest.mark.parametrize("ending", ["disconnect", "reset", "garbage", "no connect", "no login"])
async def test_the_place_of_an_address_is_free_however_a_connection_ends(isthmus, ending, tmp_path):

    near = await isthmus(limited(connections_per_address=1))
    port, broker = near.ports[-1], near.app.broker
    for _ in range(3):
        raw = await Raw.open(port)
        if ending in ("disconnect", "reset", "garbage"):
            await log_in(raw)
        if ending == "reset":
            raw.reset()
        elif ending == "no login":
            raw.send(connect_packet(auth_method="unknown"))
            await raw.closed()
        else:
            raw.send({"disconnect": packet(0xE0), "garbage": b"\xff\xff"}.get(ending, b""))
            raw.close()
        await until(lambda: len(broker.gate._open) == 0)
    assert broker.limits_met.counts == {}


async def test_handshakes_of_tls_count_and_their_places_come_back(isthmus, certificates):
    near = await isthmus(
        limited(
            {"tls": {"certificate": str(certificates.server)}},
            connections_per_address=3,
            connect_timeout="500ms",
        )
    )
    port = near.ports[0]
    silent = [await Raw.open(port) for _ in range(3)]
    await until(lambda: near.app.listeners[0].statistics().handshakes == 3)
    await turned_away(port)
    await turned_away(near.ports[-1])  # all listeners together
    context = ssl.create_default_context(cafile=str(certificates.ca))
    good = await come(port, ELSEWHERE, ssl=context)
    for raw in silent:
        assert await raw.closed() == b""
    again = await come(port, ssl=context)
    await good.nothing()
    await again.nothing()
    assert near.app.broker.limits_met.counts["connections_per_address"] == 2
    assert near.app.listeners[0].statistics().refused == 1


async def test_behind_a_load_balancer_the_address_of_the_client_counts(isthmus, lines):
    near = await isthmus(limited({"proxy_protocol": True}, connections_per_address=2))
    port = near.ports[0]
    clients = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:1::"]
    there = [await come(port, first=proxied(host)) for host in clients]
    await turned_away(port, first=proxied("192.0.2.1"))
    await turned_away(port, first=proxied("2001:db8::3"))
    await come(port, first=proxied("2001:db8:1::3"))
    for raw in there:
        await raw.nothing()
    assert near.app.broker.limits_met.counts == {"connections_per_address": 2}
    refused = [line.partition(" refused")[0] for line in lines() if "refused" in line]
    assert refused == ["client 192.0.2.1:50000", "client [2001:db8::3]:50000"]
    there[0].close()
    await until(lambda: near.app.broker.connected == 6)
    await come(port, first=proxied("192.0.2.1"))


async def test_a_failed_handshake_leaves_nothing_and_is_a_line_per_address(
    isthmus, certificates, lines
):
    near = await isthmus(limited({"tls": {"certificate": str(certificates.server)}}))
    for _ in range(10):
        raw = await Raw.open(near.ports[0])
        raw.send(b"GET / HTTP/1.1\r\n\r\n")
        await raw.closed()
    await until(lambda: near.app.listeners[0].statistics().handshakes_failed == 10)
    assert near.app.broker.gate._open == {}
    (line,) = [line for line in lines() if "no connection for" in line]
    assert "no connection for 127.0.0.1:" in line
    assert "TLS:" in line


async def test_unix_sockets_are_not_counted_by_address(isthmus, tmp_path):
    bind = f"unix:{tmp_path}/s"
    near = await isthmus(limited({"bind": bind}, connections_per_address=1, connect_rate="1/h"))
    for _ in range(10):
        raw = Raw(*await asyncio.open_unix_connection(f"{tmp_path}/s"))
        OPEN.append(raw)
        await log_in(raw)
    assert near.app.broker.connected == 10
    assert near.app.broker.limits_met.counts == {}


async def test_without_a_limit_nobody_is_refused(isthmus):
    near = await isthmus(limited(connections_per_address=None, connect_rate=None))
    there = [await come(near.port) for _ in range(50)]
    for raw in there:
        raw.close()
    await until(lambda: near.app.broker.connected == 0)
    assert len(near.app.broker.gate) == 0


def test_the_defaults_are_wide_and_let_a_site_come_back_at_once():
    limits = Settings().broker.limits
    assert limits.connections_per_address == 10_000
    assert limits.connect_rate == 1000
    assert limits.connect_rate_in_all is None
    assert limits.packet_rate is None


# -- rates ---------------------------------------------------------------------------------------


async def test_connections_that_come_too_fast_are_closed(isthmus, lines):
    near = await isthmus(limited(connect_rate="2/s"))
    good = await come(near.port, ELSEWHERE)
    came = [await Raw.open(near.port) for _ in range(60)]
    broker = near.app.broker
    await until(lambda: broker.limits_met.counts.get("connect_rate", 0) >= 60 - 2 * BURST_S - 5)
    refused = broker.limits_met.counts["connect_rate"]
    assert refused <= 60 - 2 * BURST_S
    assert broker.refusals == {0x9F: refused}
    await until(lambda: sum(raw.reader.at_eof() for raw in came) == refused)
    for raw in came[:20]:
        await log_in(raw)
    assert await good.published("t", "x") in (0, 0x10)
    assert len([line for line in lines() if "see broker.limits.connect_rate" in line]) == 1
    await asyncio.sleep(0.6)
    await come(near.port)  # the rate goes on


@pytest.mark.alone
async def test_more_than_the_rate_in_all_wait_and_are_served(isthmus):
    near = await isthmus(limited(connect_rate_in_all="4/s"))
    good = await come(near.port)
    begin = time.monotonic()
    more = await asyncio.gather(*(come(near.port, f"127.0.1.{n}") for n in range(1, 42)))
    took_s = time.monotonic() - begin
    assert 0.3 < took_s < 3
    assert near.app.broker.limits_met.counts == {}
    assert near.app.listeners[0].statistics().pauses
    waiting = await Raw.open(near.port)
    begin = time.monotonic()
    await good.nothing()
    assert time.monotonic() - begin < 1
    await log_in(waiting)
    assert near.app.broker.connected == len(more) + 2


async def test_many_addresses_are_remembered_for_as_long_as_memory_allows(isthmus, monkeypatch):
    monkeypatch.setattr("isthmus.net.gate.REMEMBERED", 20)
    near = await isthmus(limited(connect_rate="1/h"))
    gate = near.app.broker.gate
    for number in range(1, 120):
        raw = await come(near.port, f"127.0.2.{number}")
        raw.close()
        assert len(gate) <= 2 * 20 + near.app.broker.connected
    await until(lambda: near.app.broker.connected == 0)
    assert len(gate) <= 40
    await turned_away(near.port, "127.0.2.119")


# -- reload --------------------------------------------------------------------------------------


async def test_a_reload_changes_the_limits_of_connections(isthmus):
    near = await isthmus(limited(connections_per_address=2, connect_rate="1/h"))
    there = [await come(near.port)]
    await turned_away(near.port)
    await near.reload(limited(connections_per_address=2))
    there.append(await come(near.port))
    await turned_away(near.port)
    await near.reload(limited())
    there += [await come(near.port) for _ in range(5)]
    await near.reload(limited(connections_per_address=3))
    await turned_away(near.port)
    for raw in there:
        await raw.nothing()
    assert near.app.broker.limits_met.counts == {"connect_rate": 1, "connections_per_address": 2}


@pytest.mark.alone
async def test_a_reload_changes_how_long_a_handshake_may_take(isthmus, certificates):
    def wanted(timeout: str) -> dict[str, object]:
        tls = {"tls": {"certificate": str(certificates.server)}}
        return limited(tls, connect_timeout=timeout)

    near = await isthmus(wanted("1h"))
    await near.reload(wanted("200ms"))
    for port in near.ports:
        begin = time.monotonic()
        raw = await Raw.open(port)
        assert await raw.closed() == b""
        assert time.monotonic() - begin < 1.5


async def test_handshakes_have_a_limit_and_a_reload_changes_it(isthmus):
    """Connections that are not through what comes ahead of MQTT are few at a time."""
    web = {"transport": "websocket"}
    port, plain = free_port(), free_port()
    bound = [{"bind": f"127.0.0.1:{port}", **web}, {"bind": f"127.0.0.1:{plain}"}]
    near = await isthmus({**limited(handshakes=2), "listeners": bound})
    there = [await Raw.open(port) for _ in range(2)]
    await turned_away(port)
    await come(plain)
    await near.reload({**limited(handshakes=3), "listeners": bound})
    there.append(await Raw.open(port))
    await asyncio.sleep(0.1)
    assert not there[-1].reader.at_eof()
    await turned_away(port)
