from __future__ import annotations

import asyncio
import socket
import time

import pytest
from net_peers import Owner, until

from isthmus.errors import ConnectError
from isthmus.net.dial import _connect, dial
from isthmus.net.listener import listen
from isthmus.net.settings import ListenerSettings, TLSClientSettings


def echo(reactor, bind="127.0.0.1:0"):
    return listen(reactor, ListenerSettings(bind=bind), lambda link: Owner(link, link.write))


@pytest.fixture
def silent_port():
    """A port that answers no SYN: its accept queue is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
            fillers.append(filler)
        time.sleep(0.02)
        yield listening.getsockname()[1]
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_dialled_link_works(run, host):
    async def scenario(reactor):
        listener = echo(reactor, "[::1]:0" if host == "::1" else "127.0.0.1:0")
        link = await dial(reactor, host, listener.address[1])
        owner = Owner(link)
        link.write(b"x")
        await until(lambda: owner.received == b"x")
        assert link.peername[:2] == listener.address
        assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        link.close("done")
        await until(lambda: owner.reasons == ["done"])

    run(scenario)


def test_nothing_is_delivered_before_on_data_is_set(run):
    async def scenario(reactor):
        def greet(link):
            Owner(link)
            link.write(b"hello")

        listener = listen(reactor, ListenerSettings(bind="127.0.0.1:0"), greet)
        link = await dial(reactor, *listener.address)
        await asyncio.sleep(0.03)  # however late the owner comes
        owner = Owner(link)
        await until(lambda: owner.received == b"hello")

    run(scenario)


def test_an_unknown_name(run):
    async def scenario(reactor):
        for host in ("no-such-host.invalid", "two..dots", "x" * 300):
            with pytest.raises(ConnectError) as failed:
                await dial(reactor, host, 1883)
            assert failed.value.step == "name"
            assert host in str(failed.value)
            assert failed.value.hint

    run(scenario)


def test_a_port_where_nobody_listens(run):
    async def scenario(reactor):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(ConnectError, match=f"127.0.0.1:{port}: 127.0.0.1: Conn") as failed:
                await dial(reactor, "127.0.0.1", port)
        assert failed.value.step == "tcp"
        assert "running" in failed.value.hint

    run(scenario)


def test_a_peer_that_does_not_answer(run, silent_port):
    async def scenario(reactor):
        start = time.monotonic()
        with pytest.raises(ConnectError, match=r"connecting took longer than 0\.15 s") as failed:
            await dial(reactor, "127.0.0.1", silent_port, timeout_s=0.15)
        assert failed.value.step == "timeout"
        assert time.monotonic() - start < 1

    run(scenario)


def test_a_tls_peer_that_says_nothing(run, pki):
    async def scenario(reactor):
        links = []
        listener = listen(reactor, ListenerSettings(bind="127.0.0.1:0"), links.append)
        with pytest.raises(ConnectError, match="the TLS handshake took longer") as failed:
            await dial(reactor, *listener.address, tls=TLSClientSettings(ca=pki.ca), timeout_s=0.15)
        assert failed.value.step == "timeout"
        await asyncio.sleep(0)
        assert reactor.statistics().links == 0

    run(scenario)


def test_every_address_is_tried_and_a_silent_one_gets_its_share(run, silent_port):
    async def scenario(reactor):
        listener = echo(reactor)
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            refusing = (*kind, unused.getsockname())
            silent = (*kind, ("127.0.0.1", silent_port))
            good = (*kind, listener.address)
            deadline = time.monotonic() + 0.4
            sock = await _connect(reactor, [refusing, silent, good], "broker", deadline)
            assert sock.getpeername() == listener.address
            sock.close()
            deadline = time.monotonic() + 0.2
            with pytest.raises(ConnectError, match=r"refused; 127\.0\.0\.1: no answer"):
                await _connect(reactor, [refusing, silent, refusing], "broker", deadline)

    run(scenario)


def test_cancelling_leaves_nothing_open(run, pki, silent_port):
    async def scenario(reactor):
        links = []
        listener = listen(reactor, ListenerSettings(bind="127.0.0.1:0"), links.append)
        for port, tls in (
            (silent_port, None),
            (listener.address[1], TLSClientSettings(ca=pki.ca)),
        ):
            task = asyncio.create_task(dial(reactor, "127.0.0.1", port, tls=tls))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.sleep(0)
        assert reactor.statistics().links == 0

    run(scenario)


def test_tls_files_that_cannot_be_used(run, pki, tmp_path):
    async def scenario(reactor):
        listener = echo(reactor)
        with pytest.raises(ConnectError, match=r"missing\.pem: No such file") as failed:
            await dial(
                reactor, *listener.address, tls=TLSClientSettings(ca=tmp_path / "missing.pem")
            )
        assert failed.value.step == "tls"

    run(scenario)
