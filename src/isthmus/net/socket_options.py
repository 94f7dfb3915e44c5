"""What is asked of the operating system for an outgoing connection."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from contextlib import suppress
from typing import NamedTuple

TCP_RTO_MAX_MS = 44
"""The option of `linux/tcp.h`, since Linux 6.15, which Python's `socket` does not name."""


class SocketOptions(NamedTuple):
    """Options of one connection; None leaves each as the system has it.

    `bind_address` is a local IP address, `keepalive` the seconds of silence, the seconds between
    probes and their number, `user_timeout_s` how long sent data may stay without an answer,
    `retransmit_max_s` the longest wait before it is sent again; older systems go by their own.
    """

    bind_address: str | None = None
    keepalive: tuple[int, int, int] | None = None
    user_timeout_s: float | None = None
    retransmit_max_s: float | None = None

    def apply(self, sock: socket.socket) -> None:
        """Set the options on a socket that is not connected yet.

        Raises:
            OSError: the system does not have the address, or the option.
        """
        if self.keepalive is not None:
            idle, interval, count = self.keepalive
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)
        if self.user_timeout_s is not None:
            option = getattr(socket, "TCP_USER_TIMEOUT", None)
            if option is None:
                raise OSError(errno.ENOPROTOOPT, "this system has no TCP user timeout")
            sock.setsockopt(socket.IPPROTO_TCP, option, int(self.user_timeout_s * 1000))
        if self.retransmit_max_s is not None and sys.platform == "linux":
            with suppress(OSError):
                longest_ms = int(self.retransmit_max_s * 1000)
                sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, longest_ms)
        if self.bind_address is not None:
            version = ipaddress.ip_address(self.bind_address).version
            if (version == 6) != (sock.family == socket.AF_INET6):
                text = f"the local address {self.bind_address} is not of its kind"
                raise OSError(errno.EAFNOSUPPORT, text)
            sock.bind((self.bind_address, 0))
