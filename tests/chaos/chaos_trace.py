"""What went by on the way: the order in which the messages of each topic left each sender.

What arrives out of order can have been turned by the publisher, by a hop or by the last broker. The
proxies between them see the bytes, so a trace in each says who did it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from raw import CONNECT, PUBLISH, parse_hello, read_properties, read_varint

TOPICS = 20
"""Message number n belongs to topic n modulo this."""

HEADER_BYTES = 5
"""The longest fixed header: a packet's first byte and four of its remaining length."""


@dataclass(slots=True)
class Trace:
    """What left one sender: for each number its first sending.

    `first` maps a number to its time (monotonic, in seconds) and the connection that it went on, in
    the order of sending, `latest` to the time of its last sending. `turned` are the numbers that
    went after a younger one of their topic.
    """

    sender: str
    connections: int = 0
    first: dict[int, tuple[float, int]] = field(default_factory=dict)
    latest: dict[int, float] = field(default_factory=dict)
    turned: set[int] = field(default_factory=set)
    _youngest: list[int] = field(default_factory=lambda: [-1] * TOPICS)

    def connection(self) -> Stream:
        """A new connection of the sender."""
        self.connections += 1
        return Stream(self, self.connections)

    def note(self, number: int, connection: int) -> None:
        """The sender sent this number."""
        now = self.latest[number] = time.monotonic()
        if number in self.first:
            return
        self.first[number] = now, connection
        topic = number % TOPICS
        if number < self._youngest[topic]:
            self.turned.add(number)
        else:
            self._youngest[topic] = number

    def passed(self, number: int, since: float) -> str:
        """When the sender first sent `number`, in seconds from `since` (monotonic) on."""
        found = self.first.get(number)
        return (
            f"by {self.sender} never"
            if found is None
            else (f"by {self.sender} after {found[0] - since:.2f} s")
        )

    def about(self, number: int, younger: int) -> str:
        """How the sender sent these two."""
        if number not in self.first or younger not in self.first:
            return f"{self.sender}: not both"
        sent, connection = self.first[number]
        younger_sent, younger_connection = self.first[younger]
        return (
            f"{self.sender}: {1000 * (sent - younger_sent):+.1f} ms, "
            f"connections {connection} and {younger_connection}"
        )


def story(number: int, younger: int, traces: Iterable[Trace]) -> str:
    """Where the two were turned: each sender's time from `younger` to `number`, plus is wrong."""
    return f"{number} after {younger}: " + "; ".join(t.about(number, younger) for t in traces)


class Stream:
    """The bytes of one connection, from its client; called with each piece."""

    def __init__(self, trace: Trace, number: int) -> None:
        self._trace = trace
        self._number = number
        self._v5 = False
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        """Note every PUBLISH that is whole."""
        data = self._rest + data
        at = 0
        while (found := _ends(data, at)) is not None:
            body, end = found
            kind = data[at] >> 4
            if kind == CONNECT:
                self._v5 = parse_hello(data[body:end]).version == 5
            elif kind == PUBLISH:
                self._trace.note(_number(data[at], data[body:end], v5=self._v5), self._number)
            at = end
        self._rest = data[at:]


def _ends(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins and ends; None if it is not whole."""
    if all(byte & 0x80 for byte in data[at + 1 : at + HEADER_BYTES]):
        return None
    length, body = read_varint(data, at + 1)
    return (body, body + length) if body + length <= len(data) else None


def _number(first: int, body: bytes, *, v5: bool) -> int:
    """The number that a PUBLISH carries."""
    at = 2 + int.from_bytes(body[:2], "big")
    if first & 6:
        at += 2
    if v5:
        _, at = read_properties(body, at)
    return int(body[at:])
