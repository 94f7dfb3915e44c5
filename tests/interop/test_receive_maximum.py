"""Mosquitto 2.0 as the far side sends more than the receive maximum that it was told (MQTT 5)."""

from __future__ import annotations

from pathlib import Path

from bridge_kinds import mosquitto

from raw import DISCONNECT, PUBACK, PUBLISH, FarSide, Raw, ack_packet, grant, until
from running import QUICK, bridge

ALLOWED = 20


async def test_it_sends_its_whole_queue_after_a_burst(peers, tmp_path: Path) -> None:
    """What the tolerance below is for. Should this fail with a newer Mosquitto: good."""
    real = await mosquitto(peers, tmp_path)
    client = await Raw.client(real.port, "client", receive_maximum=ALLOWED)
    await client.subscribe("a", qos=1)
    publisher = await Raw.client(real.port, "publisher")
    for _ in range(3 * ALLOWED):
        publisher.publish("a", "x", 1)
    await publisher.arrived()
    first = [one for one in await client.arrived() if one.kind == PUBLISH]
    assert len(first) == ALLOWED
    client.send(*(ack_packet(PUBACK, one.packet_id) for one in first))
    rest = [one for one in await client.arrived() if one.kind == PUBLISH]
    assert len(rest) == 2 * ALLOWED


async def test_a_far_side_may_exceed_it_up_to_ten_times(isthmus, far, peers) -> None:
    """Closing would make it send everything again, and again too much of it."""
    sink = FarSide()  # never acknowledges
    await sink.start()
    peers.push_async_callback(sink.stop)
    routes = {"on": {"from": "cloud", "to": "sink", "topics": ["in/#"]}}
    configuration = bridge(far.port, routes=routes, version="5", receive_maximum=ALLOWED)
    configuration["connectors"]["sink"] = {"url": f"127.0.0.1:{sink.port}", "reconnect": QUICK}
    near = await isthmus(configuration)
    await sink.client()
    there, _ = await far.client()
    await grant(there)
    await near.connected()
    for number in range(1, 10 * ALLOWED + 1):
        there.publish("in/x", "", 1, packet_id=number)
    queued = near.app.connectors["sink"].members[0].lane
    await until(lambda: queued.inflight + queued.queued == 10 * ALLOWED)
    assert near.cloud.state == "connected"
    there.publish("in/x", "", 1, packet_id=10 * ALLOWED + 1)
    assert (await there.expect(DISCONNECT)).code == 0x93
    await until(lambda: near.status()["state"] == "waiting")
