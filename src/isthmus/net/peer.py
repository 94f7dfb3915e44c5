"""A peer in texts: its address, as people read it and as a key, and what it said."""

from __future__ import annotations

import errno
import os
from ipaddress import IPv6Address, ip_address
from typing import Any

CLOSED_BY_PEER = "closed by the peer"
"""Why a link ended whose peer sent FIN."""

CLOSES = frozenset({CLOSED_BY_PEER, os.strerror(errno.ECONNRESET), os.strerror(errno.EPIPE)})
"""Why a link ended whose peer just closed it, without a word."""


def peer_text(peername: Any) -> str:
    """`host:port`, with IPv6 in brackets, of what `accept` or `getpeername` gave."""
    if not isinstance(peername, tuple):
        return str(peername)
    host, port = peername[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_network(peername: Any) -> str:
    """Where the peer is: its IPv4 address, or the /64 of its IPv6 address.

    A host of IPv6 may use any address of its /64, so they all count as one.
    """
    if not isinstance(peername, tuple):
        return str(peername)
    host = str(peername[0])
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(address.packed[:8] + bytes(8))}/64"


def printable(text: str) -> str:
    """What a peer said, short and without characters that would do something to a terminal."""
    return ascii(text[:100])[1:-1]
