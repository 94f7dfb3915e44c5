"""Settings of connectors: the `connectors` key, a mapping of connector names to these models."""

import ipaddress
from typing import Any, Literal

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from isthmus.config.model import SettingsModel
from isthmus.config.problems import Problem, raise_any
from isthmus.config.secrets import Secret
from isthmus.config.units import Duration, DurationOrNever, Rate, Size
from isthmus.config.version import Version
from isthmus.connectors.address import UNIX_SCHEME, Address, parse_address
from isthmus.connectors.connection_settings import (
    CLIENT_ID_VARIABLE,
    SESSION_NEVER_EXPIRES_S,
    FailbackSettings,
    LazySettings,
    NotificationSettings,
    ReconnectSettings,
    SessionExpiry,
    StaticClientSettings,
    TCPKeepaliveSettings,
    WillSettings,
    mqtt_text,
)
from isthmus.errors import MQTTError
from isthmus.mqtt.topics import check_filter
from isthmus.net.proxy import Proxy, parse_proxy
from isthmus.net.settings import TLSClientSettings

MAX_PACKET_SIZE_BYTES = 5 + 268_435_455


class ConnectorSettings(SettingsModel):
    """A far MQTT service, to which this side is one or more clients."""

    url: str | tuple[str, ...] = Field(
        description="Where to connect: `mqtt://host:port` (1883), `mqtts://host:port` (TLS, "
        "8883), `ws://host:port/path` and `wss://` (WebSocket; 80, 443, /mqtt), `unix:/path`, "
        "`host` or `host:port`; IPv6 in brackets. A list names the address to use first and its "
        "backups, in order.",
        examples=["mqtts://broker.example.com:8883", "[::1]:1883"],
    )
    round_robin: bool = Field(
        default=False,
        description="With several addresses: stay on whichever works, instead of going back to "
        "the first one.",
    )
    failback: FailbackSettings = Field(
        default_factory=FailbackSettings,
        description="When a backup is left for the first address again.",
    )
    start: Literal["automatic", "lazy", "once"] = Field(
        default="automatic",
        description="When to connect: `automatic` connects and stays connected; `lazy` connects "
        "while there is something to send; `once` connects at the start and never again.",
    )
    lazy: LazySettings = Field(
        default_factory=LazySettings,
        description="When `start: lazy` opens and closes connections.",
    )
    version: Version = Field(
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
    static_client_ids: dict[str, tuple[str | StaticClientSettings, ...]] = Field(
        default_factory=dict,
        description="Client ids by `node`: this process opens one connection for each id of its "
        "own node, and none if it has none. An entry is an id, or an id with credentials of its "
        "own. `pool` and `client_id_prefix` then have no effect.",
        examples=[{"edge-a": ["clientid1", "clientid2"]}],
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
    bind_address: str | None = Field(
        default=None,
        description="Local IP address that connections are made from.",
        examples=["10.0.0.7"],
    )
    tcp_keepalive: TCPKeepaliveSettings | None = Field(
        default=None, description="TCP keep alive; not set leaves it off."
    )
    tcp_user_timeout: Duration | None = Field(
        default=None,
        ge=0,
        le=2_000_000,
        description="Longest time that sent data may stay without an answer of the far side's "
        "TCP (Linux); not set leaves it to the system.",
    )
    tcp_retransmit_max: DurationOrNever = Field(
        default=1.5,
        ge=1,
        le=120,
        description="Longest wait before TCP sends again what is not answered (Linux 6.15 and "
        "newer), so that messages pass again that soon after an outage; TCP itself waits up to as "
        "long as the outage was. Above the round trip of the slowest link; `never` leaves it to "
        "the system.",
    )
    tls: TLSClientSettings | None = Field(
        default=None,
        description="TLS; `mqtts://` or `wss://` alone verifies against the system's roots.",
    )
    proxy: Secret | None = Field(
        default=None,
        description="Proxy to connect through: `http://user:password@host:port` (CONNECT) or "
        "`socks5://...`, which also looks the name up.",
        examples=["socks5://10.0.0.1:1080"],
    )
    max_inflight: int = Field(
        default=1000,
        ge=1,
        le=65_535,
        description="QoS 1 and 2 messages on their way to the service, per connection.",
    )
    spill_after: Duration = Field(
        default=0.02,
        ge=0.001,
        le=60,
        description="How long a message may be without the service's acknowledgement before it "
        "goes to disk, which releases its publisher. Until then nothing is written.",
    )
    ack_timeout: DurationOrNever = Field(
        default=60.0,
        ge=1,
        description="Longest wait for the acknowledgement of a message or subscription; then the "
        "connection is made anew, and what was not acknowledged is sent again.",
    )
    rate_limit: Rate | None = Field(
        default=None,
        description="Most messages to the service per time, with bursts of one second, over all "
        "connections together; more wait in the queue.",
        examples=["100/s"],
    )
    drain_rate: Rate | None = Field(
        default=None,
        description="Most messages to the service per time while what an outage has left on disk "
        "is sent, over all connections together; what comes meanwhile waits behind it. Not set "
        "means as fast as the service takes them.",
        examples=["500/s"],
    )
    max_dead_letters: Size = Field(
        default=100 << 20,
        ge=1024,
        description="Bytes of dead letters that are kept: messages that could not be delivered. "
        "When there are more the oldest are dropped, and counted as `dead_letters_full`.",
    )
    unsent_bytes: Size = Field(
        default=16 << 20,
        ge=1024,
        description="Bytes of QoS 0 messages that wait for a service which does not read as fast "
        "as they come, for each connection; more are dropped and counted as `slow_consumer`.",
    )
    unstored_bytes: Size = Field(
        default=64 << 20,
        ge=1 << 20,
        description="Bytes of messages that wait in memory for the disk, for each connection. With "
        "more publishers are held back, and raised QoS 0 messages dropped; with twice as much "
        "messages are refused (0x97), and MQTT 3 publishers closed. A quarter as much may be dead "
        "letters, for all connections together.",
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
    max_packet_size_out: Size | None = Field(
        default=None,
        ge=16,
        le=MAX_PACKET_SIZE_BYTES,
        description="Biggest message to send to the service, as a packet; a bigger one is dropped. "
        "Not set leaves only the limit that the service announces (MQTT 5), which counts in any "
        "case.",
    )
    topic_alias_maximum: int = Field(
        default=10,
        ge=0,
        le=65_535,
        description="Topic aliases that the service may use on one connection (MQTT 5).",
    )
    topic_aliases_out: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Topic aliases that we use on one connection, if the service takes as many "
        "(MQTT 5): repeated topics are sent as two bytes.",
    )
    bridge_bit: bool = Field(
        default=True,
        description="With MQTT 3.1 and 3.1.1, tell the service that this is a bridge, so that "
        "it does not send our own messages back.",
    )

    join_filters: bool = Field(
        default=True,
        description="Subscribe only to the widest filters of the routes (`a/#` for `a/#` and "
        "`a/b`), and to what they cover where the service refuses them. Off, every filter is "
        "subscribed with its own QoS, in the order of the routes, and a service that sends a copy "
        "for each subscription sends a message twice.",
    )
    filters_per_subscribe: int = Field(
        default=1000,
        ge=1,
        le=10_000,
        description="Most filters in one SUBSCRIBE or UNSUBSCRIBE packet.",
    )
    unsubscribe_out: tuple[str, ...] = Field(
        default=(),
        description="Filters to unsubscribe from at each connection, such as those of routes that "
        "once brought messages and now only send them.",
        examples=[["site-7/#"]],
    )
    local_client_id: str | None = Field(
        default=None,
        description="What `${clientid}` is in routes, for messages from this connector.",
        examples=["local.edge-7"],
    )
    send_retained: bool = Field(
        default=True,
        description="Send the retained messages of `local` that match outgoing routes when a "
        "session begins at the service, and deletions that it missed.",
    )
    will: WillSettings | None = Field(
        default=None,
        description="What the service publishes when a connection ends without a goodbye.",
    )
    notifications: NotificationSettings = Field(
        default_factory=NotificationSettings,
        description="Retained messages that say whether connections are up.",
    )
    user_properties: dict[str, str] = Field(
        default_factory=dict,
        description="User properties of CONNECT (MQTT 5).",
        examples=[{"site": "7"}],
    )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The parts of each `url`, in order."""
        return tuple(parse_address(url) for url in self._urls)

    @property
    def address(self) -> Address:
        """The parts of the first `url`."""
        return self.addresses[0]

    @property
    def host(self) -> str:
        """Name or IP address to connect to first, IPv6 without brackets."""
        return self.address.host

    @property
    def port(self) -> int:
        """Port to connect to first."""
        return self.address.port

    @property
    def use_tls(self) -> bool:
        """Whether the connection to the first address is encrypted."""
        return self.address.encrypted

    @property
    def proxy_address(self) -> Proxy | None:
        """The parts of `proxy`."""
        return parse_proxy(self.proxy.get_secret_value()) if self.proxy is not None else None

    @property
    def without_effect(self) -> str:
        """The keys that `static_client_ids` leaves without effect, in words; empty if none is."""
        if not self.static_client_ids:
            return ""
        keys = [key for key in ("pool", "client_id_prefix") if key in self.model_fields_set]
        return " and ".join(f"'{key}'" for key in keys)

    @property
    def _urls(self) -> tuple[str, ...]:
        return (self.url,) if isinstance(self.url, str) else self.url

    @field_validator("url", mode="before")
    @classmethod
    def _valid_url(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("must name at least one address")
            raise_any(
                Problem((index,), text)
                for index, url in enumerate(value)
                if (text := _url_problem(url))
            )
            if len(set(value)) < len(value):
                raise ValueError("names an address twice")
            return tuple(value)
        if text := _url_problem(value):
            raise ValueError(text)
        return value

    @field_validator("proxy", mode="after")
    @classmethod
    def _valid_proxy(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        parse_proxy(value.get_secret_value())
        return value

    @field_validator("username", "client_id", "client_id_prefix", mode="after")
    @classmethod
    def _mqtt_string(cls, value: str | None) -> str | None:
        return mqtt_text(value) if value else None

    @field_validator("unsubscribe_out", mode="after")
    @classmethod
    def _valid_filters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        found = []
        for index, text in enumerate(value):
            try:
                check_filter(mqtt_text(text).encode())
            except MQTTError as error:
                found.append(Problem((index,), f"is no topic filter: {error}"))
        raise_any(found)
        return value

    @field_validator("user_properties", mode="after")
    @classmethod
    def _mqtt_strings(cls, value: dict[str, str]) -> dict[str, str]:
        for pair in value.items():
            for text in pair:
                mqtt_text(text)
        return value

    @field_validator("bind_address", mode="after")
    @classmethod
    def _ip_address(cls, value: str | None) -> str | None:
        try:
            return None if value is None else str(ipaddress.ip_address(value.strip("[]")))
        except ValueError:
            raise ValueError("must be an IP address of this machine") from None

    @field_validator("static_client_ids", mode="after")
    @classmethod
    def _own_client_ids(
        cls, value: dict[str, tuple[str | StaticClientSettings, ...]]
    ) -> dict[str, tuple[str | StaticClientSettings, ...]]:
        seen: set[str] = set()
        found = []
        for node, entries in value.items():
            for index, entry in enumerate(entries):
                client_id = mqtt_text(entry) if isinstance(entry, str) else entry.client_id
                if not client_id:
                    found.append(Problem((node, index), "must not be empty"))
                elif client_id in seen:
                    text = "stands there twice: two clients with one id throw each other out"
                    found.append(Problem((node, index), text))
                seen.add(client_id)
        raise_any(found)
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
        if self.client_id is not None and self.static_client_ids:
            problem("client_id", "has no effect together with 'static_client_ids'; drop one")
        if self.client_id is not None and self.client_id_prefix is not None:
            problem("client_id_prefix", "has no effect together with 'client_id'; drop one")
        if self.drain_rate is not None and self.rate_limit is not None:
            problem("drain_rate", "has no effect beside 'rate_limit', which always holds; drop one")
        if self.tls is not None and not any(address.encrypted for address in self.addresses):
            problem("tls", "is set, but the URL is not encrypted; write mqtts:// in 'url'")
        if self.proxy is not None and self.address.scheme == UNIX_SCHEME:
            problem("proxy", "has no effect on a unix socket; drop it")
        if self.password is not None and self.username is None and self.version != "5":
            problem("password", f"needs a 'username' in MQTT {self.version}")
        if self.notifications.enabled:
            found += self._notification_problems()
        return found

    def _notification_problems(self) -> list[Problem]:
        found = []
        notifications = self.notifications
        if self.will is not None and not notifications.local_only:
            text = "cannot be set together with 'notifications', which are the will; drop one"
            found.append(Problem(("will",), f"{text}, or set 'notifications.local_only'"))
        static = self.static_client_ids
        several = any(len(ids) > 1 for ids in static.values()) if static else self.pool > 1
        if several and CLIENT_ID_VARIABLE not in notifications.topic:
            text = f"must hold {CLIENT_ID_VARIABLE}, as there are several connections"
            found.append(Problem(("notifications", "topic"), text))
        return found


def _url_problem(value: object) -> str:
    if not isinstance(value, str):
        return "must be text"
    try:
        parse_address(value)
    except ValueError as error:
        return str(error)
    return ""


__all__ = [
    "SESSION_NEVER_EXPIRES_S",
    "ConnectorSettings",
    "ReconnectSettings",
]
