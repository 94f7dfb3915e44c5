"""Topic aliases outbound: on the wire of one connection only (MQTT-3.3.2-7 to 3.3.2-12)."""

from __future__ import annotations

import pytest
from delivery_peers import attach, expiry, make_lane, send, wire_id
from hypothesis import given
from hypothesis import strategies as st

from isthmus.delivery.publication import ALIAS_BYTES, aliased, pack, unpack
from isthmus.mqtt.aliases import OutboundAliases
from raw import PUBLISH, Packet

ALIAS, EXPIRY = "alias", "expiry"


def topics(packets: list[Packet]) -> list[tuple[str, int | None]]:
    return [
        (packet.topic, packet.properties.get(ALIAS)) for packet in packets if packet.kind == PUBLISH
    ]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mqtt_3_3_2_3_4_a_topic_is_sent_once(qos):
    lane = make_lane()
    wire = attach(lane, aliases=OutboundAliases(2))
    for topic in (b"long/topic/a", b"long/topic/b", b"long/topic/a", b"long/topic/a"):
        send(lane, "x", qos=qos, topic=topic)
    assert topics(wire.take()) == [("long/topic/a", 1), ("long/topic/b", 2), ("", 1), ("", 1)]


def test_other_properties_stay():
    lane = make_lane()
    wire = attach(lane, aliases=OutboundAliases(2))
    for _ in range(2):
        send(lane, "x", properties=expiry(60))
    for packet in wire.take():
        assert packet.properties == {EXPIRY: 60, ALIAS: 1}
        assert packet.payload == b"x"


def test_what_waited_goes_with_aliases_too():
    lane = make_lane()
    wire = attach(lane, aliases=OutboundAliases(2), receive_maximum=1)
    for payload in "123":
        send(lane, payload)
    (first,) = wire.take()
    lane.acked([wire_id(first.packet_id)])
    assert topics([first, *wire.take()]) == [("t", 1), ("", 1)]


@pytest.mark.parametrize("present", [True, False])
def test_mqtt_3_3_2_7_aliases_end_with_their_connection(present):
    lane = make_lane()
    wire = attach(lane, aliases=OutboundAliases(2))
    for payload in "12":
        send(lane, payload)
    assert topics(wire.take()) == [("t", 1), ("", 1)]
    lane.detach()
    wire = attach(lane, session_present=present)
    send(lane, "3")
    assert topics(wire.take()) == [("t", None)] * 3
    lane.detach()
    wire = attach(lane, v5=False, session_present=present)
    assert [packet.topic for packet in wire.take(4)] == ["t"] * 3


def test_sent_again_without_an_alias_and_then_with_a_new_one():
    lane = make_lane()
    wire = attach(lane, aliases=OutboundAliases(2))
    send(lane, "1")
    wire.take()
    lane.detach()
    wire = attach(lane, session_present=True, aliases=OutboundAliases(2))
    send(lane, "2")
    assert topics(wire.take()) == [("t", None), ("t", 1)]


def test_a_message_that_the_peer_does_not_get_teaches_no_alias():
    """Dropped as the peer reads too slowly: the next one names its topic."""
    lane = make_lane(max_unsent_bytes=10)
    wire = attach(lane, aliases=OutboundAliases(2))
    wire.blocked = True
    send(lane, "lost", qos=0, topic=b"a/topic")
    wire.blocked = False
    send(lane, "here", qos=0, topic=b"a/topic")
    assert topics(wire.take()) == [("a/topic", 1)]


def test_mqtt_3_1_2_24_an_alias_never_makes_a_packet_too_large():
    lane = make_lane()
    wire = attach(lane, aliases=OutboundAliases(2), max_packet=30)
    for length in range(1, 30):
        send(lane, "x" * length, qos=0)
    for packet in wire.take():
        assert 2 + len(packet.body) <= 30


@given(
    seen=st.lists(st.text("abc/", min_size=1, max_size=4), min_size=1, max_size=60),
    maximum=st.integers(1, 4),
    qos=st.integers(0, 2),
    size=st.sampled_from([0, 100, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128]),
    properties=st.sampled_from([b"", expiry(1), b"\x26\0\1k\0\x78" + b"v" * 120]),
)
def test_the_receiver_finds_every_topic(seen, maximum, qos, size, properties):
    aliases = OutboundAliases(maximum)
    known: dict[int, bytes] = {}
    for text in seen:
        topic = len(text.encode()).to_bytes(2, "big") + text.encode()
        packet_id = b"\0\1" if qos else b""
        packet = pack(0x30 | qos << 1, topic, packet_id, properties, b"x" * size, v5=True)
        sent = aliased(packet, aliases)
        assert len(sent) <= len(packet) + ALIAS_BYTES
        if not qos:
            # As one of QoS 1, so that the same function reads it.
            at = 1
            while sent[at] & 0x80:
                at += 1
            body = sent[at + 1 :]
            end = 2 + int.from_bytes(body[:2], "big")
            body = body[:end] + b"\0\1" + body[end:]
            sent = pack(0x32, b"", b"", b"", body, v5=False)
        _, topic, _, found, payload = unpack(sent, v5=True)
        assert payload == b"x" * size
        assert found.startswith(b"\x23") or found == properties
        if found != properties:
            alias = int.from_bytes(found[1:3], "big")
            assert 0 < alias <= maximum
            assert found[3:] == properties
            if topic != b"\0\0":
                known[alias] = topic
            topic = known[alias]
        assert topic[2:].decode() == text
