"""HTTP CONNECT and SOCKS5, through a small proxy of the tests' own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from net_peers import Owner, until

from isthmus.errors import ConnectError
from isthmus.net.dial import dial
from isthmus.net.listener import listen
from isthmus.net.proxy import Proxy, parse_proxy
from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings


class SmallProxy:
    """Speaks HTTP CONNECT and SOCKS5; `far.test` is this machine for it and for nobody else."""

    def __init__(self, username="", password=""):
        self.credentials = (username, password)
        self.targets = []

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await reader.readexactly(1)
            target = await (self._socks if first == b"\x05" else self._http)(first, reader, writer)
            if target is not None:
                self.targets.append(target)
                host = "127.0.0.1" if target[0] == "far.test" else target[0]
                await self._relay(reader, writer, host, target[1], socks=first == b"\x05")
        writer.close()

    async def _http(self, first, reader, writer):
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        assert method == "CONNECT"
        name, password = self.credentials
        wanted = base64.b64encode(f"{name}:{password}".encode()).decode()
        if name and f"\r\nProxy-Authorization: Basic {wanted}\r\n" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return None
        host, _, port = target.rpartition(":")
        return host.strip("[]"), int(port)

    async def _socks(self, first, reader, writer):
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        name = self.credentials[0]
        if name and 2 not in methods:
            writer.write(b"\x05\xff")
            return None
        writer.write(b"\x05\x02" if name else b"\x05\x00")
        if name:
            await reader.readexactly(1)
            given_name = await reader.readexactly((await reader.readexactly(1))[0])
            given_password = await reader.readexactly((await reader.readexactly(1))[0])
            right = (given_name.decode(), given_password.decode()) == self.credentials
            writer.write(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return None
        version, command, _, kind = await reader.readexactly(4)
        assert (version, command) == (5, 1)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family = socket.AF_INET if kind == 1 else socket.AF_INET6
            host = socket.inet_ntop(family, await reader.readexactly(4 if kind == 1 else 16))
        return host, struct.unpack("!H", await reader.readexactly(2))[0]

    async def _relay(self, reader, writer, host, port, *, socks):
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            refusal = b"\x05\x05\x00\x01" + bytes(6)
            writer.write(refusal if socks else b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>")
            return
        writer.write(
            b"\x05\x00\x00\x03\x04name\x00\x50" if socks else b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n"
        )

        async def copy(source, sink):
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


def echoing(reactor, **settings):
    settings = ListenerSettings(bind="127.0.0.1:0", **settings)
    return listen(reactor, settings, lambda link: Owner(link, link.write))


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("credentials", [("", ""), ("ann", "p@ss:w/ö")])
@pytest.mark.parametrize("carrier", ["plain", "wss"])
def test_a_far_side_behind_a_proxy(run, pki, scheme, credentials, carrier):
    async def scenario(reactor):
        proxy = await SmallProxy(*credentials).start()
        secure = carrier == "wss"
        listener = echoing(
            reactor,
            transport="websocket" if secure else "tcp",
            tls=TLSServerSettings(certificate=pki.server) if secure else None,
        )
        user = "ann:p%40ss%3Aw%2F%C3%B6@" if credentials[0] else ""
        link = await dial(
            reactor,
            "far.test",
            listener.address[1],
            proxy=parse_proxy(f"{scheme}://{user}127.0.0.1:{proxy.port}"),
            tls=TLSClientSettings(ca=pki.ca, server_name="broker.test") if secure else None,
            websocket="/mqtt" if secure else "",
        )
        owner = Owner(link)
        link.write(b"x" * 100_000)
        await until(lambda: len(owner.received) == 100_000)
        # The name was not looked up here.
        assert proxy.targets == [("far.test", listener.address[1])]
        assert link.peername == f"far.test:{listener.address[1]}"
        link.close("done")
        await until(lambda: owner.reasons)
        proxy.server.close()
        await asyncio.sleep(0.02)

    run(scenario)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_addresses_go_as_addresses(run, scheme, host):
    async def scenario(reactor):
        proxy = await SmallProxy().start()
        bind = "[::1]:0" if host == "::1" else "127.0.0.1:0"
        listener = listen(
            reactor, ListenerSettings(bind=bind), lambda link: Owner(link, link.write)
        )
        address = parse_proxy(f"{scheme}://127.0.0.1:{proxy.port}")
        link = await dial(reactor, host, listener.address[1], proxy=address)
        owner = Owner(link)
        link.write(b"x")
        await until(lambda: owner.received == b"x")
        assert proxy.targets[0][0] == host
        link.close("done")
        await until(lambda: owner.reasons)
        proxy.server.close()
        await asyncio.sleep(0.02)

    run(scenario)


@pytest.mark.parametrize(
    ("scheme", "user", "text", "hint"),
    [
        ("http", "", "407 Proxy Authentication Required", "user name and password in 'proxy'"),
        ("http", "ann:CANARY@", "407 Proxy", "user name and password in 'proxy'"),
        ("socks5", "", "wants a user name", "user name and password in 'proxy'"),
        ("socks5", "ann:CANARY@", "refuses user name and password", "in 'proxy'"),
        ("http", "ann:good@", "502 Bad Gateway", "connect to this host"),
        ("socks5", "ann:good@", "the far side refuses the connection", "host and port"),
    ],
)
def test_what_a_proxy_refuses(run, scheme, user, text, hint):
    async def scenario(reactor):
        proxy = await SmallProxy("ann", "good").start()
        address = parse_proxy(f"{scheme}://{user}127.0.0.1:{proxy.port}")
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(ConnectError, match=text) as refused:
                await dial(reactor, "far.test", port, proxy=address)
        assert refused.value.step == "proxy"
        assert hint in refused.value.hint
        assert str(refused.value).startswith(f"{scheme}://127.0.0.1:{proxy.port}: ")
        assert "CANARY" not in str(refused.value) + repr(address)
        proxy.server.close()
        await asyncio.sleep(0.02)

    run(scenario)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000,
        b"HTTP/1.1 \xff\xff\r\n\r\n",
        b"\x04\x5a",
        b"\x05\x01",
        b"\x05\x00\x05\x09\x00\x01",
        b"\x05\x00\x05",
    ],
)
def test_what_is_no_proxy(run, scheme, answer):
    async def scenario(reactor):
        async def serve(reader, writer):
            await reader.read(100)
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectError) as failed:
            await dial(reactor, "h", 1, proxy=parse_proxy(f"{scheme}://127.0.0.1:{port}"))
        assert failed.value.step == "proxy"
        server.close()
        await asyncio.sleep(0.01)

    run(scenario)


def test_a_proxy_that_is_not_there_or_says_nothing(run):
    async def scenario(reactor):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
            address = parse_proxy(f"http://127.0.0.1:{port}")
            with pytest.raises(ConnectError, match="refused") as failed:
                await dial(reactor, "h", 1, proxy=address)
            assert failed.value.step == "proxy"
            listening.listen(1)
            with pytest.raises(ConnectError, match=f"connecting through {address} took") as failed:
                await dial(reactor, "h", 1, proxy=address, timeout_s=0.1)
            assert failed.value.step == "timeout"
        with pytest.raises(ConnectError, match=r"no-such-host\.invalid") as failed:
            await dial(reactor, "h", 1, proxy=parse_proxy("socks5://no-such-host.invalid"))
        assert failed.value.step == "proxy"

    run(scenario)


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://h", Proxy("http", "h", 3128)),
        ("HTTP://h:8080/", Proxy("http", "h", 8080)),
        ("socks5://[::1]", Proxy("socks5", "::1", 1080)),
        ("socks5h://h:1", Proxy("socks5", "h", 1)),
        ("http://u@h", Proxy("http", "h", 3128, "u", "")),
        ("http://u%40x:p:q@h:1", Proxy("http", "h", 1, "u@x", "p:q")),
    ],
)
def test_addresses_of_proxies(text, proxy):
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    "text",
    ["", "h:1", "https://h", "socks4://h", "http://h:0", "http://h:99999", "http://h/path",
     "socks5://u:@h", "socks5://:CANARY@h", "http://a%0d%0a:CANARY@h", "http://u:CANARY@",
     "http://::1:1"],
)  # fmt: skip
def test_what_is_no_address_of_a_proxy(text):
    with pytest.raises(ValueError, match=r"must|wants|unknown") as wrong:
        parse_proxy(text)
    assert "CANARY" not in str(wrong.value)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text):
    try:
        proxy = parse_proxy(text)
    except ValueError:
        return
    assert proxy.host
    assert 1 <= proxy.port <= 65_535
