"""Numbered messages and the far end's book of them: lost, invented, disordered, duplicate."""

from __future__ import annotations

import zlib
from typing import Any

PAYLOAD_BYTES = 64


def payload(number: int, topic: bytes) -> bytes:
    """The only valid content of message `number`: number, checksum with the topic, filler."""
    head = b"%010d" % number
    return b"%s %08x " % (head, zlib.crc32(head + topic)) + b"." * (PAYLOAD_BYTES - 20)


def topic_of(number: int, topics: int) -> bytes:
    return b"t/%04d" % (number % topics)


class Ledger:
    """What arrived. `prefix` is what the bridge puts before the topic."""

    def __init__(self, total: int, topics: int, prefix: bytes) -> None:
        self.total, self.topics, self.prefix = total, topics, prefix
        self.seen = bytearray(total)
        self.last = [-1] * topics  # highest number per topic among first deliveries
        self.unique = self.duplicates = self.invented = self.disordered = 0
        self.example = ""

    def take(
        self, data: bytes, pos: int, count: int, size: int, topic: int, topic_size: int
    ) -> None:
        for at in range(pos, pos + count * size, size):
            name = data[at + topic : at + topic + topic_size]
            self.message(name, data[at + size - PAYLOAD_BYTES : at + size])

    def message(self, name: bytes, content: bytes) -> None:
        head = content[:10]
        number = int(head) if head.isdigit() else self.total
        known = name.removeprefix(self.prefix)
        if (
            number >= self.total
            or not name.startswith(self.prefix)
            or known != topic_of(number, self.topics)
            or content != payload(number, known)
        ):
            self.invented += 1
            self.example = self.example or f"invented: {name!r} {content!r}"
            return
        if self.seen[number]:
            self.duplicates += 1
            self.seen[number] = 2
            return
        self.seen[number] = 1
        self.unique += 1
        index = number % self.topics
        if number < self.last[index]:
            self.disordered += 1
            self.example = self.example or f"out of order: {number} after {self.last[index]}"
        else:
            self.last[index] = number

    def judge(self, acked: list[int]) -> dict[str, Any]:
        """Compare with what the publishers saw acknowledged.

        Connection c of n sends the numbers c, c + n, c + 2n and so on; `acked[c]` of them, from
        the first on, were acknowledged.
        """
        step = len(acked)
        lost = 0
        for start, count in enumerate(acked):
            column = self.seen[start::step][:count]
            lost += column.count(0)
        return {
            "lost": lost,
            "unique": self.unique,
            "duplicates": self.duplicates,
            "invented": self.invented,
            "disordered": self.disordered,
            "example": self.example,
        }
