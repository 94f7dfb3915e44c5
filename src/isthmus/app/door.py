"""A door: the listeners that share one `auth`, and who may come in there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import Field, field_validator

from isthmus.auth.access import Access
from isthmus.auth.settings import AuthSettings
from isthmus.broker.entrance import Entrance
from isthmus.broker.settings import LONGEST_AUTO_ID_PREFIX, BrokerSettings, LimitSettings
from isthmus.config.problems import Loc, Problem, path_text
from isthmus.config.version import LEVELS, Version
from isthmus.errors import MQTTError
from isthmus.mqtt.topics import check_name
from isthmus.net.settings import ListenerSettings

AS_BROKER = (
    "allow_empty_client_id",
    "auto_id_prefix",
    "username_as_client_id",
    "topic_alias_maximum",
    "topic_aliases_out",
)
"""Keys of a listener that count instead of those of the same name of the broker, where set."""


class BrokerListenerSettings(ListenerSettings):
    """One address on which clients may connect."""

    auth: AuthSettings | None = Field(
        default=None,
        description="Users and rights of this listener alone, in place of the root's `auth`. "
        "Its users are other users than those of the same name elsewhere.",
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Clients connected by this listener at the same time; not set, only "
        "`broker.limits.connections` counts.",
        examples=[500],
    )
    max_qos: int | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Highest QoS of this listener's clients, where it is lower than "
        "`broker.max_qos`.",
        examples=[1],
    )
    allow_empty_client_id: bool | None = Field(
        default=None,
        description="Whether this listener's clients may leave the client id to the broker; not "
        "set, as `broker.allow_empty_client_id` says.",
    )
    auto_id_prefix: str | None = Field(
        default=None,
        max_length=LONGEST_AUTO_ID_PREFIX,
        description="Start of the client ids that the broker makes for this listener's clients; "
        "not set, as `broker.auto_id_prefix` says.",
        examples=["guest-"],
    )
    username_as_client_id: bool | None = Field(
        default=None,
        description="Use the user name of this listener's clients as client id; not set, as "
        "`broker.username_as_client_id` says.",
    )
    topic_alias_maximum: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Topic aliases that a client of this listener may use on one connection; not "
        "set, as `broker.topic_alias_maximum` says.",
        examples=[50],
    )
    topic_aliases_out: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Topic aliases that the broker uses on one connection of this listener; not "
        "set, as `broker.topic_aliases_out` says.",
        examples=[50],
    )
    mount_point: str | None = Field(
        default=None,
        description="Put in front of every topic and filter of this listener's clients, and taken "
        "off what they receive: they know nothing of it, and see no other topics, `$SYS` included.",
        examples=["tenant-a/"],
    )
    versions: tuple[Version, ...] = Field(
        default=("3.1", "3.1.1", "5"),
        min_length=1,
        description="Versions of MQTT that this listener's clients may speak; others are refused.",
        examples=[["3.1.1", "5"]],
    )

    @field_validator("mount_point")
    @classmethod
    def _mount_point_begins_a_topic(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            check_name(value.encode())
        except (MQTTError, UnicodeEncodeError) as error:
            raise ValueError(f"cannot begin a topic: {error}") from None
        first, slash, _ = value.partition("/")
        if first.startswith("$") and (not slash or first in ("$SYS", "$share")):
            raise ValueError(
                "must not begin with $SYS/ or $share/, and with another level that begins "
                "with $ only if '/' follows"
            )
        return value

    def entrance(self, access: Access, broker: BrokerSettings, name: str) -> Entrance:
        """What holds for the clients of this listener; `access` is that of its door.

        `name` is what the listener is called in errors.
        """
        own = {key: value for key in AS_BROKER if (value := getattr(self, key)) is not None}
        if self.max_qos is not None:
            own["max_qos"] = min(self.max_qos, broker.max_qos)
        return Entrance(
            access,
            broker.model_copy(update=own),
            max_connections=self.max_connections,
            mount=(self.mount_point or "").encode(),
            versions=frozenset(LEVELS[version] for version in self.versions),
            name=name,
        )


def limit_door(access: Access, limits: LimitSettings) -> None:
    """Have the clients of a door keep to these limits, those that are connected too."""
    access.rights.topic_levels = limits.topic_levels
    access.guesses.limit(
        per_address=limits.failed_login_rate, per_user=limits.failed_login_rate_per_user
    )


class Door(NamedTuple):
    """The listeners, by index, of one `auth`, which stands at `loc`.

    `realm` tells its users from those of other doors; "" are those of the root.
    """

    realm: str
    loc: Loc
    auth: AuthSettings
    listeners: dict[int, BrokerListenerSettings]

    @property
    def anonymous_allowed(self) -> bool:
        """Whether clients without a user name may connect."""
        if self.auth.allow_anonymous is not None:
            return self.auth.allow_anonymous
        near = all(listener.loopback for listener in self.listeners.values())
        return near and not self.auth.verifies

    def problems(self) -> Iterator[Problem]:
        """Yield what does not fit together."""
        auth, loc = self.auth, self.loc
        if auth.allow_anonymous and not auth.insecure_public_anonymous:
            for index, listener in self.listeners.items():
                if not listener.loopback and not _only_certificates(listener):
                    yield Problem(
                        ("listeners", index, "bind"),
                        f"'{listener.bind}' is open to others, and "
                        f"'{path_text(loc)}.allow_anonymous: true' lets everybody in; "
                        f"set '{path_text(loc)}.password_file', or bind to 127.0.0.1",
                    )
        if self.listeners and not auth.verifies and not self.anonymous_allowed:
            reason = (
                "'allow_anonymous' is false"
                if auth.allow_anonymous is False
                else "a listener is open to others"
            )
            yield Problem(
                (*loc, "password_file"),
                f"is required, as {reason}: without it nobody could connect",
            )
        if auth.identity != "username" and not any(map(_asks, self.listeners.values())):
            yield Problem(
                (*loc, "identity"),
                f"'{auth.identity}' needs client certificates: "
                "set 'tls.client_ca' on a listener that uses it",
            )


def _asks(listener: ListenerSettings) -> bool:
    return listener.tls is not None and listener.tls.client_ca is not None


def _only_certificates(listener: ListenerSettings) -> bool:
    return listener.tls is not None and listener.tls.require_client_certificate
