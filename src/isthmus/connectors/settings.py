"""Settings of connectors: the `connectors` key, a mapping of connector names to these models."""

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from isthmus.config.model import SettingsModel
from isthmus.config.problems import Problem, raise_any
from isthmus.config.secrets import Secret
from isthmus.config.units import DURATION_OR_NEVER_SCHEMA, Duration, Size, parse_duration
from isthmus.connectors.address import Address, parse_address
from isthmus.net.settings import TLSClientSettings

SESSION_NEVER_EXPIRES_S = float(0xFFFFFFFF)
"""The session expiry interval that means never (MQTT-5.0 section 3.1.2.11.2)."""

MAX_PACKET_SIZE_BYTES = 5 + 268_435_455
MAX_STRING_BYTES = 65_535


def _version(value: object) -> object:
    """YAML and TOML read an unquoted 5 or 3.1 as a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return value


def _expiry(value: object) -> object:
    return SESSION_NEVER_EXPIRES_S if value == "never" else parse_duration(value)


SessionExpiry = Annotated[float, BeforeValidator(_expiry), WithJsonSchema(DURATION_OR_NEVER_SCHEMA)]


class ReconnectSettings(SettingsModel):
    """How a lost or failed connection is tried again: exponential back-off with full jitter."""

    min: Duration = Field(default=1.0, gt=0, le=3600, description="First upper bound of the wait.")
    max: Duration = Field(
        default=30.0, gt=0, le=86_400, description="Upper bound that the wait never exceeds."
    )
    attempts: Literal["forever"] | Annotated[int, Field(ge=1)] = Field(
        default="forever", description="Failed attempts in a row before the connector gives up."
    )

    @model_validator(mode="after")
    def _ordered(self) -> "ReconnectSettings":
        if self.max < self.min:
            raise_any([Problem(("max",), "must not be shorter than 'min'")])
        return self


class ConnectorSettings(SettingsModel):
    """A far MQTT service, to which this side is one or more clients."""

    url: str = Field(
        description="Where to connect: `mqtt://host:port` (1883), `mqtts://host:port` (TLS, "
        "8883), `host` or `host:port`; IPv6 in brackets.",
        examples=["mqtts://broker.example.com:8883", "[::1]:1883"],
    )
    version: Annotated[Literal["3.1", "3.1.1", "5"], BeforeValidator(_version)] = Field(
        default="5",
        description="MQTT version. With 5, a service that refuses it is asked again with 3.1.1.",
    )
    username: str | None = Field(
        default=None, description="User name; an empty one means none.", examples=["edge-7"]
    )
    password: Secret | None = Field(default=None, description="Password; an empty one means none.")
    client_id: str | None = Field(
        default=None,
        description="Fixed client id; only with `pool: 1`. Not set means "
        "`{prefix}:{connector}{8 hex}:{n}`; with `broker.data` the digits stay the same over "
        "restarts, without it they are new at each start.",
        examples=["edge-7"],
    )
    client_id_prefix: str | None = Field(
        default=None, description="Prefix of generated client ids.", examples=["site-7"]
    )
    pool: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Connections to the service. Messages of one topic keep to one connection.",
    )
    keepalive: Duration = Field(
        default=60.0,
        ge=0,
        le=65_535,
        description="Longest silence before a ping, in whole seconds; 0 switches pings off, and "
        "a dead link is then found out only when something is sent.",
    )
    clean_start: bool = Field(
        default=False, description="Forget the session at the service with every connection."
    )
    session_expiry: SessionExpiry = Field(
        default=7 * 86_400.0,
        ge=0,
        le=SESSION_NEVER_EXPIRES_S,
        description="Time that the service keeps the session while the link is down (MQTT 5); "
        "`never` keeps it for good.",
    )
    connect_timeout: Duration = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Time for name look-up, TCP, TLS and CONNACK together.",
    )
    reconnect: ReconnectSettings = Field(
        default_factory=ReconnectSettings, description="How a connection is tried again."
    )
    tls: TLSClientSettings | None = Field(
        default=None, description="TLS; `mqtts://` alone verifies against the system's roots."
    )
    max_inflight: int = Field(
        default=1000,
        ge=1,
        le=65_535,
        description="QoS 1 and 2 messages on their way to the service, per connection.",
    )
    receive_maximum: int = Field(
        default=1000,
        ge=1,
        le=65_535,
        description="QoS 1 and 2 messages that the service may have on their way to us (MQTT 5).",
    )
    max_packet_size: Size = Field(
        default=1 << 20,
        ge=1024,
        le=MAX_PACKET_SIZE_BYTES,
        description="Biggest packet that the service may send.",
    )
    topic_alias_maximum: int = Field(
        default=10,
        ge=0,
        le=65_535,
        description="Topic aliases that the service may use on one connection (MQTT 5).",
    )
    bridge_bit: bool = Field(
        default=True,
        description="With MQTT 3.1 and 3.1.1, tell the service that this is a bridge, so that "
        "it does not send our own messages back.",
    )

    @property
    def address(self) -> Address:
        """The parts of `url`."""
        return parse_address(self.url)

    @property
    def host(self) -> str:
        """Name or IP address to connect to, IPv6 without brackets."""
        return self.address.host

    @property
    def port(self) -> int:
        """Port to connect to."""
        return self.address.port

    @property
    def use_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.address.scheme == "mqtts"

    @field_validator("url")
    @classmethod
    def _valid_url(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("username", "client_id", "client_id_prefix", mode="after")
    @classmethod
    def _mqtt_string(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ValueError("is not valid Unicode") from None
        if "\0" in value:
            raise ValueError("must not hold the character U+0000")
        if size > MAX_STRING_BYTES:
            raise ValueError(f"must not be longer than {MAX_STRING_BYTES} bytes")
        return value

    @field_validator("password", mode="after")
    @classmethod
    def _no_empty_password(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value() else None

    @field_validator("keepalive", mode="after")
    @classmethod
    def _whole_seconds(cls, value: float) -> float:
        if value != int(value):
            raise ValueError("must be whole seconds")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "ConnectorSettings":
        raise_any(self._contradictions())
        return self

    def _contradictions(self) -> list[Problem]:
        found = []

        def problem(key: str, text: str) -> None:
            found.append(Problem((key,), text))

        if self.client_id is not None and self.pool > 1:
            problem(
                "client_id",
                f"cannot be shared by {self.pool} connections; use 'client_id_prefix' with "
                f"'pool: {self.pool}', or 'pool: 1' with this id",
            )
        if self.client_id is not None and self.client_id_prefix is not None:
            problem("client_id_prefix", "has no effect together with 'client_id'; drop one")
        if self.tls is not None and not self.use_tls:
            problem("tls", "is set, but the URL is not encrypted; write mqtts:// in 'url'")
        if self.password is not None and self.username is None and self.version != "5":
            problem("password", f"needs a 'username' in MQTT {self.version}")
        return found
