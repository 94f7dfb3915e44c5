"""`topic` lines of a bridge, and what they promise: an oracle that knows none of the code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NEAR, FAR = "near", "far"
"""The side that has the bridge and its `topic` lines, and the side that it connects to."""


class Seen(NamedTuple):
    """A message as a subscriber that asks for QoS 2 and the original retain flag gets it."""

    topic: str
    payload: str
    qos: int
    retain: bool


@dataclass(frozen=True)
class Line:
    """`topic PATTERN DIRECTION QOS LOCAL REMOTE`; no two of one bridge may overlap."""

    pattern: str
    direction: str
    qos: int
    local: str = ""
    remote: str = ""

    def __str__(self) -> str:
        words = [self.pattern or '""', self.direction, str(self.qos)]
        if self.local or self.remote:
            words += [self.local or '""', self.remote or '""']
        return "topic " + " ".join(words)

    def goes(self, side: str) -> bool:
        """Whether it takes messages from this side."""
        return self.direction in ("both", "out" if side == NEAR else "in")

    def prefix(self, side: str) -> str:
        return self.local if side == NEAR else self.remote

    def topic(self, side: str, name: str) -> str:
        """A topic of the line on this side; lines without a wildcard have just one."""
        return self.prefix(side) + (
            self.pattern.replace("+", name) if "+" in self.pattern else self._below(name)
        )

    def _below(self, name: str) -> str:
        return self.pattern[:-1] + name if self.pattern.endswith("#") else self.pattern

    def route(self, connector: str) -> dict[str, Any]:
        """The same as a route of Isthmus."""
        return {
            "from": "local",
            "to": connector,
            "topics": [self.local + self.pattern],
            "strip": self.local or None,
            "prepend": self.remote or None,
            "direction": self.direction,
            "max_qos": self.qos,
        }


def other(side: str) -> str:
    return FAR if side == NEAR else NEAR


@dataclass
class Expected:
    """What must have arrived, and what must be retained, on both sides."""

    arrived: dict[str, Counter[Seen]] = field(
        default_factory=lambda: {NEAR: Counter(), FAR: Counter()}
    )
    retained: dict[str, dict[str, str]] = field(default_factory=lambda: {NEAR: {}, FAR: {}})

    def published(
        self, side: str, topic: str, payload: str, qos: int, retain: bool, line: Line | None
    ) -> None:
        """A client published on `side`; `line` is the one that the topic matches, if any."""
        self._add(side, Seen(topic, payload, qos, retain))
        if line is not None and line.goes(side):
            far = other(side)
            mapped = line.prefix(far) + topic.removeprefix(line.prefix(side))
            self._add(far, Seen(mapped, payload, min(qos, line.qos), retain))

    def _add(self, side: str, seen: Seen) -> None:
        self.arrived[side][seen] += 1
        if seen.retain:
            self.retained[side][seen.topic] = seen.payload
