"""Accepting connections.

A listener is a source of the reactor: when its socket is ready it accepts a batch, and hands each
connection on as a link. With TLS a connection is handed on after its handshake, which has a
deadline. When the process has no descriptors left, accepting pauses: the connection stays in the
kernel's queue and readable, so that going on would spin.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from isthmus.errors import ListenError
from isthmus.net.contexts import server_context
from isthmus.net.link import Link, describe
from isthmus.net.reactor import Reactor
from isthmus.net.settings import ListenerSettings
from isthmus.net.timers import Timer
from isthmus.net.tls import TLSLink

log = logging.getLogger(__name__)

MAX_ACCEPTS = 64
"""Connections accepted per turn, so that a storm of them does not keep the others waiting."""

ACCEPT_PAUSE_S = 1.0
"""Rest after the system had no descriptors or buffers left."""

_HINTS = {
    errno.EADDRINUSE: "; is another broker running there?",
    errno.EADDRNOTAVAIL: "; this machine has no such address",
    errno.EACCES: "; ports below 1024 need the right to use them",
}

BACKLOG = 4096
"""Connections that the kernel completes ahead of us; it caps this at its own limit."""

HANDSHAKE_TIMEOUT_S = 10.0

MAX_HANDSHAKES = 20_000
"""Connections in their TLS handshake; more are closed at once."""

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """Counts since the start; `handshakes` is now."""

    accepted: int
    handshakes: int
    handshakes_failed: int
    refused: int
    pauses: int


class Listener:
    """Listening sockets of one `ListenerSettings`. Made by `listen`."""

    def __init__(
        self,
        reactor: Reactor,
        sockets: list[socket.socket],
        accept: Callable[[Link], None],
        context: ssl.SSLContext | None,
        handshake_timeout_s: float,
    ) -> None:
        self._reactor = reactor
        self._sockets = sockets
        self._accept = accept
        self._context = context
        self._handshake_timeout_s = handshake_timeout_s
        self._shaking: dict[TLSLink, Timer] = {}
        self._pause: Timer | None = None
        self._accepted = self._failed = self._refused = self._pauses = 0
        self.address: tuple[str, int] = sockets[0].getsockname()[:2]
        """Host and port of the first socket; with `bind` port 0, the port that was chosen."""
        self._watch()

    def replace_context(self, context: ssl.SSLContext) -> None:
        """Use another TLS context for new connections, after a certificate was renewed."""
        self._context = context

    def close(self) -> None:
        """Stop listening and drop handshakes; links that were handed on live on."""
        if self._pause is not None:
            self._pause.cancel()
        for sock in self._sockets:
            self._reactor.remove_source(sock.fileno())
            self._reactor.bury(sock)
        self._sockets.clear()
        for link in list(self._shaking):
            link.abort("the listener was closed")

    def statistics(self) -> ListenerStatistics:
        """Return the counters."""
        return ListenerStatistics(
            accepted=self._accepted,
            handshakes=len(self._shaking),
            handshakes_failed=self._failed,
            refused=self._refused,
            pauses=self._pauses,
        )

    def _watch(self) -> None:
        for sock in self._sockets:
            self._reactor.add_source(sock.fileno(), partial(self._ready, sock))

    def _ready(self, listening: socket.socket) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                sock, peername = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(error)
                    return
                continue  # that connection ended in the queue; the next may be fine
            self._accepted += 1
            try:
                self._take(sock, peername)
            except Exception:
                log.exception("%s: accepting a connection failed", peername)
                sock.close()

    def _take(self, sock: socket.socket, peername: Any) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            self._accept(Link(self._reactor, sock, peername))
            return
        if len(self._shaking) >= MAX_HANDSHAKES:
            self._refused += 1
            sock.close()
            return
        link = TLSLink(self._reactor, sock, peername, self._context, server_side=True)
        deadline = self._reactor.now + self._handshake_timeout_s
        self._shaking[link] = self._reactor.wheel.at(
            deadline, lambda: link.abort("TLS: the handshake took too long")
        )
        link.handshake(lambda reason: self._shaken(link, reason))

    def _shaken(self, link: TLSLink, reason: str) -> None:
        self._shaking.pop(link).cancel()
        if reason:
            self._failed += 1
            log.info("%s: no TLS connection: %s", link.peername, reason)
        else:
            self._accept(link)

    def _rest(self, error: OSError) -> None:
        self._pauses += 1
        log.warning(
            "%s:%d: cannot accept: %s; next try in %.0f s",
            *self.address,
            describe(error),
            ACCEPT_PAUSE_S,
        )
        for sock in self._sockets:
            self._reactor.remove_source(sock.fileno())
        self._pause = self._reactor.wheel.at(self._reactor.now + ACCEPT_PAUSE_S, self._watch)


def listen(
    reactor: Reactor,
    settings: ListenerSettings,
    accept: Callable[[Link], None],
    *,
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
) -> Listener:
    """Listen as the settings say and call `accept(link)` for each connection.

    `accept` sets the link's `on_data` and `on_close`, or aborts it. A ConfigError says why an
    address or a certificate cannot be used.
    """
    context = server_context(settings.tls) if settings.tls is not None else None
    sockets = _bind(settings)
    return Listener(reactor, sockets, accept, context, handshake_timeout_s)


def _bind(settings: ListenerSettings) -> list[socket.socket]:
    host, port = settings.host, settings.port
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(
            None if host == "*" else host,
            port,
            type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_PASSIVE,
        )
        for family, kind, proto, _, address in dict.fromkeys(addresses):
            sock = _open(family, kind, proto)
            if sock is None:
                continue
            sockets.append(sock)
            # Port 0: all families get the port that the first was given.
            chosen = sockets[0].getsockname()[1] or port
            sock.bind((address[0], chosen, *address[2:]))
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        hint = _HINTS.get(error.errno or 0, "")
        raise ListenError(f"bind: {settings.bind}: {describe(error)}{hint}") from error
    if not sockets:
        raise ListenError(f"bind: {settings.bind}: this system does not support the address")
    return sockets


def _open(family: int, kind: int, proto: int) -> socket.socket | None:
    try:
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None  # IPv6 is switched off on this machine
        raise
    sock.setblocking(False)
    if os.name == "posix":  # elsewhere the option lets two programs share a port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # [::] is IPv6 only, so that it can stand beside 0.0.0.0 on every system.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock
