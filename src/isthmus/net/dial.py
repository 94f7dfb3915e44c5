"""Making a connection to a far service: name, TCP, TLS, each with its own clear error."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from isthmus.clock import monotonic
from isthmus.errors import ConfigError, ConnectError
from isthmus.net.contexts import cached_context, client_context
from isthmus.net.link import Link, describe
from isthmus.net.reactor import Reactor
from isthmus.net.resolve import Address, resolve
from isthmus.net.settings import TLSClientSettings
from isthmus.net.socket_options import SocketOptions
from isthmus.net.tls import TLSLink
from isthmus.net.tls_failures import explain

DIAL_TIMEOUT_S = 10.0

_HINTS = {
    errno.ECONNREFUSED: "is the service running, and the port right?",
    errno.EHOSTUNREACH: "is the network up, and the address right?",
    errno.ENETUNREACH: "is the network up, and the address right?",
    errno.EMFILE: "this process has no descriptors left; see `ulimit -n`",
    errno.EADDRNOTAVAIL: "this machine does not have the local address, or no free port for it",
}


async def dial(
    reactor: Reactor,
    host: str,
    port: int,
    *,
    tls: TLSClientSettings | None = None,
    timeout_s: float = DIAL_TIMEOUT_S,
    options: SocketOptions | None = None,
) -> Link:
    """Connect to `host`:`port` within `timeout_s`, with TLS if settings are given.

    Every address of the host is tried in turn. The link delivers nothing until its `on_data` is
    set. ConnectError says at which step it failed ("name", "tcp", "tls" or "timeout"), why, and
    what to try. With TLS 1.3 a server that refuses our certificate says so only after our side is
    through: then the link closes soon, and its `on_close` gets the reason.
    """
    deadline = monotonic() + timeout_s
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    step = "looking up the name"
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await _resolve(host, port)
            step = "connecting"
            sock = await _connect(reactor, addresses, where, deadline, options)
            if tls is None:
                return Link(reactor, sock, _peername(sock, where))
            step = "the TLS handshake"
            return await _secure(reactor, sock, tls, host, where)
    except TimeoutError as error:
        raise ConnectError(
            "timeout",
            f"{where}: {step} took longer than {timeout_s:g} s",
            hint="a firewall may drop the packets, or the service hangs",
        ) from error


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
                await reactor.loop.sock_connect(sock, address)
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


async def _secure(
    reactor: Reactor, sock: socket.socket, settings: TLSClientSettings, host: str, where: str
) -> Link:
    try:
        context = cached_context(settings)
        if context is None:
            # Reads files, and with the system's authorities for 20 ms, so not in the loop.
            context = await asyncio.to_thread(client_context, settings)
        name = settings.server_name or host.rstrip(".")
        link = TLSLink(
            reactor, sock, _peername(sock, where), context, server_side=False, server_name=name
        )
    except ConfigError as error:
        sock.close()
        raise ConnectError("tls", f"{where}: {error}", hint="see the tls settings") from error
    except BaseException:
        sock.close()
        raise
    done: asyncio.Future[str] = reactor.loop.create_future()

    def shaken(reason: str) -> None:
        if not done.done():
            done.set_result(reason)

    try:
        link.handshake(shaken)
        reason = await done
    except BaseException:
        link.abort("given up")
        raise
    if not reason:
        return link
    text, hint = explain(link.error) if link.error is not None else (reason, "")
    raise ConnectError("tls", f"{where}: {text}", hint=hint)
