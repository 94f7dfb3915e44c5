from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest
from net_peers import Owner, Peer, until

from isthmus.errors import ConfigError
from isthmus.net import listener as listener_module
from isthmus.net.listener import MAX_ACCEPTS, listen
from isthmus.net.settings import ListenerSettings, TLSServerSettings
from mosquitto import listens

ANY = ListenerSettings(bind="127.0.0.1:0")


def connect(address):
    sock = socket.create_connection(address)
    sock.setblocking(False)
    return Peer(sock)


def test_accepted_links_work_and_have_no_delay(run):
    async def scenario(reactor):
        owners = []
        listener = listen(reactor, ANY, lambda link: owners.append(Owner(link, link.write)))
        peer = connect(listener.address)
        await peer.send(b"ping")
        assert await peer.receive(4) == b"ping"
        link = owners[0].link
        assert link.peername == peer.sock.getsockname()
        assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert listener.statistics().accepted == 1
        peer.close()
        await until(lambda: owners[0].reasons)

    run(scenario)


def test_a_turn_accepts_a_batch_and_no_more(run):
    async def scenario(reactor):
        seen = []
        listener = listen(reactor, ANY, lambda link: seen.append(reactor.statistics().turns))
        peers = [connect(listener.address) for _ in range(MAX_ACCEPTS * 2 + 5)]
        await until(lambda: len(seen) == len(peers))
        assert max(seen.count(turn) for turn in seen) == MAX_ACCEPTS
        for peer in peers:
            peer.close()

    run(scenario)


def test_no_descriptors_left_is_a_pause_and_not_a_spin(run, monkeypatch, caplog):
    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE_S", 0.2)

    async def scenario(reactor):
        owners = []
        listener = listen(reactor, ANY, lambda link: owners.append(Owner(link, link.write)))
        first = connect(listener.address)
        await first.send(b"1")
        assert await first.receive(1) == b"1"
        peer = connect(listener.address)  # complete in the kernel, not accepted yet
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            turns = reactor.statistics().turns
            assert listener.open
            await until(lambda: listener.statistics().pauses)
            assert not listener.open
            # Those who are connected notice nothing.
            await first.send(b"2")
            assert await first.receive(1) == b"2"
            assert reactor.statistics().turns - turns < 12
            assert len(owners) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await peer.send(b"3")
        assert await peer.receive(1) == b"3"
        assert listener.open
        peer.close()
        first.close()

    run(scenario)
    assert "Too many open files" in caplog.text


def test_an_accept_that_fails_closes_that_connection_only(run, caplog):
    async def scenario(reactor):
        def accept(link):
            if listener.statistics().accepted == 1:
                raise ValueError("bug")
            Owner(link, link.write)

        listener = listen(reactor, ANY, accept)
        first = connect(listener.address)
        assert await first.receive_all() == b""
        second = connect(listener.address)
        await second.send(b"ok")
        assert await second.receive(2) == b"ok"
        first.close()
        second.close()

    run(scenario)
    assert "ValueError: bug" in caplog.text


def test_accept_may_refuse_with_last_words_or_without(run):
    async def scenario(reactor):
        def accept(link):
            if listener.statistics().accepted == 1:
                link.abort("too many")
            else:
                link.write(b"too many")
                link.close("too many")

        listener = listen(reactor, ANY, accept)
        for words in (b"", b"too many"):
            peer = connect(listener.address)
            assert await peer.receive_all() == words
            peer.close()

    run(scenario)


def test_a_peer_that_says_nothing_has_until_the_handshake_deadline(run, pki, caplog):
    async def scenario(reactor):
        settings = ListenerSettings(
            bind="127.0.0.1:0", tls=TLSServerSettings(certificate=pki.server)
        )
        accepted = []
        listener = listen(reactor, settings, accepted.append, handshake_timeout_s=0.15)
        silent, slow = connect(listener.address), connect(listener.address)
        await slow.send(b"\x16\x03\x01")
        await until(lambda: listener.statistics().handshakes == 2)
        assert await silent.receive_all() == b""
        assert await slow.receive_all() == b""
        assert accepted == []
        statistics = listener.statistics()
        assert (statistics.handshakes, statistics.handshakes_failed) == (0, 2)
        assert len(reactor.wheel) == 0
        silent.close()
        slow.close()

    run(scenario)


def test_a_peer_that_speaks_no_tls_is_refused(run, pki):
    async def scenario(reactor):
        settings = ListenerSettings(
            bind="127.0.0.1:0", tls=TLSServerSettings(certificate=pki.server)
        )
        listener = listen(reactor, settings, Owner)
        peer = connect(listener.address)
        await peer.send(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        await peer.receive_all()
        assert listener.statistics().handshakes_failed == 1
        peer.close()

    run(scenario)


def test_too_many_handshakes_at_once_are_refused(run, pki):
    async def scenario(reactor):
        settings = ListenerSettings(
            bind="127.0.0.1:0", tls=TLSServerSettings(certificate=pki.server)
        )
        listener = listen(reactor, settings, Owner, max_handshakes=2)
        peers = [connect(listener.address) for _ in range(3)]
        assert await peers[2].receive_all() == b""
        assert listener.statistics().refused == 1
        listener.close()
        for peer in peers:
            assert await peer.receive_all() == b""
            peer.close()

    run(scenario)


def test_close_stops_listening_and_keeps_links(run):
    async def scenario(reactor):
        owners = []
        listener = listen(reactor, ANY, lambda link: owners.append(Owner(link, link.write)))
        peer = connect(listener.address)
        await until(lambda: owners)
        listener.close()
        listener.close()
        await asyncio.sleep(0.02)
        with pytest.raises(ConnectionRefusedError):
            connect(listener.address)
        await peer.send(b"still here")
        assert await peer.receive(10) == b"still here"
        peer.close()

    run(scenario)


@pytest.mark.parametrize("bind", ["[::1]:0", "localhost:0", "*:0"])
def test_other_addresses(run, bind):
    async def scenario(reactor):
        owners = []
        settings = ListenerSettings(bind=bind)
        listener = listen(reactor, settings, lambda link: owners.append(Owner(link, link.write)))
        hosts = {"[::1]:0": ["::1"], "localhost:0": ["127.0.0.1"], "*:0": ["127.0.0.1", "::1"]}
        for host in hosts[bind]:
            peer = connect((host, listener.address[1]))
            await peer.send(b"x")
            assert await peer.receive(1) == b"x"
            peer.close()

    run(scenario)


def test_an_address_in_use_or_unknown_is_a_configuration_error(run):
    async def scenario(reactor):
        listener = listen(reactor, ANY, Owner)
        taken = f"127.0.0.1:{listener.address[1]}"
        with pytest.raises(ConfigError, match=f"bind: {taken}: Address already in use"):
            listen(reactor, ListenerSettings(bind=taken), Owner)
        with pytest.raises(ConfigError, match=r"bind: 192\.0\.2\.1:1883: Cannot assign"):
            listen(reactor, ListenerSettings(bind="192.0.2.1:1883"), Owner)

    run(scenario)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "*:0"])
def test_an_interface(run, bind):
    async def scenario(reactor):
        owners = []
        settings = ListenerSettings(bind=bind, interface="lo")
        listener = listen(reactor, settings, lambda link: owners.append(Owner(link, link.write)))
        peer = connect(("127.0.0.1", listener.address[1]))
        await peer.send(b"ping")
        assert await peer.receive(4) == b"ping"
        for sock in listener._sockets:
            name = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert name.rstrip(b"\0") == b"lo"
        # The same port of another interface is another listener's, and not reached by `lo`.
        other = next(name for _, name in socket.if_nameindex() if name != "lo")
        port = listener.address[1]
        same = settings.model_copy(
            update={"bind": bind.replace(":0", f":{port}"), "interface": other}
        )
        elsewhere = listen(reactor, same, Owner)
        again = connect(("127.0.0.1", port))
        await until(lambda: len(owners) == 2)
        assert elsewhere.statistics().accepted == 0
        listener.close()
        await until(lambda: not listens(port))
        elsewhere.close()
        peer.close()
        again.close()

    run(scenario)


def test_an_interface_that_is_not_there(run):
    async def scenario(reactor):
        text = r"bind: \*:0 on nowhere0: No such device; this machine has no such interface"
        with pytest.raises(ConfigError, match=text):
            listen(reactor, ListenerSettings(bind="*:0", interface="nowhere0"), Owner)

    run(scenario)
