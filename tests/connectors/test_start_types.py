"""`start: lazy` connects while there is something to send, `start: once` a single time."""

from __future__ import annotations

import asyncio

import pytest

from mosquitto import free_port
from raw import CONNECT, DISCONNECT, PUBACK, PUBLISH, FarSide, ack_packet, packet, until
from running import bridge, out

ROUTES = {"out": out("out/#")}


def lazy(port: int, **how):
    wanted = {"threshold": 3, "after": "300ms", "idle_timeout": "400ms", **how}
    return bridge(port, routes=ROUTES, client_id="me", start="lazy", lazy=wanted)


async def test_a_lazy_connection_is_not_opened_at_the_start(isthmus, far):
    near = await isthmus(lazy(far.port))
    await until(lambda: near.status()["state"] == "idle")
    assert near.status()["reason"] == "nothing to do"
    assert far._accepted.empty()


@pytest.mark.parametrize("qos", [0, 1])
async def test_the_threshold_opens_it_for_any_qos(isthmus, far, qos):
    near = await isthmus(lazy(far.port, after="1h"))
    here = await near.client("here")
    for number in range(2):
        here.publish("out/x", str(number), qos)
    await here.arrived()
    assert far._accepted.empty()
    here.publish("out/x", "2", qos)
    there, _ = await far.client()
    for number in range(3):
        found = await there.expect(PUBLISH)
        assert (found.payload, found.qos) == (str(number).encode(), qos)


async def test_an_old_message_opens_it_alone_and_silence_closes_it(isthmus, far):
    near = await isthmus(lazy(far.port))
    here = await near.client("here")
    loop = asyncio.get_running_loop()
    began = loop.time()
    here.publish("out/x", "1", 1)
    there, hello = await far.client()
    assert loop.time() - began >= 0.29
    assert not hello.clean
    found = await there.expect(PUBLISH)
    there.send(ack_packet(PUBACK, found.packet_id))
    goodbye = await there.expect(DISCONNECT)
    assert loop.time() - began >= 0.69
    assert goodbye.properties == {}  # the session stays
    await until(lambda: near.status()["state"] == "idle")
    here.publish("out/x", "2", 1)
    there, _ = await far.client(session_present=True)
    assert (await there.expect(PUBLISH)).payload == b"2"


async def test_it_stays_open_while_messages_pass_or_are_not_acknowledged(isthmus, far):
    near = await isthmus(lazy(far.port))
    here = await near.client("here")
    here.publish("out/x", "1", 1)
    there, _ = await far.client()
    found = await there.expect(PUBLISH)
    for number in range(6):
        await asyncio.sleep(0.15)  # all together twice the idle time
        here.publish("out/q", str(number), 0)
        assert (await there.expect(PUBLISH)).payload == str(number).encode()
    await asyncio.sleep(0.6)
    assert near.status()["state"] == "connected"  # one acknowledgement is missing
    there.send(ack_packet(PUBACK, found.packet_id))
    await there.expect(DISCONNECT)


async def test_a_full_queue_opens_it_too(isthmus, far):
    near = await isthmus(lazy(far.port, threshold=1_000_000, after="1h"))
    lane = near.cloud.members[0].lane
    lane.max_queued_bytes = 2000
    here = await near.client("here")
    for number in range(20):
        here.publish("out/x", f"{number:0100}", 0)
    there, _ = await far.client()
    assert (await there.expect(PUBLISH)).payload == b"%0100d" % 0
    assert near.cloud.drops.counts["queue_full"] > 0


async def test_once_connects_once(isthmus, far):
    near = await isthmus(bridge(far.port, routes=ROUTES, start="once"))
    there, _ = await far.client()
    await near.connected()
    there.close()
    await until(lambda: near.status()["state"] == "stopped")
    assert "connects once" in near.status()["reason"]
    assert far._accepted.empty()


async def test_once_tries_every_address_and_version_before_it_gives_up(isthmus):
    side = FarSide()
    await side.start()
    urls = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{side.port}"]
    near = await isthmus(bridge(0, url=urls, routes=ROUTES, start="once", version="5"))
    for _ in range(3):
        raw = await side.accept()
        await raw.expect(CONNECT)
        raw.send(packet(0x20, b"\0\x01"))
        raw.close()
    await until(lambda: near.status()["state"] == "stopped")
    assert "tries once" in near.status()["reason"]
    await side.stop()
