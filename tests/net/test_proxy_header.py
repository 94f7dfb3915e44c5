"""The PROXY protocol: the parser with hypothesis, and listeners that take it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from net_peers import Owner, Peer, until
from websockets.frames import Frame, Opcode

from isthmus.net.dial import dial
from isthmus.net.listener import listen
from isthmus.net.proxy_header import MAX_V2, SIGNATURE, HeaderError, ProxyHeader, read_header
from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings

FAMILIES = {4: (b"TCP4", 0x11), 6: (b"TCP6", 0x21)}


def line(host, port, target="192.0.2.2", target_port=1883):
    family = FAMILIES[ip_address(host).version][0].decode()
    return f"PROXY {family} {host} {target} {port} {target_port}\r\n".encode()


def binary(host, port, *, command=0x21, extensions=b"", family=None):
    address = ip_address(host)
    target = ip_address("::1" if address.version == 6 else "192.0.2.2")
    body = address.packed + target.packed + struct.pack("!HH", port, 1883) + extensions
    kind = FAMILIES[address.version][1] if family is None else family
    return SIGNATURE + bytes((command, kind)) + struct.pack("!H", len(body)) + body


@given(
    host=st.ip_addresses(),
    port=st.integers(0, 65_535),
    rest=st.binary(max_size=30),
    extensions=st.binary(max_size=300),
    accepted=st.sampled_from([True, "v1", "v2"]),
    at=st.integers(0, 1000),
)
def test_good_headers_in_any_pieces(host, port, rest, extensions, accepted, at):
    target = "::1" if host.version == 6 else "192.0.2.2"
    header = (
        line(host, port, target) if accepted == "v1" else binary(host, port, extensions=extensions)
    )
    assert read_header(header + rest, accepted) == ProxyHeader(len(header), (str(host), port))
    assert read_header(header[: at % len(header)], accepted) is None
    with pytest.raises(HeaderError):
        read_header(header, "v2" if accepted == "v1" else "v1")


@given(st.one_of(
    st.binary(max_size=600),
    st.binary(max_size=120).map(lambda rest: b"PROXY " + rest),
    st.binary(max_size=120).map(lambda rest: b"PROXY TCP4 1.2.3.4 1.2.3.4 1 " + rest),
    st.binary(max_size=300).map(lambda rest: SIGNATURE + rest),
    st.tuples(st.sampled_from([0x20, 0x21]), st.sampled_from([0, 0x11, 0x21, 0x31, 0x12]),
              st.binary(min_size=2, max_size=300)).map(
        lambda parts: SIGNATURE + bytes(parts[:2]) + parts[2]),
))  # fmt: skip
def test_no_bytes_break_the_parser(data):
    try:
        header = read_header(data, True)
    except HeaderError:
        return
    if header is not None:
        assert 0 < header.size <= len(data)
        # What is a header stays one, whatever follows it.
        assert read_header(data[: header.size], True) == header
        if header.peername is not None:
            ip_address(header.peername[0])
            assert 0 <= header.peername[1] <= 65_535
    else:
        assert len(data) < MAX_V2


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x10\x0c\x00\x04MQTT",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 fe80::1%\x1b[31mroot ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 x\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY " + b"x" * 200,
        binary("1.2.3.4", 1, command=0x11),
        binary("1.2.3.4", 1, command=0x22),
        binary("1.2.3.4", 1, family=0x12),
        binary("1.2.3.4", 1, family=0x21),
        binary("1.2.3.4", 1, extensions=bytes(5000)),
        SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
    ],
)
def test_bad_headers(data):
    with pytest.raises(HeaderError):
        read_header(data, True)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f::1 ffff:f::1 65535 65535\r\n",
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x21\x00\x00\x03abc",
        binary("1.2.3.4", 1, command=0x20),
        SIGNATURE + b"\x21\x31" + struct.pack("!H", 216) + bytes(216),
    ],
)
def test_headers_that_name_nobody(data):
    assert read_header(data, True) == ProxyHeader(len(data), None)


# -- listeners -------------------------------------------------------------------------------------


def behind(reactor, owners, timeout_s=5.0, **settings):
    return listen(
        reactor,
        ListenerSettings(**{"bind": "127.0.0.1:0", "proxy_protocol": True, **settings}),
        lambda link: owners.append(Owner(link, link.write)),
        handshake_timeout_s=timeout_s,
    )


def plain(listener):
    sock = socket.create_connection(listener.address)
    sock.setblocking(False)
    return Peer(sock)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("header", "peername"),
    [
        (line("203.0.113.7", 4711), ("203.0.113.7", 4711)),
        (line("2001:db8::1", 1, "::1"), ("2001:db8::1", 1)),
        (binary("203.0.113.8", 4712, extensions=b"\x03\x00\x04abcd"), ("203.0.113.8", 4712)),
    ],
)
def test_the_peer_is_the_announced_one(run, slow, header, peername):
    async def scenario(reactor):
        owners = []
        listener = behind(reactor, owners)
        peer = plain(listener)
        if slow:
            for byte in header:
                await peer.send(bytes((byte,)))
                await asyncio.sleep(0)
            await peer.send(b"data")
        else:
            await peer.send(header + b"data")
        assert await peer.receive(4) == b"data"
        assert owners[0].link.peername == peername
        peer.close()
        await until(lambda: owners[0].reasons)

    run(scenario)


def test_a_load_balancer_that_speaks_for_itself(run):
    async def scenario(reactor):
        owners = []
        listener = behind(reactor, owners)
        peer = plain(listener)
        await peer.send(SIGNATURE + b"\x20\x00\x00\x00" + b"x")
        assert await peer.receive(1) == b"x"
        assert owners[0].link.peername == peer.sock.getsockname()
        peer.close()

    run(scenario)


def test_strangers_cannot_announce_an_address(run, caplog):
    caplog.set_level("INFO")

    async def scenario(reactor):
        owners = []
        listener = behind(reactor, owners, trusted_proxies=["10.0.0.0/8", "2001:db8::/32"])
        peer = plain(listener)
        await peer.send(line("203.0.113.7", 4711))
        with contextlib.suppress(ConnectionResetError):
            assert await peer.receive_all() == b""
        assert owners == []
        assert listener.statistics().handshakes_failed == 1
        peer.close()

    run(scenario)
    assert "not in trusted_proxies" in caplog.text


@pytest.mark.parametrize("data", [b"\x10\x0c\x00\x04MQTT\x04", b"", b"PROXY TCP4", SIGNATURE])
def test_a_connection_without_a_header_is_closed(run, data):
    async def scenario(reactor):
        owners = []
        listener = behind(reactor, owners, 0.2)
        peer = plain(listener)
        await peer.send(data)
        turns = reactor.statistics().turns
        with contextlib.suppress(ConnectionResetError):
            assert await peer.receive_all() == b""
        assert reactor.statistics().turns - turns < 20  # a header that is waited for costs nothing
        assert owners == []
        assert listener.statistics().handshakes_failed == 1
        assert len(reactor.wheel) == 0
        peer.close()

    run(scenario)


def test_one_that_leaves_in_the_header_and_one_when_the_listener_closes(run):
    async def scenario(reactor):
        owners = []
        listener = behind(reactor, owners)
        first, second = plain(listener), plain(listener)
        await first.send(b"PROXY ")
        first.reset()
        await second.send(b"PROXY ")
        await until(lambda: listener.statistics().handshakes_failed == 1)
        assert listener.statistics().handshakes == 1
        listener.close()
        await asyncio.sleep(0.01)
        assert listener.statistics().handshakes == 0
        second.close()

    run(scenario)


def test_tls_and_websocket_follow_the_header(run, pki):
    """A load balancer that writes its header and then passes the bytes on."""

    async def scenario(reactor):
        owners = []
        listener = behind(
            reactor, owners, transport="websocket", tls=TLSServerSettings(certificate=pki.server)
        )

        async def relay(reader, writer):
            far_reader, far_writer = await asyncio.open_connection(*listener.address)
            far_writer.write(binary("203.0.113.9", 99))

            async def copy(source, sink):
                while data := await source.read(65_536):
                    sink.write(data)
                sink.close()

            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = await dial(
            reactor, "localhost", port, tls=TLSClientSettings(ca=pki.ca), websocket="/mqtt"
        )
        owner = Owner(link)
        link.write(b"hello")
        await until(lambda: owner.received == b"hello")
        assert owners[0].link.peername == ("203.0.113.9", 99)
        link.close("done")
        await until(lambda: owner.reasons and owners[0].reasons)
        server.close()
        await asyncio.sleep(0.02)

    run(scenario)


def test_websocket_without_tls_follows_the_header(run):
    async def scenario(reactor):
        owners = []
        listener = behind(reactor, owners, transport="websocket")
        peer = plain(listener)
        request = (
            "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        frame = Frame(Opcode.BINARY, b"x").serialize(mask=True)
        await peer.send(line("203.0.113.7", 1) + request.encode() + frame)
        await until(lambda: owners and owners[0].received == b"x")
        assert owners[0].link.peername == ("203.0.113.7", 1)
        peer.close()

    run(scenario)
