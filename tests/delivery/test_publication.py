"""Encoded PUBLISH packets: together, apart, and in the other version."""

from __future__ import annotations

from delivery_peers import parse
from hypothesis import given
from hypothesis import strategies as st

from isthmus.delivery.publication import DUP, again, pack, unpack
from isthmus.mqtt.codec import Decoder
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import PacketType
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.properties import encode as encode_properties

topics = st.text(st.sampled_from("ab/ä€"), min_size=1, max_size=60).map(str.encode)
blocks = st.fixed_dictionaries(
    {},
    optional={
        PropertyId.MESSAGE_EXPIRY_INTERVAL: st.integers(0, 0xFFFFFFFF),
        PropertyId.CONTENT_TYPE: st.text("xyz", max_size=200),
        PropertyId.USER_PROPERTY: st.lists(
            st.tuples(st.text("kl", max_size=9), st.text("vw", max_size=9)), max_size=3
        ),
    },
).map(lambda props: encode_properties(props, PacketType.PUBLISH))
payload_bytes = st.binary(max_size=40) | st.integers(100, 20_000).map(bytes)
packet_ids = st.integers(1, 0xFFFF).map(lambda number: number.to_bytes(2, "big"))
firsts = st.sampled_from([0x32, 0x33, 0x34, 0x35])


def framed(topic: bytes) -> bytes:
    return len(topic).to_bytes(2, "big") + topic


@given(firsts, topics, packet_ids, blocks, payload_bytes, st.booleans())
def test_unpack_undoes_pack(first, topic, packet_id, properties, payload, v5):
    packet = pack(first, framed(topic), packet_id, properties, payload, v5=v5)
    kept = properties if v5 else b""
    assert unpack(packet, v5=v5) == (first, framed(topic), packet_id, kept, payload)


@given(st.integers(0, 2), st.booleans(), topics, packet_ids, blocks, payload_bytes, st.booleans())
def test_another_parser_reads_what_was_packed(
    qos, retain, topic, packet_id, properties, payload, v5
):
    first = 0x30 | qos << 1 | retain
    packet = pack(first, framed(topic), packet_id if qos else b"", properties, payload, v5=v5)
    (found,) = parse(packet, 5 if v5 else 4)
    assert (found.topic.encode(), found.payload) == (topic, payload)
    assert (found.qos, found.retain, found.dup) == (qos, retain, False)
    assert found.packet_id == (int.from_bytes(packet_id, "big") if qos else 0)
    decoder = Decoder(Role.SERVER, version=5 if v5 else 4)
    kept = properties if v5 else b""
    assert decoder.feed(packet) == [
        (first & 15, topic, packet_id if qos else b"", kept, payload),
    ]


@given(
    firsts, topics, packet_ids, blocks, payload_bytes, st.booleans(), st.booleans(), st.booleans()
)
def test_again_is_the_same_message_with_dup_in_the_version_of_the_new_connection(
    first, topic, packet_id, properties, payload, was_v5, v5, twice
):
    packet = pack(first, framed(topic), packet_id, properties, payload, v5=was_v5)
    repeated = again(packet, was_v5=was_v5, v5=v5)
    if twice:
        repeated = again(repeated, was_v5=v5, v5=v5)
    assert repeated[0] == first | DUP
    # A property block does not survive a connection that cannot carry it.
    kept = properties if v5 and was_v5 else b""
    assert unpack(repeated, v5=v5) == (first, framed(topic), packet_id, kept, payload)
    assert repeated == again(
        pack(first, framed(topic), packet_id, kept, payload, v5=v5), was_v5=v5, v5=v5
    )
