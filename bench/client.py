"""MQTT clients of the load generators: connect, log in, subscribe."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench import websocket, wire
from bench.stream import Loop, Stream

USERNAME, PASSWORD = "bench", "bench-password"  # of the system under test; see systems.py


@dataclass(frozen=True, slots=True)
class Target:
    """Where a generator connects to."""

    port: int
    version: int = 4
    tls: bool = False
    websocket: bool = False


class Client(Stream):
    """A connection that logged in."""

    def __init__(self, target: Target, loop: Loop) -> None:
        super().__init__(dial(target), loop)
        self.connected = False
        self.subscribed = 0
        self.unsubscribed = 0
        if target.websocket:
            self.frames = websocket.Frames(masks=True)

    def other(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == wire.CONNACK:
            if body[1]:
                raise ConnectionError(f"CONNACK code 0x{body[1]:02x}")
            self.connected = True
        elif kind == wire.SUBACK:
            if body[-1] >= 0x80:
                raise ConnectionError(f"SUBACK code 0x{body[-1]:02x}")
            self.subscribed += 1
        elif kind == wire.UNSUBACK:
            self.unsubscribed += 1
        else:
            super().other(first, body)


def sealer(target: Target) -> Callable[[bytes], bytes]:
    """What a packet of a `wire.Block` goes through before it is sent there."""
    return partial(websocket.frame, masked=True) if target.websocket else bytes


def tls_context() -> ssl.SSLContext:
    """Without verification: the certificate is made for one run and the server is on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def open_client(
    loop: Loop,
    target: Target,
    client_id: str,
    *,
    topic_filter: bytes = b"",
    qos: int = 0,
) -> Client:
    """A connected client, subscribed when `topic_filter` is given."""
    client = Client(target, loop)
    log_in(client, loop, target, client_id)
    if topic_filter:
        client.control += wire.subscribe(1, topic_filter, qos=qos, version=target.version)
        client.flush()
        loop.until(lambda: client.subscribed > 0 or bool(client.closed), 10, "no SUBACK")
    if client.closed:
        raise ConnectionError(f"closed while subscribing: {client.closed}")
    return client


def dial(target: Target) -> socket.socket:
    """A connected, non-blocking socket, behind the handshakes of TLS and WebSocket."""
    sock = socket.create_connection(("127.0.0.1", target.port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if target.tls:
        sock = tls_context().wrap_socket(sock)
    if target.websocket:
        websocket.ask(sock)
    sock.setblocking(False)
    return sock


def log_in(client: Client, loop: Loop, target: Target, client_id: str) -> None:
    """CONNECT and its answer."""
    client.control += wire.connect(
        client_id, version=target.version, username=USERNAME, password=PASSWORD
    )
    client.flush()
    loop.until(lambda: client.connected or bool(client.closed), 10, "no CONNACK")
    if client.closed:
        raise ConnectionError(f"closed while connecting: {client.closed}")
