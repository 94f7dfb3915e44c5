"""A message as an object, for what is not the message path: wills, retained, commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.errors import MQTTError
from isthmus.mqtt.packet_type import PacketType
from isthmus.mqtt.properties import decode
from isthmus.mqtt.topics import check_name

if TYPE_CHECKING:
    from isthmus.auth.rights import Writer


@dataclass(slots=True)
class Message:
    """One application message.

    `properties` is the MQTT 5 property block without its length, as it goes on the wire; `expires`
    is the monotonic time at which the message expiry interval ends, or None. `writer` is the client
    that published it, None for what needs no rights. `number` counts up from one retained message
    to the next.
    """

    topic: bytes
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: bytes = b""
    expires: float | None = None
    writer: Writer | None = None
    number: int = 0

    @property
    def flags(self) -> int:
        """QoS and retain as the low bits of the first byte of a PUBLISH."""
        return self.qos << 1 | self.retain

    def check(self) -> None:
        """See whether this is a message at all, for what comes from a disk that may be damaged.

        Raises:
            ValueError: Nobody can have published it.
        """
        if self.qos not in (0, 1, 2) or not isinstance(self.retain, bool):
            raise ValueError("a message has a QoS that there is not")
        if not all(isinstance(found, bytes) for found in (self.payload, self.properties)):
            raise ValueError("a message has values of wrong kinds")
        try:
            check_name(self.topic)
            if self.properties:
                decode(self.properties, 0, len(self.properties), PacketType.PUBLISH)
        except (MQTTError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error
