"""What one client may make the broker hold or do: every limit refuses, and says so."""

from __future__ import annotations

import itertools
import time

import pytest

from isthmus.broker.subscriptions import BYTES_PER_PLACE
from raw import CONNACK, DISCONNECT, PUBACK, Raw, connect_packet, packet, publish_packet

QUOTA = 0x97


def limited(**limits: object) -> dict[str, object]:
    return {"broker": {"limits": limits}}


# -- subscriptions -------------------------------------------------------------------------------


@pytest.mark.alone
async def test_hostile_filters_cannot_make_one_message_walk_for_ever(isthmus):
    """Every combination of `+` and `a` is a shape of its own: 2**20 of them match one topic."""
    near = await isthmus()
    hostile = await near.client("hostile")
    codes: list[int] = []
    filters = ("/".join(levels) for levels in itertools.product("a+", repeat=20))
    for _ in range(20):
        codes += await hostile.subscribe(*itertools.islice(filters, 500))
    assert codes.count(0) == 101  # one has no wildcard
    assert codes.count(QUOTA) == 10_000 - 101
    topic = b"/".join([b"a"] * 20)
    begin = time.perf_counter()
    assert len(near.app.broker.exchange._tree.match(topic)) == 101
    assert time.perf_counter() - begin < 0.02


async def test_many_filters_of_few_shapes_are_no_matter(isthmus):
    near = await isthmus(limited(wildcard_shapes=3))
    gateway = await near.client("gateway")
    codes = await gateway.subscribe(*(f"device/{n}/+/set" for n in range(500)), "device/#", "+/x")
    assert codes == [0] * 502
    assert await gateway.subscribe("+/+", "plain/topic") == [QUOTA, 0]
    assert await gateway.subscribe("+/x", "device/7/+/set") == [0, 0]  # known ones may be renewed
    assert await gateway.unsubscribe("+/x") == [0]
    assert await gateway.subscribe("+/+", "+/y") == [0, QUOTA]


@pytest.mark.parametrize(("version", "code"), [(4, 0x80), (5, QUOTA)])
async def test_the_memory_of_subscriptions_is_bounded(isthmus, version, code):
    near = await isthmus(limited(subscription_bytes="64KiB", topic_levels=1000))
    raw = await near.client("x", version)
    long = "a" * 30_000
    assert await raw.subscribe(long + "1", long + "2", long + "3") == [0, 0, code]
    assert await raw.subscribe(long + "2", "short") == [0, 0]
    await raw.unsubscribe(long + "1")
    many = 36_000 // BYTES_PER_PLACE
    assert await raw.subscribe("+" + "/" * many, long + "3") == [code, 0]
    session = near.app.broker.sessions["x"]
    await raw.unsubscribe(long + "2", long + "3", "short")
    assert session.subscription_bytes == 0


# -- retained messages ---------------------------------------------------------------------------


async def test_retained_messages_are_bounded_by_number(isthmus):
    near = await isthmus({"broker": {"limits": {"retained_messages": 1}, "sys_interval": 0}})
    raw = await near.client("x")
    assert await raw.published("a", "1", 1, retain=True) == 0
    assert await raw.published("b", "1", 1, retain=True) == QUOTA
    assert await raw.published("b", "1", 2, retain=True) == QUOTA
    await raw.published("b", "1", 0, retain=True)
    assert await raw.published("a", "2", 1, retain=True) == 0
    assert near.app.broker.drops.counts == {"retained_messages": 3}
    assert near.app.broker.retained.get(b"a").payload == b"2"


async def test_retained_messages_are_bounded_by_bytes(isthmus):
    near = await isthmus({"broker": {"limits": {"retained_bytes": 2000}, "sys_interval": 0}})
    retained = near.app.broker.retained
    raw = await near.client("x")
    old = await near.client("old", 4)
    assert await raw.published("a", "x" * 1000, 1, retain=True) == 0
    assert await raw.published("b", "x" * 1000, 1, retain=True) == QUOTA
    await raw.published("b", "x" * 1000, 0, retain=True)
    assert await old.published("b", "x" * 1000, 1, retain=True) == 0  # MQTT 3 has no word for it
    assert near.app.broker.drops.counts == {"retained_bytes": 3}
    assert retained.size == 1401
    # What does not fit takes the place of the old value all the same: that is not the last one.
    assert await raw.published("a", "x" * 1700, 1, retain=True) == QUOTA
    assert (retained.size, len(retained)) == (0, 0)
    assert await raw.published("a", "x" * 1599, 1, retain=True) == 0
    assert await raw.published("a", "", 1, retain=True) == 0
    assert (retained.size, len(retained)) == (0, 0)


async def test_who_listens_gets_what_cannot_be_retained(isthmus):
    near = await isthmus({"broker": {"limits": {"retained_messages": 0}, "sys_interval": 0}})
    listening = await near.client("listening")
    await listening.subscribe("#", qos=1)
    raw = await near.client("x")
    assert await raw.published("a", "1", 1, retain=True) == QUOTA
    assert (await listening.message()).payload == b"1"


# -- names and wills -----------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(4, 2), (5, 0x85)])
async def test_a_client_id_that_is_too_long_is_refused(isthmus, version, code):
    near = await isthmus(limited(client_id_bytes=30))
    await near.client("é" * 15, version)
    raw = await Raw.open(near.port, version)
    raw.send(connect_packet("é" * 15 + "x", version))
    assert (await raw.expect(CONNACK)).code == code
    assert near.app.broker.refusals == {0x85: 1}


@pytest.mark.parametrize(("version", "code"), [(4, 3), (5, QUOTA)])
async def test_a_will_that_is_too_large_is_refused(isthmus, version, code):
    near = await isthmus(limited(will_bytes=1000))
    await near.client("small", version, will=("t", "x" * 900, 1, False))
    raw = await Raw.open(near.port, version)
    raw.send(connect_packet("large", version, will=("t", "x" * 1000, 1, False)))
    assert (await raw.expect(CONNACK)).code == code


async def test_properties_of_a_will_count(isthmus):
    near = await isthmus(limited(will_bytes=1000))
    raw = await Raw.open(near.port)
    more = {"user": [("k", "v" * 500)] * 2}
    raw.send(connect_packet("large", will=("t", "x", 1, False), will_properties=more))
    assert (await raw.expect(CONNACK)).code == QUOTA


# -- before the login ----------------------------------------------------------------------------


def padded(size: int, version: int = 5) -> bytes:
    """A CONNECT of exactly `size` bytes."""
    short = len(connect_packet("x", version, username="u", password="x" * 40_000))
    return connect_packet("x", version, username="u", password="x" * (40_000 + size - short))


@pytest.mark.parametrize(("version", "answer"), [(5, 0x95), (4, None)])
async def test_a_stranger_cannot_send_a_large_connect(isthmus, version, answer):
    near = await isthmus(limited(login_bytes="48KiB"))
    size = 48 << 10
    raw = await Raw.open(near.port, version)
    raw.send(padded(size, version))
    assert (await raw.expect(CONNACK)).code == 0
    raw.close()
    raw = await Raw.open(near.port, version)
    raw.send(padded(size + 1, version)[:20])  # as soon as its length is there
    if answer is not None:
        assert (await raw.expect(CONNACK)).code == answer
    assert await raw.closed() == b""
    assert near.app.broker.refusals == {0x95: 1}


async def test_what_is_sent_behind_a_connect_may_be_larger(isthmus):
    near = await isthmus(limited(login_bytes="1KiB"))
    raw = await Raw.open(near.port)
    raw.send(connect_packet("x"), publish_packet("t", b"x" * 100_000, 1, 1))
    assert (await raw.expect(CONNACK)).code == 0
    assert (await raw.expect(PUBACK)).code in (0, 0x10)
    raw.send(packet(0xF0, b"x" * 1100))
    assert (await raw.expect(DISCONNECT)).code in (0x82, 0x95)
