"""What a server may offer less of, and say so: keep alive, QoS, retain; response information and
server reference.
"""

from __future__ import annotations

import pytest
from conformance_broker import drop

from raw import CONNACK, DISCONNECT, SUBACK, connect_packet, packet, publish_packet, text

MAX_QOS = [(0, {"broker": {"max_qos": 0}}), (1, {"broker": {"max_qos": 1}})]


# -- server keep alive ---------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "told"), [(60, 10), (11, 10), (10, None), (5, None), (0, 10)])
async def test_mqtt_3_2_2_22_server_keep_alive(broker, asked, told):
    """MQTT-3.1.2-21: told where it differs from what the client asked for."""
    near = await broker({"broker": {"max_keepalive": "10s"}}, ("max_keepalive 10",))
    raw = await near.client("x", keep_alive=asked)
    assert raw.hello.properties.get("server_keep_alive") == told


async def test_mqtt_3_1_2_22_the_servers_keep_alive_counts(isthmus):
    near = await isthmus({"broker": {"max_keepalive": "1s"}})
    raw = await near.client("x", keep_alive=600)
    assert raw.hello.properties["server_keep_alive"] == 1
    assert (await raw.expect(DISCONNECT)).code == 0x8D


# -- maximum QoS ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("highest", "ours"), MAX_QOS, ids=["0", "1"])
async def test_mqtt_3_2_2_9_and_10_maximum_qos(broker, highest, ours):
    near = await broker(ours, (f"max_qos {highest}",))
    raw = await near.client("x")
    assert raw.hello.properties["maximum_qos"] == highest
    raw.send(packet(0x82, b"\0\1\0" + b"".join(text(f"t/{q}") + bytes([q]) for q in range(3))))
    codes = (await raw.expect(SUBACK)).codes
    # Accepted, and at most what is supported (3.9.3).
    assert codes == [min(q, highest) for q in range(3)]


@pytest.mark.parametrize(("highest", "ours"), MAX_QOS, ids=["0", "1"])
async def test_mqtt_3_2_2_11_a_publish_above_the_maximum_qos(broker, highest, ours):
    near = await broker(ours, (f"max_qos {highest}",))
    raw = await near.client("x")
    raw.send(publish_packet("t", "x", highest + 1, 1))
    assert (await raw.expect(DISCONNECT)).code == 0x9B
    assert await raw.closed() == b""


@pytest.mark.parametrize(("highest", "ours"), MAX_QOS, ids=["0", "1"])
async def test_mqtt_3_2_2_12_a_will_above_the_maximum_qos(broker, highest, ours):
    near = await broker(ours, (f"max_qos {highest}",))
    raw = await near.open()
    raw.send(connect_packet("x", will=("t", "x", highest + 1, False)))
    assert (await raw.expect(CONNACK)).code == 0x9B
    assert await raw.closed() == b""


async def test_no_maximum_qos_is_said_where_there_is_none(broker):
    """MQTT 5, 3.2.2.3.4: 2 is not a value of it."""
    near = await broker()
    assert "maximum_qos" not in (await near.client("x")).hello.properties


# -- retain --------------------------------------------------------------------------------------

NO_RETAIN = {"broker": {"retain_available": False}}


async def test_mqtt_3_2_2_14_retain_is_not_available(broker):
    near = await broker(NO_RETAIN, ("retain_available false",))
    raw = await near.client("x")
    assert raw.hello.properties["retain_available"] == 0
    raw.send(publish_packet("t", "x", retain=True))
    assert (await raw.expect(DISCONNECT)).code == 0x9A
    assert await raw.closed() == b""


async def test_mqtt_3_2_2_13_a_will_to_retain_where_retain_is_not_available(broker):
    near = await broker(NO_RETAIN, ("retain_available false",))
    raw = await near.open()
    raw.send(connect_packet("x", will=("t", "x", 0, True)))
    assert (await raw.expect(CONNACK)).code == 0x9A
    assert await raw.closed() == b""


async def test_without_retain_3_1_1_messages_are_not_kept(isthmus):
    """A 3.1.1 client cannot be told: it is closed, or its message passes and is not kept."""
    near = await isthmus(NO_RETAIN)
    raw = await near.client("x", 4)
    raw.send(publish_packet("t", "x", 1, 1, retain=True, version=4))
    await drop(raw)
    late = await near.client("late")
    await late.subscribe("t")
    await late.nothing()


# -- topic aliases, sessions ---------------------------------------------------------------------


async def test_mqtt_3_2_2_18_no_aliases_are_taken(broker):
    near = await broker({"broker": {"topic_alias_maximum": 0}}, ("max_topic_alias 0",))
    raw = await near.client("x")
    assert not raw.hello.properties.get("alias_maximum")
    raw.send(publish_packet("t", "x", alias=1))
    assert (await raw.expect(DISCONNECT)).code == 0x94


# -- response information, server reference ------------------------------------------------------


@pytest.mark.parametrize("asked", [None, 0, 1])
async def test_mqtt_3_1_2_28_response_information_for_who_asks(isthmus, asked):
    near = await isthmus({"broker": {"response_information": "answers/"}})
    how = {} if asked is None else {"request_response": asked}
    found = (await near.client("x", **how)).hello.properties.get("response_information")
    assert (found is not None) == (asked == 1)
    assert found is None or found.startswith("answers/")


async def test_mqtt_3_14_2_a_server_reference_when_it_stops(isthmus):
    """MQTT 5, 4.11: 0x9C or 0x9D with the reference, where it fits (MQTT-3.1.2-24)."""
    near = await isthmus({"broker": {"server_reference": "other.test:1883"}})
    raw, old = await near.client("x"), await near.client("old", 4)
    # 2 bytes, the code, the length of the properties, the reference with its identifier.
    size = 4 + 3 + len("other.test:1883")
    exact = await near.client("exact", maximum_packet=size)
    small = await near.client("small", maximum_packet=size - 1)
    await near.app.stop()
    for one in (raw, exact):
        goodbye = await one.expect(DISCONNECT)
        assert goodbye.code == 0x9C
        assert goodbye.properties == {"server_reference": "other.test:1883"}
        assert await one.closed() == b""
    goodbye = await small.expect(DISCONNECT)
    assert (goodbye.code, goodbye.properties) == (0x8B, {})
    assert await small.closed() == await old.closed() == b""
