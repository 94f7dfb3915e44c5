"""The address of a far service: what people write as `url`."""

import re
from typing import NamedTuple

from isthmus.config.problems import did_you_mean
from isthmus.net.settings import DEFAULT_PATH, UNIX, check_unix_path

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
"""URL schemes and their ports. `mqtts` is MQTT inside TLS, `ws` and `wss` are WebSocket."""

UNIX_SCHEME = "mqtt+unix"
"""MQTT over a unix socket; written as `unix:/path` too."""

_ENCRYPTED = ("mqtts", "wss")
_FOREIGN_SCHEMES = {
    "tcp": "mqtt",
    "ssl": "mqtts",
    "tls": "mqtts",
    "mqtt+ssl": "mqtts",
    "http": "ws",
    "https": "wss",
}
_KNOWN = [*DEFAULT_PORTS, UNIX_SCHEME]
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?")
_PATH = re.compile(r"/[\x21\x22\x24-\x7e]*")


class Address(NamedTuple):
    """Where to connect.

    `host` is a name or an IP address, IPv6 without brackets, or the path of a unix socket, whose
    port is 0. `path` is that of a WebSocket, with the query if there is one, else "".
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.scheme == UNIX_SCHEME:
            return f"{self.scheme}://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def shown(self) -> str:
        """As it may be shown to anybody: without the query, which may hold a token."""
        return str(self._replace(path=self.path.partition("?")[0]))

    @property
    def encrypted(self) -> bool:
        """Whether it is inside TLS."""
        return self.scheme in _ENCRYPTED


def parse_address(text: str) -> Address:
    """Return the address of `mqtt://h:p`, `mqtts://h`, `wss://h/path`, `unix:/path`, `h`, `h:p`.

    Raises:
        ValueError: it is none of these. The text never repeats an address with an `@`, as that
            may hold a password.
    """
    scheme, rest = "mqtt", text.strip()
    match = _SCHEME.fullmatch(rest)
    if match:
        scheme, rest = match[1].lower(), match[2]
    elif rest.startswith(UNIX):
        scheme, rest = UNIX_SCHEME, rest.removeprefix(UNIX)
    if scheme == UNIX_SCHEME:
        check_unix_path(rest)
        return Address(scheme, rest, 0)
    if scheme not in DEFAULT_PORTS:
        raise ValueError(_unknown_scheme(scheme))
    path = ""
    if scheme in ("ws", "wss"):
        slash = rest.find("/")
        rest, path = (rest, "") if slash < 0 else (rest[:slash], rest[slash:])
        path = DEFAULT_PATH if path in ("", "/") else path
        if not _PATH.fullmatch(path):
            raise ValueError("the path must not hold spaces, '#' or characters outside ASCII")
    if "@" in rest:
        raise ValueError(
            "must not hold credentials; write them as 'username' and 'password' of the connector"
        )
    rest = rest.removesuffix("/")
    if "/" in rest or "?" in rest:
        raise ValueError(f"must end after the port; {scheme}:// has no path")
    match = _HOST_PORT.fullmatch(rest)
    if match is None:
        hint = "; put an IPv6 address in brackets: [::1]:1883" if rest.count(":") > 1 else ""
        raise ValueError(
            f"must be host, host:port, mqtt(s)://host:port or ws(s)://host:port/path{hint}"
        )
    port = int(match[3]) if match[3] else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise ValueError("the port must be between 1 and 65535")
    return Address(scheme, match[1] or match[2], port, path)


def _unknown_scheme(scheme: str) -> str:
    instead = _FOREIGN_SCHEMES.get(scheme)
    hint = f"; did you mean '{instead}'?" if instead else did_you_mean(scheme, _KNOWN)
    return f"'{scheme}://' is unknown, use mqtt://, mqtts://, ws://, wss:// or unix:/path{hint}"
