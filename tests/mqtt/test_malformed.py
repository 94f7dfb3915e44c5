"""Every class of malformed or forbidden packet, its reason code and its answer."""

from __future__ import annotations

from typing import Any

import pytest

from isthmus.errors import MalformedPacket, MQTTError, ProtocolViolation
from isthmus.mqtt.aliases import InboundAliases
from isthmus.mqtt.codec import Decoder
from isthmus.mqtt.packet_type import PacketType, Role
from isthmus.mqtt.wire import varint

SERVER, CLIENT = Role.SERVER, Role.CLIENT

# name with the clause, version, our role, reason, bytes; "__" is the right remaining length
CASES: list[tuple[str, int, Role, int, str]] = [
    # fixed header
    ("type_0_is_reserved", 5, SERVER, 0x81, "00 00"),
    ("type_15_in_mqtt_3_1_1", 4, SERVER, 0x81, "f0 00"),
    ("mqtt_2_1_3_1_flags_of_puback", 4, SERVER, 0x81, "41 02 0001"),
    ("mqtt_2_1_3_1_flags_of_pingreq", 5, SERVER, 0x81, "c1 00"),
    ("mqtt_3_6_1_1_flags_of_pubrel", 5, SERVER, 0x81, "60 02 0001"),
    ("mqtt_3_8_1_1_flags_of_subscribe", 5, SERVER, 0x81, "80 __ 0001 00 0001 61 00"),
    ("mqtt_3_10_1_1_flags_of_unsubscribe", 4, SERVER, 0x81, "a0 __ 0001 0001 61"),
    ("mqtt_3_14_1_1_flags_of_disconnect", 5, SERVER, 0x81, "e1 00"),
    ("mqtt_3_15_1_1_flags_of_auth", 5, SERVER, 0x81, "f1 00"),
    ("mqtt_3_1_2_12_flags_of_connect", 5, SERVER, 0x81, "11 00"),
    ("five_bytes_of_length", 4, SERVER, 0x81, "30 ff ff ff ff 01"),
    ("five_bytes_of_length_cut_off", 4, SERVER, 0x81, "30 80 80 80 80"),
    ("mqtt_1_5_5_1_length_is_not_minimal", 5, SERVER, 0x81, "30 84 00 0001 61 00"),
    ("too_large_by_length_alone", 4, SERVER, 0x95, "30 ff ff ff 7f"),
    ("subscribe_too_large_unread", 4, SERVER, 0x95, "82 ff ff ff 7f"),
    # direction
    ("connack_to_a_server", 5, SERVER, 0x82, "20 03 00 00 00"),
    ("suback_to_a_server", 4, SERVER, 0x82, "90 03 0001 00"),
    ("unsuback_to_a_server", 4, SERVER, 0x82, "b0 02 0001"),
    ("pingresp_to_a_server", 4, SERVER, 0x82, "d0 00"),
    ("connect_to_a_client", 4, CLIENT, 0x82, "10 __ 0004 4d515454 04 02 0000 0000"),
    ("subscribe_to_a_client", 4, CLIENT, 0x82, "82 __ 0001 0001 61 00"),
    ("unsubscribe_to_a_client", 4, CLIENT, 0x82, "a2 __ 0001 0001 61"),
    ("pingreq_to_a_client", 4, CLIENT, 0x82, "c0 00"),
    ("disconnect_to_a_3_1_1_client", 4, CLIENT, 0x81, "e0 00"),
    # PUBLISH
    ("mqtt_3_3_1_4_qos_3", 4, SERVER, 0x81, "36 __ 0001 61 0001"),
    (
        "mqtt_3_3_1_4_qos_3_in_a_will",
        4,
        SERVER,
        0x81,
        "10 __ 0004 4d515454 04 1e 0000 0000 0000 0000",
    ),
    ("mqtt_3_3_1_2_dup_with_qos_0", 5, SERVER, 0x81, "38 __ 0001 61 00"),
    ("mqtt_4_7_3_1_empty_topic", 4, SERVER, 0x82, "30 __ 0000"),
    ("empty_topic_without_alias", 5, SERVER, 0x82, "30 __ 0000 00"),
    ("mqtt_3_3_2_2_wildcard_plus", 4, SERVER, 0x90, "30 __ 0003 612f2b"),
    ("mqtt_3_3_2_2_wildcard_hash", 5, SERVER, 0x90, "30 __ 0001 23 00"),
    ("mqtt_1_5_4_1_topic_not_utf8", 5, SERVER, 0x81, "30 __ 0001 ff 00"),
    ("mqtt_1_5_4_1_surrogate", 5, SERVER, 0x81, "30 __ 0003 eda080 00"),
    ("mqtt_1_5_4_1_overlong", 5, SERVER, 0x81, "30 __ 0002 c0af 00"),
    ("mqtt_1_5_4_2_nul_in_topic", 4, SERVER, 0x81, "30 __ 0003 610062"),
    ("topic_longer_than_packet", 4, SERVER, 0x81, "30 __ 0005 61"),
    ("publish_without_topic", 4, SERVER, 0x81, "30 00"),
    ("publish_of_one_byte", 4, SERVER, 0x81, "30 01 00"),
    ("publish_qos_1_without_identifier", 4, SERVER, 0x81, "32 __ 0001 61"),
    ("publish_qos_1_with_half_an_identifier", 4, SERVER, 0x81, "32 __ 0001 61 00"),
    ("mqtt_2_2_1_3_identifier_0", 4, SERVER, 0x82, "32 __ 0001 61 0000"),
    ("mqtt_2_2_2_1_publish_without_property_length", 5, SERVER, 0x81, "30 __ 0001 61"),
    ("properties_longer_than_packet", 5, SERVER, 0x81, "30 __ 0001 61 05 01 01"),
    ("property_length_of_five_bytes", 5, SERVER, 0x81, "30 __ 0001 61 80 80 80 80 01"),
    ("property_length_cut_off", 5, SERVER, 0x81, "30 __ 0001 61 80"),
    ("property_length_not_minimal", 5, SERVER, 0x81, "30 __ 0001 61 82 00 01 01"),
    ("unknown_property", 5, SERVER, 0x81, "30 __ 0001 61 02 7f 01"),
    ("property_of_another_packet", 5, SERVER, 0x81, "30 __ 0001 61 03 21 0001"),
    ("property_cut_off", 5, SERVER, 0x81, "30 __ 0001 61 02 02 00"),
    ("property_twice", 5, SERVER, 0x82, "30 __ 0001 61 04 01 01 01 01"),
    ("payload_format_2", 5, SERVER, 0x82, "30 __ 0001 61 02 01 02"),
    ("mqtt_3_3_2_14_wildcard_in_response_topic", 5, SERVER, 0x82, "30 __ 0001 61 04 08 0001 2b"),
    ("mqtt_3_3_2_13_response_topic_not_utf8", 5, SERVER, 0x81, "30 __ 0001 61 04 08 0001 ff"),
    ("mqtt_1_5_7_1_user_property_not_utf8", 5, SERVER, 0x81, "30 __ 0001 61 07 26 0001 61 0001 ff"),
    ("mqtt_1_5_4_2_nul_in_user_property", 5, SERVER, 0x81, "30 __ 0001 61 07 26 0001 00 0001 61"),
    ("user_property_without_value", 5, SERVER, 0x81, "30 __ 0001 61 04 26 0001 61"),
    ("mqtt_3_3_2_8_alias_0", 5, SERVER, 0x94, "30 __ 0001 61 03 23 0000"),
    ("mqtt_3_3_2_9_alias_above_maximum", 5, SERVER, 0x94, "30 __ 0001 61 03 23 0005"),
    ("unknown_alias", 5, SERVER, 0x82, "30 __ 0000 03 23 0001"),
    ("alias_with_an_illegal_topic", 5, SERVER, 0x90, "30 __ 0001 2b 03 23 0001"),
    ("mqtt_3_3_4_6_subscription_identifier", 5, SERVER, 0x82, "30 __ 0001 61 02 0b 01"),
    ("subscription_identifier_0", 5, CLIENT, 0x82, "30 __ 0001 61 02 0b 00"),
    # acknowledgements
    ("puback_without_identifier", 4, SERVER, 0x81, "40 00"),
    ("puback_with_half_an_identifier", 4, SERVER, 0x81, "40 01 01"),
    ("puback_identifier_0", 4, SERVER, 0x82, "40 02 0000"),
    ("puback_with_a_code_in_3_1_1", 4, SERVER, 0x81, "40 03 0001 00"),
    ("mqtt_3_4_2_1_puback_code", 5, SERVER, 0x82, "40 03 0001 92"),
    ("mqtt_3_5_2_1_pubrec_code", 5, SERVER, 0x82, "50 03 0001 01"),
    ("mqtt_3_6_2_1_pubrel_code", 5, SERVER, 0x82, "62 03 0001 10"),
    ("mqtt_3_7_2_1_pubcomp_code", 5, SERVER, 0x82, "70 03 0001 80"),
    ("puback_with_something_behind", 5, SERVER, 0x81, "40 05 0001 00 00 00"),
    ("puback_property_not_for_it", 5, SERVER, 0x81, "40 06 0001 00 02 0101"),
    # SUBSCRIBE and its like
    ("subscribe_without_identifier", 4, SERVER, 0x81, "82 00"),
    ("subscribe_identifier_0", 4, SERVER, 0x82, "82 __ 0000 0001 61 00"),
    ("mqtt_3_8_3_2_subscribe_without_filter", 4, SERVER, 0x82, "82 02 0001"),
    ("mqtt_3_8_3_2_subscribe_without_filter_v5", 5, SERVER, 0x82, "82 03 0001 00"),
    ("subscribe_ends_before_the_options", 4, SERVER, 0x81, "82 __ 0001 0001 61"),
    ("mqtt_3_8_3_4_reserved_options_3_1_1", 4, SERVER, 0x81, "82 __ 0001 0001 61 04"),
    ("mqtt_3_8_3_5_reserved_options", 5, SERVER, 0x81, "82 __ 0001 00 0001 61 40"),
    ("subscribe_qos_3", 5, SERVER, 0x82, "82 __ 0001 00 0001 61 03"),
    ("subscribe_retain_handling_3", 5, SERVER, 0x82, "82 __ 0001 00 0001 61 30"),
    (
        "mqtt_3_8_3_4_no_local_on_a_share",
        5,
        SERVER,
        0x82,
        "82 __ 0001 00 000a 2473686172652f672f61 04",
    ),
    ("mqtt_4_7_1_1_hash_in_the_middle", 5, SERVER, 0x8F, "82 __ 0001 00 0003 232f61 00"),
    ("mqtt_4_7_1_2_plus_in_a_level", 5, SERVER, 0x8F, "82 __ 0001 00 0002 612b 00"),
    ("mqtt_4_7_3_1_empty_filter", 5, SERVER, 0x8F, "82 __ 0001 00 0000 00"),
    (
        "mqtt_4_8_2_1_share_without_filter",
        5,
        SERVER,
        0x8F,
        "82 __ 0001 00 0009 2473686172652f672f 00",
    ),
    ("subscribe_two_identifiers", 5, SERVER, 0x82, "82 __ 0001 04 0b01 0b02 0001 61 00"),
    ("mqtt_3_10_3_2_unsubscribe_without_filter", 4, SERVER, 0x82, "a2 02 0001"),
    ("unsubscribe_cut_off", 4, SERVER, 0x81, "a2 __ 0001 0005 61"),
    ("suback_without_codes", 4, CLIENT, 0x82, "90 02 0001"),
    ("mqtt_3_9_3_2_suback_code", 4, CLIENT, 0x82, "90 03 0001 03"),
    ("mqtt_3_9_3_2_suback_code_v5", 5, CLIENT, 0x82, "90 04 0001 00 03"),
    ("unsuback_without_codes", 5, CLIENT, 0x82, "b0 03 0001 00"),
    ("unsuback_with_codes_in_3_1_1", 4, CLIENT, 0x81, "b0 03 0001 00"),
    # the rest
    ("connack_of_one_byte", 4, CLIENT, 0x81, "20 01 00"),
    ("mqtt_3_2_2_1_connack_flags", 4, CLIENT, 0x81, "20 02 02 00"),
    ("connack_without_properties", 5, CLIENT, 0x81, "20 02 00 00"),
    ("connack_property_length", 5, CLIENT, 0x81, "20 03 00 00 05"),
    ("mqtt_3_2_2_8_connack_code", 5, CLIENT, 0x82, "20 03 00 8e 00"),
    ("connack_return_code_6", 4, CLIENT, 0x82, "20 02 00 06"),
    ("mqtt_3_2_2_6_session_present_with_a_refusal", 4, CLIENT, 0x82, "20 02 01 05"),
    ("receive_maximum_0", 5, CLIENT, 0x82, "20 06 00 00 03 21 0000"),
    ("maximum_packet_size_0", 5, CLIENT, 0x82, "20 08 00 00 05 27 00000000"),
    ("maximum_qos_2", 5, CLIENT, 0x82, "20 05 00 00 02 24 02"),
    ("pingreq_with_a_body", 4, SERVER, 0x81, "c0 01 00"),
    ("disconnect_with_a_body_in_3_1_1", 4, SERVER, 0x81, "e0 01 00"),
    ("mqtt_3_14_2_1_disconnect_code", 5, SERVER, 0x82, "e0 01 01"),
    ("mqtt_3_14_2_2_session_expiry_from_a_server", 5, CLIENT, 0x82, "e0 07 00 05 11 00000001"),
    ("mqtt_3_15_2_1_auth_code", 5, SERVER, 0x82, "f0 02 01 00"),
    ("auth_without_a_method", 5, SERVER, 0x82, "f0 02 18 00"),
    ("auth_without_property_length", 5, SERVER, 0x81, "f0 01 18"),
    ("authentication_data_without_method", 5, CLIENT, 0x82, "20 07 00 00 04 16 0001 64"),
]

CONNECTS: list[tuple[str, int, str]] = [
    ("mqtt_3_1_0_1_publish_first", 0x82, "30 __ 0001 61"),
    ("pingreq_first", 0x82, "c0 00"),
    ("announced_subscribe_first", 0x82, "82 ff ff ff 7f"),
    ("http", 0x82, "47 45 54 20 2f"),
    ("tls_client_hello", 0x81, "16 03 01 02 00"),
    ("empty_connect", 0x81, "10 00"),
    ("mqtt_3_1_2_1_protocol_name", 0x84, "10 __ 0004 41424344 04 02 0000 0001 61"),
    ("mqtt_3_1_2_2_level_6", 0x84, "10 __ 0004 4d515454 06 02 0000 0001 61"),
    ("mqtt_3_1_2_2_level_0", 0x84, "10 __ 0004 4d515454 00 02 0000 0001 61"),
    ("level_3_with_the_new_name", 0x84, "10 __ 0004 4d515454 03 02 0000 0001 61"),
    ("level_4_with_the_old_name", 0x84, "10 __ 0006 4d514973 6470 04 02 0000 0001 61"),
    ("bridge_bit_in_v5", 0x84, "10 __ 0004 4d515454 85 02 0000 0001 61"),
    ("mqtt_3_1_2_3_reserved_flag", 0x81, "10 __ 0004 4d515454 04 03 0000 0001 61"),
    ("mqtt_3_1_2_14_will_qos_3", 0x81, "10 __ 0004 4d515454 04 1e 0000 0001 61 0001 74 0000"),
    ("mqtt_3_1_2_7_will_qos_without_will", 0x81, "10 __ 0004 4d515454 05 0a 0000 00 0001 61"),
    ("mqtt_3_1_2_8_will_retain_without_will", 0x81, "10 __ 0004 4d515454 04 22 0000 0001 61"),
    ("mqtt_3_1_2_22_password_without_user", 0x81, "10 __ 0004 4d515454 04 42 0000 0001 61 0001 70"),
    ("mqtt_3_1_2_9_will_missing", 0x81, "10 __ 0004 4d515454 04 06 0000 0001 61"),
    ("mqtt_3_1_2_17_user_name_missing", 0x81, "10 __ 0004 4d515454 04 82 0000 0001 61"),
    ("mqtt_3_1_2_19_password_missing", 0x81, "10 __ 0004 4d515454 04 c2 0000 0001 61 0001 75"),
    ("mqtt_3_1_2_16_user_name_too_many", 0x81, "10 __ 0004 4d515454 04 02 0000 0001 61 0001 75"),
    ("mqtt_3_1_3_4_client_id_not_utf8", 0x81, "10 __ 0004 4d515454 04 02 0000 0001 ff"),
    ("client_id_with_nul", 0x81, "10 __ 0004 4d515454 04 02 0000 0001 00"),
    ("mqtt_3_1_3_8_no_client_id_no_clean_session", 0x85, "10 __ 0004 4d515454 04 00 0000 0000"),
    ("no_client_id_in_3_1", 0x85, "10 __ 0006 4d514973 6470 03 02 0000 0000"),
    ("mqtt_3_1_3_11_user_name_not_utf8", 0x81, "10 __ 0004 4d515454 04 82 0000 0001 61 0001 ff"),
    ("will_topic_wildcard", 0x90, "10 __ 0004 4d515454 04 06 0000 0001 61 0001 23 0000"),
    ("will_topic_empty", 0x90, "10 __ 0004 4d515454 04 06 0000 0001 61 0000 0000"),
    ("will_property_not_for_it", 0x81, "10 __ 0004 4d515454 05 06 0000 00 0001 61 03 230001 0000"),
    ("will_property_cut_off", 0x81, "10 __ 0004 4d515454 05 06 0000 00 0001 61 05 18 00"),
    ("connect_property_length", 0x81, "10 __ 0004 4d515454 05 02 0000 ff"),
    ("receive_maximum_0", 0x82, "10 __ 0004 4d515454 05 02 0000 03 210000 0001 61"),
    ("maximum_packet_size_0", 0x82, "10 __ 0004 4d515454 05 02 0000 05 2700000000 0001 61"),
    ("session_expiry_twice", 0x82, "10 __ 0004 4d515454 05 02 0000 0a 1100000001 1100000001 0000"),
]  # fmt: skip


def packet(text: str) -> bytes:
    data = bytes.fromhex(text.replace("__", "00").replace(" ", ""))
    if "__" in text:
        data = data[:1] + varint(len(data) - 2) + data[2:]
    return data


def refuse(decoder: Decoder, data: bytes, reason: int) -> MQTTError:
    events = decoder.feed(data + b"\x30\x03\0\1a")
    assert len(events) == 1
    (error,) = events
    assert isinstance(error, MalformedPacket if reason == 0x81 else ProtocolViolation), error
    assert error.reason == reason, error
    assert decoder.failed
    assert decoder.feed(b"\x30\x03\0\1a") == []  # nothing after an error
    return error


@pytest.mark.parametrize(
    ("version", "role", "reason", "text"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_malformed(version: int, role: Role, reason: int, text: str) -> None:
    decoder = Decoder(role, version=version, max_packet_size=1 << 20, aliases=InboundAliases(4))
    refuse(decoder, packet(text), reason)


@pytest.mark.parametrize(
    ("reason", "text"), [case[1:] for case in CONNECTS], ids=[case[0] for case in CONNECTS]
)
def test_malformed_connect(reason: int, text: str) -> None:
    decoder = Decoder(SERVER, max_packet_size=1 << 20, first_packet=PacketType.CONNECT)
    refuse(decoder, packet(text), reason)


@pytest.mark.parametrize("text", [case[4] for case in CASES])
def test_the_packet_before_stays_valid(text: str) -> None:
    """What came before the error is delivered."""
    version, role = next((case[1], case[2]) for case in CASES if case[4] == text)
    good = b"\x30\x04\0\1a\0" if version == 5 else b"\x30\x03\0\1a"
    decoder = Decoder(role, version=version, max_packet_size=1 << 20, aliases=InboundAliases(4))
    first, error = decoder.feed(good + packet(text))
    assert first == (0, b"a", b"", b"", b"")
    assert isinstance(error, MQTTError)


def test_mqtt_3_1_0_2_a_second_connect() -> None:
    data = packet("10 __ 0004 4d515454 04 02 0000 0001 61")
    decoder = Decoder(SERVER, first_packet=PacketType.CONNECT)
    assert len(decoder.feed(data)) == 1
    refuse(decoder, data, 0x82)


def test_mqtt_3_2_0_2_a_second_connack() -> None:
    decoder = Decoder(CLIENT, version=4, first_packet=PacketType.CONNACK)
    assert len(decoder.feed(b"\x20\2\0\0")) == 1
    refuse(decoder, b"\x20\2\0\0", 0x82)


def test_publish_instead_of_connack() -> None:
    """NanoMQ #2351."""
    decoder = Decoder(CLIENT, version=4, first_packet=PacketType.CONNACK)
    refuse(decoder, b"\x30\x03\0\1a", 0x82)


def test_mqtt_4_12_0_7_auth_without_a_method_in_connect() -> None:
    decoder = Decoder(SERVER, first_packet=PacketType.CONNECT)
    assert len(decoder.feed(packet("10 __ 0004 4d515454 05 02 0000 00 0001 61"))) == 1
    refuse(decoder, packet("f0 __ 18 04 15 0001 6d"), 0x82)


def test_aliases_that_were_not_allowed() -> None:
    refuse(Decoder(SERVER, version=5), packet("30 __ 0001 61 03 23 0001"), 0x94)


def test_every_cut_of_a_good_packet_is_refused_or_awaited() -> None:
    """A body that is cut short, with a length that says so, is an error and never a crash."""
    goods: list[tuple[Role, int, Any]] = [
        (SERVER, 5, "10 __ 0004 4d515454 05 f6 0001 05 11000000010000 051800000005" + 4 * "000174"),
        (SERVER, 5, "82 __ 0001 02 0b07 0003 612f2b 2e"),
        (SERVER, 5, "32 __ 0001 61 0001 07 26 0001 61 0001 62 7061"),
        (CLIENT, 5, "20 __ 00 00 06 21 0001 22 0002"),
        (SERVER, 4, "10 __ 0004 4d515454 04 f6 0001 0001 61 0001 74 0001 70 0001 75 0001 70"),
    ]  # fmt: skip
    for role, version, text in goods:
        whole = packet(text)
        known = None if whole[0] == 0x10 else version
        (event,) = Decoder(role, version=known).feed(whole)
        assert not isinstance(event, MQTTError)
        body = whole[2:]
        for size in range(len(body)):
            data = whole[:1] + varint(size) + body[:size]
            (event,) = Decoder(role, version=known).feed(data)
            complete = isinstance(event, tuple) and event[4] != body[-2:]  # a shorter payload
            assert complete or isinstance(event, MQTTError), data.hex()
