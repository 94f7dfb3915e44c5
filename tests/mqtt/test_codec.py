"""Decoder and encoder: tables of bytes read both ways, round trips, any cutting of the stream."""

from __future__ import annotations

import time
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt_strategies import (
    connacks,
    connects,
    disconnects,
    from_clients,
    from_servers,
)

from isthmus.errors import MQTTError
from isthmus.mqtt import packets
from isthmus.mqtt.aliases import InboundAliases
from isthmus.mqtt.codec import Decoder, Event
from isthmus.mqtt.encoder import encode, encode_publish
from isthmus.mqtt.packet_type import PacketType, Role
from isthmus.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscribeOptions,
    Unsuback,
    Unsubscribe,
    Will,
)
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.wire import varint

SERVER, CLIENT = Role.SERVER, Role.CLIENT

# version, who receives it, bytes, record
BOTH_WAYS: list[tuple[int, Role, str, Any]] = [
    (3, SERVER, "10 10 0006 4d514973 6470 03 02 003c 0002 6162", Connect("ab", 3, True, 60)),
    (4, SERVER, "10 0e 0004 4d515454 04 02 003c 0002 6162", Connect("ab", 4, True, 60)),
    (4, SERVER, "10 0c 0004 4d515454 04 02 0000 0000", Connect("", 4, True, 0)),
    (
        4,
        SERVER,
        "10 0e 0004 4d515454 84 00 003c 0002 6162",
        Connect("ab", 4, False, 60, bridge=True),
    ),
    (
        3,
        SERVER,
        "10 10 0006 4d514973 6470 83 02 003c 0002 6162",
        Connect("ab", 3, True, 60, bridge=True),
    ),
    (5, SERVER, "10 0f 0004 4d515454 05 02 003c 00 0002 6162", Connect("ab", 5, True, 60)),
    (
        4,
        SERVER,
        "10 1a 0004 4d515454 04 f6 0000 0001 61 0001 74 0001 70 0001 75 0002 7077",
        Connect("a", 4, True, 0, "u", b"pw", Will(b"t", b"p", 2, True)),
    ),
    (
        5,
        SERVER,
        "10 20 0004 4d515454 05 44 0001 05 11 0000000a 0001 61 05 18 00000005 0001 74 0000 0001 70",
        Connect(
            "a",
            5,
            False,
            1,
            None,
            b"p",
            Will(b"t", b"", 0, False, {PropertyId.WILL_DELAY_INTERVAL: 5}),
            {PropertyId.SESSION_EXPIRY_INTERVAL: 10},
        ),
    ),
    (4, CLIENT, "20 02 01 00", Connack(True)),
    (4, CLIENT, "20 02 00 05", Connack(False, 5)),
    (5, CLIENT, "20 03 00 00 00", Connack()),
    (5, CLIENT, "20 06 00 87 03 21 0014", Connack(False, 0x87, {PropertyId.RECEIVE_MAXIMUM: 20})),
    (5, SERVER, "40 03 0102 10", Puback(0x0102, 0x10)),
    (4, SERVER, "50 02 0102", Pubrec(0x0102)),
    (5, SERVER, "50 03 0102 97", Pubrec(0x0102, 0x97)),
    (4, SERVER, "62 02 0102", Pubrel(0x0102)),
    (5, SERVER, "62 03 0102 92", Pubrel(0x0102, 0x92)),
    (5, SERVER, "70 08 0102 92 04 1f 0001 78", Pubcomp(258, 0x92, {PropertyId.REASON_STRING: "x"})),
    (4, SERVER, "82 06 0001 0001 23 01", Subscribe(1, [(b"#", SubscribeOptions(1))])),
    (
        5,
        SERVER,
        "82 0d 0001 02 0b 07 0003 612f2b 2e 0000 00"[:-8],
        Subscribe(
            1,
            [(b"a/+", SubscribeOptions(2, True, True, 2))],
            {PropertyId.SUBSCRIPTION_IDENTIFIER: [7]},
        ),
    ),
    (4, CLIENT, "90 04 0001 02 80", Suback(1, [2, 0x80])),
    (5, CLIENT, "90 05 0001 00 01 8f", Suback(1, [1, 0x8F])),
    (4, SERVER, "a2 05 0001 0001 61", Unsubscribe(1, [b"a"])),
    (5, SERVER, "a2 06 0001 00 0001 61", Unsubscribe(1, [b"a"])),
    (4, CLIENT, "b0 02 0001", Unsuback(1)),
    (5, CLIENT, "b0 04 0001 00 11", Unsuback(1, [0x11])),
    (4, SERVER, "c0 00", Pingreq()),
    (4, CLIENT, "d0 00", Pingresp()),
    (4, SERVER, "e0 00", Disconnect()),
    (5, SERVER, "e0 01 04", Disconnect(4)),
    (5, CLIENT, "e0 06 8b 04 1f 0001 78", Disconnect(0x8B, {PropertyId.REASON_STRING: "x"})),
    (5, SERVER, "f0 00", Auth()),
    (5, CLIENT, "f0 06 18 04 15 0001 6d", Auth(0x18, {PropertyId.AUTHENTICATION_METHOD: "m"})),
]


def raw(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def fix_length(packet: bytes) -> bytes:
    """The packet with its second byte set to the length of what follows."""
    return packet[:1] + varint(len(packet) - 2) + packet[2:]


@pytest.mark.parametrize(("version", "role", "text", "record"), BOTH_WAYS)
def test_the_table_reads_both_ways(version: int, role: Role, text: str, record: Any) -> None:
    data = fix_length(raw(text))
    decoder = Decoder(role, version=None if data[0] == 0x10 else version)
    assert decoder.feed(data) == [record]
    assert encode(record, version) == data
    if data[0] == 0x10:
        assert decoder.version == version


PUBLISHES: list[tuple[int, str, tuple[int, bytes, bytes, bytes, bytes]]] = [
    (4, "30 03 0001 61", (0, b"a", b"", b"", b"")),
    (3, "31 05 0001 61 6869", (1, b"a", b"", b"", b"hi")),
    (4, "32 07 0001 61 0102 6869", (2, b"a", b"\1\2", b"", b"hi")),
    (4, "3d 06 0001 61 ffff 00", (13, b"a", b"\xff\xff", b"", b"\0")),
    (5, "30 04 0001 61 00", (0, b"a", b"", b"", b"")),
    (5, "34 08 0001 61 0102 00 6869", (4, b"a", b"\1\2", b"", b"hi")),
    (5, "30 08 0001 61 02 01 01 6869", (0, b"a", b"", b"\1\1", b"hi")),
]


@pytest.mark.parametrize(("version", "text", "fields"), PUBLISHES)
def test_publish_is_a_plain_tuple(version: int, text: str, fields: tuple[Any, ...]) -> None:
    data = fix_length(raw(text))
    decoder = Decoder(SERVER, version=version)
    for _ in range(3):
        assert decoder.feed(data * 3) == [fields] * 3
    flags, topic, packet_id, properties, payload = fields
    assert encode_publish(0x30 | flags, topic, packet_id, properties, payload, version) == data


def as_events(sent: list[Any]) -> list[Event]:
    """What a decoder has to make of these records."""
    events: list[Event] = []
    for packet in sent:
        if isinstance(packet, Publish):
            flags = packet.dup << 3 | packet.qos << 1 | packet.retain
            packet_id = packet.packet_id.to_bytes(2, "big") if packet.qos else b""
            events.append((flags, packet.topic, packet_id, packet.properties, packet.payload))
        elif isinstance(packet, Puback) and not packet.code and not packet.properties:
            packet_id = packet.packet_id.to_bytes(2, "big")
            if events and isinstance(events[-1], list):
                events[-1].append(packet_id)
            else:
                events.append([packet_id])
        else:
            events.append(packet)
    return events


def joined(batches: list[list[Event]]) -> list[Event]:
    """Events of several reads as if they came in one: runs of PUBACKs are joined."""
    events: list[Event] = []
    for batch in batches:
        for event in batch:
            if isinstance(event, list) and events and isinstance(events[-1], list):
                events[-1].extend(event)
            else:
                events.append(event)
    return events


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("version", [3, 4, 5])
@settings(max_examples=20)
@given(data=st.data())
def test_a_client_stream_survives_any_cutting(version: int, data: st.DataObject) -> None:
    first = data.draw(connects(version))
    sent = data.draw(st.lists(from_clients(version), max_size=8))
    if version == 5:  # AUTH needs a method
        first.properties.setdefault(PropertyId.AUTHENTICATION_METHOD, "m")
    sent = [first, *sent, data.draw(disconnects(version, server=False))]
    stream = b"".join(encode(packet, version) for packet in sent)
    decoder = Decoder(SERVER, first_packet=PacketType.CONNECT)
    pieces = cut(stream, data.draw(st.lists(st.integers(0, 10_000), max_size=12)))
    assert joined([decoder.feed(piece) for piece in pieces]) == as_events(sent)
    assert decoder.ended
    assert decoder.feed(b"\xff") == []


@pytest.mark.parametrize("version", [3, 4, 5])
@settings(max_examples=20)
@given(data=st.data())
def test_a_server_stream_survives_any_cutting(version: int, data: st.DataObject) -> None:
    sent = [data.draw(connacks(version)), *data.draw(st.lists(from_servers(version), max_size=8))]
    if version == 5:
        sent.append(data.draw(disconnects(version, server=True)))
    stream = b"".join(encode(packet, version) for packet in sent)
    decoder = Decoder(CLIENT, version=version, first_packet=PacketType.CONNACK)
    pieces = cut(stream, data.draw(st.lists(st.integers(0, 10_000), max_size=12)))
    assert joined([decoder.feed(piece) for piece in pieces]) == as_events(sent)


@settings(max_examples=150)
@given(
    stream=st.lists(
        st.sampled_from(
            [raw("30 05 0001 61 6869"), raw("32 05 0001 61 0001"), raw("40 02 0001"), raw("c0 00")]
        )
        | st.binary(max_size=6),
        max_size=8,
    ).map(b"".join),
    places=st.lists(st.integers(0, 60), max_size=8),
    version=st.sampled_from([3, 4, 5]),
    role=st.sampled_from(list(Role)),
)
def test_garbage_gives_the_same_events_however_it_is_cut(
    stream: bytes, places: list[int], version: int, role: Role
) -> None:
    def decode(pieces: list[bytes]) -> tuple[list[Event], str]:
        decoder = Decoder(role, version=version, aliases=InboundAliases(4))
        events = joined([decoder.feed(piece) for piece in pieces])
        errors = [event for event in events if isinstance(event, MQTTError)]
        assert len(errors) == decoder.failed
        if errors:
            assert events.pop() is errors[0]
            assert errors[0].reason >= 0x80
        return events, str(errors)

    assert decode([stream]) == decode(cut(stream, places))


def test_one_byte_at_a_time_is_linear() -> None:
    """Properties that trickle in are not parsed again and again (CVE-2026-44248)."""
    block = (b"\x26\0\1a\0\x96" + bytes(range(0x30, 0x7B)) * 2) * 1000
    body = b"\0\1a" + varint(len(block)) + block
    packet = b"\x30" + varint(len(body)) + body
    decoder = Decoder(SERVER, version=5)
    start = time.process_time()
    for at in range(len(packet) - 1):
        assert not decoder.feed(packet[at : at + 1])
    (event,) = decoder.feed(packet[-1:])
    assert time.process_time() - start < 2
    assert event == (0, b"a", b"", block, b"")


def test_a_16_mib_message_in_16_kib_reads_is_linear() -> None:
    payload = bytes(16 * 1024 * 1024)
    packet = encode_publish(0x30, b"a", b"", b"", payload, 4)
    decoder = Decoder(SERVER, version=4)
    start = time.process_time()
    events: list[Event] = []
    for at in range(0, len(packet), 16_384):
        events += decoder.feed(packet[at : at + 16_384])
    assert time.process_time() - start < 1
    assert events == [(0, b"a", b"", b"", payload)]


def test_alternating_pubacks_are_linear() -> None:
    data = raw("40 02 0001 40 02 0001 c0 00") * 5000
    decoder = Decoder(SERVER, version=4)
    start = time.process_time()
    events = decoder.feed(data)
    assert time.process_time() - start < 1
    assert len(events) == 10_000


@pytest.mark.parametrize("text", ["30 ff ff ff 7f", "82 ff ff ff 7f", "10 ff ff ff 7f"])
def test_announced_lengths_take_no_memory(text: str) -> None:
    """80 ff ff ff 7f and its like, from a stranger (CVE-2017-7651, hmq#177)."""
    decoder = Decoder(SERVER, version=4)
    tracemalloc.start()
    try:
        assert decoder.feed(raw(text)) == []
        assert decoder.feed(b"\0" * 100) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4096
    assert decoder.pending_bytes == 105


def test_pubacks_of_every_run_length() -> None:
    for count in (1, 2, 3, 63, 64, 65, 128, 129, 300):
        ids = [number.to_bytes(2, "big") for number in range(1, count + 1)]
        data = b"".join(b"\x40\x02" + packet_id for packet_id in ids)
        assert Decoder(CLIENT, version=4).feed(data) == [ids]
        assert Decoder(CLIENT, version=4).feed(data + b"\xd0\0") == [ids, Pingresp()]
        assert Decoder(CLIENT, version=4).feed(data[:-1]) == ([ids[:-1]] if count > 1 else [])
        assert Decoder(CLIENT, version=4).feed(data + b"\x30\x03\0\1a" + data) == [
            ids,
            (0, b"a", b"", b"", b""),
            ids,
        ]


def test_a_run_of_pubacks_whose_ids_look_like_headers() -> None:
    data = raw("40 02 4002 40 02 4002 40 03 0001 10 40 02 0001")
    assert Decoder(CLIENT, version=5).feed(data) == [
        [b"\x40\x02", b"\x40\x02"],
        Puback(1, 0x10),
        [b"\0\1"],
    ]


def test_pubacks_before_an_illegal_one_stay_valid() -> None:
    events = Decoder(CLIENT, version=4).feed(raw("40 02 0007 40 02 0000 40 02 0001"))
    assert events[0] == [b"\0\7"]
    assert isinstance(events[1], MQTTError)
    assert len(events) == 2


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 20_000), max_size=6), qos=st.integers(0, 2))
def test_payloads_of_every_size(sizes: list[int], qos: int) -> None:
    packet_id = b"\1\2" if qos else b""
    for version in (4, 5):
        data = b"".join(
            encode_publish(0x30 | qos << 1, b"t", packet_id, b"", bytes(size), version)
            for size in sizes
        )
        decoder = Decoder(SERVER, version=version)
        for _ in range(2):
            assert [len(event[4]) for event in decoder.feed(data)] == sizes  # type: ignore[index]


def test_payloads_are_copies() -> None:
    (event,) = Decoder(SERVER, version=4).feed(raw("30 05 0001 61 6869"))
    assert [type(field) for field in event] == [int, bytes, bytes, bytes, bytes]  # type: ignore[union-attr]


def test_publish_pipelined_behind_connect_is_lawful() -> None:
    data = raw("10 0d 0004 4d515454 04 02 003c 0001 61 30 03 0001 61")
    events = Decoder(SERVER, first_packet=PacketType.CONNECT).feed(data)
    assert events == [Connect("a", 4, True, 60), (0, b"a", b"", b"", b"")]


def test_mqtt_3_1_user_name_flag_without_user_name() -> None:
    """MQTT 3.1: the remaining length takes precedence over the flags."""
    data = fix_length(raw("10 00 0006 4d514973 6470 03 c2 003c 0001 61"))
    assert Decoder(SERVER).feed(data) == [Connect("a", 3, True, 60)]


def test_mqtt_3_1_may_repeat_with_dup() -> None:
    data = raw("8a 06 0001 0001 61 01 6a 02 0001")
    assert len(Decoder(SERVER, version=3).feed(data)) == 2
    assert isinstance(Decoder(SERVER, version=4).feed(data)[0], MQTTError)


def test_mqtt_3_1_client_id_limit_is_an_option() -> None:
    data = encode(Connect("x" * 24, 3), 3)
    assert isinstance(Decoder(SERVER).feed(data)[0], Connect)
    (error,) = Decoder(SERVER, strict_client_id=True).feed(data)
    assert isinstance(error, MQTTError)
    assert error.reason == 0x85


def test_mqtt_3_3_2_12_aliases_are_resolved_and_removed() -> None:
    decoder = Decoder(SERVER, version=5, aliases=InboundAliases(2))
    with_alias = raw("30 09 0001 61 04 23 0002 78"[:-3])
    stream = [
        encode_publish(0x30, b"a", b"", b"\x23\0\2", b"1", 5),
        encode_publish(0x30, b"", b"", b"\x23\0\2\x01\x01", b"2", 5),
        encode_publish(0x30, b"b", b"", b"\x23\0\2", b"3", 5),
        encode_publish(0x30, b"", b"", b"\x23\0\2", b"4", 5),
    ]
    assert with_alias[0] == 0x30
    assert decoder.feed(b"".join(stream)) == [
        (0, b"a", b"", b"", b"1"),
        (0, b"a", b"", b"\1\1", b"2"),
        (0, b"b", b"", b"", b"3"),
        (0, b"b", b"", b"", b"4"),
    ]


def test_subscription_identifiers_are_dropped_on_a_client() -> None:
    packet = encode_publish(0x30, b"a", b"", b"\x0b\7\x01\x01\x0b\x08", b"1", 5)
    assert Decoder(CLIENT, version=5).feed(packet) == [(0, b"a", b"", b"\1\1", b"1")]


def test_passwords_are_not_printed() -> None:
    assert "secret" not in repr(Connect("a", username="u", password=b"secret"))


def test_every_record_knows_its_type() -> None:
    found = {getattr(packets, kind.name.capitalize()).packet_type for kind in PacketType}
    assert found == set(PacketType)


# -- before the login ----------------------------------------------------------------------------


def test_the_size_of_a_connect_has_its_own_limit() -> None:
    for version in (3, 4, 5):
        data = encode(Connect("x", version, username="u", password=b"x" * 1000), version)
        size = len(data)
        decoder = Decoder(SERVER, max_login_size=size, first_packet=PacketType.CONNECT)
        assert isinstance(decoder.feed(data)[0], Connect)
        assert decoder.feed(encode_publish(0x30, b"t", b"", b"", b"x" * 5000, version))
        for cut in (20, 3):
            decoder = Decoder(SERVER, max_login_size=size - 1, first_packet=PacketType.CONNECT)
            (error,) = decoder.feed(data[:cut])
            assert isinstance(error, MQTTError)
            assert error.reason == 0x95
            # Whom to answer in which version is known if the beginning came in the same read.
            assert decoder.version == (version if cut == 20 else None)


def test_the_size_of_auth_has_it_too() -> None:
    decoder = Decoder(SERVER, version=5, max_login_size=500)
    (error,) = decoder.feed(b"\xf0" + varint(499))
    assert isinstance(error, MQTTError)
    assert error.reason == 0x95
