"""The ways to say CONNECT to a far broker, tried in order until one is understood."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from isthmus.connectors.settings import ConnectorSettings


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
