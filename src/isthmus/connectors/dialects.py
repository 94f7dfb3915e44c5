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

    @property
    def name(self) -> str:
        """The version as people write it, such as "3.1.1"."""
        return {3: "3.1", 4: "3.1.1", 5: "5"}[self.version]

    def __str__(self) -> str:
        return f"MQTT {self.name}{' with bridge bit' if self.bridge else ''}"


CLOSES_BELIEVED = 3
"""A far side that closed this often on a way to say CONNECT, and took another, is asked so last.

Also how often in a row it has to close on one that has worked before another is tried. Fewer may be
a crash, or a load balancer without a server behind it, and falling back loses properties.
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
    """Which way to say CONNECT to one address; learns from what became of it.

    A CONNACK is a proof, of the way it answers or against it. A close without one is only a hint:
    the next way is tried then, and what works in this manner is a guess (`better`).
    """

    __slots__ = ("_closes", "_hints", "_order", "_preferred", "_tried", "_understood")

    def __init__(self, settings: ConnectorSettings) -> None:
        self._preferred = dialects(settings)
        self._order = list(self._preferred)
        self._closes = dict.fromkeys(self._order, 0)
        self._hints = dict.fromkeys(self._order, 0)
        self._understood: set[Dialect] = set()
        self._tried = 0

    @property
    def first(self) -> Dialect:
        """The one to try now."""
        return self._order[0]

    def failed(self, error: ConnectError) -> bool:
        """Learn from a failed attempt; whether another way is to be tried at this address."""
        if len(self._order) == 1 or error.step != "connack":
            return False
        tried = self._order[0]
        if error.reason in UNSUPPORTED_VERSION:
            self.refused(tried)
            return True
        if error.reason is not None:
            return False
        # Some brokers just close on a version or a bit that they do not know.
        self._closes[tried] += 1
        if tried in self._understood and self._closes[tried] < CLOSES_BELIEVED:
            return False
        self._order.append(self._order.pop(0))
        self._tried += 1
        return self._tried % len(self._order) > 0

    def worked(self, dialect: Dialect) -> None:
        """A connection is open: the next begins with the best that is left."""
        self._understood.add(dialect)
        self._hints[dialect] = 0
        for one in self._before(dialect):
            self._hints[one] += self._closes[one] > 0
        self._closes = dict.fromkeys(self._closes, 0)
        self._tried = 0
        self._sort()

    def better(self, dialect: Dialect) -> Dialect | None:
        """A way that should rather be used than `dialect`, which works, and may well work too."""
        for one in self._before(dialect):
            if self._hints[one] < CLOSES_BELIEVED:
                return one
        return None

    def closed(self, dialect: Dialect) -> None:
        """The far side closed on `dialect` while a connection to it was open."""
        self._hints[dialect] += 1
        self._sort()

    def refused(self, dialect: Dialect) -> None:
        """The far side said that it does not know `dialect`."""
        self._preferred.remove(dialect)
        self._order.remove(dialect)

    def _before(self, dialect: Dialect) -> list[Dialect]:
        return self._preferred[: self._preferred.index(dialect)]

    def _sort(self) -> None:
        self._order = sorted(self._preferred, key=lambda one: self._hints[one] >= CLOSES_BELIEVED)
