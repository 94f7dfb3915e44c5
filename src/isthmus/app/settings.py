"""The root of the configuration: every key of the file, and what has to fit together.

A field knows what is right for itself; here is what no single package can know: that a route's
ends exist, that a public listener is not open to everybody, that names do not clash.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    field_validator,
    model_validator,
)

from isthmus.app.door import BrokerListenerSettings, Door
from isthmus.auth.settings import AuthSettings
from isthmus.broker.settings import BrokerSettings
from isthmus.config.model import SettingsModel
from isthmus.config.problems import Loc, Problem, did_you_mean, raise_any
from isthmus.config.secrets import Expanded, shown
from isthmus.connectors.settings import ConnectorSettings
from isthmus.log import Clients, TextFormatter
from isthmus.net.tls_settings import OR_FOLDER
from isthmus.routing.leg import legs
from isthmus.routing.settings import RouteSettings
from isthmus.routing.shared_queue import contradictions
from isthmus.web.settings import HttpSettings

LOCAL = "local"
"""Name of the embedded broker as an endpoint."""

DEFAULT_BIND = "127.0.0.1:1883"

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NODE = re.compile(r"[^+#/\x00-\x1f\x7f]+")
_FOLDERS = {("broker", "data")}
_WRITTEN = {("log", "file"), ("pid_file",)}
"""Files that are made when they are needed."""
_SECTIONS = ("listeners", "broker", "auth", "connectors", "routes", "log")


def _valid_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name may hold only letters, digits, '_' and '-'")
    return name


def _connector_name(name: str) -> str:
    if name == LOCAL:
        raise ValueError("is the name of the embedded broker; choose another")
    return _valid_name(name)


Name = Annotated[str, AfterValidator(_valid_name)]
ConnectorName = Annotated[str, AfterValidator(_connector_name)]


class LogSettings(SettingsModel):
    """What is logged, where to, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe entries to write."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or one JSON object per line."
    )
    to: tuple[Literal["stderr", "stdout", "syslog", "topic"], ...] = Field(
        default=("stderr",),
        description="Where entries go, besides `file`; an empty list is nowhere. `topic` publishes "
        "them on `$SYS/broker/log/E`, `W` and `N` (errors, warnings, the rest but debug), which "
        "everybody can read who may read `$SYS`.",
        examples=[["stderr", "syslog"]],
    )
    file: Path | None = Field(
        default=None,
        description="File to add entries to. It is opened anew when it was moved away, so "
        "logrotate needs no signal.",
        examples=["/var/log/isthmus/isthmus.log"],
    )
    timestamp: bool = Field(
        default=True,
        description="Whether lines of text begin with their time. JSON always has it.",
    )
    timestamp_format: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="How lines of text write their time, as for `strftime` and in local time; not "
        "set, it is ISO 8601 in UTC, with milliseconds.",
        examples=["%Y-%m-%d %H:%M:%S"],
    )
    clients: Clients = Field(
        default="faults",
        description="What is written about clients of the broker: `all` has a line for each that "
        "connects and for each that goes, `faults` only for those that were refused or closed and "
        "for connections that came to nothing, `none` has neither. With `level: debug`, `faults` "
        "is `all`.",
    )
    syslog_facility: Literal[
        "daemon", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"
    ] = Field(default="daemon", description="Facility of entries in the system's log.")

    @property
    def formatter(self) -> TextFormatter:
        """What makes lines of text of entries."""
        return TextFormatter(timestamp=self.timestamp, timestamp_format=self.timestamp_format)


class Settings(SettingsModel):
    """The configuration of one Isthmus process. An empty file is a broker on 127.0.0.1:1883."""

    node: str = Field(
        default_factory=socket.gethostname,
        description="Name of this process, `${node}` in topic templates. "
        "Not set means the host name.",
        examples=["edge-a"],
    )
    listeners: tuple[BrokerListenerSettings, ...] = Field(
        default_factory=lambda: (BrokerListenerSettings(bind=DEFAULT_BIND),),
        description="Addresses to accept MQTT clients on.",
        json_schema_extra={"default": [{"bind": DEFAULT_BIND}]},
    )
    broker: BrokerSettings = Field(
        default_factory=BrokerSettings,
        description="The embedded broker: its data, and what its clients may take.",
    )
    auth: AuthSettings = Field(
        default_factory=AuthSettings, description="Who may connect, and what for."
    )
    connectors: dict[ConnectorName, ConnectorSettings] = Field(
        default_factory=dict,
        description="Far services by name: letters, digits, `_` and `-`; `local` is taken.",
    )
    routes: dict[Name, RouteSettings] = Field(
        default_factory=dict,
        description="Routes by name: letters, digits, `_` and `-`.",
    )
    http: HttpSettings | None = Field(
        default_factory=HttpSettings,
        description="The HTTP port, with metrics and health; null switches it off.",
    )
    log: LogSettings = Field(default_factory=LogSettings, description="What is logged, and how.")
    user: str | None = Field(
        default=None,
        min_length=1,
        description="User to become, with its groups, where it is root who starts the process. It "
        "does so before it opens anything, so log, data, keys and ports have to be open to that "
        "user. Not set means whoever starts it.",
        examples=["isthmus"],
    )
    pid_file: Path | None = Field(
        default=None,
        description="File to write the number of the process to; it is removed at the end.",
        examples=["/run/isthmus/isthmus.pid"],
    )

    @property
    def doors(self) -> tuple[Door, ...]:
        """Who may come in where: first by the root's `auth`, then by those of listeners."""
        shared = {i: one for i, one in enumerate(self.listeners) if one.auth is None}
        places = [one.place for one in self.listeners]
        # The address, as users keep their sessions when a listener gets another place in the list.
        # Only addresses without a port of their own stand there twice.
        own = (
            Door(
                one.place if places.count(one.place) == 1 else f"{one.place} {index}",
                ("listeners", index, "auth"),
                one.auth,
                {index: one},
            )
            for index, one in enumerate(self.listeners)
            if one.auth is not None
        )
        return (Door("", ("auth",), self.auth, shared), *own)

    def realm(self, index: int) -> str:
        """The realm of the users who come in by a listener."""
        return next(door.realm for door in self.doors if index in door.listeners)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """A section whose every line is commented out is null in YAML; it means the defaults."""
        if not isinstance(data, dict):
            return data
        return {
            key: value for key, value in data.items() if not (value is None and key in _SECTIONS)
        }

    @field_validator("node")
    @classmethod
    def _node_fits_a_topic(cls, value: str) -> str:
        if not _NODE.fullmatch(value):
            raise ValueError("must not be empty or hold +, #, / or control characters")
        return value

    @classmethod
    def problems_in(cls, data: Any) -> Iterator[Problem]:
        """Yield routes to nowhere also beside other errors, which stop `_fits_together`."""
        if isinstance(data, Mapping):
            yield from _unknown_endpoints(data.get("connectors"), data.get("routes"))

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        raise_any(
            [
                *self._listener_problems(),
                *(problem for door in self.doors for problem in door.problems()),
                *self._connector_problems(),
                *self._route_problems(),
                *self._queue_problems(),
                *_file_problems(self, ()),
            ]
        )
        return self

    def _listener_problems(self) -> Iterator[Problem]:
        seen: dict[str, int] = {}
        for index, listener in enumerate(self.listeners):
            if listener.place in seen and not listener.bind.endswith(":0"):
                yield Problem(
                    ("listeners", index, "bind"),
                    f"is the same as listeners[{seen[listener.place]}].bind",
                )
            seen.setdefault(listener.place, index)
        http = self.http
        if http is None or "bind" not in http.model_fields_set or http.bind.endswith(":0"):
            return
        if http.bind in seen:
            yield Problem(("http", "bind"), f"is the same as listeners[{seen[http.bind]}].bind")

    def _connector_problems(self) -> Iterator[Problem]:
        """A connector to this very process would send every message round for ever."""
        for name, connector in self.connectors.items():
            for index, listener in enumerate(self.listeners):
                everywhere = listener.host in ("0.0.0.0", "::", "*")  # noqa: S104
                if any(
                    address.port == listener.port
                    and (everywhere or address.host == listener.host)
                    and _is_near(address.host)
                    for address in connector.addresses
                ):
                    yield Problem(
                        ("connectors", name, "url"),
                        f"leads to this process itself (listeners[{index}]); "
                        "use another port, or a route from 'local' to 'local'",
                    )

    def _route_problems(self) -> Iterator[Problem]:
        ends = {name: {"from": route.source, "to": route.to} for name, route in self.routes.items()}
        yield from _unknown_endpoints(self.connectors, ends)
        for name, route in self.routes.items():
            yield from self._end_problems(name, route)
            if route.source == route.to and not route.maps_topics:
                yield Problem(
                    ("routes", name, "to"),
                    "is the same as 'from', so every message would come back; "
                    "map the topic with 'topic', 'strip' or 'prepend'",
                )
            if route.source == LOCAL:
                for index, text in enumerate(route.topics):
                    if text.startswith("$share/"):
                        yield Problem(
                            ("routes", name, "topics", index),
                            "is a shared subscription, which only a connector can make; "
                            "a route from 'local' gets every message: leave '$share/.../' out",
                        )

    def _queue_problems(self) -> Iterator[Problem]:
        """Routes to one connector share its queue."""
        kept = self.broker.data is not None and self.broker.persistence
        directions = list(legs(self.routes, self.node))
        on_disk = {
            name: kept
            and any(leg.settings.durability == "disk" for leg in directions if leg.target == name)
            for name in self.connectors
        }
        yield from contradictions(directions, on_disk)

    def _end_problems(self, name: str, route: RouteSettings) -> Iterator[Problem]:
        """What a route cannot do because of which endpoints it joins."""
        if route.source == route.to and route.direction == "both":
            yield Problem(
                ("routes", name, "direction"),
                "is 'both' between an endpoint and itself: every message would come back",
            )
        if route.to == LOCAL:
            for key in ("connection", "topic"):
                text = getattr(route, key)
                if text and (key == "connection" or "${connection.client_id}" in text):
                    yield Problem(
                        ("routes", name, key),
                        "names a connection, but the route publishes on 'local', which has none",
                    )
        if route.check_as is not None:
            text = ""
            if LOCAL not in (route.source, route.to):
                text = "has nothing to check: neither end is 'local'"
            elif self.auth.acl_file is None:
                text = "needs 'auth.acl_file': without it every user may do everything"
            if text:
                yield Problem(("routes", name, "check_as"), text)


def _is_near(host: str) -> bool:
    """Whether `host` is certainly this machine: by its address, or as it is a unix socket."""
    try:
        return host == "localhost" or host.startswith("/") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unknown_endpoints(connectors: Any, routes: Any) -> Iterator[Problem]:
    """Yield the ends of routes that name no endpoint. Takes what is no mapping as empty."""
    endpoints = [LOCAL, *connectors] if isinstance(connectors, Mapping) else [LOCAL]
    for name, route in routes.items() if isinstance(routes, Mapping) else ():
        for key in ("from", "to"):
            endpoint = route.get(key) if isinstance(route, Mapping) else None
            if isinstance(endpoint, str) and endpoint not in endpoints:
                hint = "" if isinstance(endpoint, Expanded) else did_you_mean(endpoint, endpoints)
                text = f"there is no connector {shown(endpoint)}{hint}"
                yield Problem(("routes", name, key), text)


def _file_problems(settings: Any, loc: Loc) -> Iterator[Problem]:
    """Yield the files that are named somewhere and cannot be read."""
    if isinstance(settings, BaseModel):
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if isinstance(value, Path) and field.json_schema_extra == OR_FOLDER and value.is_dir():
                continue
            yield from _file_problems(value, (*loc, field.alias or name))
    elif isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _file_problems(value, (*loc, key))
    elif isinstance(settings, tuple):
        for index, value in enumerate(settings):
            yield from _file_problems(value, (*loc, index))
    elif isinstance(settings, Path):
        problem = _folder_problem(settings) if loc in _FOLDERS else _file_problem(settings)
        if problem and loc not in _WRITTEN:
            yield Problem(loc, problem)


def _file_problem(path: Path) -> str:
    if not path.exists():
        return f"there is no file '{path}'"
    if not path.is_file():
        return f"'{path}' is no file"
    return "" if os.access(path, os.R_OK) else f"'{path}' may not be read by this user"


def _folder_problem(path: Path) -> str:
    """A folder that is not there yet is made when it is needed."""
    return f"'{path}' is no folder" if path.exists() and not path.is_dir() else ""
