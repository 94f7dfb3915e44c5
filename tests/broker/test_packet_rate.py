"""`limits.packet_rate`: who sends too fast is slowed down, and loses nothing."""

from __future__ import annotations

import asyncio
import ssl
import time

import pytest

from isthmus.delivery.message import Message
from raw import (
    OPEN,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBLISH,
    Raw,
    ack_packet,
    connect_packet,
    packet,
    publish_packet,
    until,
)

pytestmark = pytest.mark.alone

PING = packet(PINGREQ << 4)


def limited(rate: str | None, **more: object) -> dict[str, object]:
    """A broker with this rate, which a reload finds again by its address."""
    broker = {"limits": {"packet_rate": rate, **more}, "sys_interval": 0}
    return {"listeners": [{"bind": "127.0.0.1:0"}], "broker": broker}


async def changed(near, configuration) -> None:
    await near.reload(configuration)


async def answer_s(raw) -> float:
    """How long it takes until what was sent is dealt with, and a later read is answered."""
    begin = time.monotonic()
    for _ in range(2):
        raw.send(PING)
        while (await raw.packet()).kind != PINGRESP:
            pass
    return time.monotonic() - begin


# A CONNECT counts, and a bucket fills while a test goes on: the bounds leave room for it.


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize("qos", [0, 1])
async def test_who_sends_too_fast_waits_and_loses_nothing(isthmus, caplog, version, qos):
    caplog.set_level("INFO", "isthmus.broker")
    near = await isthmus(limited("100/s"))
    there = await near.client("there")
    await there.subscribe("t", qos=1)
    raw = await near.client("x", version)
    many = 250
    raw.send(*(publish_packet("t", b"%d" % n, qos, n, version=version) for n in range(1, many + 1)))
    assert 0.8 < await answer_s(raw) < 4  # 150 too many
    found = []
    while len(found) < many:
        message = await there.expect(PUBLISH)
        if message.qos:
            there.send(ack_packet(PUBACK, message.packet_id))
        found.append(int(message.payload))
    assert found == list(range(1, many + 1))
    assert near.app.broker.limits_met.counts["packet_rate"] >= 1
    assert near.app.broker.refusals == {}
    assert near.app.broker.drops.counts == {}
    (line,) = [line for line in caplog.messages if "too fast" in line]
    assert line == ("client 'x' sends too fast, and is slowed down; see broker.limits.packet_rate")


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_flood_of_one_client_is_no_matter_for_others(isthmus, qos):
    near = await isthmus(limited("50/s"))
    good = await near.client("good")
    await good.subscribe("good")
    raw = await near.client("x", 4)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            one = publish_packet("t", b"x" * 500, qos, sent % 60_000 + 1, version=4)
            raw.send(one)
            sent += 1
            if not sent % 50:
                await raw.writer.drain()

    flooding = asyncio.ensure_future(flood())
    begin = time.monotonic()
    while time.monotonic() - begin < 1.2:
        good.publish("good", "x")
        before = time.monotonic()
        await good.expect(PUBLISH)
        assert time.monotonic() - before < 1
        await asyncio.sleep(0.1)
    flooding.cancel()
    client = near.app.broker.sessions["x"].client
    # A read is 64 KiB at most, and is paid for before the next one.
    assert client.received < 300
    assert len(client._held or ()) + len(client.link.out) < 300
    assert near.app.broker.traffic.received < 400


async def test_who_only_receives_is_never_slowed_down(isthmus):
    near = await isthmus(limited("10/s"))
    raw = await near.client("x")
    await raw.subscribe("t/#", qos=2)
    begin = time.monotonic()
    for number in range(300):
        near.app.broker.publish(Message(b"t/%d" % (number % 3), b"%d" % number, 1 + number % 2))
    for number in range(300):
        assert (await raw.message()).payload == b"%d" % number
    assert time.monotonic() - begin < 3
    assert near.app.broker.limits_met.counts == {}
    lane = near.app.broker.sessions["x"].lane
    await until(lambda: not lane.inflight)


async def test_acknowledgements_behind_a_flood_are_read_when_it_is_paid_for(isthmus):
    """A pause ends by the clock: a client that subscribes and publishes is not read for ever."""
    near = await isthmus(limited("100/s"))
    raw = await near.client("x")
    await raw.subscribe("t", qos=1)
    session = near.app.broker.sessions["x"]
    near.app.broker.publish(Message(b"t", b"1", 1))
    found = await raw.expect(PUBLISH)
    raw.send(publish_packet("u", b"") * 200, ack_packet(PUBACK, found.packet_id))
    raw.send(publish_packet("u", b"") * 50)
    near.app.broker.publish(Message(b"t", b"2", 1))
    found = await raw.expect(PUBLISH)  # what goes to it does not wait
    assert near.app.broker.sessions["x"].client.paused
    raw.send(ack_packet(PUBACK, found.packet_id))
    await until(lambda: not session.lane.inflight)
    await raw.nothing()
    assert near.app.broker.refusals == {}


@pytest.mark.parametrize("version", [4, 5])
async def test_a_slow_down_is_not_held_against_the_keep_alive(isthmus, version):
    near = await isthmus(limited("10/s"))
    raw = await near.client("x", version, keep_alive=1)
    raw.send(publish_packet("t", b"", version=version) * 60)  # five seconds' worth of debt
    begin = time.monotonic()
    while time.monotonic() - begin < 2.5:
        assert await answer_s(raw) < 1.6  # two answers, each after half a keep alive
    assert near.app.broker.refusals == {}
    assert near.app.broker.connected == 1


async def test_a_client_that_does_not_read_is_not_read_when_its_pause_ends(isthmus):
    """Answers must not pile up behind two reasons to pause."""
    near = await isthmus(limited("2000/s", unsent_bytes="16KiB"))
    good = await near.client("good")
    raw = await near.client("x")
    raw.reader._transport.pause_reading()
    client = near.app.broker.sessions["x"].client

    async def flood() -> None:
        while True:
            raw.send(PING * 2000)
            await raw.writer.drain()

    flooding = asyncio.ensure_future(flood())
    await asyncio.sleep(2)
    flooding.cancel()
    # What one read may add to what waits: 32,768 answers.
    assert len(client.link.out) <= 2 * 32_768
    await good.nothing()


async def test_a_slow_down_before_the_login_ends_with_the_connect_timeout(isthmus):
    near = await isthmus(limited("1/s", connect_timeout="300ms"))
    raw = await Raw.open(near.port)
    raw.send(b"\x10")
    assert await raw.closed() == b""
    assert near.app.broker.limits_met.counts == {"connect_timeout": 1}


@pytest.mark.parametrize("carrier", ["tls", "unix"])
async def test_other_carriers_are_slowed_down_too(isthmus, certificates, tmp_path, carrier):
    listener = {
        "tls": {"bind": "127.0.0.1:0", "tls": {"certificate": str(certificates.server)}},
        "unix": {"bind": f"unix:{tmp_path}/s"},
    }[carrier]
    near = await isthmus({**limited("100/s"), "listeners": [listener]})
    if carrier == "tls":
        context = ssl.create_default_context(cafile=str(certificates.ca))
        raw = await Raw.open(near.port, ssl=context)
    else:
        raw = Raw(*await asyncio.open_unix_connection(f"{tmp_path}/s"))
        OPEN.append(raw)
    raw.send(connect_packet("x"))
    await raw.packet()
    raw.send(publish_packet("t", b"") * 250)
    assert 0.8 < await answer_s(raw) < 4
    assert near.app.broker.sessions["x"].client.received == 250


async def test_a_reload_changes_the_rate_of_clients_that_are_connected(isthmus):
    near = await isthmus(limited(None))
    raw = await near.client("x")
    raw.send(publish_packet("t", b"") * 500)
    assert await answer_s(raw) < 2
    await changed(near, limited("50/s"))
    raw.send(publish_packet("t", b"") * 300)
    raw.send(PING)
    await until(lambda: near.app.broker.sessions["x"].client.paused)
    begin = time.monotonic()
    await changed(near, limited(None))  # the pause of five seconds ends with the limit
    assert await answer_s(raw) < 2
    assert time.monotonic() - begin < 1
    raw.send(publish_packet("t", b"") * 500)
    await raw.arrived()
    assert await answer_s(raw) < 2
    assert near.app.broker.sessions["x"].client.received == 1300


async def test_a_stop_does_not_wait_for_a_client_that_is_slowed_down(isthmus):
    near = await isthmus(limited("10/s"))
    raw = await near.client("x")
    raw.send(publish_packet("t", b"") * 100)
    await until(lambda: near.app.broker.sessions["x"].client.paused)
    begin = time.monotonic()
    await near.app.stop()
    assert time.monotonic() - begin < 3
    assert (await raw.closed())[:1] == b"\xe0"
