"""The ways to say CONNECT to a far broker, tried in order until one is understood."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.errors import ConnectError


class Dialect(NamedTuple):
    """A protocol version (3, 4 or 5), and whether the bridge bit is set in the level byte.

    The bit 0x80 is Mosquitto's: a broker that knows it does not send a bridge its own messages
    back, as MQTT 5 does with "no local". Others refuse the version or just close.
    """

    version: int
    bridge: bool

    def __str__(self) -> str:
        name = {3: "3.1", 4: "3.1.1", 5: "5"}[self.version]
        return f"MQTT {name}{' with bridge bit' if self.bridge else ''}"


CLOSES_BELIEVED = 3
"""A far side that closed this often on a way to say CONNECT, and never took it, is asked so last.

Fewer may be a load balancer without a server behind it, and falling back for good loses properties.
"""

UNSUPPORTED_VERSION = frozenset({0x01, 0x84})
"""CONNACK codes that refuse a version: MQTT 3's return code 1, and MQTT 5's reason code."""


def dialects(settings: ConnectorSettings) -> list[Dialect]:
    """What to try for a connector: its version first; MQTT 5 falls back to 3.1.1."""
    if settings.version == "3.1":
        versions = [3]
    elif settings.version == "3.1.1":
        versions = [4]
    else:
        versions = [5, 4]
    found = []
    for version in versions:
        if version < 5 and settings.bridge_bit:
            found.append(Dialect(version, bridge=True))
        found.append(Dialect(version, bridge=False))
    return found


class DialectChoice:
    """Which way to say CONNECT to one address; learns from what became of it."""

    __slots__ = ("_closes", "_order")

    def __init__(self, settings: ConnectorSettings) -> None:
        self._order = dialects(settings)
        self._closes = dict.fromkeys(self._order, 0)

    @property
    def first(self) -> Dialect:
        """The one to try now."""
        return self._order[0]

    def failed(self, error: ConnectError) -> bool:
        """Learn from a failed attempt; whether another way is to be tried at this address."""
        if len(self._order) == 1 or error.step != "connack":
            return False
        if error.reason in UNSUPPORTED_VERSION:
            del self._order[0]
            return True
        if error.reason is not None:
            return False
        # Some brokers just close on a version or a bit that they do not know.
        tried = self._order.pop(0)
        self._order.append(tried)
        self._closes[tried] += 1
        return min(self._closes[one] for one in self._order) < self._closes[tried]

    def worked(self, dialect: Dialect) -> None:
        """A connection was open: begin with the best again, unless it was refused for sure."""
        self._closes[dialect] = 0
        left = [one for one in self._closes if one in self._order]
        self._order = sorted(left, key=lambda one: self._closes[one] >= CLOSES_BELIEVED)
