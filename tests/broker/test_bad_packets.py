"""Bad packets of every class close that one connection, with the right code, and nobody notices."""

from __future__ import annotations

import asyncio

import pytest

from raw import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    Raw,
    ack_packet,
    connect_packet,
    packet,
    properties,
    publish_packet,
    text,
    varint,
    within,
)

pytestmark = pytest.mark.both_loops

V5_CONNECT = text("MQTT") + b"\5\2\0\x3c\0" + text("x")
V4_CONNECT = text("MQTT") + b"\4\2\0\x3c" + text("x")


@pytest.fixture
async def watched(isthmus):
    """A broker, and two clients that must not notice anything."""
    near = await isthmus({"broker": {"max_packet_size": "64KiB", "limits": {"topic_levels": 8}}})
    one, two = await near.client("one"), await near.client("two", 4)
    await one.subscribe("watch")
    yield near
    two.publish("watch", "still here")
    assert (await one.message()).payload == b"still here"
    await one.nothing()
    await two.nothing()
    assert near.app.broker.connected == 2
    assert not near.app.broker.unnamed


def flagged(flags: int, rest: bytes = b"") -> bytes:
    return packet(0x10, text("MQTT") + b"\5" + bytes([flags]) + b"\0\x3c\0" + text("x") + rest)


# What is sent first, and the code of the CONNACK; None: closed without a word.
FIRST = {
    "PUBLISH before CONNECT": (publish_packet("a", "b"), None),
    "PINGREQ before CONNECT": (packet(0xC0), None),
    "SUBSCRIBE before CONNECT": (packet(0x82, b"\0\1\0" + text("a") + b"\0"), None),
    "a reserved packet type": (b"\0\0", None),
    "CONNECT with wrong flags": (packet(0x11, V5_CONNECT), None),
    "an HTTP request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None),
    "a TLS hello": (bytes.fromhex("16030100c8010000c40303"), None),
    "another protocol name": (packet(0x10, text("AMQP") + V5_CONNECT[6:]), None),
    "version 6": (packet(0x10, text("MQTT") + b"\6\2\0\x3c\0" + text("x")), 0x84),
    "version 2 of MQTT": (packet(0x10, text("MQTT") + b"\2\2\0\x3c" + text("x")), 0x01),
    "a reserved CONNECT flag": (flagged(3), 0x81),
    "a will of QoS 3": (flagged(0x1E, b"\0" + text("t") + text("m")), 0x81),
    "will QoS without a will": (flagged(0x0A), 0x81),
    "will retain without a will": (flagged(0x22), 0x81),
    "a will topic with a wildcard": (flagged(6, b"\0" + text("t/#") + text("m")), 0x90),
    "a client id that is no UTF-8": (
        packet(0x10, text("MQTT") + b"\5\2\0\x3c\0" + text(b"\xff\xfe")), 0x81
    ),
    "a client id with U+0000": (packet(0x10, text("MQTT") + b"\5\2\0\x3c\0" + text("a\0b")), 0x81),
    "a property twice": (
        packet(0x10, text("MQTT") + b"\5\2\0\x3c" + b"\x0a" + b"\x11\0\0\0\1" * 2 + text("x")), 0x82
    ),
    "receive maximum 0": (connect_packet("x", receive_maximum=0), 0x82),
    "maximum packet size 0": (connect_packet("x", maximum_packet=0), 0x82),
    "a property that is not CONNECT's": (connect_packet("x", alias=1), 0x81),
    "an unknown property": (
        packet(0x10, text("MQTT") + b"\5\2\0\x3c\2\x7f\0" + text("x")), 0x81
    ),
    "a missing user name": (packet(0x10, text("MQTT") + b"\5\x82\0\x3c\0" + text("x")), 0x81),
    "bytes after the payload": (packet(0x10, V5_CONNECT + b"x"), 0x81),
    "authentication data without a method": (
        packet(0x10, text("MQTT") + b"\5\2\0\x3c\4\x16\0\1x" + text("x")), 0x82
    ),
    "an empty client id that wants to be kept": (connect_packet("", 4, clean=False), 0x02),
    "a password without a user name, 3.1.1": (
        packet(0x10, text("MQTT") + b"\4\x42\0\x3c" + text("x") + text("p")), None
    ),
    "a CONNECT above the maximum packet size": (b"\x10" + varint(70_000), None),
    "a remaining length of five bytes": (b"\x10\xff\xff\xff\xff\x01", None),
}  # fmt: skip


@pytest.mark.parametrize("what", FIRST)
async def test_a_bad_first_packet(watched, what):
    """MQTT-3.1.0-1, MQTT-3.1.4-1, MQTT-3.1.2-*."""
    data, code = FIRST[what]
    version = 4 if code in (1, 2) else 5
    raw = await Raw.open(watched.port, version)
    raw.send(data)
    answer = await raw.closed()
    if code is None:
        assert answer == b""
    else:
        assert answer[:2] + answer[3:4] == bytes([0x20, len(answer) - 2, code])
    raw.close()


# What an open session sends, and the code of the DISCONNECT.
LATER = {
    "CONNECT again": (connect_packet("x"), 0x82),
    "CONNACK": (packet(0x20, b"\0\0\0"), 0x82),
    "SUBACK": (packet(0x90, b"\0\1\0\0"), 0x82),
    "PINGRESP": (packet(0xD0), 0x82),
    "a reserved type": (b"\0\0", 0x81),
    "AUTH without a method": (packet(0xF0), 0x82),
    "PUBLISH of QoS 3": (packet(0x36, text("a") + b"\0\1\0"), 0x81),
    "DUP with QoS 0": (publish_packet("a", "x", dup=True), 0x81),
    "a wildcard in a topic": (publish_packet("a/+", "x"), 0x90),
    "an empty topic": (publish_packet("", "x"), 0x82),
    "U+0000 in a topic": (publish_packet("a\0b", "x"), 0x81),
    "a topic that is no UTF-8": (publish_packet(b"\xc3\x28", "x"), 0x81),
    "a surrogate in a topic": (publish_packet(b"\xed\xa0\x80", "x"), 0x81),
    "packet identifier 0": (publish_packet("a", "x", 1, 0), 0x82),
    "a topic longer than the packet": (packet(0x30, b"\0\x20abc"), 0x81),
    "properties longer than the packet": (packet(0x30, text("a") + b"\x20"), 0x81),
    "an unknown property": (packet(0x30, text("a") + b"\2\x7f\0"), 0x81),
    "a property of another packet": (publish_packet("a", "x", receive_maximum=1), 0x81),
    "a property twice": (packet(0x30, text("a") + b"\4" + b"\1\0" * 2 + b"x"), 0x82),
    "payload format 2": (publish_packet("a", "x", payload_format=2), 0x82),
    "a wildcard in a response topic": (publish_packet("a", "x", response_topic="b/#"), 0x82),
    "a subscription identifier from a client": (publish_packet("a", subscription_id=1), 0x82),
    "topic alias 0": (publish_packet("a", "x", alias=0), 0x94),
    "topic alias above the maximum": (publish_packet("a", "x", alias=11), 0x94),
    "a topic alias that was not given": (publish_packet("", "x", alias=2), 0x82),
    "SUBSCRIBE with wrong flags": (packet(0x80, b"\0\1\0" + text("a") + b"\0"), 0x81),
    "SUBSCRIBE without a filter": (packet(0x82, b"\0\1\0"), 0x82),
    "SUBSCRIBE with QoS 3": (packet(0x82, b"\0\1\0" + text("a") + b"\3"), 0x82),
    "SUBSCRIBE with retain handling 3": (packet(0x82, b"\0\1\0" + text("a") + b"\x30"), 0x82),
    "SUBSCRIBE with reserved bits": (packet(0x82, b"\0\1\0" + text("a") + b"\x40"), 0x81),
    "SUBSCRIBE with identifier 0": (packet(0x82, b"\0\0\0" + text("a") + b"\0"), 0x82),
    "an empty filter": (packet(0x82, b"\0\1\0" + text("") + b"\0"), 0x8F),
    "a filter with # in the middle": (packet(0x82, b"\0\1\0" + text("a/#/b") + b"\0"), 0x8F),
    "a filter with a+": (packet(0x82, b"\0\1\0" + text("a+/b") + b"\0"), 0x8F),
    "no local on a shared subscription": (
        packet(0x82, b"\0\1\0" + text("$share/g/a") + b"\4"), 0x82
    ),
    "UNSUBSCRIBE without a filter": (packet(0xA2, b"\0\1\0"), 0x82),
    "UNSUBSCRIBE with wrong flags": (packet(0xA0, b"\0\1\0" + text("a")), 0x81),
    "PUBREL with wrong flags": (packet(0x60, b"\0\1"), 0x81),
    "PUBACK with identifier 0": (packet(0x40, b"\0\0"), 0x82),
    "PUBACK without an identifier": (packet(0x40, b"\0"), 0x81),
    "PUBACK with a code that it has not": (packet(0x40, b"\0\1\x82\0"), 0x82),
    "PINGREQ with a body": (packet(0xC0, b"x"), 0x81),
    "a remaining length of five bytes": (b"\x30\xff\xff\xff\xff\x01", 0x81),
    "a packet above the maximum": (b"\x30" + varint(70_000), 0x95),
    "a session expiry at DISCONNECT after 0": (
        packet(0xE0, b"\0" + properties(session_expiry=5)), 0x82
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LATER)
async def test_a_bad_packet_in_an_open_session(watched, what):
    """MQTT-4.13.1-1, MQTT-4.13.2-1: DISCONNECT with the reason code, then the connection ends."""
    data, code = LATER[what]
    raw = await watched.client("bad", session_expiry=0)
    raw.send(data)
    goodbye = await raw.expect(DISCONNECT)
    assert goodbye.code == code
    assert await raw.closed() == b""
    assert watched.app.broker.refusals == {goodbye.code: 1}
    raw.close()


@pytest.mark.parametrize("what", [
    "CONNECT again", "SUBACK", "a reserved type", "U+0000 in a topic", "SUBSCRIBE with wrong flags",
    "PUBREL with wrong flags", "a remaining length of five bytes", "a packet above the maximum",
])  # fmt: skip
async def test_mqtt_3_closes_without_a_word(watched, what):
    """MQTT-4.8.0-1 of 3.1.1."""
    raw = await watched.client("bad", 4)
    raw.send(LATER[what][0])
    assert await raw.closed() == b""
    raw.close()


async def test_puback_for_a_qos_2_message_is_a_protocol_error(watched):
    subscriber = await watched.client("bad")
    await subscriber.subscribe("q2", qos=2)
    publisher = await watched.client("good")
    await publisher.published("q2", "x", 2)
    got = await subscriber.expect(PUBLISH)
    subscriber.send(ack_packet(4, got.packet_id))
    assert (await subscriber.expect(DISCONNECT)).code == 0x82
    await subscriber.closed()
    publisher.send(packet(0xE0))
    await publisher.closed()


async def test_pubrec_for_a_qos_1_message_is_a_protocol_error(watched):
    subscriber = await watched.client("bad")
    await subscriber.subscribe("q1", qos=1)
    publisher = await watched.client("good")
    await publisher.published("q1", "x", 1)
    got = await subscriber.expect(PUBLISH)
    subscriber.send(ack_packet(5, got.packet_id))
    assert (await subscriber.expect(DISCONNECT)).code == 0x82
    await subscriber.closed()
    publisher.send(packet(0xE0))
    await publisher.closed()


async def test_what_came_before_the_bad_packet_counts(watched):
    """The good packets of the same read are delivered; their receipt dies with the connection."""
    subscriber = await watched.client("good")
    await subscriber.subscribe("a", qos=1)
    raw = await watched.client("bad")
    raw.send(publish_packet("a", "1", 1, 1), publish_packet("a", "2", 1, 2), b"\0\0")
    assert [(await subscriber.message()).payload for _ in range(2)] == [b"1", b"2"]
    while (last := await raw.packet()).kind != DISCONNECT:
        pass
    assert last.code == 0x81
    subscriber.send(packet(0xE0))
    await subscriber.closed()


async def test_every_cut_of_a_stream_is_understood(watched):
    """A packet may come in any pieces."""
    subscriber = await watched.client("good")
    await subscriber.subscribe("a/b", qos=2)
    stream = connect_packet("slow") + publish_packet("a/b", "hello", 1, 1, content_type="t")
    stream += publish_packet("a/b", b"x" * 300, 2, 2)
    raw = await Raw.open(watched.port)
    for at in range(len(stream)):
        raw.send(stream[at : at + 1])
        await raw.writer.drain()
        if at % 8 == 0:
            await asyncio.sleep(0)
    assert (await raw.expect(CONNACK)).code == 0
    assert (await subscriber.message()).payload == b"hello"
    assert (await subscriber.message()).payload == b"x" * 300
    for one in (raw, subscriber):
        one.send(packet(0xE0))
        await one.closed()


async def test_a_message_of_the_maximum_size_passes(watched):
    subscriber = await watched.client("good")
    await subscriber.subscribe("a")
    payload = b"x" * (65_536 - 1 - 3 - 3 - 1)
    assert len(publish_packet("a", payload)) == 65_536
    subscriber.publish("a", payload)
    assert (await subscriber.message()).payload == payload
    subscriber.publish("a", payload + b"x")
    assert (await subscriber.expect(DISCONNECT)).code == 0x95


async def test_a_refused_topic_is_answered_and_the_connection_stays(watched):
    """Too many levels are a limit of ours, not a fault of the client."""
    raw = await watched.client("deep")
    assert await raw.published("1/2/3/4/5/6/7/8/9", "x", 1) == 0x90
    assert await raw.subscribe("1/2/3/4/5/6/7/8/9") == [0x8F]
    assert await raw.published("1/2/3/4/5/6/7/8", "x", 1) in (0, 0x10)
    raw.send(packet(0xE0))
    await raw.closed()


async def test_connect_timeout(isthmus):
    """MQTT-3.1.4, not normative: who does not send CONNECT is closed."""
    near = await isthmus({"broker": {"limits": {"connect_timeout": "200ms"}}})
    raw = await Raw.open(near.port)
    raw.send(connect_packet("x")[:5])
    assert await within(raw.closed(), 2) == b""


async def test_who_connects_and_says_nothing_counts_as_a_connection(isthmus):
    near = await isthmus({"broker": {"limits": {"connections": 2}}})
    first, second = await Raw.open(near.port), await near.client("x")
    third = await Raw.open(near.port)
    assert await third.closed() == b""
    first.close()
    second.publish("a")
    await second.nothing()


@pytest.mark.parametrize("version", [4, 5])
async def test_whole_messages_before_a_malformed_packet_are_acknowledged(watched, version):
    raw = await watched.client("bad", version)
    raw.send(publish_packet("watched/not", "1", 1, 1, version=version) + b"\0\0")
    assert (await raw.expect(PUBACK)).packet_id == 1
    if version == 5:
        assert (await raw.expect(DISCONNECT)).code == 0x81
    await raw.closed()
