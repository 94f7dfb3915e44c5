"""CONNECT: what a connection says first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus.mqtt.packets import Connect, Will
from isthmus.mqtt.properties import Properties, PropertyId

if TYPE_CHECKING:
    from isthmus.connectors.connection_settings import WillSettings
    from isthmus.connectors.dialects import Dialect
    from isthmus.connectors.identity import Identity
    from isthmus.connectors.settings import ConnectorSettings


def hello(
    settings: ConnectorSettings,
    identity: Identity,
    dialect: Dialect,
    *,
    clean_start: bool,
    session_expiry_s: int = 0,
    will: Will | None = None,
) -> Connect:
    """The CONNECT of `identity`; what MQTT 3 has no place for is left out there."""
    properties: Properties = {}
    if dialect.version == 5:
        properties[PropertyId.RECEIVE_MAXIMUM] = settings.receive_maximum
        properties[PropertyId.MAXIMUM_PACKET_SIZE] = settings.max_packet_size
        if settings.topic_alias_maximum:
            properties[PropertyId.TOPIC_ALIAS_MAXIMUM] = settings.topic_alias_maximum
        if session_expiry_s:
            properties[PropertyId.SESSION_EXPIRY_INTERVAL] = session_expiry_s
        if settings.user_properties:
            properties[PropertyId.USER_PROPERTY] = list(settings.user_properties.items())
    password = identity.password
    return Connect(
        client_id=identity.client_id,
        version=dialect.version,
        clean_start=clean_start,
        keep_alive=int(settings.keepalive),
        username=identity.username,
        password=None if password is None else password.get_secret_value().encode(),
        will=will,
        properties=properties,
        bridge=dialect.bridge,
    )


class WillChoice:
    """The will of a connection, lowered where the far side refuses CONNECT because of it."""

    __slots__ = ("_max_qos", "_retain")

    def __init__(self) -> None:
        self._max_qos = 2
        self._retain = True

    def will(self, will: Will | None, dialect: Dialect) -> Will | None:
        """What is left of `will`."""
        if will is None:
            return None
        properties = will.properties if dialect.version == 5 else {}
        return Will(
            will.topic,
            will.payload,
            min(will.qos, self._max_qos),
            will.retain and self._retain,
            properties,
        )

    def refused(self, code: int | None, will: Will | None) -> bool:
        """Learn from the reason code of a CONNACK; whether a lower will may be taken."""
        if will is None:
            return False
        if code == 0x9A and will.retain and self._retain:
            self._retain = False
            return True
        qos = min(will.qos, self._max_qos)
        if code == 0x9B and qos:
            self._max_qos = qos - 1
            return True
        return False


def configured_will(settings: WillSettings | None) -> Will | None:
    """The will as a packet's part."""
    if settings is None:
        return None
    properties: Properties = {}
    if settings.delay:
        properties[PropertyId.WILL_DELAY_INTERVAL] = int(settings.delay)
    return Will(
        settings.topic.encode(),
        settings.payload.encode(),
        settings.qos,
        settings.retain,
        properties,
    )
