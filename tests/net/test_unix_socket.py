from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from net_peers import Owner, until

from isthmus.errors import ConnectError, ListenError
from isthmus.net.dial import dial
from isthmus.net.listener import listen
from isthmus.net.peer import peer_network, peer_text
from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings


@pytest.fixture
def folder():
    """Short enough for a socket's path, which pytest's own folders may not be."""
    with tempfile.TemporaryDirectory(prefix="isthmus-") as path:
        yield Path(path)


def echoing(reactor, path, owners=None, **settings):
    def accept(link):
        owner = Owner(link, link.write)
        if owners is not None:
            owners.append(owner)

    return listen(reactor, ListenerSettings(bind=f"unix:{path}", **settings), accept)


@pytest.mark.parametrize("carrier", ["plain", "tls", "websocket", "proxy"])
def test_both_ends(run, folder, pki, carrier):
    async def scenario(reactor):
        path = folder / "mqtt.sock"
        owners = []
        settings = {
            "plain": {},
            "tls": {"tls": TLSServerSettings(certificate=pki.server)},
            "websocket": {"transport": "websocket"},
            "proxy": {"proxy_protocol": True},
        }[carrier]
        listener = echoing(reactor, path, owners, **settings)
        assert listener.where == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        link = await dial(
            reactor,
            str(path),
            0,
            tls=TLSClientSettings(ca=pki.ca, server_name="localhost") if carrier == "tls" else None,
            websocket="/mqtt" if carrier == "websocket" else "",
        )
        owner = Owner(link)
        if carrier == "proxy":
            link.write(b"PROXY TCP4 203.0.113.7 192.0.2.2 1 2\r\n")
        link.write(b"hello")
        await until(lambda: owner.received == b"hello")
        assert peer_text(link.peername) == f"unix:{path}"
        expected = ("203.0.113.7", 1) if carrier == "proxy" else f"unix:{path}"
        assert owners[0].link.peername == expected
        assert peer_network(owners[0].link.peername)
        link.close("done")
        await until(lambda: owner.reasons and owners[0].reasons)
        listener.close()
        assert not path.exists()

    run(scenario)


@pytest.mark.parametrize(("mode", "rights"), [("0600", 0o600), ("666", 0o666), (660, 0o660)])
def test_the_mode(run, folder, mode, rights):
    async def scenario(reactor):
        path = folder / "s"
        before = os.umask(0o077)
        try:
            listener = echoing(reactor, path, mode=mode)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == rights
        listener.close()

    run(scenario)


def test_the_file_of_a_process_that_is_gone_is_replaced(run, folder):
    async def scenario(reactor):
        path = folder / "s"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        listener = echoing(reactor, path)
        link = await dial(reactor, str(path), 0)
        owner = Owner(link)
        link.write(b"x")
        await until(lambda: owner.received == b"x")
        listener.close()

    run(scenario)


def test_what_may_not_be_replaced(run, folder):
    async def scenario(reactor):
        path = folder / "s"
        listener = echoing(reactor, path)
        with pytest.raises(ListenError, match="already in use; is another broker"):
            echoing(reactor, path)
        assert path.exists()
        text = folder / "text"
        text.write_text("precious")
        with pytest.raises(ListenError, match="a file that is no socket"):
            echoing(reactor, text)
        assert text.read_text() == "precious"
        with pytest.raises(ListenError, match="is the folder there"):
            echoing(reactor, folder / "missing" / "s")
        listener.close()

    run(scenario)


def test_another_process_that_took_the_path_over_keeps_its_file(run, folder):
    async def scenario(reactor):
        path = folder / "s"
        listener = echoing(reactor, path)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            listener.close()
            assert path.exists()

    run(scenario)


def test_nobody_listens(run, folder):
    async def scenario(reactor):
        with pytest.raises(ConnectError, match=f"unix:{folder}/s: No such file") as failed:
            await dial(reactor, str(folder / "s"), 0)
        assert failed.value.step == "unix"
        assert "the path right" in failed.value.hint
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / "s"))
        with pytest.raises(ConnectError, match="refused") as failed:
            await dial(reactor, str(folder / "s"), 0)
        assert failed.value.step == "unix"

    run(scenario)
