"""Idle connections: opens thousands of them over TCP or TLS, subscribes once on each, and keeps
them.

Run by the runner as `python -m bench.idle OPTIONS`.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import Any

from bench import process, wire
from bench.client import PASSWORD, USERNAME, Target, tls_context

AT_ONCE = 100  # handshakes under way at a time
DEADLINE_S = 120


class Idler:
    """One connection on its way to idleness."""

    __slots__ = ("got", "hello", "sock", "state", "wanted")

    def __init__(self, sock: socket.socket, hello: bytes, wanted: int) -> None:
        self.sock, self.hello, self.wanted = sock, hello, wanted
        self.state = "connecting"
        self.got = 0

    def step(self, context: ssl.SSLContext | None) -> int:
        """Go on as far as possible; returns the events to wait for, 0 when idle."""
        if self.state == "connecting":
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect failed")
            if context is not None:
                self.sock = context.wrap_socket(self.sock, do_handshake_on_connect=False)
            self.state = "handshake"
        try:
            if self.state == "handshake":
                if isinstance(self.sock, ssl.SSLSocket):
                    self.sock.do_handshake()
                self.sock.send(self.hello)
                self.state = "answers"
            while self.got < self.wanted:
                data = self.sock.recv(256)
                if not data:
                    raise ConnectionError(f"closed in state {self.state}")
                self.got += len(data)
        except ssl.SSLWantWriteError:
            return select.EPOLLOUT
        except (BlockingIOError, ssl.SSLWantReadError):
            return select.EPOLLIN
        return 0


def hello(number: int, version: int) -> bytes:
    """CONNECT and one SUBSCRIBE."""
    connect = wire.connect(
        f"bench-idle-{number}", version=version, username=USERNAME, password=PASSWORD, keep_alive=60
    )
    return connect + wire.subscribe(1, b"bench/idle/%05d" % number, qos=1, version=version)


def open_many(target: Target, count: int) -> tuple[list[socket.socket], float]:
    """`count` idle connections and the seconds it took."""
    context = tls_context() if target.tls else None
    epoll = select.epoll()
    under_way: dict[int, Idler] = {}
    idle: list[socket.socket] = []
    started = 0
    # CONNACK is 4 bytes and SUBACK 5; in v5 CONNACK has properties, and at least 5 + 6 bytes come
    wanted = 11 if target.version == 5 else 9
    start = time.monotonic()
    while len(idle) < count:
        while started < count and len(under_way) < AT_ONCE:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", target.port))
            under_way[sock.fileno()] = Idler(sock, hello(started, target.version), wanted)
            epoll.register(sock.fileno(), select.EPOLLOUT)
            started += 1
        for fd, _events in epoll.poll(1.0):
            idler = under_way[fd]
            events = idler.step(context)
            if events:
                epoll.modify(fd, events)
            else:
                epoll.unregister(fd)
                idle.append(under_way.pop(fd).sock)
        if time.monotonic() - start > DEADLINE_S:
            raise TimeoutError(f"{len(idle)} of {count} connections after {DEADLINE_S} s")
    return idle, time.monotonic() - start


def handle(options: dict[str, Any]) -> None:
    target = Target(**options["target"])
    process.reply(ready=True)
    kept: list[socket.socket] = []
    for order in process.requests():
        sockets, seconds = open_many(target, order["count"])
        kept += sockets
        process.reply(connections=len(kept), seconds=seconds, cpu_s=time.process_time())


if __name__ == "__main__":
    process.serve(handle)
