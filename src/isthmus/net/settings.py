"""Settings of listeners, as they stand in the configuration."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from isthmus.config.model import SettingsModel
from isthmus.config.problems import Problem, raise_any
from isthmus.net.tls_settings import TLSClientSettings, TLSServerSettings

__all__ = [
    "AddressSettings",
    "ListenerSettings",
    "TLSClientSettings",
    "TLSServerSettings",
    "split_address",
]

UNIX = "unix:"
"""Begins the address of a unix socket; the absolute path of its file follows."""

MAX_UNIX_PATH_BYTES = 107
"""What Linux has room for (sun_path is 108 bytes with the zero at its end)."""

DEFAULT_PATH = "/mqtt"
ANY_PATH = "*"
"""Where MQTT over WebSocket is usually found."""

_ORIGIN = re.compile(r"https?://[^/\s?#]+|\*")
_PATH = re.compile(r"/[\x21\x22\x24-\x3e\x40-\x7e]*")
_MODE = re.compile(r"0?[0-7]{3}")
_INTERFACE = re.compile(r"[\x21-\x2e\x30-\x39\x3b-\x7e]{1,15}")

_LOOPBACK = ("127.0.0.0/8", "::1/128")


def _mode(value: object) -> object:
    """YAML reads an unquoted 0660 as the number 660, whose digits are the same."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:03d}"
    return value


class AddressSettings(SettingsModel):
    """One address to listen on."""

    bind: str = Field(
        description="Address and port; IPv6 in brackets; * for every address; port 0 for any. Or "
        "`unix:` and the absolute path of a socket file.",
        examples=["127.0.0.1:1883", "0.0.0.0:8883", "[::1]:1883", "unix:/run/isthmus/mqtt.sock"],
    )
    mode: Annotated[str, BeforeValidator(_mode)] = Field(
        default="0660",
        description="Rights on the socket file of a `unix:` address: who may write may connect.",
        examples=["0666"],
    )
    tls: TLSServerSettings | None = Field(default=None, description="Absent: not encrypted.")

    @field_validator("bind", mode="before")
    @classmethod
    def _bind_has_an_address(cls, bind: object) -> object:
        if isinstance(bind, int):
            raise ValueError(f"needs an address in front of the port, such as 127.0.0.1:{bind}")
        return bind

    @field_validator("bind")
    @classmethod
    def _bind_can_be_split(cls, bind: str) -> str:
        if bind.startswith(UNIX):
            check_unix_path(bind.removeprefix(UNIX))
        else:
            split_address(bind)
        return bind

    @field_validator("mode")
    @classmethod
    def _mode_is_octal(cls, mode: str) -> str:
        if not _MODE.fullmatch(mode):
            raise ValueError("must be three octal digits in quotes, such as '0660'")
        return mode

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        raise_any(self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Problem]:
        """Yield what does not fit together."""
        if "mode" in self.model_fields_set and self.unix_path is None:
            yield Problem(("mode",), "is only for a bind of unix:/path")

    @property
    def unix_path(self) -> str | None:
        """The file of a unix socket; None for TCP."""
        return self.bind.removeprefix(UNIX) if self.bind.startswith(UNIX) else None

    @property
    def host(self) -> str:
        """The address without brackets and port, or the path; "*" is every address."""
        return self.unix_path or split_address(self.bind)[0]

    @property
    def port(self) -> int:
        """The port; 0 lets the system choose, and is that of unix sockets."""
        return 0 if self.unix_path else split_address(self.bind)[1]

    @property
    def on_this_machine(self) -> bool:
        """Whether only programs on this machine reach the address."""
        host = self.host
        if host == "localhost" or self.unix_path is not None:
            return True
        try:
            return ipaddress.ip_address(host.partition("%")[0]).is_loopback
        except ValueError:
            return False


class ListenerSettings(AddressSettings):
    """One address on which clients may connect."""

    transport: Literal["tcp", "websocket"] = Field(
        default="tcp", description="What carries MQTT; `websocket` with `tls` is `wss`."
    )
    path: str = Field(
        default=DEFAULT_PATH,
        description="Path that WebSocket clients ask for; others get 404. `*` is any path.",
    )
    origins: tuple[str, ...] = Field(
        default=(),
        description="Web sites whose pages may connect by WebSocket; `*` is every site. Programs "
        "that are no browsers, and pages from this listener's own address, always may.",
        examples=[["https://dashboard.example.com"]],
    )
    proxy_protocol: bool | Literal["v1", "v2"] = Field(
        default=False,
        description="Whether each connection begins with a PROXY protocol header, which names the "
        "client that a load balancer stands in front of: `true` is either version.",
    )
    interface: str | None = Field(
        default=None,
        description="Network interface through which clients come; who comes another way does not "
        "reach the listener. Not set means any. Linux only.",
        examples=["eth0"],
    )
    trusted_proxies: tuple[str, ...] | None = Field(
        default=None,
        description="Addresses or networks of those load balancers; everybody else is refused. "
        "Default on a loopback address: this machine. Elsewhere it is required.",
        examples=[["10.0.0.0/24"]],
    )

    @field_validator("interface")
    @classmethod
    def _interface_has_a_name(cls, interface: str | None) -> str | None:
        if interface is not None and not _INTERFACE.fullmatch(interface):
            raise ValueError("must be the name of a network interface, such as eth0")
        return interface

    @field_validator("path")
    @classmethod
    def _path_fits_a_request(cls, path: str) -> str:
        if path != ANY_PATH and not _PATH.fullmatch(path):
            raise ValueError("must begin with / and hold no spaces, '?' or '#', such as /mqtt")
        return path

    @field_validator("origins")
    @classmethod
    def _origins_are_sites(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "a site is scheme and host without a path, such as https://app.example.com, "
                    f"not {origin!r}"
                )
        return tuple(origin.lower() for origin in origins)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, networks: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for network in networks or ():
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; write 10.0.0.7 or 10.0.0.0/24") from None
        return networks

    def _contradictions(self) -> Iterator[Problem]:
        yield from super()._contradictions()
        given = self.model_fields_set
        if self.transport != "websocket":
            for key in {"path", "origins"} & given:
                yield Problem((key,), "is only for 'transport: websocket'")
        if self.interface is not None and self.unix_path is not None:
            yield Problem(("interface",), "is not for a unix socket")
        if self.trusted_proxies is not None and not self.proxy_protocol:
            yield Problem(("trusted_proxies",), "needs 'proxy_protocol: true'")
        if self.proxy_protocol and self.trusted_proxies is None and not self.on_this_machine:
            yield Problem(
                ("trusted_proxies",),
                "is required with 'proxy_protocol' on an address that others reach: "
                "without it anybody could claim any address",
            )

    @property
    def place(self) -> str:
        """What only one listener can have, in words: the address, by an interface if one is set."""
        return self.bind if self.interface is None else f"{self.bind} on {self.interface}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect; a load balancer on it brings others."""
        return not self.proxy_protocol and self.on_this_machine

    @property
    def proxy_networks(self) -> tuple[str, ...]:
        """Who may send a PROXY protocol header."""
        return _LOOPBACK if self.trusted_proxies is None else self.trusted_proxies


def split_address(text: str) -> tuple[str, int]:
    """Split "host:port" or "[v6]:port"; ValueError says what is expected."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address needs brackets, such as [::1]:1883, not {text!r}")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError(f"expected address:port, such as 127.0.0.1:1883, not {text!r}")
    return host, int(port)


def check_unix_path(path: str) -> None:
    """Raise ValueError unless a unix socket can have this path."""
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"needs an absolute path, such as unix:/run/mqtt.sock, not {path!r}")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the path must not be longer than {MAX_UNIX_PATH_BYTES} bytes")
