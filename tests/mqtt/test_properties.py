"""The property table and all that it drives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt_strategies import property_sets

from isthmus.errors import LocalProtocolError, MalformedPacket, ProtocolViolation
from isthmus.mqtt import properties
from isthmus.mqtt.packet_type import WILL, PacketType
from isthmus.mqtt.properties import TABLE, PropertyId, PublishBlocks, decode, encode, scan

P = PropertyId
CARRIERS = [
    WILL,
    *(kind for kind in PacketType if kind not in (PacketType.PINGREQ, PacketType.PINGRESP)),
]


def test_the_table_has_every_property() -> None:
    assert len(TABLE) == len(PropertyId) == 27
    assert all(row.packets for row in TABLE.values())
    assert all(row.repeatable <= row.packets for row in TABLE.values())


@settings(max_examples=150)
@given(
    st.sampled_from(CARRIERS).flatmap(lambda kind: st.tuples(st.just(kind), property_sets(kind)))
)
def test_round_trip(case: tuple[int, properties.Properties]) -> None:
    kind, props = case
    block = encode(props, kind)
    assert decode(b"junk" + block + b"junk", 4, 4 + len(block), kind) == props


SAMPLES: dict[PropertyId, Any] = {
    P.PAYLOAD_FORMAT_INDICATOR: 1,
    P.RESPONSE_TOPIC: b"t",
    P.CORRELATION_DATA: b"d",
    P.SUBSCRIPTION_IDENTIFIER: [1],
    P.AUTHENTICATION_DATA: b"d",
    P.USER_PROPERTY: [("a", "b")],
}


def sample(identifier: PropertyId) -> Any:
    if identifier in SAMPLES:
        return SAMPLES[identifier]
    text = TABLE[identifier].type is properties.PropertyType.STRING
    return "s" if text else 1


@pytest.mark.parametrize("kind", CARRIERS)
@pytest.mark.parametrize("identifier", list(PropertyId))
def test_mqtt_2_2_2_2_each_property_in_each_packet(identifier: PropertyId, kind: int) -> None:
    """Allowed exactly where the table says; once, or more where it may repeat."""
    row = TABLE[identifier]
    home = min(row.packets)
    block = encode({identifier: sample(identifier)}, home)
    method = encode({P.AUTHENTICATION_METHOD: "m"}, PacketType.AUTH)
    if identifier is P.AUTHENTICATION_DATA:
        block += method if kind in row.packets else b""
    if kind not in row.packets:
        with pytest.raises(MalformedPacket):
            decode(block, 0, len(block), kind)
        with pytest.raises(LocalProtocolError):
            encode({identifier: sample(identifier)}, kind)
        return
    assert decode(block, 0, len(block), kind)[identifier] == sample(identifier)
    twice = block * 2
    if kind in row.repeatable:
        assert len(decode(twice, 0, len(twice), kind)[identifier]) == 2
    else:
        with pytest.raises(ProtocolViolation):
            decode(twice, 0, len(twice), kind)


@pytest.mark.parametrize(
    ("identifier", "value"),
    [
        (P.RECEIVE_MAXIMUM, 0),
        (P.RECEIVE_MAXIMUM, 65_536),
        (P.MAXIMUM_PACKET_SIZE, 0),
        (P.SESSION_EXPIRY_INTERVAL, 1 << 32),
        (P.SESSION_EXPIRY_INTERVAL, -1),
        (P.REQUEST_PROBLEM_INFORMATION, 2),
        (P.AUTHENTICATION_METHOD, "\0"),
        (P.AUTHENTICATION_METHOD, "\ud800"),
        (P.AUTHENTICATION_METHOD, "x" * 65_536),
        (P.AUTHENTICATION_DATA, b"x" * 65_536),
        (P.USER_PROPERTY, [("a", "\0")]),
    ],
)
def test_we_do_not_send_illegal_values(identifier: PropertyId, value: Any) -> None:
    with pytest.raises(LocalProtocolError):
        encode({identifier: value}, PacketType.CONNECT)


def test_a_flood_of_user_properties_is_refused() -> None:
    """13 bytes of memory per byte received, before anyone has shown who they are; and work."""
    block = b"\x26\0\0\0\0" * (properties.MAX_USER_PROPERTIES + 1)
    with pytest.raises(ProtocolViolation) as caught:
        decode(block, 0, len(block), PacketType.CONNECT)
    assert caught.value.reason == 0x97
    assert scan(block[5:]).forward == block[5:]  # a PUBLISH carries them as they are
    for flood in (block, b"\x0b\1" * (properties.MAX_USER_PROPERTIES + 1)):
        with pytest.raises(ProtocolViolation) as caught:
            scan(flood)
        assert caught.value.reason == 0x97


@settings(max_examples=150)
@given(property_sets(PacketType.PUBLISH))
def test_scan_agrees_with_decode(props: properties.Properties) -> None:
    block = encode(props, PacketType.PUBLISH)
    found = scan(block)
    assert found.alias == props.get(P.TOPIC_ALIAS, 0)
    assert found.subscription_ids == tuple(props.get(P.SUBSCRIPTION_IDENTIFIER, ()))
    assert found.expiry == props.get(P.MESSAGE_EXPIRY_INTERVAL)
    assert found.special == bool(found.alias or found.subscription_ids)
    own = (P.TOPIC_ALIAS, P.SUBSCRIPTION_IDENTIFIER)
    kept = {key: value for key, value in props.items() if key not in own}
    forward = decode(found.forward, 0, len(found.forward), PacketType.PUBLISH)
    assert forward == kept
    assert list(forward) == list(kept)  # MQTT-3.3.2-18, order is kept
    aged = properties.with_message_expiry(found.forward, 7)
    if found.expiry is None:
        assert aged == found.forward
        assert properties.message_expiry(aged) is None
    else:
        kept[P.MESSAGE_EXPIRY_INTERVAL] = 7
        assert decode(aged, 0, len(aged), PacketType.PUBLISH) == kept
        assert properties.message_expiry(aged) == 7


@settings(max_examples=150)
@given(
    st.binary(max_size=12) | st.sampled_from([b"\x26\0\1a\0\1b", b"\x23\0\1"]),
    st.binary(max_size=6),
)
def test_scan_and_decode_refuse_the_same(head: bytes, tail: bytes) -> None:
    block = head + tail

    def outcome(function: Any) -> int:
        try:
            function()
        except (MalformedPacket, ProtocolViolation) as error:
            return error.reason
        return 0

    one = outcome(lambda: scan(block))
    two = outcome(lambda: decode(block, 0, len(block), PacketType.PUBLISH))
    assert one == two


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    blocks = PublishBlocks(limit=4)
    used = blocks.look(b"\x01\x01")
    for number in range(100):
        blocks.look(b"\x02" + number.to_bytes(4, "big"))
        assert blocks.look(b"\x01\x01") is used
    assert len(blocks.young) <= 4
    assert len(blocks._old) <= 4
    long = b"\x09" + (properties.MAX_CACHED_BLOCK).to_bytes(2, "big")
    long += bytes(properties.MAX_CACHED_BLOCK)
    assert blocks.look(long).forward == long
    assert long not in blocks.young
    assert blocks.look(b"").forward == b""


def test_an_illegal_block_is_not_remembered() -> None:
    blocks = PublishBlocks()
    for _ in range(2):
        with pytest.raises(ProtocolViolation):
            blocks.look(b"\x01\x01\x01\x01")
    assert not blocks.young
