"""From the options of a command to its CONNECT: who it is, which session, which will."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from isthmus.cli.far_side import connector_settings
from isthmus.cli.property_option import put_all, read_properties
from isthmus.config.units import parse_duration, parse_size
from isthmus.connectors.connection_settings import SESSION_NEVER_EXPIRES_S
from isthmus.connectors.hello import hello
from isthmus.connectors.identity import Identity
from isthmus.errors import MQTTError
from isthmus.mqtt.packets import Connect, Will
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.topics import check_name
from isthmus.net.settings import TLSClientSettings

if TYPE_CHECKING:
    from isthmus.cli.options import FarOptions
    from isthmus.cli.session_options import SessionOptions
    from isthmus.connectors.dialects import Dialect
    from isthmus.connectors.settings import ConnectorSettings

DISCONNECT_WITH_WILL = 0x04

_FOREVER = ("-1", "∞")
"""What mosquitto_sub takes for a session that never expires, besides our own `never`."""


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a command says first, and where.

    `properties` are those of CONNECT that were asked for, `goodbye` those of DISCONNECT, and
    `goodbye_code` its reason code. `v5_only` says that something was asked for that only MQTT 5
    has, so that no older version will do.
    """

    settings: ConnectorSettings
    identity: Identity
    clean_start: bool
    will: Will | None
    properties: Properties
    goodbye: Properties
    goodbye_code: int
    v5_only: bool

    def connect(self, dialect: Dialect, *, again: bool = False) -> Connect:
        """The packet; what MQTT 3 has no place for is left out there.

        `again` says that a connection was open before: a session that outlives it is kept then.
        """
        lasting = dialect.version == 5 and self.properties.get(PropertyId.SESSION_EXPIRY_INTERVAL)
        clean = self.clean_start and not (again and lasting)
        packet = hello(self.settings, self.identity, dialect, clean_start=clean)
        if dialect.version == 5:
            packet.properties.update(self.properties)
        if self.will is not None:
            packet.will = self.will if dialect.version == 5 else replace(self.will, properties={})
        return packet

    def needing_v5(self, options: object = True) -> Greeting:
        """The same, for MQTT 5 alone if `options` is true.

        Raises:
            typer.BadParameter: an older version was asked for.
        """
        if not options:
            return self
        if self.settings.version != "5":
            raise typer.BadParameter(
                f"MQTT {self.settings.version} has no place for properties and what else you ask "
                "for; use -V 5, or drop those options",
                param_hint="-V",
            )
        return replace(self, v5_only=True)


def greet(
    name: str, far: FarOptions, session: SessionOptions, packets: tuple[str, ...]
) -> tuple[Greeting, dict[str, Properties]]:
    """The greeting of the command `name`, and the properties that -D gives its other packets.

    Raises:
        typer.BadParameter: options contradict each other, or a value is wrong.
    """
    found = read_properties(session.properties or (), ("connect", "will", "disconnect", *packets))
    properties, of_will, goodbye = (found.pop(one) for one in ("connect", "will", "disconnect"))
    put_all(
        properties,
        "connect",
        {
            "--session-expiry": _session_expiry(session.session_expiry),
            "--receive-maximum": session.receive_maximum,
            "--max-packet-size": _number(session.max_packet_size, parse_size, "--max-packet-size"),
            "--topic-alias-maximum": session.topic_alias_maximum,
            "--request-response-information": session.request_response_information or None,
            "--no-problem-information": 0 if session.no_problem_information else None,
        },
    )
    will = _will(session, of_will)
    asked = session.disconnect_with_will or any((properties, of_will, goodbye, *found.values()))
    if session.persistent:
        if not far.client_id:
            raise typer.BadParameter("needs -i: a session belongs to a client id", param_hint="-c")
        properties.setdefault(PropertyId.SESSION_EXPIRY_INTERVAL, int(SESSION_NEVER_EXPIRES_S))
    settings = connector_settings(far)
    # Within the ranges of the protocol; those of a configuration are narrower.
    limits = {
        "receive_maximum": PropertyId.RECEIVE_MAXIMUM,
        "max_packet_size": PropertyId.MAXIMUM_PACKET_SIZE,
        "topic_alias_maximum": PropertyId.TOPIC_ALIAS_MAXIMUM,
    }
    settings = settings.model_copy(
        update={key: properties[one] for key, one in limits.items() if one in properties}
    )
    greeting = Greeting(
        settings=settings,
        identity=Identity(
            _client_id(name, far),
            settings.username,
            settings.password,
            settings.tls or TLSClientSettings(),
        ),
        clean_start=not session.persistent,
        will=will,
        properties=properties,
        goodbye=goodbye,
        goodbye_code=DISCONNECT_WITH_WILL if session.disconnect_with_will else 0,
        v5_only=False,
    )
    return greeting.needing_v5(asked), found


def seconds(text: str | None, option: str) -> int | None:
    """Whole seconds of `60` or `1h`.

    Raises:
        typer.BadParameter: it is neither.
    """
    return _number(text, parse_duration, option)


def _number(text: str | None, parse: Any, option: str) -> int | None:
    if text is None:
        return None
    try:
        return int(parse(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _session_expiry(text: str | None) -> int | None:
    if text in ("never", *_FOREVER):
        return int(SESSION_NEVER_EXPIRES_S)
    return seconds(text, "--session-expiry")


def _client_id(name: str, far: FarOptions) -> str:
    if far.client_id is not None:
        return far.client_id
    if far.id_prefix is not None:
        return f"{far.id_prefix}{os.getpid()}"
    return f"{name}-{secrets.token_hex(4)}"


def _will(session: SessionOptions, properties: Properties) -> Will | None:
    put_all(properties, "will", {"--will-delay": seconds(session.will_delay, "--will-delay")})
    if session.will_topic is None:
        if session.will_payload is not None or session.will_qos or session.will_retain:
            raise typer.BadParameter("is missing for the will", param_hint="--will-topic")
        if properties:
            raise typer.BadParameter("is missing for its properties", param_hint="--will-topic")
        return None
    topic = os.fsencode(session.will_topic)
    try:
        check_name(topic)
    except MQTTError as error:
        raise typer.BadParameter(str(error), param_hint="--will-topic") from None
    payload = os.fsencode(session.will_payload or "")
    return Will(topic, payload, session.will_qos, session.will_retain, properties)
