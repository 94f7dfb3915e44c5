"""QoS 1 and 2 in flight: what was sent and not acknowledged, and QoS 2 identifiers received.

Both belong to a session, not to a network connection. Identifiers are their two wire bytes, so that
nothing is converted on the way. Nothing here sends: after a lost connection the owner sends the
entries again, with DUP, in their order, and PUBREL for `releasing` (MQTT-4.4.0-1, MQTT-4.6.0-1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from isthmus.errors import LocalProtocolError, ProtocolViolation

Entry: TypeAlias = tuple[Any, ...]
"""A message in flight: its encoded PUBLISH, and whatever the owner of the window adds."""

MAX_RECEIVE_MAXIMUM: Final = 65_535
"""The receive maximum of a peer that does not say one (MQTT 5, 3.1.2.11.3)."""

_CHUNK: Final = 256
_chunks: list[list[bytes] | None] = [None] * 256


def _chunk(high: int) -> list[bytes]:
    """The identifiers with this high byte, from the last to the first, shared by all windows.

    They are made when first needed: most windows never see more than the first few.
    """
    ids = _chunks[high]
    if ids is None:
        first = 0 if high else 1  # identifier 0 does not exist
        ids = _chunks[high] = [bytes((high, low)) for low in range(_CHUNK - 1, first - 1, -1)]
    return ids


class Window:
    """The sending side of QoS 1 and 2.

    An entry is a tuple whose first item is the encoded PUBLISH; the rest is the owner's.

    Attributes:
        limit: The peer's receive maximum; set it again after each CONNECT or CONNACK.
        entries: Identifier -> entry, in order of sending: no PUBACK or PUBREC yet.
        releasing: Identifiers with PUBREC and no PUBCOMP yet, in order of PUBREC.
        free: Identifiers that may be used next, the first one last. Hot code pops from it and calls
            `next_id` when it is empty; an identifier that was not used after all may be put back.
    """

    __slots__ = ("_high", "entries", "free", "limit", "releasing")

    def __init__(self, limit: int = MAX_RECEIVE_MAXIMUM) -> None:
        self.limit = limit
        self.entries: dict[bytes, Entry] = {}
        self.releasing: dict[bytes, None] = {}
        self.free: list[bytes] = []
        self._high = -1

    def __len__(self) -> int:
        """How many messages count against the receive maximum (MQTT-4.9.0-2)."""
        return len(self.entries) + len(self.releasing)

    @property
    def full(self) -> bool:
        """Whether no more QoS 1 or 2 may be sent (MQTT-3.3.4-7)."""
        return len(self.entries) + len(self.releasing) >= self.limit

    def next_id(self) -> bytes:
        """An identifier that is not in use (MQTT-2.2.1-3): 1 to 65535 in turn.

        Raises:
            LocalProtocolError: All 65,535 are in use.
        """
        if not self.free:
            self._refill()
        return self.free.pop()

    def _refill(self) -> None:
        """Take the next 256 identifiers in turn, less those in use."""
        entries, releasing = self.entries, self.releasing
        for _ in range(_CHUNK):
            self._high = (self._high + 1) % _CHUNK
            for packet_id in _chunk(self._high):
                if packet_id not in entries and packet_id not in releasing:
                    self.free.append(packet_id)
            if self.free:
                return
        raise LocalProtocolError("every packet identifier is in use", 0x97, "MQTT-2.2.1-3")

    def add(self, packet_id: bytes, entry: Entry) -> None:
        """Note a PUBLISH of QoS 1 or 2 that is about to be sent under an id of `next_id`."""
        self.entries[packet_id] = entry

    def acked(self, ids: list[bytes]) -> list[Entry]:
        """Take PUBACKs, whatever their code; the entries of the messages that they end.

        An identifier that is not in flight is passed over: after a lost connection or a fault of
        the peer there is nothing to do about it.

        Raises:
            ProtocolViolation: A PUBACK for a QoS 2 message (0x82); those before it are taken.
        """
        found: list[Entry] = []
        pop = self.entries.pop
        for packet_id in ids:
            entry = pop(packet_id, None)
            if entry is not None:
                if entry[0][0] & 4:
                    self.entries[packet_id] = entry
                    raise ProtocolViolation("PUBACK for a QoS 2 message", 0x82)
                found.append(entry)
        return found

    def recorded(self, packet_id: bytes) -> Entry | None:
        """Take a PUBREC below 0x80: the peer owns the message, and a PUBREL is due.

        Returns the entry the first time, else None.

        Raises:
            ProtocolViolation: A PUBREC for a QoS 1 message (0x82).
        """
        entry = self._take_two(packet_id)
        if entry is not None:
            self.releasing[packet_id] = None
        return entry

    def refused(self, packet_id: bytes) -> Entry | None:
        """Take a PUBREC of 0x80 or above: the message is over (MQTT-4.4.0-2), no PUBREL.

        Raises:
            ProtocolViolation: A PUBREC for a QoS 1 message (0x82).
        """
        return self._take_two(packet_id)

    def _take_two(self, packet_id: bytes) -> Entry | None:
        entry = self.entries.get(packet_id)
        if entry is None:
            return None
        if not entry[0][0] & 4:
            raise ProtocolViolation("PUBREC for a QoS 1 message", 0x82)
        return self.entries.pop(packet_id)

    def completed(self, packet_id: bytes) -> bool:
        """Take a PUBCOMP: the identifier is free again. False if it was not known."""
        if packet_id not in self.releasing:
            return False
        del self.releasing[packet_id]
        return True

    def clear(self) -> list[Entry]:
        """Forget everything: the peer's session is gone. Returns what was in `entries`, in order.

        Messages in `releasing` had reached the peer.
        """
        entries = list(self.entries.values())
        self.entries.clear()
        self.releasing.clear()
        return entries


class Received:
    """QoS 2 identifiers received and not yet released by a PUBREL.

    A set: an identifier that is repeated takes no more memory. `limit` is the receive maximum that
    we announced.
    """

    __slots__ = ("_ids", "limit")

    def __init__(self, limit: int = MAX_RECEIVE_MAXIMUM) -> None:
        self.limit = limit
        self._ids: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, packet_id: bytes) -> bool:
        return packet_id in self._ids

    def __iter__(self) -> Iterator[bytes]:
        """The identifiers in order of arrival."""
        return iter(self._ids)

    def add(self, packet_id: bytes) -> bool:
        """Note a QoS 2 PUBLISH. False if it is a repetition, to be answered and not delivered.

        Raises:
            ProtocolViolation: More than `limit` are open (0x93; MQTT-3.3.4-8).
        """
        if packet_id in self._ids:
            return False
        if len(self._ids) >= self.limit:
            raise ProtocolViolation("receive maximum exceeded", 0x93, "MQTT-3.3.4-8")
        self._ids[packet_id] = None
        return True

    def release(self, packet_id: bytes) -> bool:
        """Take a PUBREL. False if the identifier is not known: PUBCOMP with 0x92 in version 5."""
        if packet_id not in self._ids:
            return False
        del self._ids[packet_id]
        return True

    def clear(self) -> None:
        """Forget everything: the session is new."""
        self._ids.clear()
