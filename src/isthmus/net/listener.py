"""Accepting connections.

A listener is a source of the reactor: when its socket is ready it accepts a batch, and hands each
connection on as a link. With TLS, WebSocket or a PROXY header a connection is handed on after these
(`arrival`), for which it has a deadline. When the process has no descriptors left, or the gate lets
nobody in for now, accepting pauses: connections stay in the kernel's queue and readable, so that
going on would spin.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from isthmus.errors import ListenError
from isthmus.net.arrival import Arrival, Stages
from isthmus.net.link import Link, describe
from isthmus.net.peer import peer_text
from isthmus.net.reactor import Reactor
from isthmus.net.resolve import look_up
from isthmus.net.settings import ListenerSettings
from isthmus.net.timers import Timer
from isthmus.net.unix_socket import UnixSocket

if TYPE_CHECKING:
    import ssl

    from isthmus.net.gate import Gate
    from isthmus.net.renewal import Renewal
    from isthmus.net.tls_settings import TLSServerSettings

log = logging.getLogger(__name__)

MAX_ACCEPTS = 64
"""Connections accepted per turn, so that a storm of them does not keep the others waiting."""

ACCEPT_PAUSE_S = 1.0
"""Rest after the system had no descriptors or buffers left."""

_HINTS = {
    errno.EADDRINUSE: "; is another broker running there?",
    errno.EADDRNOTAVAIL: "; this machine has no such address",
    errno.EACCES: "; ports below 1024 need the right to use them",
    errno.ENODEV: "; this machine has no such interface",
    errno.EPERM: "; Linux before 5.7 lets only root choose an interface",
}

BACKLOG = 4096
"""Connections that the kernel completes ahead of us; it caps this at its own limit."""

HANDSHAKE_TIMEOUT_S = 10.0
"""For PROXY header, TLS and WebSocket together."""

MAX_HANDSHAKES = 20_000
"""Connections in their handshakes, unless the owner says so; more are closed at once."""

MAX_PACKET_SIZE = 1 << 20
"""Biggest MQTT packet that is expected, unless the owner says so; bounds WebSocket frames."""

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """Counts since the start; `handshakes` is now.

    `refused` were closed at once, by the gate or because of too many handshakes. `pauses` counts
    how often nothing was accepted for a while. A handshake is all that comes before MQTT: PROXY
    header, TLS, WebSocket. `renewals` are changed certificate files that were taken over,
    `renewals_failed` those that could not be.
    """

    accepted: int
    handshakes: int
    handshakes_failed: int
    refused: int
    pauses: int
    renewals: int
    renewals_failed: int


class Listener:
    """Listening sockets of one `ListenerSettings`. Made by `listen`."""

    def __init__(
        self,
        reactor: Reactor,
        sockets: list[socket.socket],
        accept: Callable[[Link], None],
        settings: ListenerSettings,
        stages: Stages,
        unix: UnixSocket | None,
        gate: Gate | None,
    ) -> None:
        self._reactor = reactor
        self._gate = gate
        self._sockets = sockets
        self._unix = unix
        self._context: ssl.SSLContext | None = None
        self._renewal: Renewal | None = None
        self._arriving: set[Arrival] = set()
        self._pause: Timer | None = None
        self._accepted = self._failed = self._refused = self._pauses = 0
        self.address: tuple[str, int] = (
            (settings.bind, 0) if unix is not None else sockets[0].getsockname()[:2]
        )
        """Host and port of the first socket; with `bind` port 0, the port that was chosen.
        `unix:/path` and 0 for a unix socket."""
        self._use(accept, settings, stages)
        self._watch()

    def _use(
        self, accept: Callable[[Link], None], settings: ListenerSettings, stages: Stages
    ) -> None:
        self._accept = accept
        self._settings = settings
        self._stages = stages
        self._direct = settings.tls is None and stages.offer is None and not stages.proxy
        self._context = None
        if self._renewal is not None:
            self._renewal.stop()
            self._renewal = None
        if settings.tls is not None:
            from isthmus.net.renewal import Renewal

            self._context = _server_context(settings.tls)
            self._renewal = Renewal(
                self._reactor.loop, settings.tls, self.replace_context, self.where
            )

    def change(
        self,
        settings: ListenerSettings,
        accept: Callable[[Link], None],
        *,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        max_handshakes: int = MAX_HANDSHAKES,
        max_packet_size: int = MAX_PACKET_SIZE,
    ) -> None:
        """Take other settings of the same address; see `listen`.

        They count for connections to come. Links that were handed on live on, and the address is
        listened on without a gap.

        Raises:
            ConfigError: a certificate cannot be used; nothing has changed.
        """
        if settings.tls is not None:
            _server_context(settings.tls)
        stages = Stages.of(
            settings,
            max_packet_size=max_packet_size,
            timeout_s=handshake_timeout_s,
            handshakes=max_handshakes,
        )
        self._use(accept, settings, stages)
        if self._unix is not None:
            self._unix.path.chmod(int(settings.mode, 8))

    @property
    def where(self) -> str:
        """The address as people write it."""
        return self.address[0] if self._unix is not None else peer_text(self.address)

    @property
    def open(self) -> bool:
        """Whether it accepts connections; not while the system has no descriptors left."""
        return bool(self._sockets) and not (self._pause is not None and self._pause.active)

    def replace_context(self, context: ssl.SSLContext) -> None:
        """Use another TLS context for new connections, after a certificate was renewed."""
        self._context = context

    def suspend(self) -> None:
        """Give the address back, for another listener; `resume` or `close` comes next."""
        if self._pause is not None:
            self._pause.cancel()
        for sock in self._sockets:
            self._reactor.remove_source(sock.fileno())
            sock.close()
        self._sockets.clear()

    def resume(self) -> None:
        """Listen again after `suspend`.

        Raises:
            ListenError: somebody else has taken the address meanwhile.
        """
        self._sockets = _bind(self._settings)
        self._watch()

    def close(self) -> None:
        """Stop listening and drop handshakes; links that were handed on live on."""
        if self._pause is not None:
            self._pause.cancel()
        if self._renewal is not None:
            self._renewal.stop()
        if self._unix is not None:
            self._unix.remove()
        for sock in self._sockets:
            self._reactor.remove_source(sock.fileno())
            self._reactor.bury(sock)
        self._sockets.clear()
        for arrival in list(self._arriving):
            arrival.abort("the listener was closed")

    def statistics(self) -> ListenerStatistics:
        """Return the counters."""
        renewal = self._renewal
        return ListenerStatistics(
            accepted=self._accepted,
            handshakes=len(self._arriving),
            handshakes_failed=self._failed,
            refused=self._refused,
            pauses=self._pauses,
            renewals=renewal.done if renewal is not None else 0,
            renewals_failed=renewal.failed if renewal is not None else 0,
        )

    def _watch(self) -> None:
        for sock in self._sockets:
            self._reactor.add_source(sock.fileno(), partial(self._ready, sock))

    def _ready(self, listening: socket.socket) -> None:
        for _ in range(MAX_ACCEPTS):
            if self._gate is not None:
                now = self._reactor.now
                opens_at = self._gate.opens_at(now)
                if opens_at > now:
                    self._rest(opens_at)
                    return
            try:
                sock, peername = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.warning(
                        "%s: cannot accept: %s; next try in %.0f s",
                        self.where,
                        describe(error),
                        ACCEPT_PAUSE_S,
                    )
                    self._rest(self._reactor.now + ACCEPT_PAUSE_S)
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
        if self._unix is None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            peername = self.address[0]  # those who connect have no address of their own
        if self._direct:
            if self._gate is not None and not self._gate.enter(peername, self._reactor.now):
                self._refused += 1
                sock.close()
                return
            self._accept(Link(self._reactor, sock, peername))
            return
        if len(self._arriving) >= self._stages.handshakes:
            self._refused += 1
            sock.close()
            return
        arrival = Arrival(
            self._reactor, sock, peername, self._stages, self._context, self._gate, self._arrived
        )
        self._arriving.add(arrival)
        arrival.start()

    def _arrived(self, arrival: Arrival, link: Link | None, reason: str) -> None:
        self._arriving.discard(arrival)
        if link is not None:
            self._accept(link)
        elif arrival.refused:
            self._refused += 1
        else:
            self._failed += 1
            text = f"{self.where}: no connection for {arrival.text}: {reason}"
            if self._gate is None:
                log.info("%s", text)
            else:
                self._gate.failed(reason.partition(":")[0], arrival.peername, text)

    def _rest(self, until: float) -> None:
        """Accept nothing until this time."""
        self._pauses += 1
        for sock in self._sockets:
            self._reactor.remove_source(sock.fileno())
        self._pause = self._reactor.wheel.at(until, self._watch)


def listen(
    reactor: Reactor,
    settings: ListenerSettings,
    accept: Callable[[Link], None],
    *,
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
    max_handshakes: int = MAX_HANDSHAKES,
    max_packet_size: int = MAX_PACKET_SIZE,
    gate: Gate | None = None,
) -> Listener:
    """Listen as the settings say and call `accept(link)` for each connection that `gate` lets in.

    `accept` sets the link's `on_data` and `on_close`, or aborts it, and counts it out at the gate
    when it has ended. A ConfigError says why an address or a certificate cannot be used.
    `max_packet_size` is in bytes.
    """
    if settings.tls is not None:
        _server_context(settings.tls)  # its errors come before an address is taken
    path = settings.unix_path
    unix = UnixSocket(path, int(settings.mode, 8)) if path is not None else None
    sockets = _bind(settings) if unix is None else [unix.sock]
    if unix is not None:
        unix.sock.listen(BACKLOG)
    stages = Stages.of(
        settings,
        max_packet_size=max_packet_size,
        timeout_s=handshake_timeout_s,
        handshakes=max_handshakes,
    )
    return Listener(reactor, sockets, accept, settings, stages, unix, gate)


def _server_context(settings: TLSServerSettings) -> ssl.SSLContext:
    from isthmus.net.contexts import server_context  # only who uses TLS pays for it

    return server_context(settings)


def _bind(settings: ListenerSettings) -> list[socket.socket]:
    host, port = settings.host, settings.port
    sockets: list[socket.socket] = []
    try:
        addresses = look_up(None if host == "*" else host, port, flags=socket.AI_PASSIVE)
        for family, kind, proto, address in dict.fromkeys(addresses):
            sock = _open(family, kind, proto, settings.interface)
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
        text = f"bind: {settings.place}: {describe(error)}{hint}"
        raise ListenError(text, errno=error.errno) from error
    if not sockets:
        raise ListenError(f"bind: {settings.bind}: this system does not support the address")
    return sockets


def _open(family: int, kind: int, proto: int, interface: str | None) -> socket.socket | None:
    try:
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None  # IPv6 is switched off on this machine
        raise
    if interface is not None:
        try:
            _keep_to(sock, interface)
        except OSError:
            sock.close()
            raise
    sock.setblocking(False)
    if os.name == "posix":  # elsewhere the option lets two programs share a port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # [::] is IPv6 only, so that it can stand beside 0.0.0.0 on every system.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _keep_to(sock: socket.socket, interface: str) -> None:
    option = getattr(socket, "SO_BINDTODEVICE", None)
    if option is None:
        raise OSError(errno.ENOPROTOOPT, "this system cannot keep a listener to one interface")
    sock.setsockopt(socket.SOL_SOCKET, option, interface.encode())
