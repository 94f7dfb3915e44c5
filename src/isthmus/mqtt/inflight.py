"""QoS 1 and 2 in flight: what was sent and not acknowledged.

It belongs to a session, not to a network connection. Identifiers are their two wire bytes, so that
nothing is converted on the way. Nothing here sends: after a lost connection the owner sends the
entries again, with DUP, in their order, and PUBREL for `releasing` (MQTT-4.4.0-1, MQTT-4.6.0-1).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from isthmus.errors import LocalProtocolError, ProtocolViolation

Entry: TypeAlias = tuple[Any, ...]
"""A message in flight: its encoded PUBLISH, and whatever the owner of the window adds."""

MAX_RECEIVE_MAXIMUM: Final = 65_535
"""The receive maximum of a peer that does not say one (MQTT 5, 3.1.2.11.3)."""

CHUNKS: Final = 256
"""The identifiers are dealt out in so many parts, and each part has as many of them."""

_chunks: list[list[bytes] | None] = [None] * CHUNKS


def _chunk(high: int) -> list[bytes]:
    """The identifiers with this high byte, from the last to the first, shared by all windows.

    They are made when first needed: most windows never see more than the first few.
    """
    ids = _chunks[high]
    if ids is None:
        first = 0 if high else 1  # identifier 0 does not exist
        ids = _chunks[high] = [bytes((high, low)) for low in range(255, first - 1, -1)]
    return ids


class Window:
    """The sending side of QoS 1 and 2.

    An entry is a tuple whose first item is the encoded PUBLISH; the rest is the owner's.

    Attributes:
        limit: The peer's receive maximum; set it again after each CONNECT or CONNACK.
        entries: Identifier -> entry, in order of sending: no PUBACK or PUBREC yet.
        releasing: Identifiers with PUBREC and no PUBCOMP yet, in order of PUBREC.
        reserved: Identifiers of SUBSCRIBE and UNSUBSCRIBE packets that wait for their answer: they
            share the numbers (MQTT-2.2.1-2). The owner adds and removes them.
        free: Identifiers that may be used next, the first one last. Hot code pops from it and calls
            `next_id` when it is empty; an identifier that was not used after all may be put back.
    """

    __slots__ = ("_chunks", "_high", "entries", "free", "limit", "releasing", "reserved")

    def __init__(self, limit: int = MAX_RECEIVE_MAXIMUM, *, chunks: int = CHUNKS) -> None:
        """Use the identifiers below `256 * chunks`."""
        self.limit = limit
        self.entries: dict[bytes, Entry] = {}
        self.releasing: dict[bytes, None] = {}
        self.reserved: set[bytes] = set()
        self.free: list[bytes] = []
        self._chunks = chunks
        self._high = -1

    def __len__(self) -> int:
        """How many messages count against the receive maximum (MQTT-4.9.0-2)."""
        return len(self.entries) + len(self.releasing)

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
        for _ in range(self._chunks):
            self._high = (self._high + 1) % self._chunks
            ids = _chunk(self._high)
            for used in (self.entries, self.releasing, self.reserved):
                if used:
                    ids = [packet_id for packet_id in ids if packet_id not in used]
            self.free.extend(ids)
            if ids:
                return
        raise LocalProtocolError("every packet identifier is in use", 0x97, "MQTT-2.2.1-3")

    def recorded(self, packet_id: bytes) -> Entry | None:
        """Take a PUBREC below 0x80: the peer owns the message, and a PUBREL is due.

        Returns the entry the first time, else None.

        Raises:
            ProtocolViolation: A PUBREC for a QoS 1 message (0x82).
        """
        entry = self.entries.get(packet_id)
        if entry is not None:
            if not entry[0][0] & 4:
                raise ProtocolViolation("PUBREC for a QoS 1 message", 0x82)
            del self.entries[packet_id]
            self.releasing[packet_id] = None
        return entry

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
