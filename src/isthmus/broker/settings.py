"""Settings of the embedded broker: the `broker` key."""

from pathlib import Path

from pydantic import Field

from isthmus.config.model import SettingsModel
from isthmus.config.units import Duration, DurationOrNever, Rate, Size

MAX_PACKET_SIZE_BYTES = 5 + 268_435_455
"""Biggest packet that MQTT can express: fixed header and remaining length."""

LONGEST_AUTO_ID_PREFIX = 100
"""Characters in front of the client ids that the broker makes."""


class LimitSettings(SettingsModel):
    """What one client, or all of them together, may take."""

    connections: int = Field(
        default=100_000, ge=1, description="Clients connected at the same time."
    )
    connections_per_address: int | None = Field(
        default=10_000,
        ge=1,
        description="Connections of one address at the same time, those included that have not "
        "logged in; of IPv6 each /64 is one address. More are closed at once. `null` where "
        "strangers cannot connect, or all clients come through one address.",
    )
    connect_rate: Rate | None = Field(
        default=1000.0,
        description="New connections of one address per time, with bursts of ten seconds. More are "
        "closed at once. `null` is no limit.",
    )
    connect_rate_in_all: Rate | None = Field(
        default=None,
        description="New connections of all addresses per time, with bursts of ten seconds. More "
        "wait until they are accepted. Not set, it is as fast as the processor allows.",
        examples=["500/s"],
    )
    failed_login_rate: Rate | None = Field(
        default=2.0,
        description="Wrong logins of one address per time, with bursts of ten seconds: passwords "
        "that are not right, those that a web service denies, and SCRAM. Beyond it no password "
        "from there is checked, and the client is refused with 0x97; who was let in from there "
        "before is not affected. `null` is no limit.",
    )
    failed_login_rate_per_user: Rate | None = Field(
        default=10.0,
        description="The same for one user name, from all addresses together. `null` is no limit.",
    )
    packet_rate: Rate | None = Field(
        default=None,
        description="Packets of one client per time, with bursts of one second; acknowledgements "
        "do not count. Who sends more is not read for as long as that takes, at most 10 s at a "
        "time.",
        examples=["100/s"],
    )
    queued_messages: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000_000_000,
        description="Messages that wait for one session.",
    )
    queued_bytes: Size = Field(
        default=64 << 20, ge=1024, description="Bytes of messages that wait for one session."
    )
    subscriptions_per_session: int = Field(
        default=10_000, ge=1, description="Subscriptions that one session may hold."
    )
    filters_per_packet: int | None = Field(
        default=2000,
        ge=1,
        description="Filters in one SUBSCRIBE or UNSUBSCRIBE. Who sends more is disconnected with "
        "0x97. `null` is no limit but the size of a packet.",
    )
    share_groups: int | None = Field(
        default=10_000,
        ge=1,
        description="Shared subscriptions of the whole broker: different pairs of group and "
        "filter. `null` is no limit.",
    )
    share_members: int | None = Field(
        default=1000,
        ge=1,
        description="Sessions in one shared subscription. `null` is no limit.",
    )
    subscription_bytes: Size = Field(
        default=16 << 20,
        ge=1024,
        description="Memory that the subscriptions of one session may take: the bytes of each "
        "filter and 300 more, and for one with wildcards 300 for each of its levels.",
    )
    wildcard_shapes: int = Field(
        default=100,
        ge=1,
        description="Different places of wildcards among the subscriptions of one session: `a/+` "
        "and `b/+` have the same shape, `+/a` has another. It bounds what one message costs.",
    )
    topic_levels: int = Field(
        default=32, ge=1, le=65_535, description="Levels of a topic or filter."
    )
    connect_timeout: Duration = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Time for a new connection to send its CONNECT and log in. Before that, what "
        "comes ahead of MQTT (PROXY header, TLS and WebSocket together) may take as long.",
    )
    handshakes: int = Field(
        default=20_000,
        ge=1,
        description="Connections of one listener that are not through what comes ahead of MQTT "
        "(PROXY header, TLS and WebSocket). More are closed at once.",
    )
    login_bytes: Size = Field(
        default=128 << 10,
        ge=1024,
        description="Biggest CONNECT or AUTH packet, which whoever reaches a listener may send; "
        "room for a will, a user name and a token. Bigger ones are refused with 0x95.",
    )
    retained_messages: int = Field(
        default=1_000_000, ge=0, description="Retained messages of the whole broker."
    )
    retained_bytes: Size = Field(
        default=512 << 20,
        ge=0,
        description="Memory that the retained messages of the whole broker may take: their bytes "
        "and 400 more for each.",
    )
    will_bytes: Size = Field(
        default=64 << 10,
        ge=0,
        description="Topic, payload and properties of the will of one client.",
    )
    client_id_bytes: int = Field(
        default=1024, ge=23, le=65_535, description="Length of a client id in bytes."
    )
    sessions: int = Field(
        default=1_000_000, ge=1, description="Sessions of the whole broker, connected or not."
    )
    unsent_bytes: Size = Field(
        default=4 << 20,
        ge=1024,
        description="Bytes that wait in memory for one connection whose peer does not read.",
    )


class BrokerSettings(SettingsModel):
    """The embedded broker, endpoint `local`."""

    data: Path | None = Field(
        default=None,
        description="Folder for what has to outlive the process: sessions with what waits for "
        "them, retained messages, what waits for connectors, and the generated client ids of "
        "connectors.",
        examples=["./data", "/var/lib/isthmus"],
    )
    persistence: bool = Field(
        default=True,
        description="Keep sessions that outlive their connection, wills, retained messages, and "
        "what waits for connectors, in the data folder; without one they are in memory. A message "
        "for an absent client, or to retain, is acknowledged when it is on disk.",
    )
    max_inflight: int = Field(
        default=20,
        ge=1,
        le=65_535,
        description="QoS 1 and 2 messages on their way to one client; a client may lower it.",
    )
    receive_maximum: int = Field(
        default=1000,
        ge=1,
        le=65_535,
        description="QoS 1 and 2 messages that one client may have on their way to the broker.",
    )
    max_packet_size: Size = Field(
        default=1 << 20,
        ge=1024,
        le=MAX_PACKET_SIZE_BYTES,
        description="Biggest packet that a client may send.",
    )
    max_payload: Size = Field(
        default=MAX_PACKET_SIZE_BYTES,
        ge=0,
        le=MAX_PACKET_SIZE_BYTES,
        description="Biggest payload of a message that a client may publish; the packet around it "
        "counts only for `max_packet_size`.",
    )
    max_qos: int = Field(
        default=2,
        ge=0,
        le=2,
        description="Highest QoS that clients may publish with and are granted; a client that "
        "publishes with a higher one is disconnected.",
    )
    retain_available: bool = Field(
        default=True,
        description="Whether clients may have messages retained; one that tries it is "
        "disconnected where this is false.",
    )
    retain_expiry: DurationOrNever = Field(
        default=None,
        description="Longest time that a message is retained; `never` keeps it for good, or until "
        "its own message expiry interval ends.",
    )
    check_retain_source: bool = Field(
        default=True,
        description="Deliver a retained message only while its publisher may still publish it.",
    )
    max_keepalive: DurationOrNever = Field(
        default=None,
        description="Longest keep alive of a client; `never` sets no limit. MQTT 5 clients are "
        "told to use this one instead of a longer one or none, others are refused.",
    )
    queue_qos0: bool = Field(
        default=False,
        description="Keep QoS 0 messages too for sessions whose client is away.",
    )
    upgrade_outgoing_qos: bool = Field(
        default=False,
        description="Deliver with the QoS of the subscription also where a message was published "
        "with a lower one.",
    )
    response_information: str | None = Field(
        default=None,
        description="What MQTT 5 clients that ask for response information are told: the start of "
        "topics for replies. Knows `${clientid}`.",
        examples=["replies/${clientid}/"],
    )
    server_reference: str | None = Field(
        default=None,
        description="Another server, which MQTT 5 clients are told to use when this one stops.",
        examples=["broker-b.example.com:1883"],
    )
    allow_empty_client_id: bool = Field(
        default=True, description="Whether clients may leave the client id to the broker."
    )
    auto_id_prefix: str = Field(
        default="auto-",
        max_length=LONGEST_AUTO_ID_PREFIX,
        description="Start of the client ids that the broker makes.",
    )
    client_id_prefixes: tuple[str, ...] = Field(
        default=(),
        description="Only client ids that begin with one of these may connect; none given, all.",
        examples=[["sensor-", "panel-"]],
    )
    username_as_client_id: bool = Field(
        default=False, description="Use the user name as client id, whatever the client sends."
    )
    topic_alias_maximum: int = Field(
        default=10,
        ge=0,
        le=65_535,
        description="Topic aliases that a client may use on one connection (MQTT 5).",
    )
    topic_aliases_out: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Topic aliases that the broker uses on one connection, if the client takes as "
        "many (MQTT 5): repeated topics are sent as two bytes.",
    )
    max_session_expiry: DurationOrNever = Field(
        default=None,
        description="Longest time that a session is kept for a client that is away; "
        "`never` keeps it as long as the client asked for.",
    )
    sys_interval: Duration = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="Time between updates of the `$SYS` topics; 0 switches them off.",
    )
    limits: LimitSettings = Field(
        default_factory=LimitSettings, description="What clients may take at most."
    )

    @property
    def stores(self) -> bool:
        """Whether there is a store on disk."""
        return self.data is not None and self.persistence
