"""An entrance: what holds for the clients of one listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.errors import ProtocolViolation
from isthmus.mqtt.reasons import ReasonCode

if TYPE_CHECKING:
    from collections.abc import Collection

    from isthmus.auth.access import Access
    from isthmus.broker.settings import BrokerSettings
    from isthmus.mqtt.packets import Connect

ARRIVALS = 100
"""Connections of a full listener that may wait to be told so; more are closed without a word."""

VERSION_NAMES = {3: "3.1", 4: "3.1.1", 5: "5"}
"""Versions of MQTT by the level in a CONNECT."""


class Entrance:
    """Where clients come in: who may, and within which limits.

    Args:
        access: Decides who they are and what they may do.
        settings: Those of the broker, with the listener's own in their place.
        max_connections: How many of them may be connected; None for any number.
        mount: Stands in front of all their topics inside the broker; see `mount`.
        versions: The protocol levels that they may speak: 3, 4, 5.
        name: What the listener is called in errors.

    Attributes:
        open: Connections, those whose CONNECT is not accepted included.
        connected: Clients with a session.
    """

    __slots__ = (
        "access",
        "connected",
        "max_connections",
        "mount",
        "name",
        "open",
        "settings",
        "versions",
    )

    def __init__(
        self,
        access: Access,
        settings: BrokerSettings,
        *,
        max_connections: int | None = None,
        mount: bytes = b"",
        versions: Collection[int] = (3, 4, 5),
        name: str = "listener",
    ) -> None:
        self.access = access
        self.settings = settings
        self.max_connections = max_connections
        self.mount = mount
        self.versions = versions
        self.name = name
        self.open = 0
        self.connected = 0

    def change(self, other: Entrance) -> None:
        """Take the limits of another entrance, for clients to come."""
        self.settings = other.settings
        self.max_connections = other.max_connections
        self.versions = other.versions
        self.name = other.name

    @property
    def max_qos(self) -> int:
        """Highest QoS that the clients may publish with and are granted."""
        return self.settings.max_qos

    @property
    def crowded(self) -> bool:
        """Whether there is no time left to tell one more connection that it is refused."""
        longest = self.max_connections
        return longest is not None and self.open >= longest + ARRIVALS

    def check_version(self, packet: Connect) -> None:
        """Refuse a version that this listener does not take.

        Raises:
            ProtocolViolation: 0x84, return code 1 before MQTT 5.
        """
        if packet.version not in self.versions:
            raise ProtocolViolation(
                f"MQTT {VERSION_NAMES[packet.version]} is not among the 'versions' of {self.name}",
                ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
                "MQTT-3.1.2-2",
            )

    def check_room(self, leaving: int) -> None:
        """Refuse one more client than there may be; `leaving` of those here make room for it.

        Raises:
            ProtocolViolation: 0x97, return code 3 before MQTT 5.
        """
        longest = self.max_connections
        if longest is not None and self.connected - leaving >= longest:
            raise ProtocolViolation(
                f"{self.name} has as many clients as its 'max_connections' of {longest}",
                ReasonCode.QUOTA_EXCEEDED,
            )
