"""Filters in one packet, and shared subscriptions: how many there may be."""

from __future__ import annotations

import struct

import pytest

from raw import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    Raw,
    connect_packet,
    packet,
    properties,
    text,
    until,
)

QUOTA = 0x97
SUBSCRIBE, UNSUBSCRIBE = 0x82, 0xA2


def limited(**limits: object) -> dict[str, object]:
    """A broker with these limits, which a reload finds again by its address."""
    broker = {"limits": limits, "sys_interval": 0}
    return {"listeners": [{"bind": "127.0.0.1:0"}], "broker": broker}


def asking(kind: int, version: int, *filters: str) -> bytes:
    """A SUBSCRIBE or UNSUBSCRIBE of these filters."""
    body = struct.pack(">H", 7) + (properties() if version == 5 else b"")
    options = b"\0" if kind == SUBSCRIBE else b""
    return packet(kind, body + b"".join(text(filter_) + options for filter_ in filters))


# -- filters in one packet -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SUBSCRIBE, UNSUBSCRIBE])
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_too_many_filters_in_one_packet_end_the_connection(isthmus, caplog, kind, version):
    caplog.set_level("INFO", "isthmus.broker")
    near = await isthmus(limited(filters_per_packet=5))
    good = await near.client("good")
    await good.subscribe("t")
    expiry = {"session_expiry": 60} if version == 5 else {}
    raw = await near.client("x", version, clean=False, **expiry)
    assert await raw.subscribe(*"abcde") == [0] * 5
    raw.send(asking(kind, version, *"fghijk"))
    if version == 5:
        assert (await raw.expect(DISCONNECT)).code == QUOTA
    assert await raw.closed() == b""
    session = near.app.broker.sessions["x"]
    assert sorted(session.subscriptions) == [b"a", b"b", b"c", b"d", b"e"]  # nothing of it was done
    assert near.app.broker.limits_met.counts == {"filters_per_packet": 1}
    assert near.app.broker.refusals == {QUOTA: 1}
    (line,) = [line for line in caplog.messages if "closed" in line]
    assert "more than 5 filters in one packet; see broker.limits.filters_per_packet" in line
    good.publish("t", "still here")
    assert (await good.expect(PUBLISH)).payload == b"still here"


SUBSCRIBE_1_MIB = 240_000
"""Filters of four bytes each, with their options, in about one MiB."""


async def test_a_packet_full_of_filters_costs_nothing(isthmus, monkeypatch):
    """A million bytes of filters are refused before they are decoded."""
    looked_at = 0

    def check(filter_: bytes) -> None:
        nonlocal looked_at
        looked_at += 1

    monkeypatch.setattr("isthmus.mqtt.topics.check_filter", check)
    near = await isthmus()
    good = await near.client("good")
    raw = await near.client("x")
    raw.send(asking(SUBSCRIBE, 5, *(["a"] * SUBSCRIBE_1_MIB)))
    assert (await raw.expect(DISCONNECT)).code == QUOTA
    assert looked_at == 2000
    await good.nothing()
    assert "x" not in near.app.broker.sessions


async def test_without_a_limit_only_the_size_of_the_packet_counts(isthmus):
    near = await isthmus(limited(filters_per_packet=None, subscriptions_per_session=100_000))
    raw = await near.client("x")
    assert await raw.subscribe(*(f"f/{n}" for n in range(5000))) == [0] * 5000


async def test_a_reload_counts_for_clients_that_are_connected(isthmus):
    near = await isthmus(limited(filters_per_packet=1))
    raw = await near.client("x")
    await near.reload(limited(filters_per_packet=3))
    assert await raw.subscribe("a", "b", "c") == [0, 0, 0]
    await near.reload(limited(filters_per_packet=2))
    raw.send(asking(UNSUBSCRIBE, 5, "a", "b", "c"))
    assert (await raw.expect(DISCONNECT)).code == QUOTA


# -- shared subscriptions ------------------------------------------------------------------------


def share(group: str, filter_: str = "job") -> str:
    return f"$share/{group}/{filter_}"


@pytest.mark.parametrize(("version", "code"), [(3, 0x80), (4, 0x80), (5, QUOTA)])
async def test_one_group_too_many_is_refused(isthmus, caplog, version, code):
    caplog.set_level("INFO", "isthmus.broker")
    near = await isthmus(limited(share_groups=2))
    good = await near.client("good")
    assert await good.subscribe(share("a"), share("a", "other")) == [0, 0]
    raw = await near.client("x", version)
    assert await raw.subscribe(share("b"), share("a"), "plain") == [code, 0, 0]
    assert await raw.subscribe(share("b")) == [code]
    assert len(near.app.broker.shares) == 2
    assert near.app.broker.limits_met.counts == {"share_groups": 2}
    (line,) = [line for line in caplog.messages if "share_groups" in line]
    assert line == "client 'x': a subscription is refused; see broker.limits.share_groups"
    assert await good.subscribe(share("a")) == [0]  # known ones may be renewed
    await good.unsubscribe(share("a", "other"))
    assert await raw.subscribe(share("b")) == [0]  # the last member of the other has gone
    raw.publish("job", "1")
    assert (await raw.expect(PUBLISH)).payload == b"1"  # as a member of b


@pytest.mark.parametrize(("version", "code"), [(4, 0x80), (5, QUOTA)])
async def test_one_member_too_many_is_refused(isthmus, version, code):
    near = await isthmus(limited(share_members=2))
    members = [await near.client(f"m{n}") for n in range(2)]
    for member in members:
        assert await member.subscribe(share("a"), qos=1) == [1]
    raw = await near.client("x", version)
    assert await raw.subscribe(share("a"), share("b")) == [code, 0]
    assert await members[0].subscribe(share("a"), qos=0) == [0]
    assert near.app.broker.limits_met.counts == {"share_members": 1}
    members[1].send(packet(0xE0))
    await until(lambda: near.app.broker.connected == 2)
    assert await raw.subscribe(share("a")) == [0]


async def test_strangers_cannot_make_groups_without_end(isthmus):
    near = await isthmus(limited(share_groups=100))
    good = await near.client("good")
    await good.subscribe(share("good"))
    for number in range(5):
        raw = await near.client(f"x{number}")
        codes = await raw.subscribe(*(share(f"{number}-{n}") for n in range(500)))
        assert codes.count(0) == (99 if not number else 0)
    assert len(near.app.broker.shares) == 100
    assert len(near.app.broker.exchange) == 100
    assert near.app.broker.limits_met.counts == {"share_groups": 2500 - 99}
    good.publish("job", "1")
    assert (await good.expect(PUBLISH)).payload == b"1"


async def test_a_reload_changes_the_limits_of_groups(isthmus):
    near = await isthmus(limited(share_groups=1, share_members=1))
    first, second = await near.client("first"), await near.client("second")
    assert await first.subscribe(share("a"), share("b")) == [0, QUOTA]
    assert await second.subscribe(share("a")) == [QUOTA]
    await near.reload(limited(share_groups=None, share_members=None))
    assert await first.subscribe(*(share(f"{n}") for n in range(50))) == [0] * 50
    assert await second.subscribe(share("a")) == [0]
    await near.reload(limited(share_groups=1))
    assert await second.subscribe(share("c"), share("a")) == [QUOTA, 0]
    assert len(near.app.broker.shares) == 51  # what is there stays


# -- others of a session -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "value", "filters", "refused"),
    [
        ("subscriptions_per_session", 2, ["a", "b", "c"], 1),
        ("subscription_bytes", 1024, ["a", "b", "c", "d"], 1),
        ("wildcard_shapes", 1, ["+/a", "a/+"], 1),
    ],
)
async def test_refused_subscriptions_are_counted_by_limit(isthmus, limit, value, filters, refused):
    near = await isthmus(limited(**{limit: value}))
    raw: Raw = await near.client("x")
    codes = await raw.subscribe(*filters)
    assert codes == [0] * (len(filters) - refused) + [QUOTA] * refused
    assert near.app.broker.limits_met.counts == {limit: refused}


@pytest.mark.parametrize(
    ("limit", "value", "how"),
    [
        ("sessions", 1, {}),
        ("client_id_bytes", 23, {"client_id": "x" * 24}),
        ("will_bytes", 10, {"will": ("t", "x" * 20, 0, False)}),
        ("login_bytes", 1024, {"username": "u", "password": "x" * 2000}),
    ],
)
async def test_refused_logins_are_counted_by_limit(isthmus, limit, value, how):
    near = await isthmus(limited(**{limit: value}))
    good = await near.client("good")
    raw = await Raw.open(near.port)
    raw.send(connect_packet(**{"client_id": "x", **how}))
    assert (await raw.expect(CONNACK)).code >= 0x80
    assert await raw.closed() == b""
    assert near.app.broker.limits_met.counts == {limit: 1}
    await good.nothing()


# -- levels of topics and filters ----------------------------------------------------------------


async def test_names_with_too_many_levels_are_counted_and_logged_by_the_limit(isthmus, caplog):
    caplog.set_level("INFO", "isthmus.broker")
    near = await isthmus(limited(topic_levels=3))
    raw = await near.client("x")
    raw.send(asking(SUBSCRIBE, 5, "a/b/c", "a/b/c/d"))
    suback = await raw.expect(SUBACK)
    assert suback.body[-2:] == bytes([0, 0x8F])
    assert b"more than 3 levels" in suback.body
    met = near.app.broker.limits_met.counts
    assert met == {"topic_levels": 1}
    raw.publish("a/b/c/d", "m", qos=1, packet_id=9)
    puback = await raw.expect(PUBACK)
    assert puback.code == 0x90
    assert b"more than 3 levels" in puback.body
    raw.publish("a/b/c/d", "m")
    await until(lambda: met == {"topic_levels": 3})
    (line,) = [line for line in caplog.messages if "broker.limits.topic_levels" in line]
    assert line == (
        "client 'x': a subscription is refused: more than 3 levels; see broker.limits.topic_levels"
    )
    will = await Raw.open(near.port)
    will.send(connect_packet("w", will=("a/b/c/d", "gone", 0, False)))
    assert (await will.expect(CONNACK)).code == 0x90
    assert met == {"topic_levels": 4}
