"""Making a connection to a far service: name, TCP or unix socket, proxy, TLS, WebSocket.

Each step has its own clear error.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from isthmus.clock import monotonic
from isthmus.errors import ConfigError, ConnectError
from isthmus.net.link import Link, describe
from isthmus.net.proxy import Proxy, ask_proxy
from isthmus.net.reactor import Reactor
from isthmus.net.resolve import Address, resolve
from isthmus.net.socket_options import SocketOptions
from isthmus.net.tls_settings import TLSClientSettings

if TYPE_CHECKING:
    from isthmus.net.tls import TLSLink
    from isthmus.net.websocket_handshake import ClientHandshake

DIAL_TIMEOUT_S = 10.0

MAX_PACKET_SIZE = 1 << 20
"""Biggest MQTT packet that is expected, unless the owner says so; bounds WebSocket frames."""

_HINTS = {
    errno.ECONNREFUSED: "is the service running, and the port right?",
    errno.EHOSTUNREACH: "is the network up, and the address right?",
    errno.ENETUNREACH: "is the network up, and the address right?",
    errno.EMFILE: "this process has no descriptors left; see `ulimit -n`",
    errno.EADDRNOTAVAIL: "this machine does not have the local address, or no free port for it",
}

_UNDER_WAY = frozenset((errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR))


async def dial(
    reactor: Reactor,
    host: str,
    port: int,
    *,
    tls: TLSClientSettings | None = None,
    timeout_s: float = DIAL_TIMEOUT_S,
    options: SocketOptions | None = None,
    websocket: str = "",
    proxy: Proxy | None = None,
    max_packet_size: int = MAX_PACKET_SIZE,
) -> Link:
    """Connect to `host`:`port` within `timeout_s`, with TLS if settings are given.

    A `host` that begins with a slash is the path of a unix socket. `websocket` is the path to ask
    for if MQTT is to be carried by WebSocket, whose frames are bounded by `max_packet_size` bytes.
    With a proxy, the name is looked up there.

    Every address of the host is tried in turn. The link delivers nothing until its `on_data` is
    set. ConnectError says at which step it failed ("name", "tcp", "unix", "proxy", "tls",
    "websocket" or "timeout"), why, and what to try. With TLS 1.3 a server that refuses our
    certificate says so only after our side is through: then the link closes soon, and its
    `on_close` gets the reason.
    """
    deadline = monotonic() + timeout_s
    unix = host.startswith("/")
    where = f"unix:{host}" if unix else _text(host, port)
    step = "connecting"
    try:
        async with asyncio.timeout(timeout_s):
            if unix:
                sock = await _connect_unix(reactor, host, where)
            elif proxy is None:
                step = "looking up the name"
                addresses = await _resolve(host, port)
                step = "connecting"
                sock = await _connect(reactor, addresses, where, deadline, options)
            else:
                step = f"connecting through {proxy}"
                sock = await _connect_by_proxy(reactor, proxy, host, port, deadline, options)
            # The proxy's address would say nothing about the far side.
            peername = where if unix or proxy is not None else _peername(sock, where)
            link: Link
            if tls is not None:
                step = "the TLS handshake"
                link = await _secure(
                    reactor, sock, tls, host, where, peername, framed=bool(websocket)
                )
            elif websocket:
                from isthmus.net.websocket import WebSocketLink  # only who uses it pays for it

                link = WebSocketLink(reactor, sock, peername)
            else:
                return Link(reactor, sock, peername)
            if websocket:
                step = "the WebSocket handshake"
                from isthmus.net.websocket_handshake import ClientHandshake

                handshake = ClientHandshake(
                    "localhost" if unix else host,
                    port or 80,
                    websocket,
                    secure=tls is not None,
                )
                await _upgrade(link, handshake, where, max_packet_size)
            return link
    except TimeoutError as error:
        raise ConnectError(
            "timeout",
            f"{where}: {step} took longer than {timeout_s:g} s",
            hint="a firewall may drop the packets, or the service hangs",
        ) from error


def _text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _peername(sock: socket.socket, where: str) -> Any:
    """The address of the peer, which may have reset the connection already."""
    try:
        return sock.getpeername()
    except OSError as error:
        sock.close()
        raise ConnectError("tcp", f"{where}: {describe(error)}") from error


async def _resolve(host: str, port: int) -> list[Address]:
    try:
        return await resolve(host, port)
    except (OSError, UnicodeError) as error:
        text = describe(error) if isinstance(error, OSError) else "this is no host name"
        raise ConnectError(
            "name", f"{host}: {text}", hint="is the name right, and does DNS work here?"
        ) from error


async def _connect(
    reactor: Reactor,
    addresses: list[Address],
    where: str,
    deadline: float,
    options: SocketOptions | None = None,
) -> socket.socket:
    """Try each address; a silent one may use only its share of the time that is left."""
    problems: dict[str, int] = {}
    for index, (family, kind, proto, address) in enumerate(addresses):
        left = len(addresses) - index
        share = max(0.0, deadline - monotonic()) / left
        sock = None
        try:
            sock = socket.socket(family, kind, proto)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if options is not None:
                options.apply(sock)
            # The last one may use all the time that is left, which `dial` watches.
            async with asyncio.timeout(share if left > 1 else None):
                await _reach(reactor.loop, sock, address)
        except OSError as error:
            if sock is not None:
                sock.close()
            silent = isinstance(error, TimeoutError) and error.errno is None
            text = "no answer" if silent else describe(error)
            problems[f"{address[0]}: {text}"] = error.errno or 0
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        else:
            return sock
    hint = next((_HINTS[code] for code in problems.values() if code in _HINTS), "")
    raise ConnectError("tcp", f"{where}: {'; '.join(problems)}", hint=hint)


async def _reach(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
    """What `loop.sock_connect` does, for an address that needs no name service.

    That of uvloop asks it all the same, in four threads, which stay.
    """
    code = sock.connect_ex(address)
    if code in _UNDER_WAY:
        writable: asyncio.Future[None] = loop.create_future()

        def ready() -> None:
            if not writable.done():
                writable.set_result(None)

        loop.add_writer(sock.fileno(), ready)
        try:
            await writable
        finally:
            loop.remove_writer(sock.fileno())
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def _connect_unix(reactor: Reactor, path: str, where: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await reactor.loop.sock_connect(sock, path)
    except OSError as error:
        sock.close()
        hint = _HINTS.get(error.errno or 0, "is the service running, and the path right?")
        raise ConnectError("unix", f"{where}: {describe(error)}", hint=hint) from error
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_by_proxy(
    reactor: Reactor,
    proxy: Proxy,
    host: str,
    port: int,
    deadline: float,
    options: SocketOptions | None,
) -> socket.socket:
    try:
        addresses = await _resolve(proxy.host, proxy.port)
        sock = await _connect(reactor, addresses, str(proxy), deadline, options)
    except ConnectError as error:
        text = str(error) if error.step == "tcp" else f"{proxy}: {error}"
        raise ConnectError("proxy", text, hint=error.hint) from error
    try:
        await ask_proxy(sock, proxy, host, port)
    except BaseException:
        sock.close()
        raise
    return sock


async def _secure(
    reactor: Reactor,
    sock: socket.socket,
    settings: TLSClientSettings,
    host: str,
    where: str,
    peername: Any,
    *,
    framed: bool,
) -> TLSLink:
    # Only who uses TLS pays for it.
    from isthmus.net.contexts import cached_context, has_files, usable_client_context
    from isthmus.net.tls import TLSLink
    from isthmus.net.tls_failures import explain

    try:
        context = None if has_files(settings) else cached_context(settings)
        if context is None:
            # Reads files, and with the system's authorities for 20 ms, so not in the loop.
            context = await asyncio.to_thread(usable_client_context, settings)
        name = settings.server_name or host.rstrip(".")
        kind = TLSLink
        if framed:
            from isthmus.net.websocket import SecureWebSocketLink

            kind = SecureWebSocketLink
        link = kind(reactor, sock, peername, context, server_side=False, server_name=name)
    except ConfigError as error:
        sock.close()
        raise ConnectError("tls", f"{where}: {error}", hint="see the tls settings") from error
    except BaseException:
        sock.close()
        raise
    reason = await _through(link, link.handshake)
    if not reason:
        return link
    text, hint = explain(link.error) if link.error is not None else (reason, "")
    raise ConnectError("tls", f"{where}: {text}", hint=hint)


async def _upgrade(
    link: Link, handshake: ClientHandshake, where: str, max_packet_size: int
) -> None:
    from isthmus.net.websocket import SecureWebSocketLink, WebSocketLink

    assert isinstance(link, WebSocketLink | SecureWebSocketLink)
    reason = await _through(link, partial(link.upgrade, handshake, max_packet_size=max_packet_size))
    if reason:
        text = handshake.error or reason
        raise ConnectError("websocket", f"{where}: {text}", hint=handshake.hint)


async def _through(link: Link, begin: Callable[[Callable[[str], None]], None]) -> str:
    """Begin something that calls back once, and return what it calls back with."""
    done: asyncio.Future[str] = link.reactor.loop.create_future()

    def told(reason: str) -> None:
        if not done.done():
            done.set_result(reason)

    try:
        begin(told)
        return await done
    except BaseException:
        link.abort("given up")
        raise
