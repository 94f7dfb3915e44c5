"""Windows and identifiers of QoS 1 and 2."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isthmus.errors import LocalProtocolError, ProtocolViolation
from isthmus.mqtt.codec import encode_publish
from isthmus.mqtt.inflight import Received, Window


def publish(qos: int, packet_id: bytes) -> bytes:
    return encode_publish(0x30 | qos << 1, b"t", packet_id, b"", packet_id, 4)


class WindowMachine(RuleBasedStateMachine):
    """The window against two plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(limit=12)
        self.sent: list[tuple[bytes, int, int]] = []  # id, QoS, number; no PUBACK or PUBREC yet
        self.released: list[bytes] = []
        self.number = 0

    def in_use(self) -> set[bytes]:
        return {entry[0] for entry in self.sent} | set(self.released)

    @precondition(lambda self: len(self.sent) + len(self.released) < 12)
    @rule(qos=st.sampled_from([1, 2]), how=st.sampled_from(["add", "directly", "from free"]))
    def send(self, qos: int, how: str) -> None:
        self.number += 1
        free = self.window.free
        packet_id = free.pop() if how == "from free" and free else self.window.next_id()
        assert packet_id != b"\0\0"
        assert packet_id not in self.in_use()
        entry = (publish(qos, packet_id), self.number)
        if how == "add":
            self.window.add(packet_id, entry)
        else:
            self.window.entries[packet_id] = entry
        self.sent.append((packet_id, qos, self.number))

    @rule()
    def change_its_mind(self) -> None:
        """An identifier that was not used after all is the next one again."""
        packet_id = self.window.next_id()
        self.window.free.append(packet_id)
        assert self.window.next_id() == packet_id
        self.window.free.append(packet_id)

    @rule(data=st.data())
    def puback(self, data: st.DataObject) -> None:
        ones = {packet_id: number for packet_id, qos, number in self.sent if qos == 1}
        chosen = data.draw(st.lists(st.sampled_from([*ones, b"\xff\xff"]), max_size=4))
        expected = [ones[one] for one in dict.fromkeys(chosen) if one in ones]
        assert [entry[1] for entry in self.window.acked(chosen)] == expected
        self.sent = [entry for entry in self.sent if entry[0] not in chosen]

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), refused=st.booleans())
    def pubrec(self, data: st.DataObject, refused: bool) -> None:
        entry = data.draw(st.sampled_from(self.sent))
        packet_id, qos, number = entry
        take = self.window.refused if refused else self.window.recorded
        if qos == 1:
            with pytest.raises(ProtocolViolation):
                take(packet_id)
            return
        taken = take(packet_id)
        assert taken is not None
        assert taken[1] == number
        self.sent.remove(entry)
        if not refused:
            self.released.append(packet_id)
        assert take(packet_id) is None  # a repetition

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def pubcomp(self, data: st.DataObject) -> None:
        packet_id = data.draw(st.sampled_from(self.released))
        assert self.window.completed(packet_id)
        assert not self.window.completed(packet_id)
        self.released.remove(packet_id)

    @rule()
    def lose_the_session(self) -> None:
        entries = self.window.clear()
        assert [entry[1] for entry in entries] == [number for _, _, number in self.sent]
        self.sent.clear()
        self.released.clear()

    @invariant()
    def same_content_in_order(self) -> None:
        """MQTT-4.6.0-1, -4: what would be sent again is in the order of sending."""
        window = self.window
        in_flight = len(self.sent) + len(self.released)
        assert len(window) == in_flight
        assert window.full == (in_flight >= 12)
        assert list(window.entries) == [entry[0] for entry in self.sent]
        assert list(window.releasing) == self.released


TestWindow: Any = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_puback_for_a_qos_2_message() -> None:
    window = Window()
    window.add(b"\0\1", (publish(2, b"\0\1"),))
    with pytest.raises(ProtocolViolation) as caught:
        window.acked([b"\0\1"])
    assert caught.value.reason == 0x82
    assert list(window.entries) == [b"\0\1"]


def test_mqtt_2_2_1_3_all_identifiers_in_turn() -> None:
    window = Window()
    ids = [window.next_id() for _ in range(65_535)]
    assert ids == [number.to_bytes(2, "big") for number in range(1, 65_536)]
    assert window.next_id() == b"\0\1"


def test_mqtt_2_2_1_3_the_last_free_identifier_is_found() -> None:
    window = Window()
    for _ in range(65_534):
        window.entries[window.next_id()] = (b"\x32",)
    free = window.next_id()
    assert free == b"\xff\xff"
    window.entries[free] = (b"\x32",)
    with pytest.raises(LocalProtocolError):
        window.next_id()
    window.acked([b"\x12\x34"])
    assert window.next_id() == b"\x12\x34"


def test_pubrec_for_an_unknown_identifier() -> None:
    window = Window()
    assert window.recorded(b"\0\1") is None
    assert window.refused(b"\0\1") is None
    assert not window.releasing


def test_windows_share_their_identifiers() -> None:
    """Ten thousand sessions do not hold ten thousand tables."""
    assert Window().next_id() is Window().next_id()


class TestReceived:
    def test_mqtt_4_3_3_10_a_repetition_is_not_delivered(self) -> None:
        received = Received()
        assert received.add(b"\0\1")
        for _ in range(1000):  # CVE-2023-28366: takes no memory
            assert not received.add(b"\0\1")
        assert len(received) == 1
        assert b"\0\1" in received

    def test_mqtt_4_3_3_12_an_identifier_is_new_after_pubrel(self) -> None:
        received = Received()
        received.add(b"\0\1")
        assert received.release(b"\0\1")
        assert not received.release(b"\0\1")
        assert received.add(b"\0\1")

    def test_mqtt_3_3_4_8_receive_maximum(self) -> None:
        received = Received(limit=2)
        received.add(b"\0\1")
        received.add(b"\0\2")
        assert not received.add(b"\0\2")
        with pytest.raises(ProtocolViolation) as caught:
            received.add(b"\0\3")
        assert caught.value.reason == 0x93
        assert list(received) == [b"\0\1", b"\0\2"]
        received.clear()
        assert len(received) == 0
