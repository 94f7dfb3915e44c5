"""Who gets what: wildcards, overlaps, options, retained messages, aliases, rights."""

from __future__ import annotations

import pytest

from mosquitto import command
from raw import (
    CONNACK,
    PUBLISH,
    Raw,
    connect_packet,
    packet,
    publish_packet,
    until,
)

NO_LOCAL, AS_PUBLISHED, ONLY_NEW, NEVER = 0x04, 0x08, 0x10, 0x20

TOPICS = ["a", "a/b", "a/b/c", "/a", "a/", "b", "$x/a", "a//c"]
FILTERS = {
    "#": ["a", "a/b", "a/b/c", "/a", "a/", "b", "a//c"],
    "+": ["a", "b"],
    "a/#": ["a", "a/b", "a/b/c", "a/", "a//c"],
    "a/+": ["a/b", "a/"],
    "+/b": ["a/b"],
    "+/+": ["a/b", "/a", "a/"],
    "/+": ["/a"],
    "a/+/c": ["a/b/c", "a//c"],
    "a/+/#": ["a/b", "a/b/c", "a/", "a//c"],
    "$x/#": ["$x/a"],
    "$x/+": ["$x/a"],
    "+/a": ["/a"],
}


@pytest.mark.parametrize("filter_", FILTERS)
async def test_mqtt_4_7_wildcards(isthmus, filter_):
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe(filter_)
    for _ in range(2):  # the second time from the cached plans
        for topic in TOPICS:
            raw.publish(topic, "x")
        assert [found.topic for found in await raw.arrived()] == FILTERS[filter_]


async def test_plans_follow_every_change_of_subscriptions(isthmus):
    near = await isthmus()
    publisher = await near.client("publisher")
    raw = await near.client("x")

    async def heard() -> bool:
        await publisher.published("a/b/c", "x", 1)
        return len(await raw.arrived()) == 1

    assert not await heard()
    for filter_ in ("a/b/c", "a/+/c", "a/#", "+/b/c", "#"):
        await raw.subscribe(filter_)
        assert await heard(), filter_
        await raw.unsubscribe(filter_)
        assert not await heard(), filter_


async def test_mqtt_3_3_4_2_overlapping_filters_deliver_once_with_the_highest_qos(isthmus):
    near = await isthmus()
    publisher = await near.client("publisher")
    raw = await near.client("x")
    assert await raw.subscribe("a/#", qos=0) == [0]
    assert await raw.subscribe("a/+", qos=2) == [2]
    assert await raw.subscribe("a/b", qos=1) == [1]
    await publisher.published("a/b", "x", 2)
    assert (await raw.message()).qos == 2
    await raw.nothing()
    await raw.unsubscribe("a/+")
    await publisher.published("a/b", "x", 2)
    assert (await raw.message()).qos == 1


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_mqtt_3_8_4_8_the_lower_qos_counts(isthmus, version, granted):
    near = await isthmus()
    publisher = await near.client("publisher", version)
    raw = await near.client("x", version)
    assert await raw.subscribe("t", qos=granted) == [granted]
    for qos in (0, 1, 2):
        await publisher.published("t", str(qos), qos)
        assert (await raw.message()).qos == min(qos, granted)


async def test_mqtt_3_8_4_3_subscribing_again_replaces(isthmus):
    near = await isthmus()
    publisher = await near.client("publisher")
    raw = await near.client("x")
    for qos in (2, 0, 1):
        await raw.subscribe("t", qos=qos)
        await publisher.published("t", "x", 2)
        assert (await raw.message()).qos == qos
        await raw.nothing()


async def test_mqtt_3_8_3_3_no_local(isthmus):
    near = await isthmus()
    raw, other = await near.client("x"), await near.client("y")
    await raw.subscribe("t", options=NO_LOCAL)
    raw.publish("t", "own")
    await raw.nothing()
    await other.published("t", "other", 1)
    assert (await raw.message()).payload == b"other"
    await raw.subscribe("t")
    raw.publish("t", "own")
    assert (await raw.message()).payload == b"own"


async def test_mqtt_3_3_1_12_and_13_retain_as_published(isthmus):
    near = await isthmus()
    publisher = await near.client("publisher")
    plain, exact = await near.client("plain"), await near.client("exact")
    await plain.subscribe("t")
    await exact.subscribe("t", options=AS_PUBLISHED)
    for retain in (False, True):
        await publisher.published("t", "x", 1, retain=retain)
        assert (await plain.message()).retain is False
        assert (await exact.message()).retain is retain


async def test_mqtt_3_3_1_9_to_11_retain_handling(isthmus):
    near = await isthmus()
    publisher = await near.client("publisher")
    await publisher.published("t", "kept", 1, retain=True)
    raw = await near.client("x")
    for options, first, second in ((0, 1, 1), (ONLY_NEW, 1, 0), (NEVER, 0, 0)):
        for expected in (first, second):
            await raw.subscribe("t", options=options)
            assert len(await raw.arrived()) == expected
        await raw.unsubscribe("t")


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_mqtt_3_3_1_5_to_8_retained_messages(isthmus, version):
    near = await isthmus()
    publisher = await near.client("publisher", version)
    for topic, payload in (("r/a", "1"), ("r/b", "2"), ("r/a", "3"), ("r/b", "")):
        await publisher.published(topic, payload, 2, retain=True)
    await publisher.published("r/a", "not retained", 1)
    raw = await near.client("x", version)
    await raw.subscribe("r/#", qos=1)
    found = await raw.message()
    assert (found.topic, found.payload, found.qos, found.retain) == ("r/a", b"3", 1, True)
    await raw.nothing()
    await publisher.published("r/a", "4", 1, retain=True)
    assert not (await raw.message()).retain
    assert near.app.broker.retained.get(b"r/b") is None


async def test_retained_messages_age_and_expire(isthmus):
    import asyncio

    near = await isthmus()
    publisher = await near.client("publisher")
    await publisher.published("r/short", "x", 1, retain=True, expiry=1)
    await publisher.published("r/long", "x", 1, retain=True, expiry=100)
    await asyncio.sleep(1.1)  # time itself is what is tested
    raw = await near.client("x")
    await raw.subscribe("r/#")
    found = await raw.message()
    assert found.topic == "r/long"
    assert 97 <= found.properties["expiry"] <= 99
    await raw.nothing()


async def test_properties_pass_through_unaltered(isthmus):
    """MQTT-3.3.2-4, -15 to -20."""
    near = await isthmus()
    raw = await near.client("x")
    await raw.subscribe("t")
    sent = {
        "payload_format": 1, "content_type": "text/plain", "response_topic": "r/1",
        "correlation": b"\1\2", "user": [("b", "1"), ("a", "2"), ("b", "3")],
    }  # fmt: skip
    for _ in range(2):
        raw.publish("t", "x", 0, **sent)
        assert (await raw.message()).properties == sent
    old = await near.client("old", 4)
    await old.subscribe("t")
    raw.publish("t", "x", 0, **sent)
    assert (await old.message()).payload == b"x"


async def test_mqtt_3_3_2_12_topic_aliases_of_a_client(isthmus):
    near = await isthmus()
    raw = await near.client("x")
    assert raw.hello.properties["alias_maximum"] == 10
    listening = await near.client("y")
    await listening.subscribe("#")
    for topic, alias in (("a", 1), ("b", 10), ("", 1), ("c", 1), ("", 1), ("", 10)):
        raw.publish(topic, "x", 0, alias=alias, content_type="kept")
    seen = [await listening.message() for _ in range(6)]
    assert [found.topic for found in seen] == ["a", "b", "a", "c", "c", "b"]
    assert all(found.properties == {"content_type": "kept"} for found in seen)
    # MQTT-3.3.2-7: they end with the connection.
    raw = await near.client("x")
    raw.publish("", "x", 0, alias=1)
    assert (await raw.packet()).code == 0x82


async def test_mqtt_4_12_0_1_an_authentication_method_is_refused(isthmus):
    near = await isthmus()
    raw = await Raw.open(near.port)
    method = b"\x15\x00\x05SCRAM"
    raw.send(packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x3c\x08" + method + b"\x00\x01x"))
    assert (await raw.expect(CONNACK)).code == 0x8C
    assert await raw.closed() == b""


async def test_more_subscriptions_than_a_session_may_hold(isthmus):
    near = await isthmus({"broker": {"limits": {"subscriptions_per_session": 2}}})
    raw = await near.client("x")
    assert await raw.subscribe("a", "b", "c", "a", qos=1) == [1, 1, 0x97, 1]
    old = await near.client("y", 4)
    assert await old.subscribe("a", "b", "c", qos=1) == [1, 1, 0x80]


async def test_many_subscribers_of_one_topic_each_get_it_once(isthmus):
    near = await isthmus()
    publisher = await near.client("publisher")
    clients = [await near.client(f"c{number}", (3, 4, 5)[number % 3]) for number in range(60)]
    for number, client in enumerate(clients):
        await client.subscribe("t/#", qos=number % 2)
    for qos in (0, 1):
        await publisher.published("t/x", f"m{qos}", qos, content_type="text")
        for number, client in enumerate(clients):
            found = await client.message()
            assert (found.payload, found.qos) == (f"m{qos}".encode(), min(qos, number % 2))
    clients[0].reset()
    await until(lambda: near.app.broker.connected == 60)
    await publisher.published("t/x", "last", 0)
    for client in clients[1:]:
        assert (await client.message()).payload == b"last"


# -- users and rights ----------------------------------------------------------------------------


async def users(tmp_path, *names: str):
    """A password file made by Debian's own tool; the password is the name backwards."""
    path = tmp_path / "users"
    path.touch()
    for name in names:
        code, _, errors = await command("mosquitto_passwd", "-b", str(path), name, name[::-1])
        assert code == 0, errors
    return path


@pytest.mark.both_loops
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_a_password_file_of_mosquitto_passwd(isthmus, tmp_path, version):
    near = await isthmus({"auth": {"password_file": str(await users(tmp_path, "anna"))}})
    refused = {3: (4, 5), 4: (4, 5), 5: (0x86, 0x87)}[version]
    for how, code in (
        ({"username": "anna", "password": "anna"[::-1]}, 0),
        ({"username": "anna", "password": "wrong"}, refused[0]),
        ({"username": "nobody", "password": "x"}, refused[0]),
        ({"username": "anna"}, refused[0]),
        ({}, refused[1]),
        ({"username": "anna", "password": "anna"[::-1]}, 0),
    ):
        raw = await Raw.open(near.port, version)
        # What follows CONNECT at once must not be lost while the password is checked.
        raw.send(connect_packet("x", version, **how), packet(0xC0))
        assert (await raw.expect(CONNACK)).code == code
        if code:
            assert await raw.closed() == b""
        else:
            await raw.packet()
        raw.close()
    assert near.app.broker.connected <= 1


async def test_messages_behind_connect_wait_for_the_password_check(isthmus, tmp_path):
    near = await isthmus({"auth": {"password_file": str(await users(tmp_path, "anna"))}})
    listening = await near.client("l", username="anna", password="anna"[::-1])
    await listening.subscribe("t")
    raw = await Raw.open(near.port)
    login = connect_packet("x", username="anna", password="anna"[::-1])
    raw.send(login, packet(0x82, b"\0\1\0\0\1t\1"), publish_packet("t", "1", 1, 2))
    raw.send(publish_packet("t", "2"), packet(0xE0))
    kinds = [(await raw.packet()).kind for _ in range(2)]
    assert kinds == [CONNACK, 9]
    rest = await raw.closed()
    assert rest.count(b"\0\1t") == 2
    bad = await Raw.open(near.port)
    bad.send(connect_packet("y", username="anna", password="no"), publish_packet("t", "evil"))
    assert (await bad.expect(CONNACK)).code == 0x86
    assert await bad.closed() == b""
    assert [found.payload for found in await listening.arrived()] == [b"1", b"2"]


async def test_an_acl_file(isthmus, tmp_path, caplog):
    acl = tmp_path / "acl"
    acl.write_text("user anna\ntopic readwrite a/#\ntopic read b/+\npattern readwrite own/%u/%c\n")
    near = await isthmus(
        {
            "auth": {
                "password_file": str(await users(tmp_path, "anna", "bert")),
                "acl_file": str(acl),
            }
        }
    )
    anna = await near.client("c1", username="anna", password="anna"[::-1])
    old = await near.client("c2", 4, username="anna", password="anna"[::-1])
    assert await anna.published("a/x", "1", 1) == 0
    assert await anna.published("b/x", "1", 1) == 0x87
    assert await anna.published("b/x", "1", 2) == 0x87
    assert await anna.published("own/anna/c1", "1", 1) == 0
    assert await anna.published("own/bert/c1", "1", 1) == 0x87
    # MQTT-3.3.5-2 of 3.1.1: a positive answer, and the message goes nowhere.
    assert await old.published("b/x", "1", 1) == 0
    assert await anna.subscribe("#", qos=1) == [1] or await anna.subscribe("#") == [0x87]
    await old.published("a/y", "seen", 1)
    bert = await near.client("c3", username="bert", password="bert"[::-1])
    assert await bert.published("a/x", "1", 1) == 0x87
    assert near.app.broker.drops.counts["denied"] == 5
    assert "1 message(s) dropped: denied (topic b/x, client 'c1', user 'anna')" in caplog.text


async def test_a_will_that_its_client_may_not_publish_is_refused(isthmus, tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite a/#\n")
    near = await isthmus({"auth": {"acl_file": str(acl)}})
    raw = await Raw.open(near.port)
    raw.send(connect_packet("x", will=("b", "x", 0, False)))
    assert (await raw.expect(CONNACK)).code == 0x87
    assert (await near.client("x", will=("a/b", "x", 0, False))).hello.code == 0


async def test_no_delivery_of_what_may_not_be_read(isthmus, tmp_path):
    """Rights are asked where a message is delivered: wildcards and retained messages too."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\ntopic write secret/#\n")
    near = await isthmus({"auth": {"acl_file": str(acl)}})
    publisher = await near.client("publisher")
    await publisher.published("secret/r", "x", 1, retain=True)
    raw = await near.client("x")
    await raw.subscribe("#", "open/#")
    await publisher.published("secret/a", "x", 1)
    await publisher.published("open/a", "x", 1)
    found = await raw.expect(PUBLISH)
    assert found.topic == "open/a"
    await raw.nothing()
