from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from isthmus.net.resolve import resolve


def test_a_name_service_that_does_not_answer_holds_nobody_up(monkeypatch):
    """Also not the end of the process, which waits for the threads of the event loop's pool."""
    released = threading.Event()
    ended = threading.Event()

    def getaddrinfo(*_args, **_how):
        released.wait(20)
        ended.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scenario():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await resolve("slow.example", 1883)

    start = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - start < 5
    released.set()
    assert ended.wait(5)  # the late answer finds no loop, and nobody minds


def test_all_addresses_of_a_name_in_their_order(monkeypatch):
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1883, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1883)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_how: found)
    addresses = asyncio.run(resolve("both.example", 1883))
    assert [address for _, _, _, address in addresses] == [("::1", 1883, 0, 0), ("127.0.0.1", 1883)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_needs_no_thread(monkeypatch, host):
    monkeypatch.delattr(threading, "Thread")
    ((family, _, _, address),) = asyncio.run(resolve(host, 1883))
    assert address == (host, 1883)
    assert family == (socket.AF_INET6 if ":" in host else socket.AF_INET)


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError()]
)
def test_what_went_wrong_is_raised(monkeypatch, error):
    def getaddrinfo(*_args, **_how):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(type(error)):
        asyncio.run(resolve("unknown.example", 1883))
