"""One accepted connection on its way to its owner: PROXY header, TLS, WebSocket, in this order.

Each stage is optional, and all of them together have one deadline. A connection that fails on the
way is closed without the owner having heard of it.

The PROXY header is read from the bare socket, and never a byte more than the header, so that what
follows finds the connection as if it were new.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from isthmus.net.link import Link, describe
from isthmus.net.peer import peer_text
from isthmus.net.proxy_header import MAX_V2, Accepted, HeaderError, read_header
from isthmus.net.reactor import Reactor
from isthmus.net.settings import ListenerSettings
from isthmus.net.timers import Timer

if TYPE_CHECKING:
    import ssl

    from isthmus.net.gate import Gate
    from isthmus.net.websocket_handshake import Offer

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Stages(NamedTuple):
    """What connections of a listener go through, at most `handshakes` of them at a time."""

    proxy: Accepted
    proxy_networks: tuple[Network, ...]
    offer: Offer | None
    max_packet_size: int
    timeout_s: float
    handshakes: int

    @classmethod
    def of(
        cls, settings: ListenerSettings, *, max_packet_size: int, timeout_s: float, handshakes: int
    ) -> Stages:
        """The stages that settings ask for, besides TLS."""
        offer = None
        if settings.transport == "websocket":
            from isthmus.net.websocket_handshake import Offer  # only who uses it pays for it

            offer = Offer(settings.path, settings.origins, settings.loopback)
        return cls(
            proxy=settings.proxy_protocol,
            proxy_networks=tuple(map(ipaddress.ip_network, settings.proxy_networks)),
            offer=offer,
            max_packet_size=max_packet_size,
            timeout_s=timeout_s,
            handshakes=handshakes,
        )

    def trusts(self, peername: Any) -> bool:
        """Whether the peer may say whom it speaks for. Over a unix socket everybody may."""
        if not isinstance(peername, tuple):
            return True
        address = ipaddress.ip_address(peername[0].partition("%")[0])
        return any(address in network for network in self.proxy_networks)


class Arrival:
    """A connection that is not its owner's yet.

    Attributes:
        text: The peer, for the log.
        peername: The peer; the client that a PROXY header names.
        refused: The gate did not let it in.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        peername: Any,
        stages: Stages,
        context: ssl.SSLContext | None,
        gate: Gate | None,
        done: Callable[[Arrival, Link | None, str], None],
    ) -> None:
        """Begin; `done(self, link, "")` is called when it is through, else `(self, None, why)`.

        What is through has entered by the gate, and is its owner's to count out.
        """
        self.text = peer_text(peername)
        self.refused = False
        self._gate = gate
        self._entered = False
        self._reactor = reactor
        self._sock = sock
        self.peername = peername
        self._stages = stages
        self._context = context
        self._done: Callable[[Arrival, Link | None, str], None] | None = done
        self._link: Link | None = None
        self._header = b""
        self._stage = "PROXY: the header"
        self._timer: Timer = reactor.wheel.at(
            reactor.now + stages.timeout_s, lambda: self.abort(f"{self._stage} took too long")
        )

    def start(self) -> None:
        """Begin with the first stage."""
        if not self._stages.proxy:
            self._enter()
        elif self._stages.trusts(self.peername):
            self._reactor.add_source(self._sock.fileno(), self._read_header)
        else:
            self.abort("PROXY: this address is not in trusted_proxies")

    def abort(self, reason: str) -> None:
        """Close the connection, wherever it is."""
        if self._link is not None:
            self._link.abort(reason)  # calls `_ended` at the end of the turn
        else:
            self._reactor.remove_source(self._sock.fileno())
            self._reactor.bury(self._sock)
            self._ended(reason)

    def _ended(self, reason: str) -> None:
        done, self._done = self._done, None
        self._timer.cancel()
        if self._entered and self._gate is not None:
            self._entered = False
            self._gate.leave(self.peername)
        if done is not None:
            done(self, None, reason)

    # --- PROXY -----------------------------------------------------------------------------------

    def _read_header(self) -> None:
        """Read until nothing is left: uvloop tells of data and a reset behind it only once."""
        header = None
        try:
            while header is None:
                before = len(self._header)
                # Looked at, then taken as far as it is header: the next stage gets the rest.
                seen = self._sock.recv(MAX_V2 - before, socket.MSG_PEEK)
                if not seen:
                    self.abort("PROXY: closed by the peer")
                    return
                data = self._header + seen
                header = read_header(data, self._stages.proxy)
                self._header = data[: header.size] if header is not None else data
                self._sock.recv(len(self._header) - before)
        except BlockingIOError:
            return
        except HeaderError as error:
            self.abort(f"PROXY: {error}")
            return
        except OSError as error:
            self.abort(f"PROXY: {describe(error)}")
            return
        self._reactor.remove_source(self._sock.fileno())
        if header.peername is not None:
            self.peername = header.peername
            self.text = f"{peer_text(header.peername)} (through {self.text})"
        self._enter()

    # --- TLS and WebSocket -----------------------------------------------------------------------

    def _enter(self) -> None:
        """Who it is is known now: ask the gate before anything that costs more."""
        if self._gate is not None and not self._gate.enter(self.peername, self._reactor.now):
            self.refused = True
            self.abort("refused")
            return
        self._entered = True
        self._secure()

    def _secure(self) -> None:
        if self._context is None:
            self._upgrade()
            return
        self._stage = "TLS: the handshake"
        from isthmus.net.tls import TLSLink  # only who uses it pays for it

        kind = TLSLink
        if self._stages.offer is not None:
            from isthmus.net.websocket import SecureWebSocketLink

            kind = SecureWebSocketLink
        link = kind(self._reactor, self._sock, self.peername, self._context, server_side=True)
        self._link = link
        link.handshake(self._secured)

    def _secured(self, reason: str) -> None:
        if reason:
            self._ended(reason)
        else:
            self._upgrade()

    def _upgrade(self) -> None:
        offer = self._stages.offer
        if offer is None:
            self._arrived("")
            return
        from isthmus.net.websocket import SecureWebSocketLink, WebSocketLink
        from isthmus.net.websocket_handshake import ServerHandshake

        self._stage = "WebSocket: the handshake"
        link = self._link
        if link is None:
            link = self._link = WebSocketLink(self._reactor, self._sock, self.peername)
        assert isinstance(link, WebSocketLink | SecureWebSocketLink)
        link.upgrade(
            ServerHandshake(offer), self._arrived, max_packet_size=self._stages.max_packet_size
        )

    def _arrived(self, reason: str) -> None:
        if reason:
            self._ended(reason)
            return
        done, self._done = self._done, None
        self._timer.cancel()
        link = self._link or Link(self._reactor, self._sock, self.peername)
        if done is not None:
            done(self, link, "")
