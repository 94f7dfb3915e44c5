"""The address of a far service: what people write as `url`."""

import re
from typing import NamedTuple

from isthmus.config.problems import did_you_mean

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
"""URL schemes and their ports. `mqtts` is MQTT inside TLS."""

_FOREIGN_SCHEMES = {"tcp": "mqtt", "ssl": "mqtts", "tls": "mqtts", "mqtt+ssl": "mqtts"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?")


class Address(NamedTuple):
    """Where to connect. `host` is a name or an IP address, IPv6 without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address of `mqtt://h:p`, `mqtts://h`, `h`, `h:p` or `[::1]:p`.

    Raises:
        ValueError: it is none of these. The text never repeats an address with an `@`, as that
            may hold a password.
    """
    scheme, rest = "mqtt", text.strip()
    match = _SCHEME.fullmatch(rest)
    if match:
        scheme, rest = match[1].lower(), match[2]
        if scheme not in DEFAULT_PORTS:
            raise ValueError(_unknown_scheme(scheme))
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
        raise ValueError(f"must be host, host:port or mqtt(s)://host:port{hint}")
    port = int(match[3]) if match[3] else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise ValueError("the port must be between 1 and 65535")
    return Address(scheme, match[1] or match[2], port)


def _unknown_scheme(scheme: str) -> str:
    if scheme in ("ws", "wss"):
        return f"'{scheme}://' is not supported by connectors, use mqtt:// or mqtts://"
    instead = _FOREIGN_SCHEMES.get(scheme)
    hint = f"; did you mean '{instead}'?" if instead else did_you_mean(scheme, DEFAULT_PORTS)
    return f"'{scheme}://' is unknown, use mqtt:// or mqtts://{hint}"
