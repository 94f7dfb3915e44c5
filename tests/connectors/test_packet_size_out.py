"""`max_packet_size_out`: what is bigger is not sent, whatever the far side would take."""

from __future__ import annotations

import pytest

from raw import PUBACK, PUBLISH, ack_packet
from running import bridge, out

LIMIT = 100


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.parametrize(("announced", "limit"), [(None, LIMIT), (1000, LIMIT), (60, 60)])
async def test_a_bigger_message_is_dropped_and_counted(
    isthmus, far, version: str, announced: int | None, limit: int
) -> None:
    if version != "5":
        limit = LIMIT  # nothing is announced
    connector = {"client_id": "edge", "version": version, "max_packet_size_out": LIMIT}
    near = await isthmus(
        bridge(far.port, routes={"out": out("t", loop_guard={"hops": False})}, **connector)
    )
    there, _ = await far.client(**({"maximum_packet": announced} if announced else {}))
    await near.connected()
    client = await near.client("publisher")
    head = 2 + 2 + len("t") + 2 + (version == "5")
    client.publish("t", b"x" * (limit - head), 1)
    found = await there.expect(PUBLISH)
    assert len(found.body) + 2 == limit
    there.send(ack_packet(PUBACK, found.packet_id))
    assert (await client.expect(PUBACK)).code == 0
    client.publish("t", b"x" * (limit - head + 1), 1)
    assert (await client.expect(PUBACK)).code >= 0x80
    assert near.cloud.drops.counts == {"too_large": 1}
    client.publish("t", b"small", 1)
    assert (await there.expect(PUBLISH)).payload == b"small"
