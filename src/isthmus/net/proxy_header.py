"""The PROXY protocol header, versions 1 and 2, with which a load balancer names the client.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt. A parser without I/O: give it what has
come so far, and it says how much of it is the header. Extensions of version 2 (TLVs) are skipped.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""Begins version 2."""

MAX_V1: Final = 107
"""Bytes of the longest line of version 1, with its end."""

MAX_V2: Final = 16 + 4096
"""The format allows 64 KiB; addresses and the extensions in use take less than one."""

_V1: Final = b"PROXY "
_FAMILIES: Final = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}

Accepted = Literal["v1", "v2"] | bool
"""Versions to accept; true is both."""


class HeaderError(ValueError):
    """This is no PROXY protocol header, or one that is not accepted."""


class ProxyHeader(NamedTuple):
    """A complete header.

    Attributes:
        size: Its bytes; what follows belongs to the connection.
        peername: The client as `accept` would give it; None if the header names none, because the
            load balancer speaks for itself or does not know.
    """

    size: int
    peername: tuple[str, int] | None


def read_header(data: bytes, accepted: Accepted) -> ProxyHeader | None:
    """Return the header at the start of `data`, or None while it is not complete.

    Raises:
        HeaderError: there is none.
    """
    if accepted != "v2" and (data.startswith(_V1) or _V1.startswith(data)):
        return _line(data)
    if accepted != "v1" and (data.startswith(SIGNATURE) or SIGNATURE.startswith(data)):
        return _binary(data)
    raise HeaderError("the connection does not begin with a PROXY protocol header")


def _line(data: bytes) -> ProxyHeader | None:
    """Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883` and CR LF."""
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1 or b"\n" in data:
            raise HeaderError("the PROXY line has no end")
        return None
    words = data[:end].split(b" ")
    size = end + 2
    if words[1] == b"UNKNOWN":
        return ProxyHeader(size, None)
    try:
        _, family, source, target, port, target_port = words
        address = _FAMILIES[family]
        if b"%" in source:  # the zone of an address is any text, and would go to the log
            raise ValueError("a zone")
        host = str(address(source.decode("ascii")))
        address(target.decode("ascii"))
        _port(target_port)
        return ProxyHeader(size, (host, _port(port)))
    except (KeyError, ValueError):
        raise HeaderError("the PROXY line has other words than it should") from None


def _port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or (len(text) > 1 and text[:1] == b"0"):
        raise ValueError("no port")
    port = int(text)
    if port > 65_535:
        raise ValueError("no port")
    return port


def _binary(data: bytes) -> ProxyHeader | None:
    """Version 2: signature, command, family, length, addresses, extensions."""
    if len(data) < 16:
        return None
    command, family = data[12], data[13]
    size = 16 + int.from_bytes(data[14:16], "big")
    if command not in (0x20, 0x21):
        raise HeaderError("the PROXY header has an unknown version or command")
    if size > MAX_V2:
        raise HeaderError(f"the PROXY header is longer than {MAX_V2} bytes")
    if len(data) < size:
        return None
    if command == 0x20 or family == 0x00:
        return ProxyHeader(size, None)
    if family == 0x11 and size >= 16 + 12:
        host, at = str(IPv4Address(data[16:20])), 24
    elif family == 0x21 and size >= 16 + 36:
        host, at = str(IPv6Address(data[16:32])), 48
    elif family == 0x31 and size >= 16 + 216:
        return ProxyHeader(size, None)  # a unix socket before the load balancer: no address
    else:
        raise HeaderError("the PROXY header is not about a TCP connection")
    return ProxyHeader(size, (host, int.from_bytes(data[at : at + 2], "big")))
