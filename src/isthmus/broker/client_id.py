"""Which client id a CONNECT gets."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from isthmus.errors import ProtocolViolation
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.reasons import ReasonCode

if TYPE_CHECKING:
    from isthmus.broker.settings import BrokerSettings
    from isthmus.mqtt.packets import Connect


def choose_client_id(settings: BrokerSettings, packet: Connect) -> tuple[str, Properties]:
    """The client id of a client, and the CONNACK properties that tell it (MQTT-3.2.2-16).

    `settings` are those of its entrance.

    Raises:
        ProtocolViolation: It may not connect with this one (0x85).
    """
    properties: Properties = {}
    client_id = packet.client_id
    if settings.username_as_client_id:
        if not packet.username:
            raise _refused("the user name is the client id here, and there is none")
        client_id = packet.username
        if packet.version == 5 and client_id != packet.client_id:
            properties[PropertyId.ASSIGNED_CLIENT_IDENTIFIER] = client_id
    elif not client_id:
        if packet.version < 5 and not packet.clean_start:
            raise _refused("an empty client id needs a clean session", "MQTT-3.1.3-8")
        if not settings.allow_empty_client_id:
            raise _refused("the client id is empty; see allow_empty_client_id")
        client_id = f"{settings.auto_id_prefix}{secrets.token_hex(8)}"
        if packet.version == 5:
            properties[PropertyId.ASSIGNED_CLIENT_IDENTIFIER] = client_id
    elif settings.client_id_prefixes and not client_id.startswith(settings.client_id_prefixes):
        raise _refused("the client id has none of the prefixes of broker.client_id_prefixes")
    longest = settings.limits.client_id_bytes
    if len(client_id.encode(errors="surrogatepass")) > longest:
        text = f"the client id is longer than {longest} bytes"
        raise ProtocolViolation(
            text, ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, limit="client_id_bytes"
        )
    return client_id, properties


def _refused(text: str, clause: str = "") -> ProtocolViolation:
    return ProtocolViolation(text, ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, clause)
