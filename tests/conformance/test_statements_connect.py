"""CONNECT and CONNACK: sessions found and made, identifiers, take-over, what must come first."""

from __future__ import annotations

import string

import pytest
from conformance_broker import drop, kept, leave
from conformance_differences import observe

from raw import (
    CONNACK,
    PINGREQ,
    PUBLISH,
    connect_packet,
    packet,
    publish_packet,
    read_properties,
)


async def test_mqtt_3_2_0_1_connack_comes_first_even_if_messages_wait(broker, version):
    near = await broker()
    raw = await near.client("kept", version, **kept(version))
    await raw.subscribe("t", qos=1)
    await drop(raw)
    publisher = await near.client("publisher", version)
    await publisher.published("t", "waits", 1)
    raw = await near.open(version)
    raw.send(connect_packet("kept", version, **kept(version)))
    assert [(await raw.packet()).kind for _ in range(2)] == [CONNACK, PUBLISH]


async def test_mqtt_3_1_4_5_a_good_connect_gets_one_connack_of_success(broker, version):
    """MQTT-3.2.0-2, MQTT-3.2.2-1 and -8; 3.1.1: MQTT-3.1.4-4."""
    near = await broker()
    raw = await near.open(version)
    raw.send(connect_packet("x", version), packet(PINGREQ << 4))
    answer = await raw.expect(CONNACK)
    assert answer.body[:2] == b"\0\0"
    if version == 4:
        assert len(answer.body) == 2
    else:
        assert read_properties(answer.body, 2)[1] == len(answer.body)
    await raw.packet()  # PINGRESP, and no second CONNACK before it
    await raw.nothing()


async def test_mqtt_3_1_2_4_clean_start_forgets_the_session(broker, version):
    """MQTT-3.2.2-2, MQTT-3.1.4-4; 3.1.1: MQTT-3.1.2-6, MQTT-3.2.2-1."""
    near = await broker()
    raw = await near.client("same", version, **kept(version))
    await raw.subscribe("t", qos=1)
    await leave(raw)
    again = kept(version) | {"clean": True}
    raw = await near.client("same", version, **again)
    assert not raw.hello.session_present
    raw.publish("t", "own")
    await raw.nothing()


async def test_mqtt_3_1_2_5_a_session_is_resumed(broker, version):
    """MQTT-3.2.2-3, MQTT-3.1.2-23; 3.1.1: MQTT-3.1.2-4, MQTT-3.2.2-2, MQTT-3.2.2-3."""
    near = await broker()
    raw = await near.client("same", version, **kept(version))
    assert not raw.hello.session_present
    await raw.subscribe("t", qos=1)
    await drop(raw)
    raw = await near.client("same", version, **kept(version))
    assert raw.hello.session_present
    raw.publish("t", "own")
    assert (await raw.message()).payload == b"own"


async def test_mqtt_3_1_3_2_sessions_are_told_apart_by_client_id(broker, version):
    near = await broker()
    first = await near.client("first", version, **kept(version))
    await first.subscribe("t", qos=1)
    await leave(first)
    assert not (await near.client("second", version, **kept(version))).hello.session_present
    assert not (await near.client("FIRST", version, **kept(version))).hello.session_present
    assert (await near.client("first", version, **kept(version))).hello.session_present


async def test_mqtt_3_1_3_3_client_ids_of_1_to_23_letters_and_digits(broker, version):
    """3.1.1: MQTT-3.1.3-5."""
    near = await broker()
    characters = string.digits + string.ascii_letters
    for client_id in ("0", characters[:23], characters[23:46], characters[-23:]):
        assert (await near.client(client_id, version)).hello.code == 0


async def test_mqtt_3_1_3_6_a_client_without_an_id_gets_one(broker):
    """MQTT-3.1.3-4, MQTT-3.1.3-7, MQTT-3.2.2-16."""
    near = await broker()
    given = [(await near.client("")).hello.properties["assigned_id"] for _ in range(3)]
    assert len(set(given)) == 3
    # It is a client id like any other: whoever comes with it takes the connection over.
    assert (await near.client(given[0])).hello.code == 0


async def test_mqtt_3_1_3_6_clients_without_an_id_are_told_apart_in_3_1_1(broker):
    """MQTT-3.1.3-6, MQTT-3.1.3-7 of 3.1.1."""
    near = await broker()
    first, second = await near.client("", 4), await near.client("", 4)
    await first.nothing()
    await second.nothing()


async def test_mqtt_3_1_4_3_take_over(broker, version):
    """3.1.1: MQTT-3.1.4-2."""
    near = await broker()
    old = await near.client("same", version)
    new = await near.client("same", version)
    if version == 5:
        last = await old.closed()
        observe(near.name, "take-over", "DISCONNECT 0x8E" if last[2:3] == b"\x8e" else "closed")
    else:
        assert await old.closed() == b""
    await new.nothing()


async def test_mqtt_3_1_4_6_nothing_behind_a_refused_connect_is_done(broker, version):
    """MQTT-3.2.2-6, MQTT-3.2.2-7; 3.1.1: MQTT-3.1.4-5, MQTT-3.2.2-4, MQTT-3.2.2-5."""
    near = await broker()
    listening = await near.client("listening")
    await listening.subscribe("#")
    raw = await near.open(version)
    raw.send(
        connect_packet("x", version, will=("will", "x", 0, False)).replace(b"MQTT\x05", b"MQTT\x06")
        if version == 5
        else connect_packet("", 4, clean=False, will=("will", "x", 0, False)),
        publish_packet("t", "evil", version=version),
    )
    answer = await raw.closed()
    if near.name == "isthmus" or answer:
        # Mosquitto resets the connection, and its CONNACK may be lost on the way.
        assert answer[0] == 0x20
        assert answer[2] == 0
        assert answer[3]
    await listening.nothing()


async def test_mqtt_3_1_4_2_a_failed_login_closes(broker, version, tmp_path):
    """MQTT-3.2.2-7, MQTT-3.2.2-8; 3.1.1: MQTT-3.2.2-5."""
    from isthmus.auth.passwords import create_entry

    users = tmp_path / "users"
    users.write_text(create_entry("anna", b"right", iterations=101) + "\n")
    near = await broker(
        {"auth": {"password_file": str(users)}},
        (f"password_file {users}", "allow_anonymous false"),
    )
    good = await near.client("x", version, username="anna", password="right")
    for how in ({"username": "anna", "password": "wrong"}, {}):
        raw = await near.open(version)
        raw.send(connect_packet("y", version, **how))
        answer = await raw.expect(CONNACK)
        assert not answer.session_present
        assert answer.code in ((4, 5) if version == 4 else (0x86, 0x87))
        assert await raw.closed() == b""
    await good.nothing()


async def test_mqtt_3_1_3_1_all_fields_in_their_order_are_understood(broker, version):
    """MQTT-3.1.2-6, -17, -19; 3.1.1: MQTT-3.1.2-9, -19, -21, MQTT-3.1.3-1."""
    near = await broker()
    listening = await near.client("listening")
    await listening.subscribe("will/topic", qos=2)
    raw = await near.client(
        "x",
        version,
        username="anna",
        password="word",
        will=("will/topic", b"\0\xff", 2, False),
        will_properties={"content_type": "t", "user": [("b", "1"), ("a", "2"), ("b", "3")]},
    )
    await drop(raw)
    found = await listening.message()
    assert (found.payload, found.qos, found.retain) == (b"\0\xff", 2, False)
    if version == 5:
        # MQTT-3.1.3-10: in the order in which they came
        assert found.properties["user"] == [("b", "1"), ("a", "2"), ("b", "3")]


async def test_mqtt_3_2_2_9_and_16_what_connack_says_holds(broker):
    """MQTT-3.2.2-8: what we say of our limits is in its range and told once."""
    near = await broker()
    raw = await near.client("", request_problem=1)
    found = raw.hello.properties
    assert found["assigned_id"]
    assert found.get("alias_maximum") == 10
    assert 1 <= found.get("receive_maximum", 65_535) <= 65_535
    assert found.get("maximum_qos", 1) in (0, 1)
    assert found.get("wildcards", 1) == 1
    assert "session_expiry" not in found


@pytest.mark.parametrize("asked", [None, 0])
async def test_mqtt_3_1_2_28_no_response_information_unless_asked(broker, asked):
    near = await broker()
    how = {} if asked is None else {"request_response": asked}
    raw = await near.client("x", **how)
    assert "response_information" not in raw.hello.properties


async def test_mqtt_4_12_0_6_without_a_method_no_authentication(broker):
    near = await broker()
    raw = await near.client("x")
    assert "auth_method" not in raw.hello.properties
    await raw.nothing()


async def test_mqtt_3_2_2_19_and_20_a_refusal_is_no_larger_than_the_client_takes(lasting):
    raw = await lasting.open()
    raw.send(connect_packet("x", auth_method="of my own", maximum_packet=10))
    answer = await raw.expect(CONNACK)
    assert answer.code == 0x8C
    assert len(answer.body) + 2 <= 10
    assert await raw.closed() == b""
