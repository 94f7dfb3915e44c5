"""Primitive types: round trips, limits, and what a reader must refuse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt_strategies import unfit

from isthmus.errors import LocalProtocolError, MalformedPacket
from isthmus.mqtt import wire

VARINTS = [  # the table of section 1.5.5
    (0, "00"),
    (127, "7f"),
    (128, "8001"),
    (16_383, "ff7f"),
    (16_384, "808001"),
    (2_097_151, "ffff7f"),
    (2_097_152, "80808001"),
    (268_435_455, "ffffff7f"),
]


@pytest.mark.parametrize(("value", "text"), VARINTS)
def test_varint_table(value: int, text: str) -> None:
    data = bytes.fromhex(text)
    assert wire.varint(value) == data
    assert wire.read_varint(b"x" + data, 1, 1 + len(data)) == (value, 1 + len(data))


@settings(max_examples=100)
@given(st.integers(0, wire.MAX_VARINT))
def test_varint_round_trip(value: int) -> None:
    data = wire.varint(value)
    assert wire.read_varint(data, 0, len(data)) == (value, len(data))
    if value < len(wire.VARINT):
        assert wire.VARINT[value] == data


@pytest.mark.parametrize("text", ["", "80", "8080", "ffffffff", "ffffffff01", "8000", "808000"])
def test_mqtt_1_5_5_1_illegal_varints(text: str) -> None:
    data = bytes.fromhex(text)
    with pytest.raises(MalformedPacket):
        wire.read_varint(data, 0, len(data))


@pytest.mark.parametrize("value", [-1, wire.MAX_VARINT + 1])
def test_varints_that_do_not_fit(value: int) -> None:
    with pytest.raises(LocalProtocolError):
        wire.varint(value)


@settings(max_examples=100)
@given(st.text(max_size=20))
def test_strings(text: str) -> None:
    try:
        data = wire.string(text)
    except LocalProtocolError:
        assert "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text)
        return
    if unfit(text):
        with pytest.raises(MalformedPacket):
            wire.read_string(data, 0, len(data))
        return
    assert wire.read_string(data, 0, len(data)) == (text, len(data))
    assert wire.read_utf8(data, 0, len(data)) == (text.encode(), len(data))


@settings(max_examples=100)
@given(st.binary(max_size=20))
def test_mqtt_1_5_4_1_both_readers_agree(raw: bytes) -> None:
    data = wire.binary(raw)
    outcomes = []
    for read in (wire.read_string, wire.read_utf8):
        try:
            outcomes.append(read(data, 0, len(data)))
        except MalformedPacket:
            outcomes.append(None)
    one, two = outcomes
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert one[0].encode() == two[0] == raw  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    ["\x01", "a\x1f", "\x7f", "\x80", "\x9f", "\ufdd0", "\ufdef", "\ufffe", "\uffff", "\U0001ffff"],
)
def test_mqtt_1_5_4_control_characters_and_non_characters_are_refused(text: str) -> None:
    """A far side may close on them: one such message would block a bridge for ever."""
    assert unfit(text)
    with pytest.raises(MalformedPacket):
        wire.check_utf8(text.encode())


@pytest.mark.parametrize("text", [" ~", "\xa0", "\ufdcf\ufdf0", "\ufffd", "\U0001fffd", "\ufeff"])
def test_mqtt_1_5_4_their_neighbours_are_not(text: str) -> None:
    wire.check_utf8(text.encode())


@pytest.mark.parametrize(
    "read", [wire.read_byte, wire.read_u16, wire.read_u32, wire.read_binary, wire.read_string]
)
def test_readers_never_pass_the_end(read: object) -> None:
    data = b"\0\3abcdef"
    for end in range(len(data)):
        try:
            _, at = read(data, 0, end)  # type: ignore[operator]
        except MalformedPacket:
            continue
        assert at <= end
