"""What a listener allows its clients: how many, with which QoS, in which version of MQTT."""

from __future__ import annotations

import pytest

from isthmus.app.explanation import explain
from isthmus.app.settings import Settings
from isthmus.broker.entrance import ARRIVALS
from isthmus.errors import ConfigError
from raw import CONNACK, DISCONNECT, Raw, connect_packet, packet, publish_packet, until

QUOTA = 0x97


def doors(*listeners: dict[str, object], **more: object) -> dict[str, object]:
    """A broker with these listeners, and behind them one without limits."""
    binds = [{"bind": "127.0.0.1:0", **listener} for listener in (*listeners, {})]
    return {"listeners": binds, **more}


async def refused(port: int, version: int = 5, **how: object) -> int:
    """The code of the CONNACK that refuses, after which the connection is closed."""
    raw = await Raw.open(port, version)
    raw.send(connect_packet("refused", version, **how))
    answer = await raw.expect(CONNACK)
    assert await raw.closed() == b""
    return answer.code


# -- QoS -----------------------------------------------------------------------------------------


async def test_mqtt_5_clients_are_told_the_highest_qos_of_their_listener(isthmus):
    near = await isthmus(doors({"max_qos": 0}, {"max_qos": 1}))
    said = [(await Raw.client(port)).hello.properties.get("maximum_qos") for port in near.ports]
    assert said == [0, 1, None]


@pytest.mark.parametrize("version", [4, 5])
async def test_a_message_above_the_highest_qos_ends_the_connection(isthmus, version):
    near = await isthmus(doors({"max_qos": 1}))
    there = await Raw.client(near.ports[-1], "there")
    await there.subscribe("t", qos=2)
    raw = await Raw.client(near.ports[0], "x", version)
    assert await raw.published("t", "1", 1) == 0
    raw.publish("t", "2", 2)
    if version == 5:
        assert (await raw.expect(DISCONNECT)).code == 0x9B
    assert await raw.closed() == b""
    assert [(found.qos, found.payload) for found in await there.arrived()] == [(1, b"1")]
    assert near.app.broker.refusals == {0x9B: 1}
    assert await there.published("u", "2", 2) == 0  # the other listener has no such limit


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_subscriptions_are_granted_the_highest_qos(isthmus, version):
    near = await isthmus(doors({"max_qos": 1}))
    raw = await Raw.client(near.ports[0], "x", version)
    assert await raw.subscribe("a", "b", qos=2) == [1, 1]
    assert await raw.subscribe("c", qos=0) == [0]
    there = await Raw.client(near.ports[-1], "there")
    assert await there.subscribe("a", qos=2) == [2]
    there.publish("b", "1", 2)
    assert (await raw.message()).qos == 1


async def test_a_will_above_the_highest_qos_is_refused(isthmus):
    near = await isthmus(doors({"max_qos": 1}))
    assert await refused(near.ports[0], will=("w", "gone", 2, False)) == 0x9B
    silent = await Raw.open(near.ports[0], 4)  # MQTT 3.1.1 has no word for it
    silent.send(connect_packet("x", 4, will=("w", "gone", 2, False)))
    assert await silent.closed() == b""
    await Raw.client(near.ports[0], will=("w", "gone", 1, False))
    await Raw.client(near.ports[-1], will=("w", "gone", 2, False))


async def test_the_lower_of_listener_and_broker_counts(isthmus):
    near = await isthmus(doors({"max_qos": 2}, {"max_qos": 0}, broker={"max_qos": 1}))
    said = [(await Raw.client(port)).hello.properties.get("maximum_qos") for port in near.ports]
    assert said == [1, 0, 1]


# -- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("accepted", [["3.1"], ["3.1.1"], ["5"], [3.1, "3.1.1"], ["3.1.1", 5]])
async def test_only_these_versions_are_let_in(isthmus, accepted):
    near = await isthmus(doors({"versions": accepted}))
    for version, name in {3: "3.1", 4: "3.1.1", 5: "5"}.items():
        await Raw.client(near.ports[-1], "x", version)
        if name in map(str, accepted):
            await Raw.client(near.ports[0], "x", version)
        else:
            assert await refused(near.ports[0], version) == (0x84 if version == 5 else 1)
    assert near.app.broker.refusals[0x84] == 3 - len(accepted)


async def test_what_follows_a_refused_connect_is_not_looked_at(isthmus):
    near = await isthmus(doors({"versions": ["5"]}))
    raw = await Raw.open(near.ports[0], 4)
    raw.send(connect_packet("x", 4), packet(0xC0))
    assert (await raw.expect(CONNACK)).code == 1
    assert await raw.closed() == b""
    assert "x" not in near.app.broker.sessions


# -- connections ---------------------------------------------------------------------------------


async def test_one_client_too_many_is_told_so(isthmus, caplog):
    caplog.set_level("INFO", "isthmus.broker")
    near = await isthmus(doors({"max_connections": 2}))
    first = await Raw.client(near.ports[0], "first")
    await Raw.client(near.ports[0], "second", 4)
    for _ in range(3):
        assert await refused(near.ports[0]) == QUOTA
    assert await refused(near.ports[0], 4) == 3
    assert near.app.broker.refusals == {QUOTA: 4}
    lines = [line for line in caplog.messages if "max_connections" in line]
    assert len(lines) == 1  # one for each cause and peer
    assert "listeners[0] has as many clients as its 'max_connections' of 2" in lines[0]
    await Raw.client(near.ports[-1], "elsewhere")  # the limit is that listener's alone
    first.close()
    await until(lambda: near.app.broker.connected == 2)
    await Raw.client(near.ports[0], "third")


async def test_a_client_that_comes_back_takes_its_own_place(isthmus):
    near = await isthmus(doors({"max_connections": 1}))
    before = await Raw.client(near.ports[0], "x")
    now = await Raw.client(near.ports[0], "x")
    assert (await before.expect(DISCONNECT)).code == 0x8E
    await now.nothing()
    # One that takes over from another listener needs a place here, and ends nothing without.
    other = await Raw.client(near.ports[-1], "refused")
    assert await refused(near.ports[0]) == QUOTA
    await other.nothing()
    entrance = now_entrance(near)
    assert (entrance.connected, entrance.open) == (1, 1)


def now_entrance(near):
    return near.app.broker.sessions["x"].client.entrance


async def test_places_are_free_again_however_a_connection_ends(isthmus):
    near = await isthmus(doors({"max_connections": 3}))
    keep = await Raw.client(near.ports[0], "x")
    entrance = now_entrance(near)
    for ending in ("disconnect", "reset", "garbage", "no connect"):
        raw = await Raw.open(near.ports[0])
        if ending != "no connect":
            raw.send(connect_packet("y"))
            await raw.expect(CONNACK)
        if ending == "reset":
            raw.reset()
        else:
            raw.send({"disconnect": packet(0xE0), "garbage": b"\xff\xff"}.get(ending, b""))
            raw.close()
        await until(lambda: (entrance.connected, entrance.open) == (1, 1))
    await keep.nothing()


async def test_strangers_cannot_pile_up_at_a_full_listener(isthmus):
    near = await isthmus(doors({"max_connections": 1}))
    await Raw.client(near.ports[0], "x")
    waiting = [await Raw.open(near.ports[0]) for _ in range(ARRIVALS)]
    await until(lambda: now_entrance(near).open == 1 + ARRIVALS)
    one_more = await Raw.open(near.ports[0])
    assert await one_more.closed() == b""
    assert near.app.broker.refusals == {QUOTA: 1}
    waiting[0].send(connect_packet("y"))
    assert (await waiting[0].expect(CONNACK)).code == QUOTA
    await Raw.client(near.ports[-1], "elsewhere")


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_connections", 0, "greater than or equal to 1"),
        ("max_qos", 3, "less than or equal to 2"),
        ("versions", [], "at least 1"),
        ("versions", ["4"], "'3.1', '3.1.1' or '5'"),
        ("mount_point", "", "empty"),
        ("mount_point", "a/+/", "wildcard"),
        ("mount_point", "#", "wildcard"),
        ("mount_point", "a\0/", "U+0000"),
        ("mount_point", "$SYS/", "must not begin with $SYS/ or $share/"),
        ("mount_point", "$share/a/", "must not begin with $SYS/ or $share/"),
        ("mount_point", "$sha", "only if '/' follows"),
    ],
)
def test_impossible_values_are_refused(key, value, said):
    with pytest.raises((ValueError, ConfigError), match="listeners") as found:
        Settings.model_validate({"listeners": [{"bind": "127.0.0.1:0", key: value}]})
    assert key in str(found.value)
    assert said in str(found.value)


def test_the_check_says_what_holds_for_one_listener():
    own = {"mount_point": "a/", "max_connections": 5, "max_qos": 1, "versions": ["5", "3.1.1"]}
    found = list(explain(Settings.model_validate(doors(own))))
    assert found[2] == (
        "  There: their topic t is a/t in the broker, at most 5 clients, QoS 1 at most, "
        "MQTT 3.1.1 and 5 only."
    )
    assert sum(line.startswith("  There") for line in found) == 1
    own = {"username_as_client_id": True, "allow_empty_client_id": False}
    found = list(explain(Settings.model_validate(doors(own))))
    assert found[2] == "  There: the user name is the client id, a client id is needed."


# -- client ids, topic aliases -------------------------------------------------------------------


async def test_the_client_ids_of_a_listener(isthmus):
    near = await isthmus(
        doors(
            {"username_as_client_id": True},
            {"allow_empty_client_id": False},
            {"auto_id_prefix": "guest-"},
            broker={"auto_id_prefix": "x-"},
        )
    )
    assert await refused(near.ports[0]) == 0x85
    assert await refused(near.ports[0], 4) == 2
    found = await Raw.client(near.ports[0], "mine", username="anna")
    assert found.hello.properties["assigned_id"] == "anna"
    for port, prefix in zip(near.ports[1:], ("", "guest-", "x-"), strict=True):
        await Raw.client(port, f"named-{prefix}")
        raw = await Raw.open(port)
        raw.send(connect_packet(""))
        answer = await raw.expect(CONNACK)
        assert (answer.code == 0x85) == (not prefix)
        assert answer.properties.get("assigned_id", "").startswith(prefix)


async def test_the_topic_aliases_of_a_listener(isthmus):
    near = await isthmus(
        doors(
            {"topic_alias_maximum": 50, "topic_aliases_out": 5},
            {"topic_alias_maximum": 0},
            broker={"topic_alias_maximum": 7},
        )
    )
    clients = [await Raw.client(port, alias_maximum=9) for port in near.ports]
    said = [client.hello.properties.get("alias_maximum") for client in clients]
    assert said == [50, None, 7]
    for client in clients:
        await client.subscribe("t")
    clients[0].send(publish_packet("t", "x", alias=50))
    assert ["alias" in (await client.message()).properties for client in clients] == [
        True,
        False,
        False,
    ]
    clients[2].send(publish_packet("t", "x", alias=8))
    assert (await clients[2].expect(DISCONNECT)).code == 0x94


async def test_a_reload_changes_them_for_clients_to_come(isthmus):
    near = await isthmus(doors({"auto_id_prefix": "a-"}))
    before = await Raw.client(near.ports[0])
    await near.reload(doors({"auto_id_prefix": "b-"}, broker={"topic_alias_maximum": 3}))
    after = await Raw.client(near.ports[0])
    assert before.hello.properties["assigned_id"].startswith("a-")
    assert after.hello.properties["assigned_id"].startswith("b-")
    assert after.hello.properties["alias_maximum"] == 3
