"""Connections through a proxy: HTTP CONNECT and SOCKS5.

The far side's name goes to the proxy as it is: its resolver is the one that knows. What a proxy
sends is read byte by byte up to the end of its answer, and never further, as what follows is the
far side's.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from isthmus.errors import ConnectError
from isthmus.net.link import describe
from isthmus.net.peer import printable

DEFAULT_PORTS: Final = {"http": 3128, "socks5": 1080}
"""Schemes and their ports: those of Squid and of RFC 1928."""

MAX_ANSWER: Final = 8192
"""Bytes of the header that a proxy may answer with."""

_URL = re.compile(
    r"([A-Za-z0-9+.-]+)://(?:([^/@]*)@)?"
    r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:/\[\]@]+))(?::(\d{1,5}))?/?"
)

# RFC 1928, section 6.
_SOCKS_REPLIES: Final = {
    1: "general failure",
    2: "its rules do not allow this connection",
    3: "the network is unreachable",
    4: "the far side's host is unreachable",
    5: "the far side refuses the connection",
    6: "the time to live has expired",
    7: "it does not know the command CONNECT",
    8: "it does not know this kind of address",
}


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """Where a proxy is, and who we are to it. Its text never shows the password."""

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str = ""

    def __repr__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """Return the proxy of `http://user:password@host:port` or `socks5://...`.

    Raises:
        ValueError: it is neither. The text never repeats the address, as it may hold a password.
    """
    match = _URL.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            "must be http://host:port or socks5://host:port, with user:password@ before the host "
            "if it wants them; write special characters in them as %40 and the like"
        )
    scheme = match[1].lower()
    if scheme == "socks5h":  # curl's word for what is done here anyway
        scheme = "socks5"
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"'{scheme}://' is unknown, use http:// or socks5://")
    port = int(match[5]) if match[5] else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise ValueError("the port must be between 1 and 65535")
    username = password = None
    if match[2] is not None:
        name, _, secret = match[2].partition(":")
        username, password = unquote(name), unquote(secret)
        if scheme == "socks5" and not all(
            1 <= len(part.encode()) <= 255 for part in (username, password)
        ):
            raise ValueError("SOCKS5 wants a user name and a password of 1 to 255 bytes")
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in username):
            raise ValueError("the user name must not hold control characters")
    return Proxy(scheme, match[3] or match[4], port, username, password or "")


async def ask_proxy(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy at the other end of `sock` connect it to `host`:`port`.

    Raises:
        ConnectError: of the step "proxy"; it does not.
    """
    talk: Callable[[socket.socket, Proxy, str, int], Awaitable[None]] = (
        _http_connect if proxy.scheme == "http" else _socks_connect
    )
    try:
        await talk(sock, proxy, host, port)
    except OSError as error:
        raise _failed(proxy, describe(error)) from error


def _failed(proxy: Proxy, text: str, hint: str = "") -> ConnectError:
    return ConnectError("proxy", f"{proxy}: {text}", hint=hint)


_CREDENTIALS = "check user name and password in 'proxy'"


async def _http_connect(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    name = _ascii(proxy, host)
    target = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username is not None:
        pair = f"{proxy.username}:{proxy.password}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
    await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n"):
        answer += await _exactly(sock, 1, proxy)
        if not b"HTTP/1.".startswith(answer[:7]):
            raise _failed(proxy, "it does not speak HTTP", "is 'proxy' the address of a proxy?")
        if len(answer) > MAX_ANSWER:
            raise _failed(proxy, f"its answer is longer than {MAX_ANSWER} bytes")
    status = answer.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")[2].strip()
    if status[:1] != "2":
        # Tinyproxy says 401 where RFC 9110 says 407.
        asked = status.startswith(("401", "407"))
        hint = _CREDENTIALS if asked else "may it connect to this host and port?"
        raise _failed(proxy, f"it answers {printable(status)}", hint)


async def _socks_connect(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """RFC 1928, with the user name and password of RFC 1929."""
    loop = asyncio.get_running_loop()
    methods = b"\x00" if proxy.username is None else b"\x00\x02"
    await loop.sock_sendall(sock, b"\x05" + bytes((len(methods),)) + methods)
    version, method = await _exactly(sock, 2, proxy)
    if version != 5:
        raise _failed(proxy, "it does not speak SOCKS5", "is 'proxy' the address of a proxy?")
    if method == 2 and proxy.username is not None:
        name, password = proxy.username.encode(), proxy.password.encode()
        await loop.sock_sendall(
            sock, b"\x01" + bytes((len(name),)) + name + bytes((len(password),)) + password
        )
        if (await _exactly(sock, 2, proxy))[1] != 0:
            raise _failed(proxy, "it refuses user name and password", _CREDENTIALS)
    elif method != 0:
        raise _failed(proxy, "it wants a user name and password", _CREDENTIALS)
    await loop.sock_sendall(
        sock, b"\x05\x01\x00" + _socks_address(proxy, host) + port.to_bytes(2, "big")
    )
    version, reply, _, kind = await _exactly(sock, 4, proxy)
    if reply != 0:
        text = _SOCKS_REPLIES.get(reply, f"it refuses with code {reply}")
        raise _failed(proxy, text, "is host and port in 'url' right, and may the proxy go there?")
    sizes = {1: 4, 4: 16}
    size = sizes[kind] if kind in sizes else (await _exactly(sock, 1, proxy))[0]
    await _exactly(sock, size + 2, proxy)  # the address it speaks from, of no interest


def _socks_address(proxy: Proxy, host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = _ascii(proxy, host).encode()
        return b"\x03" + bytes((len(name),)) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


def _ascii(proxy: Proxy, host: str) -> str:
    """A host name as it goes over the wire."""
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not 1 <= len(name) <= 255:
        raise _failed(proxy, f"{host[:100]} is no host name")
    return name


async def _exactly(sock: socket.socket, size: int, proxy: Proxy) -> bytes:
    data = b""
    while len(data) < size:
        chunk = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not chunk:
            raise _failed(proxy, "it closed the connection without an answer")
        data += chunk
    return data
