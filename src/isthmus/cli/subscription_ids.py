"""Which subscriptions a message is for: the identifiers that the decoder leaves out.

The decoder passes on what belongs to a message, and its subscription identifiers belong to one
connection. A command that was given one wants to see them, so it reads them itself from the same
bytes.
"""

from __future__ import annotations

from isthmus.errors import MQTTError
from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.properties import BLOCKS
from isthmus.mqtt.wire import read_varint

_LONGEST_HEADER = 5


class SubscriptionIds:
    """Reads what a server sends in MQTT 5, beside the decoder."""

    __slots__ = ("_need", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = 2

    def feed(self, data: bytes) -> list[tuple[int, ...]]:
        """The identifiers of each PUBLISH that is complete with `data`, in order.

        What cannot be decoded ends the list; the decoder says what is wrong with it.
        """
        found: list[tuple[int, ...]] = []
        self._rest += data
        if len(self._rest) < self._need:
            return found
        buffer, at = bytes(self._rest), 0
        self._need = 2
        try:
            while at + 1 < len(buffer):
                header = buffer[at + 1 : at + _LONGEST_HEADER]
                if len(header) < _LONGEST_HEADER - 1 and header[-1] & 0x80:
                    break  # the length itself is cut
                size, start = read_varint(buffer, at + 1, len(buffer))
                if start + size > len(buffer):
                    self._need = start + size - at
                    break
                if buffer[at] >> 4 == PacketType.PUBLISH:
                    found.append(_of_publish(buffer[at] & 6, buffer[start : start + size]))
                at = start + size
        except (MQTTError, IndexError):
            return found
        self._rest = bytearray(buffer[at:])
        return found


def _of_publish(qos_bits: int, body: bytes) -> tuple[int, ...]:
    at = 2 + int.from_bytes(body[:2], "big") + (2 if qos_bits else 0)
    size, at = read_varint(body, at, len(body))
    return BLOCKS.look(body[at : at + size]).subscription_ids
