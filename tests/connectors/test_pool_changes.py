"""A pool that has become another one while messages wait on disk: no topic is out of order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_outbox import acknowledged, durable, reloaded

from isthmus.connectors.outboxes import logs_of
from mosquitto import free_port
from raw import PUBACK, PUBLISH, Raw, ack_packet, until
from running import Isthmus, waiting

TOPICS = 10


def maker(far, tmp_path, **how: Any):
    def pool(names, **more) -> dict[str, Any]:
        ids = {"static_client_ids": {"edge": list(names)}}
        return durable(far.port, tmp_path, max_inflight=5, **ids, **how, **more)

    return pool


async def feed(near, first, count, name="here"):
    here = await near.client(name)
    for number in range(first, first + count):
        here.publish(f"out/{number % TOPICS}", str(number), 1)
    await acknowledged(here, count)
    here.close()


async def collect(far, near, links, done=lambda: True):
    """What arrives until all is `done` and nothing is stored any more, in order."""
    found = [(await far.client())[0] for _ in range(links)]
    arrived: list[int] = []

    async def take(there: Raw) -> None:
        while True:
            got = await there.packet()
            if got.kind == PUBLISH:
                arrived.append(int(got.payload))
                await asyncio.sleep(0.001)
                there.send(ack_packet(PUBACK, got.packet_id))

    takers = [asyncio.create_task(take(there)) for there in found]
    try:
        await until(lambda: done() and not near.cloud.stored)
    finally:
        for taker in takers:
            taker.cancel()
        await asyncio.gather(*takers, return_exceptions=True)
    return arrived


def turned(arrived):
    """What came on topics whose messages did not come in order."""
    topics = [[number for number in arrived if number % TOPICS == topic] for topic in range(TOPICS)]
    return [found for found in topics if found != sorted(found)]


@pytest.mark.parametrize(
    ("before", "after"),
    [("ab", "abcd"), ("abcd", "ab"), ("abc", "xyz"), ("abcd", "bx")],
)
async def test_a_start_with_another_pool(isthmus, far, tmp_path, before, after):
    pool = maker(far, tmp_path)
    far.stop_listening()
    first = await Isthmus.start(pool(before))
    await feed(first, 0, 100)
    await first.app.stop()
    near = await isthmus(pool(after))
    await feed(near, 100, 100)
    await far.start()
    arrived = await collect(far, near, len(after))
    assert sorted(arrived) == list(range(200))
    assert not turned(arrived)
    assert max(arrived[:100]) < 100
    names = {f"outbox/cloud/{name}" for name in after}
    await until(lambda: set(logs_of("cloud", near.app.store)) == names)


async def test_a_pool_that_shrinks_while_new_messages_wait_for_old_ones(isthmus, far, tmp_path):
    pool = maker(far, tmp_path)
    far.stop_listening()
    first = await Isthmus.start(pool("ab"))
    await feed(first, 0, 100)
    await first.app.stop()
    near = await isthmus(pool("abc"))
    await feed(near, 100, 100)
    await reloaded(near, pool("ab"))
    await until(lambda: not near.cloud.leaving)
    await far.start()
    arrived = await collect(far, near, 2)
    assert not turned(arrived)


async def test_a_connection_that_returns_has_nothing_of_the_one_before(isthmus, far, tmp_path):
    """What came for it meanwhile goes first, though its log has the old name."""
    pool = maker(far, tmp_path)
    far.stop_listening()
    near = await isthmus(pool("ab"))
    await feed(near, 0, 40)
    count = len(near.app.store.log("outbox/cloud/b"))
    await reloaded(near, pool("a"))
    await feed(near, 40, 40)
    await far.start()
    there, _ = await far.client()
    arrived: list[int] = []
    while len(arrived) < count + 3:
        got = await there.packet()
        if got.kind == PUBLISH:
            arrived.append(int(got.payload))
            there.send(ack_packet(PUBACK, got.packet_id))
    await until(lambda: near.cloud.stored == 80 - len(arrived))
    await until(lambda: logs_of("cloud", near.app.store) == ["outbox/cloud/a"])
    far.stop_listening()
    there.reset()
    await until(lambda: near.cloud.state != "connected")
    await reloaded(near, pool("ab"))
    await feed(near, 80, 20)
    await far.start()
    arrived += await collect(far, near, 2)
    assert sorted(arrived) == list(range(100))
    assert not turned(arrived)


@pytest.mark.parametrize(("before", "after"), [("ab", "abcd"), ("abcd", "ab")])
async def test_a_second_start_before_the_old_ones_have_gone(isthmus, far, tmp_path, before, after):
    pool = maker(far, tmp_path)
    far.stop_listening()
    first = await Isthmus.start(pool(before))
    await feed(first, 0, 100)
    await first.app.stop()
    second = await Isthmus.start(pool(after))
    await feed(second, 100, 100)
    await second.app.stop()
    near = await isthmus(pool(after))
    await far.start()
    arrived = await collect(far, near, len(after))
    assert sorted(set(arrived)) == list(range(200))
    assert not turned(arrived), turned(arrived)


async def test_a_reload_while_it_is_down_keeps_acknowledging(isthmus, far, tmp_path):
    pool = maker(far, tmp_path)
    far.stop_listening()
    near = await isthmus(pool("ab"))
    await feed(near, 0, 100)
    for number, names in enumerate(("abc", "b", "xyz")):
        await reloaded(near, pool(names))
        await feed(near, 100 * (number + 1), 100)
    await until(lambda: not near.cloud.leaving)
    await far.start()
    arrived = await collect(far, near, 3)
    assert sorted(arrived) == list(range(400))
    assert not turned(arrived)


async def test_a_reload_while_publishers_wait_for_room(isthmus, far, tmp_path):
    pool = maker(far, tmp_path, route={"queue": {"when_full": "block", "max_messages": 20}})
    far.stop_listening()
    listeners = [{"bind": f"127.0.0.1:{free_port()}"}]  # the publisher stays over the reloads
    near = await isthmus({**pool("ab"), "listeners": listeners})
    here = await near.client("here", 4)
    published = 0
    for names, count in (("", 200), ("a", 100), ("abc", 50)):
        if names:
            await reloaded(near, {**pool(names), "listeners": listeners})
            await until(lambda: not near.cloud.leaving)
        for number in range(published, published + count):
            here.publish(f"out/{number % TOPICS}", str(number), 1)
        published += count
        await asyncio.sleep(0.3)  # so much is read as is read while they wait
    heard = asyncio.create_task(acknowledged(here, published))
    await far.start()
    arrived = await collect(far, near, 3, heard.done)
    await heard
    assert sorted(arrived) == list(range(published))
    assert not turned(arrived), turned(arrived)


async def test_two_reloads_before_what_was_there_has_gone(isthmus, far, tmp_path):
    """The log has room for a part of what waits for the first of them."""
    pool = maker(far, tmp_path, route={"queue": {"when_full": "block", "max_messages": 20}})
    listeners = [{"bind": f"127.0.0.1:{free_port()}"}]  # publishers stay over the reloads
    near = await isthmus({**pool("a"), "listeners": listeners})
    there, _ = await far.client()
    await near.connected()
    far.stop_listening()
    published = 0
    feeds = []
    for names, count in (("a", 5), ("ab", 100), ("abc", 50)):
        if published:
            await reloaded(near, {**pool(names), "listeners": listeners})
        feeds.append(asyncio.create_task(feed(near, published, count, names)))
        published += count
        await until(lambda: waiting(near) == published)  # noqa: B023
    there.reset()
    await until(lambda: near.cloud.members[0].state != "connected")
    await until(lambda: near.cloud.stored > 5)  # of 5 that were on their way
    heard = asyncio.gather(*feeds)
    await far.start()
    arrived = await collect(far, near, 3, heard.done)
    await heard
    assert sorted(arrived) == list(range(published))
    assert not turned(arrived), turned(arrived)


async def test_the_same_client_ids_in_another_order(isthmus, far, tmp_path):
    pool = maker(far, tmp_path)
    far.stop_listening()
    first = await Isthmus.start(pool("ab"))
    await feed(first, 0, 100)
    await first.app.stop()
    near = await isthmus(pool("ba"))
    await feed(near, 100, 100)
    await far.start()
    arrived = await collect(far, near, 2)
    assert not turned(arrived), turned(arrived)


async def test_a_pool_that_grew_by_a_reload_and_then_a_restart(isthmus, far, tmp_path):
    pool = maker(far, tmp_path)
    far.stop_listening()
    first = await Isthmus.start(pool("a"))
    await feed(first, 0, 100)
    await reloaded(first, pool("ab"))
    here = await first.client("here")
    for number in range(100, 200):
        here.publish(f"out/{number % TOPICS}", str(number), 1)
    await here.arrived()  # they wait in memory for the change of the pool
    await first.app.stop()
    near = await isthmus(pool("ab"))
    await far.start()
    arrived = await collect(far, near, 2)
    assert not turned(arrived), turned(arrived)


async def test_a_connector_that_is_removed_and_comes_back(isthmus, far, tmp_path):
    pool = maker(far, tmp_path)
    far.stop_listening()
    first = await Isthmus.start(pool("ab"))
    await feed(first, 0, 100)
    await first.app.stop()
    near = await isthmus(pool("abc"))
    await feed(near, 100, 100)
    await reloaded(near, {**pool("abc"), "connectors": {}, "routes": {}})
    await reloaded(near, pool("abc"))
    await far.start()
    arrived = await collect(far, near, 3)
    assert not turned(arrived), turned(arrived)
