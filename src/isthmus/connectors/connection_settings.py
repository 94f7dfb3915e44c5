"""Parts of a connector's settings: how its connections are opened, told apart and given up."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from isthmus.config.model import SettingsModel
from isthmus.config.problems import Problem, raise_any
from isthmus.config.secrets import Secret
from isthmus.config.units import DURATION_OR_NEVER_SCHEMA, Duration, parse_duration
from isthmus.errors import MQTTError
from isthmus.mqtt.topics import check_name
from isthmus.net.tls_settings import KeySettings, Source

SESSION_NEVER_EXPIRES_S = float(0xFFFFFFFF)
"""The session expiry interval that means never (MQTT-5.0 section 3.1.2.11.2)."""

MAX_STRING_BYTES = 65_535

CLIENT_ID_VARIABLE = "${connection.client_id}"
"""Stands in a notification topic for the client id of the connection."""

DEFAULT_STATE_TOPIC = f"$SYS/broker/connection/{CLIENT_ID_VARIABLE}/state"


def _expiry(value: object) -> object:
    return SESSION_NEVER_EXPIRES_S if value == "never" else parse_duration(value)


SessionExpiry = Annotated[float, BeforeValidator(_expiry), WithJsonSchema(DURATION_OR_NEVER_SCHEMA)]


def mqtt_text(value: str) -> str:
    """Return `value` if it can be an MQTT string (MQTT-1.5.4-1, MQTT-1.5.4-2).

    Raises:
        ValueError: it cannot.
    """
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    if "\0" in value:
        raise ValueError("must not hold the character U+0000")
    if size > MAX_STRING_BYTES:
        raise ValueError(f"must not be longer than {MAX_STRING_BYTES} bytes")
    return value


def _topic(value: str) -> str:
    try:
        check_name(mqtt_text(value).encode())
    except MQTTError as error:
        raise ValueError(f"is no topic to publish on: {error}") from None
    return value


class ReconnectSettings(SettingsModel):
    """How a lost or failed connection is tried again: exponential back-off with full jitter."""

    min: Duration = Field(default=1.0, gt=0, le=3600, description="First upper bound of the wait.")
    max: Duration = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="Upper bound that the wait never exceeds. In the first minute of an outage it "
        "is at most 1 s, or `min` if that is more.",
    )
    stable: Duration = Field(
        default=0.5,
        gt=0,
        le=7200,
        description="A connection that lasted so long was a success: the waits begin with `min` "
        "again. A far side that accepts and closes at once stays below it.",
    )
    attempts: Literal["forever"] | Annotated[int, Field(ge=1)] = Field(
        default="forever", description="Failed attempts in a row before the connector gives up."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "ReconnectSettings":
        if self.max < self.min:
            raise_any([Problem(("max",), "must not be shorter than 'min'")])
        return self


class FailbackSettings(SettingsModel):
    """When a backup address is left for the first one again."""

    every: Duration = Field(
        default=5.0,
        ge=0.1,
        le=86_400,
        description="Time between two tries of the first address, each a CONNECT with a client id "
        "of its own and a clean session.",
    )
    successes: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="Tries that must succeed in a row before the backup is left.",
    )
    client_id: str | None = Field(
        default=None,
        description="Client id of the tries, for services that let only known ids in. Not set "
        "means a generated one.",
        examples=["edge-7-probe"],
    )


class LazySettings(SettingsModel):
    """When a connector with `start: lazy` opens and closes its connections."""

    threshold: int = Field(
        default=10, ge=1, description="Waiting messages that open a connection at once."
    )
    after: Duration = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Longest time that a message waits for others before a connection is opened.",
    )
    idle_timeout: Duration = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Time without a message in either direction after which it is closed.",
    )


class WillSettings(SettingsModel):
    """The message that the service publishes when a connection ends without a goodbye."""

    topic: str = Field(description="Topic to publish on.", examples=["site-7/bridge"])
    payload: str = Field(default="", description="What to publish.", examples=["offline"])
    qos: Literal[0, 1, 2] = Field(
        default=0, description="QoS; lowered if the service refuses the connection for it."
    )
    retain: bool = Field(
        default=False, description="Whether it is retained; if the service can do that."
    )
    delay: Duration = Field(
        default=0.0,
        ge=0,
        le=float(0xFFFFFFFF),
        description="Time in which a connection that comes back prevents it (MQTT 5).",
    )

    _check_topic = field_validator("topic")(_topic)


class NotificationSettings(SettingsModel):
    """Retained messages that say whether each connection is up (`1`) or down (`0`)."""

    enabled: bool = Field(default=False, description="Whether they are published.")
    topic: str = Field(
        default=DEFAULT_STATE_TOPIC,
        description=f"Where; knows `{CLIENT_ID_VARIABLE}`.",
        examples=["bridges/site-7"],
    )
    local_only: bool = Field(
        default=False,
        description="Publish on `local` only. Without it also at the service, with the `0` as the "
        "will of the connection.",
    )

    _check_topic = field_validator("topic")(_topic)


class TCPKeepaliveSettings(SettingsModel):
    """Probes that the operating system sends on a silent connection."""

    idle: Duration = Field(
        default=60.0, ge=1, le=32_767, description="Silence before the first probe."
    )
    interval: Duration = Field(
        default=10.0, ge=1, le=32_767, description="Time between two probes."
    )
    count: int = Field(
        default=6, ge=1, le=127, description="Unanswered probes after which the connection is dead."
    )


class LoginSettings(SettingsModel):
    """A client id with the credentials that belong to it."""

    client_id: str = Field(min_length=1, description="Client id.", examples=["clientid1"])
    username: str | None = Field(
        default=None, description="User name; not set means the connector's."
    )
    password: Secret | None = Field(
        default=None, description="Password; not set means the connector's, with its user name."
    )

    _check_id = field_validator("client_id")(mqtt_text)


class StaticClientSettings(KeySettings, LoginSettings):
    """One connection under a client id of its own, with what it proves who it is.

    Without a certificate or store of its own it has all of the connector's.
    """

    certificate: Source | None = Field(
        default=None,
        description="PEM file with the client certificate. If neither it nor a store is set, it is "
        "the connector's.",
        examples=["clientid1.pem"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> "StaticClientSettings":
        found = list(self.key_contradictions(self.certificate))
        if self.certificate is None and self.store is None:
            found += [
                Problem((name,), "needs 'certificate', 'pkcs12' or 'jks' of this client id")
                for name, value in (("key", self.key), ("key_password", self.key_password))
                if value is not None
            ]
        raise_any(found)
        return self
