"""Reason codes: the table, its mirror, and the way back to MQTT 3.1.1."""

from __future__ import annotations

import pytest

from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.properties import PropertyId
from isthmus.mqtt.reasons import (
    CODES,
    PACKETS,
    ReasonCode,
    ReturnCode,
    describe,
    explanation,
    return_code,
)


def test_every_code_has_packets_and_a_sentence() -> None:
    assert set(PACKETS) == set(ReasonCode)
    assert len(PACKETS) == 43
    for code in ReasonCode:
        assert "unknown" not in describe(code)
    sentences = [describe(code) for code in ReasonCode]
    assert len(set(sentences)) == len(sentences)


def test_codes_mirror_packets() -> None:
    for kind in PacketType:
        assert CODES[kind] == {code for code, kinds in PACKETS.items() if kind in kinds}
    assert CODES[PacketType.PUBACK] == {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
    assert CODES[PacketType.PUBREL] == CODES[PacketType.PUBCOMP] == {0, 0x92}
    assert CODES[PacketType.AUTH] == {0, 0x18, 0x19}
    assert not CODES[PacketType.PUBLISH]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (0, 0),
        (0x84, 1),
        (0x85, 2),
        (0x88, 3),
        (0x89, 3),
        (0x86, 4),
        (0x87, 5),
        (0x8A, 5),
        (0x80, 3),
    ],
)
def test_return_codes(reason: int, expected: int) -> None:
    assert return_code(reason) is ReturnCode(expected)


def test_explanations() -> None:
    assert explanation([0, 1, 2]) == {}
    assert explanation((0x87,)) == {PropertyId.REASON_STRING: "not authorized"}
    both = {PropertyId.REASON_STRING: "a quota is used up; not authorized"}
    assert explanation([0x97, 0, 0x87, 0x97]) == both


def test_descriptions() -> None:
    assert describe(0x87) == "0x87 not authorized"
    assert describe(4, 4) == "4 user name or password is wrong"
    assert describe(6, 4) == "6 unknown return code"
    assert describe(0x80, 4).startswith("0x80")
    assert describe(0x42) == "0x42 unknown reason code"
