"""Bytes compared with two independent codecs: `mqtt5` (Rust) both ways, `paho-mqtt` as a client."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet as paho_packet
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions as PahoOptions

from isthmus.mqtt import packets, properties
from isthmus.mqtt.codec import Decoder
from isthmus.mqtt.encoder import encode, encode_publish
from isthmus.mqtt.packet_type import PacketType, Role
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.reasons import CODES

P = PropertyId
USER = [("k", "v"), ("k", "w"), ("ä", "")]

MESSAGE_PROPERTIES: dict[PropertyId, Any] = {
    P.PAYLOAD_FORMAT_INDICATOR: 1,
    P.MESSAGE_EXPIRY_INTERVAL: 60,
    P.CONTENT_TYPE: "text/plain",
    P.RESPONSE_TOPIC: b"answer/here",
    P.CORRELATION_DATA: b"\0\1\2",
    P.USER_PROPERTY: USER,
}
RUST_MESSAGE: dict[str, Any] = {
    "payload_format_indicator": 1,
    "message_expiry_interval": 60,
    "content_type": "text/plain",
    "response_topic": "answer/here",
    "correlation_data": b"\0\1\2",
    "user_properties": USER,
}

# their packet, ours, who receives it
RUST: list[tuple[Any, Any, Role]] = [
    (mqtt5.ConnectPacket("id"), packets.Connect("id", clean_start=False), Role.SERVER),
    (
        mqtt5.ConnectPacket(
            "id",
            username="ü",
            password=b"\0p",
            clean_start=True,
            will=mqtt5.Will(
                "w/t",
                payload=b"gone",
                qos=mqtt5.QoS.EXACTLY_ONCE,
                retain=True,
                will_delay_interval=7,
                **RUST_MESSAGE,
            ),
            keep_alive=30,
            session_expiry_interval=3600,
            authentication_method="m",
            authentication_data=b"d",
            request_problem_info=False,
            request_response_info=True,
            receive_max=10,
            topic_alias_max=11,
            max_packet_size=12_000,
            user_properties=USER,
        ),
        packets.Connect(
            "id",
            5,
            True,
            30,
            "ü",
            b"\0p",
            packets.Will(
                b"w/t", b"gone", 2, True, {**MESSAGE_PROPERTIES, P.WILL_DELAY_INTERVAL: 7}
            ),
            {
                P.SESSION_EXPIRY_INTERVAL: 3600,
                P.AUTHENTICATION_METHOD: "m",
                P.AUTHENTICATION_DATA: b"d",
                P.REQUEST_PROBLEM_INFORMATION: 0,
                P.REQUEST_RESPONSE_INFORMATION: 1,
                P.RECEIVE_MAXIMUM: 10,
                P.TOPIC_ALIAS_MAXIMUM: 11,
                P.MAXIMUM_PACKET_SIZE: 12_000,
                P.USER_PROPERTY: USER,
            },
        ),
        Role.SERVER,
    ),
    (mqtt5.ConnAckPacket(session_present=True), packets.Connack(True), Role.CLIENT),
    (
        mqtt5.ConnAckPacket(
            reason_code=mqtt5.ConnAckReasonCode.SERVER_MOVED,
            session_expiry_interval=5,
            assigned_client_id="given",
            server_keep_alive=9,
            authentication_method="m",
            authentication_data=b"d",
            response_info="r",
            server_reference="other",
            reason_str="why",
            receive_max=10,
            topic_alias_max=11,
            max_qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain_available=False,
            max_packet_size=99,
            wildcard_subscription_available=False,
            subscription_id_available=False,
            shared_subscription_available=False,
            user_properties=USER,
        ),
        packets.Connack(
            False,
            0x9D,
            {
                P.SESSION_EXPIRY_INTERVAL: 5,
                P.ASSIGNED_CLIENT_IDENTIFIER: "given",
                P.SERVER_KEEP_ALIVE: 9,
                P.AUTHENTICATION_METHOD: "m",
                P.AUTHENTICATION_DATA: b"d",
                P.RESPONSE_INFORMATION: "r",
                P.SERVER_REFERENCE: "other",
                P.REASON_STRING: "why",
                P.RECEIVE_MAXIMUM: 10,
                P.TOPIC_ALIAS_MAXIMUM: 11,
                P.MAXIMUM_QOS: 1,
                P.RETAIN_AVAILABLE: 0,
                P.MAXIMUM_PACKET_SIZE: 99,
                P.WILDCARD_SUBSCRIPTION_AVAILABLE: 0,
                P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 0,
                P.SHARED_SUBSCRIPTION_AVAILABLE: 0,
                P.USER_PROPERTY: USER,
            },
        ),
        Role.CLIENT,
    ),
    (
        mqtt5.SubscribePacket(
            7,
            [
                mqtt5.TopicFilter("a/+/#", max_qos=mqtt5.QoS.AT_LEAST_ONCE),
                mqtt5.TopicFilter(
                    "b",
                    no_local=True,
                    retain_as_published=False,
                    retain_handling=mqtt5.RetainHandling.SEND_NEVER,
                ),
            ],
            subscription_id=16_384,
            user_properties=USER,
        ),
        packets.Subscribe(
            7,
            [
                (b"a/+/#", packets.SubscribeOptions(1, False, True, 0)),
                (b"b", packets.SubscribeOptions(2, True, False, 2)),
            ],
            {P.SUBSCRIPTION_IDENTIFIER: [16_384], P.USER_PROPERTY: USER},
        ),
        Role.SERVER,
    ),
    (
        mqtt5.SubAckPacket(
            7,
            [mqtt5.SubAckReasonCode.NOT_AUTHORIZED, mqtt5.SubAckReasonCode(2)],
            reason_str="x",
            user_properties=USER,
        ),
        packets.Suback(7, [0x87, 2], {P.REASON_STRING: "x", P.USER_PROPERTY: USER}),
        Role.CLIENT,
    ),
    (
        mqtt5.UnsubscribePacket(7, ["a", "b/#"], user_properties=USER),
        packets.Unsubscribe(7, [b"a", b"b/#"], {P.USER_PROPERTY: USER}),
        Role.SERVER,
    ),
    (
        mqtt5.UnsubAckPacket(7, [mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED]),
        packets.Unsuback(7, [0x11]),
        Role.CLIENT,
    ),
    (mqtt5.PingReqPacket(), packets.Pingreq(), Role.SERVER),
    (mqtt5.PingRespPacket(), packets.Pingresp(), Role.CLIENT),
    (mqtt5.DisconnectPacket(), packets.Disconnect(), Role.SERVER),
    (
        mqtt5.DisconnectPacket(
            reason_code=mqtt5.DisconnectReasonCode.SERVER_BUSY, reason_str="x", server_reference="y"
        ),
        packets.Disconnect(0x89, {P.REASON_STRING: "x", P.SERVER_REFERENCE: "y"}),
        Role.CLIENT,
    ),
    (
        mqtt5.AuthPacket(
            reason_code=mqtt5.AuthReasonCode.CONTINUE_AUTHENTICATION,
            authentication_method="m",
            authentication_data=b"d",
        ),
        packets.Auth(0x18, {P.AUTHENTICATION_METHOD: "m", P.AUTHENTICATION_DATA: b"d"}),
        Role.SERVER,
    ),
]
for _theirs, _codes, _ours in (
    (mqtt5.PubAckPacket, mqtt5.PubAckReasonCode, packets.Puback),
    (mqtt5.PubRecPacket, mqtt5.PubRecReasonCode, packets.Pubrec),
    (mqtt5.PubRelPacket, mqtt5.PubRelReasonCode, packets.Pubrel),
    (mqtt5.PubCompPacket, mqtt5.PubCompReasonCode, packets.Pubcomp),
):
    RUST.extend(
        (_theirs(513, reason_code=_codes(code)), _ours(513, code), Role.SERVER)
        for code in sorted(CODES[_ours.packet_type])
    )
    RUST.append(
        (
            _theirs(513, reason_str="x", user_properties=USER),
            _ours(513, 0, {P.REASON_STRING: "x", P.USER_PROPERTY: USER}),
            Role.SERVER,
        )
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "role"), RUST, ids=[type(row[0]).__name__ for row in RUST]
)
def test_mqtt5_reads_what_we_write_and_the_reverse(theirs: Any, ours: Any, role: Role) -> None:
    (event,) = Decoder(role, version=5).feed(theirs.write())
    plain_ack = isinstance(ours, packets.Puback) and not ours.code and not ours.properties
    assert event == ([b"\2\1"] if plain_ack else ours)
    encoded = encode(ours, 5)
    read, size = mqtt5.read(memoryview(encoded))
    assert size == len(encoded)
    assert read == theirs
    # Order of properties is free, so sizes are compared, and bytes where there are none.
    assert len(encoded) == len(theirs.write())
    if not getattr(ours, "properties", None):
        assert encoded == theirs.write()


@settings(max_examples=60)
@given(
    topic=st.sampled_from(["a", "ä/b", "x" * 200]),
    payload=st.binary(max_size=300),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    dup=st.booleans(),
    packet_id=st.integers(1, 65_535),
    full=st.booleans(),
)
def test_mqtt5_publish(
    topic: str, payload: bytes, qos: int, retain: bool, dup: bool, packet_id: int, full: bool
) -> None:
    theirs = mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS(qos),
        retain=retain,
        packet_id=packet_id if qos else None,
        duplicate=bool(qos and dup),
        **(RUST_MESSAGE if full else {}),
    )
    block = properties.encode(MESSAGE_PROPERTIES if full else {}, PacketType.PUBLISH)
    wire_id = packet_id.to_bytes(2, "big") if qos else b""
    flags = (qos and dup) << 3 | qos << 1 | retain
    (event,) = Decoder(Role.CLIENT, version=5).feed(theirs.write())
    assert isinstance(event, tuple)
    assert (event[0], event[1], event[2], event[4]) == (flags, topic.encode(), wire_id, payload)
    decoded = properties.decode(event[3], 0, len(event[3]), PacketType.PUBLISH)
    assert decoded == (MESSAGE_PROPERTIES if full else {})
    ours = encode_publish(0x30 | flags, topic.encode(), wire_id, block, payload, 5)
    assert mqtt5.read(memoryview(ours)) == (theirs, len(ours))


def test_mqtt5_refuses_what_we_refuse() -> None:
    """A few classes of malformed packets on which both agree."""
    for text in (
        "36 05 0001 61 0001",  # QoS 3
        "20 03 02 00 00",  # reserved CONNACK flags
        "40 03 0001 42",  # unknown reason code
        "e0 03 00 01 01",  # property not for DISCONNECT
        "f0 ff ff ff ff 01",  # five bytes of length
    ):
        data = bytes.fromhex(text.replace(" ", ""))
        role = Role.CLIENT if data[0] == 0x20 else Role.SERVER
        assert Decoder(role, version=5).feed(data)[-1].reason >= 0x80  # type: ignore[union-attr]
        with pytest.raises((ValueError, IndexError)):
            mqtt5.read(memoryview(data))


class Paho:
    """A paho client whose packets are caught instead of sent."""

    def __init__(self, version: int, **options: Any) -> None:
        self.sent: list[bytes] = []
        if version < 5:
            options.setdefault("clean_session", True)
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id="paho",
            protocol=paho.MQTTProtocolVersion(version),
            **options,
        )
        self.client._sock = object()
        self.client._packet_queue = self._catch

    def _catch(self, command: int, packet: bytes, mid: int, qos: int, info: Any = None) -> int:
        self.sent.append(bytes(packet))
        return 0

    def close(self) -> None:
        self.client._sock = None


@pytest.fixture(params=[3, 4, 5])
def peer(request: pytest.FixtureRequest) -> Any:
    peer = Paho(request.param)
    peer.version = request.param
    yield peer
    peer.close()


def paho_properties(kind: int, **values: Any) -> PahoProperties:
    found = PahoProperties(kind)
    for name, value in values.items():
        setattr(found, name, value)
    return found


def check(peer: Any, ours: Any) -> None:
    """The last packet of paho is ours, and ours is paho's."""
    data = peer.sent[-1]
    assert Decoder(Role.SERVER, version=peer.version).feed(data) == [ours]
    assert encode(ours, peer.version) == data


def test_paho_connect(peer: Any) -> None:
    client, version = peer.client, peer.version
    client.username_pw_set("ü", "p\0w")
    client.will_set("w/ä", b"gone", 1, True)
    client._clean_start = True
    client._send_connect(60)
    will = packets.Will("w/ä".encode(), b"gone", 1, True)
    check(peer, packets.Connect("paho", version, True, 60, "ü", b"p\0w", will))


def test_paho_bridge() -> None:
    for version in (3, 4):
        peer: Any = Paho(version, clean_session=False)
        peer.version = version
        peer.client.enable_bridge_mode()
        peer.client._send_connect(1)
        check(peer, packets.Connect("paho", version, False, 1, bridge=True))
        peer.close()


def test_paho_subscribe(peer: Any) -> None:
    options = packets.SubscribeOptions(1)
    if peer.version == 5:
        options = packets.SubscribeOptions(1, True, True, 2)
        peer.client._send_subscribe(0, [(b"a/#", PahoOptions(1, True, True, 2))])
    else:
        peer.client._send_subscribe(0, [(b"a/#", 1)])
    check(peer, packets.Subscribe(1, [(b"a/#", options)]))
    peer.client._send_unsubscribe(0, [b"a/#", b"+"])
    check(peer, packets.Unsubscribe(2, [b"a/#", b"+"]))


def test_paho_small_packets(peer: Any) -> None:
    client = peer.client
    client._send_puback(9)
    assert Decoder(Role.SERVER, version=peer.version).feed(peer.sent[-1]) == [[b"\0\x09"]]
    assert encode(packets.Puback(9), peer.version) == peer.sent[-1]
    for send, record in (
        (client._send_pubrec, packets.Pubrec),
        (client._send_pubrel, packets.Pubrel),
        (client._send_pubcomp, packets.Pubcomp),
    ):
        send(9)
        check(peer, record(9))
    client._send_pingreq()
    check(peer, packets.Pingreq())
    client._send_disconnect()
    check(peer, packets.Disconnect())


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, 130, 20_000])
def test_paho_publish(peer: Any, qos: int, size: int) -> None:
    block, props = b"", None
    if peer.version == 5:
        block = properties.encode(MESSAGE_PROPERTIES, PacketType.PUBLISH)
        props = paho_properties(
            PacketTypes.PUBLISH,
            PayloadFormatIndicator=1,
            MessageExpiryInterval=60,
            ContentType="text/plain",
            ResponseTopic="answer/here",
            CorrelationData=b"\0\1\2",
            UserProperty=USER,
        )
    peer.client._send_publish(7, b"t/\xc3\xa4", bytes(size), qos, True, False, None, props)
    wire_id = b"\0\7" if qos else b""
    (event,) = Decoder(Role.SERVER, version=peer.version).feed(peer.sent[-1])
    assert isinstance(event, tuple)
    assert event[:3] == (qos << 1 | 1, b"t/\xc3\xa4", wire_id)
    assert event[4] == bytes(size)
    decoded = properties.decode(event[3], 0, len(event[3]), PacketType.PUBLISH)
    assert decoded == (MESSAGE_PROPERTIES if block else {})
    ours = encode_publish(0x30 | event[0], event[1], event[2], event[3], event[4], peer.version)
    assert ours == peer.sent[-1]


def body(packet: bytes) -> bytes:
    at = 2
    while packet[at - 1] & 128:
        at += 1
    return packet[at:]


def test_paho_reads_a_server(peer: Any) -> None:
    version = peer.version
    theirs = paho.MQTTProtocolVersion(version)
    refused = 0x87 if version == 5 else 5
    for record in (packets.Connack(version > 3), packets.Connack(False, refused)):
        data = encode(record, version)
        connack = paho_packet.decode_connack(data[0], body(data), theirs)
        assert connack.flags == int(record.session_present)
        assert connack.reason.value == (0x87 if record.code else 0)
    data = encode(packets.Suback(513, [2, 0x80]), version)
    suback = paho_packet.decode_suback(data[0], body(data), theirs)
    assert (suback.mid, [code.value for code in suback.reason_codes]) == (513, [2, 0x80])
    data = encode(packets.Unsuback(513, [0x11]), version)
    assert paho_packet.decode_unsuback(data[0], body(data), theirs).mid == 513


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_paho_reads_a_publish(peer: Any, qos: int) -> None:
    version = peer.version
    block = b""
    if version == 5:
        block = properties.encode(MESSAGE_PROPERTIES, PacketType.PUBLISH)
    wire_id = b"\x02\x01" if qos else b""
    data = encode_publish(0x31 | qos << 1, b"t/x", wire_id, block, b"payload" * 40, version)
    theirs = paho.MQTTProtocolVersion(version)
    publish = paho_packet.decode_publish(data[0], body(data), theirs)
    assert (publish.qos, publish.retain, publish.topic) == (qos, True, b"t/x")
    assert publish.payload == b"payload" * 40
    if qos:
        assert publish.mid == 513
    if version == 5:
        assert publish.properties.ResponseTopic == "answer/here"
        assert publish.properties.UserProperty == USER
