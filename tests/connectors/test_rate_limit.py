"""`rate_limit`: more messages wait, in order; none is lost below the size of the queue."""

from __future__ import annotations

import asyncio

import pytest

from isthmus.connectors.settings import ConnectorSettings
from raw import PUBACK, PUBLISH, ack_packet, until
from running import bridge, out

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("value", "rate"), [("100/s", 100), ("30/m", 0.5), ("36/h", 0.01), (7, 7), ("1.5 / s", 1.5)]
)
def test_rates(value, rate):
    assert ConnectorSettings(url="h", rate_limit=value).rate_limit == pytest.approx(rate)


@pytest.mark.parametrize("value", ["100", "100/d", "x/s", 0, -1, True])
def test_wrong_rates(value):
    with pytest.raises(ValueError, match=r"rate_limit"):
        ConnectorSettings(url="h", rate_limit=value)


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_messages_above_the_rate_wait_in_order(isthmus, far, qos):
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, client_id="me", rate_limit="20/s")
    )
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(40):
        here.publish("out/x", str(number), qos)
    for number in range(40):
        found = await there.message()
        assert (found.payload, found.qos) == (str(number).encode(), qos)
        if number == 19:
            assert loop.time() - began < 0.6  # a burst of one second
    assert 0.9 <= loop.time() - began < 2.5
    assert not near.cloud.drops.counts


async def test_a_pool_shares_the_rate(isthmus, far):
    near = await isthmus(bridge(far.port, routes={"out": out("out/#")}, pool=3, rate_limit="10/s"))
    sides = [(await far.client())[0] for _ in range(3)]
    await near.connected()
    here = await near.client("here")
    for number in range(60):
        here.publish(f"out/{number}", "x", 1)
    await until(lambda: sum(one.lane.sent for one in near.cloud.members) >= 10)
    await asyncio.sleep(0.5)
    assert 10 <= sum(one.lane.sent for one in near.cloud.members) <= 18
    assert len(sides) == 3


async def test_qos_0_beyond_the_queue_is_dropped_and_counted(isthmus, far):
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, client_id="me", rate_limit="1/h")
    )
    await far.client()
    await near.connected()
    near.cloud.members[0].lane.max_queued_bytes = 3000
    here = await near.client("here")
    for number in range(30):
        here.publish("out/x", str(number), 0)
    await here.arrived()
    lane = near.cloud.members[0].lane
    assert lane.sent == 1
    assert lane.queued + near.cloud.drops.counts["queue_full"] == 29


async def test_what_waits_for_the_rate_outlives_the_connection(isthmus, far):
    near = await isthmus(
        bridge(far.port, routes={"out": out("out/#")}, client_id="me", rate_limit="10/s")
    )
    there, _ = await far.client()
    await near.connected()
    here = await near.client("here")
    for number in range(15):
        here.publish("out/x", str(number), 1)
    for _ in range(10):
        await there.expect(PUBLISH)
    there.close()
    there, _ = await far.client(session_present=True)
    got = []
    while len(got) < 15:
        found = await there.expect(PUBLISH)
        got.append(int(found.payload))
        there.send(ack_packet(PUBACK, found.packet_id))
    assert got == list(range(15))
