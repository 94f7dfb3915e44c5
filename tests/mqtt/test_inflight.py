"""Windows and identifiers of QoS 1 and 2."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from isthmus.errors import LocalProtocolError, ProtocolViolation
from isthmus.mqtt.encoder import encode_publish
from isthmus.mqtt.inflight import Window


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
    @rule(qos=st.sampled_from([1, 2]), how=st.sampled_from(["next", "from free"]))
    def send(self, qos: int, how: str) -> None:
        self.number += 1
        free = self.window.free
        packet_id = free.pop() if how == "from free" and free else self.window.next_id()
        assert packet_id != b"\0\0"
        assert packet_id not in self.in_use()
        entry = (publish(qos, packet_id), self.number)
        self.window.entries[packet_id] = entry
        self.sent.append((packet_id, qos, self.number))

    @rule()
    def change_its_mind(self) -> None:
        """An identifier that was not used after all is the next one again."""
        packet_id = self.window.next_id()
        self.window.free.append(packet_id)
        assert self.window.next_id() == packet_id
        self.window.free.append(packet_id)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def acknowledged(self, data: st.DataObject) -> None:
        """PUBACK, or a PUBREC that refuses: the owner takes the entry out."""
        entry = data.draw(st.sampled_from(self.sent))
        assert self.window.entries.pop(entry[0])[1] == entry[2]
        self.sent.remove(entry)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def pubrec(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.sent))
        packet_id, qos, number = entry
        if qos == 1:
            with pytest.raises(ProtocolViolation):
                self.window.recorded(packet_id)
            return
        taken = self.window.recorded(packet_id)
        assert taken is not None
        assert taken[1] == number
        self.sent.remove(entry)
        self.released.append(packet_id)
        assert self.window.recorded(packet_id) is None  # a repetition

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
        assert len(window) == len(self.sent) + len(self.released)
        assert list(window.entries) == [entry[0] for entry in self.sent]
        assert list(window.releasing) == self.released


TestWindow: Any = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=25, stateful_step_count=30)


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
    del window.entries[b"\x12\x34"]
    assert window.next_id() == b"\x12\x34"


def test_mqtt_2_2_1_2_identifiers_of_pending_subscriptions_are_not_given_out() -> None:
    window = Window()
    pending = window.next_id()
    window.reserved.add(pending)
    window.clear()
    assert pending not in {window.next_id() for _ in range(3 * 65_534)}
    window.reserved.discard(pending)
    assert pending in {window.next_id() for _ in range(2 * 65_534)}


def test_pubrec_for_an_unknown_identifier() -> None:
    window = Window()
    assert window.recorded(b"\0\1") is None
    assert not window.releasing


def test_windows_share_their_identifiers() -> None:
    """Ten thousand sessions do not hold ten thousand tables."""
    assert Window().next_id() is Window().next_id()
