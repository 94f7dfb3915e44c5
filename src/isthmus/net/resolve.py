"""Names to addresses, in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import Any

Address = tuple[int, int, int, Any]
"""Family, type, protocol and address of a socket."""


def look_up(host: str | None, port: int, *, flags: int = 0) -> list[Address]:
    """The TCP addresses of `host`; waits for the name service.

    `flags` are those of `getaddrinfo`, which says what None is.

    Raises:
        OSError: the name has no address, or the name service does not answer.
        UnicodeError: this is no host name.
    """
    # A text is encoded by a module of 200 KiB, which only names with other letters need.
    name = host.encode() if host is not None and host.isascii() else host
    return [
        (family, kind, proto, address)
        for family, kind, proto, _, address in socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags
        )
    ]


async def resolve(host: str, port: int) -> list[Address]:
    """The TCP addresses of `host`, in the order in which to try them.

    Cancelling it is safe.

    Raises:
        OSError: the name has no address, or the name service does not answer.
        UnicodeError: this is no host name.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:  # no need for a thread
        if not getattr(address, "scope_id", None):
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, (host, port))]
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def tell(found: list[Address], error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def ask() -> None:
        found: list[Address] = []
        failure: Exception | None = None
        try:
            found = look_up(host, port)
        except (OSError, UnicodeError) as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(tell, found, failure)

    # A name service that does not answer holds its thread for half a minute. The loop's own pool
    # waits for its threads when the process ends, and has few: a daemon thread is waited for by
    # nobody.
    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    return await answer
