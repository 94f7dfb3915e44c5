"""WebSocket links against the `websockets` library, which is the far end here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import tracemalloc
from itertools import count

import pytest
from net_peers import Owner, Peer, until
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from isthmus.errors import ConnectError
from isthmus.net.dial import dial
from isthmus.net.listener import listen
from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings
from isthmus.net.websocket import FRAME_ROOM

MQTT = ["mqtt"]


def listening(reactor, accept, *, tls=None, bind="127.0.0.1:0", how=None, **settings):
    return listen(
        reactor,
        ListenerSettings(bind=bind, transport="websocket", tls=tls, **settings),
        accept,
        **(how or {}),
    )


def echoing(reactor, owners=None, **settings):
    def accept(link):
        owner = Owner(link, link.write)
        if owners is not None:
            owners.append(owner)

    return listening(reactor, accept, **settings)


def url(listener, path="/mqtt", scheme="ws"):
    return f"{scheme}://127.0.0.1:{listener.address[1]}{path}"


async def raw(listener):
    """A plain socket that has done the handshake."""
    sock = socket.create_connection(listener.address)
    sock.setblocking(False)
    peer = Peer(sock)
    await peer.send(request())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await peer.receive(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return peer


def request(*lines, path="/mqtt", protocol="mqtt"):
    head = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []),
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode()


def test_a_client_of_the_library_is_served(run):
    async def scenario(reactor):
        owners = []
        listener = echoing(reactor, owners)
        async with connect(url(listener), subprotocols=["other", "mqtt"]) as client:
            assert client.subprotocol == "mqtt"
            await client.send(b"hello")
            assert await client.recv() == b"hello"
            await client.ping()
            await (await client.ping(b"still there?"))
            await client.send([b"in ", b"", b"pieces"])  # a fragmented message
            got = b""
            while got != b"in pieces":
                got += await client.recv()
            big = os.urandom(300_000)
            for start in range(0, len(big), 50_000):
                await client.send(big[start : start + 50_000])
            got = b""
            while len(got) < len(big):
                got += await client.recv()
            assert got == big
        await until(lambda: owners[0].reasons)
        assert owners[0].reasons == ["closed by the peer"]
        assert client.close_code == 1000
        assert owners[0].link.peername[0] == "127.0.0.1"

    run(scenario)


@pytest.mark.parametrize("secure", [False, True])
def test_a_server_of_the_library_is_dialled(run, pki, secure):
    async def scenario(reactor):
        seen = []

        async def handler(server):
            seen.append((server.request.path, server.request.headers["Host"]))
            async for message in server:
                assert isinstance(message, bytes)
                await server.send(message)

        context = None
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pki.server)
        async with serve(
            handler, "127.0.0.1", 0, subprotocols=MQTT, ssl=context, max_size=1 << 16
        ) as server:
            port = server.sockets[0].getsockname()[1]
            link = await dial(
                reactor,
                "127.0.0.1",
                port,
                websocket="/broker/mqtt?token=x",
                tls=TLSClientSettings(ca=pki.ca) if secure else None,
            )
            owner = Owner(link)
            data = os.urandom(200_000)
            for start in range(0, len(data), 999):
                link.write(data[start : start + 999])
            await until(lambda: len(owner.received) == len(data))
            assert owner.received == data
            assert seen == [("/broker/mqtt?token=x", f"127.0.0.1:{port}")]
            link.close("done")
            await until(lambda: owner.reasons == ["done"])

    run(scenario)


def test_both_sides_of_ours_over_tls(run, pki):
    async def scenario(reactor):
        owners = []
        listener = echoing(
            reactor,
            owners,
            tls=TLSServerSettings(
                certificate=pki.server, client_ca=pki.ca, require_client_certificate=True
            ),
        )
        link = await dial(
            reactor,
            "localhost",
            listener.address[1],
            tls=TLSClientSettings(ca=pki.ca, certificate=pki.client),
            websocket="/mqtt",
        )
        owner = Owner(link)
        data = os.urandom(1 << 20)
        link.write(data)
        await until(lambda: len(owner.received) == len(data))
        assert owner.received == data
        subject = owners[0].link.peer_certificate["subject"]
        assert ("commonName", "device-7") in [pair for group in subject for pair in group]
        link.pause()
        owners[0].link.write(b"later")
        await asyncio.sleep(0.02)
        assert owner.received == data
        link.resume()
        await until(lambda: owner.received == data + b"later")
        owners[0].link.close("enough")
        await until(lambda: owner.reasons == ["closed by the peer"])

    run(scenario)


def test_what_is_written_in_a_turn_is_one_frame(run):
    async def scenario(reactor):
        def greet(link):
            for n in range(10):
                link.write(b"%d" % n)
            Owner(link)

        listener = listening(reactor, greet)
        async with connect(url(listener), subprotocols=MQTT) as client:
            assert await client.recv() == b"0123456789"

    run(scenario)


def test_data_behind_the_handshake_arrives(run):
    async def scenario(reactor):
        links = []
        listener = listening(reactor, links.append)
        sock = socket.create_connection(listener.address)
        sock.setblocking(False)
        peer = Peer(sock)
        frame = Frame(Opcode.BINARY, b"at once").serialize(mask=True)
        await peer.send(request() + frame)
        await until(lambda: links)
        await asyncio.sleep(0.02)
        await peer.send(Frame(Opcode.BINARY, b", and later").serialize(mask=True))
        await asyncio.sleep(0.02)
        owner = Owner(links[0])
        await until(lambda: owner.received == b"at once, and later")
        peer.close()
        await until(lambda: owner.reasons)

    run(scenario)


def test_packets_may_span_frames_and_reads(run):
    async def scenario(reactor):
        owners = []
        listener = echoing(reactor, owners)
        peer = await raw(listener)
        for byte in Frame(Opcode.BINARY, b"slow").serialize(mask=True):
            await peer.send(bytes((byte,)))
            await asyncio.sleep(0)
        await until(lambda: owners[0].received == b"slow")
        peer.close()

    run(scenario)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"hello").serialize(mask=True), 1003),
        (Frame(Opcode.BINARY, b"hello").serialize(mask=False), 1002),
        (Frame(Opcode.CONT, b"hello").serialize(mask=True), 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\xc2\x80\0\0\0\0", 1002),
        (b"\x09\x80\0\0\0\0", 1002),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009),
        (b"\x82\xff" + (1000 + FRAME_ROOM + 1).to_bytes(8, "big"), 1009),
    ],
    ids=count(),  # the masks are random
)
def test_frames_that_are_refused(run, frame, code):
    async def scenario(reactor):
        owners = []
        listener = echoing(reactor, owners, how={"max_packet_size": 1000})
        good = await raw(listener)
        bad = await raw(listener)
        await bad.send(frame)
        answer = await bad.receive_all()
        assert answer[:1] == b"\x88"
        assert int.from_bytes(answer[2:4], "big") == code
        assert owners[1].reasons[0].startswith("WebSocket: the peer sent ")
        await good.send(Frame(Opcode.BINARY, b"x").serialize(mask=True))
        assert await good.receive(3) == b"\x82\x01x"
        bad.close()
        good.close()

    run(scenario)


def test_a_close_frame_is_answered_behind_what_was_written(run):
    async def scenario(reactor):
        owners = []
        listener = echoing(reactor, owners)
        peer = await raw(listener)
        await peer.send(
            Frame(Opcode.BINARY, b"last").serialize(mask=True)
            + Frame(Opcode.CLOSE, b"\x03\xe9").serialize(mask=True)
            + Frame(Opcode.BINARY, b"too late").serialize(mask=True)
        )
        assert await peer.receive_all() == b"\x82\x04last\x88\x02\x03\xe9"
        assert owners[0].received == b"last"
        assert owners[0].reasons == ["closed by the peer"]
        peer.close()

    run(scenario)


def test_pings_without_reading_cost_no_memory(run):
    async def scenario(reactor):
        owners = []
        listener = echoing(reactor, owners)
        peer = await raw(listener)
        link = owners[0].link
        link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        link.write(bytes(8 << 20))  # more than the peer's buffer takes
        await until(lambda: link.blocked)
        tracemalloc.start()
        ping = Frame(Opcode.PING, b"p" * 125).serialize(mask=True)
        for _ in range(50):
            await peer.send(ping * 500)
        await asyncio.sleep(0.05)
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert grown < 200_000
        assert len(link._framing.raw) <= 1
        peer.close()
        await until(lambda: owners[0].reasons)

    run(scenario)


@pytest.mark.parametrize("path", ["/", "/mqtt", "/mqtt/", "/a/b?c=d"])
def test_any_path_leads_there_where_that_is_set(run, path):
    async def scenario(reactor):
        listener = echoing(reactor, path="*")
        async with connect(url(listener, path), subprotocols=MQTT) as peer:
            await peer.send(b"x")
            assert await peer.recv() == b"x"

    run(scenario)


@pytest.mark.parametrize(
    ("lines", "how", "status"),
    [
        ((), {"path": "/other"}, 404),
        ((), {"protocol": ""}, 400),
        ((), {"protocol": "amqp"}, 400),
        (("Origin: https://evil.example",), {}, 403),
        (("Origin: http://127.0.0.1", "Origin: https://evil.example"), {}, 403),
        (("Origin: null",), {}, 403),
        (("Host: other", "Origin: http://other"), {}, 403),
        (("Content-Length: 5",), {}, 0),
        (("Transfer-Encoding: chunked",), {}, 0),
        (("no header",), {}, 0),
    ],
)
def test_requests_that_are_refused(run, lines, how, status):
    async def scenario(reactor):
        listener = echoing(reactor)
        sock = socket.create_connection(listener.address)
        sock.setblocking(False)
        peer = Peer(sock)
        await peer.send(request(*lines, **how))
        answer = await peer.receive_all()
        assert answer.startswith(b"HTTP/1.1 %d " % status if status else b"")
        assert listener.statistics().handshakes_failed == 1
        peer.close()

    run(scenario)


@pytest.mark.parametrize(
    ("origin", "settings", "welcome"),
    [
        (None, {}, True),
        ("https://app.example", {"origins": ["https://APP.example"]}, True),
        ("https://app.example:8443", {"origins": ["https://app.example"]}, False),
        ("http://app.example", {"origins": ["https://app.example"]}, False),
        ("https://any.example", {"origins": ["*"]}, True),
        ("same", {}, True),
    ],
)
def test_origins(run, origin, settings, welcome):
    async def scenario(reactor):
        listener = echoing(reactor, **settings)
        given = f"http://127.0.0.1:{listener.address[1]}" if origin == "same" else origin
        if not welcome:
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(listener), subprotocols=MQTT, origin=given)
            assert refused.value.response.status_code == 403
            return
        async with connect(url(listener), subprotocols=MQTT, origin=given) as client:
            await client.send(b"x")
            assert await client.recv() == b"x"

    run(scenario)


def test_a_name_of_a_stranger_that_leads_here_is_no_origin_of_ours(run):
    """DNS rebinding: a page of the stranger's, whose host name now has our loopback address."""

    async def scenario(reactor):
        listener = echoing(reactor)
        sock = socket.create_connection(listener.address)
        sock.setblocking(False)
        peer = Peer(sock)
        text = request("Origin: http://evil.example:8083")
        await peer.send(text.replace(b"Host: 127.0.0.1", b"Host: evil.example:8083"))
        assert (await peer.receive_all()).startswith(b"HTTP/1.1 403 ")
        peer.close()

    run(scenario)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
        b"GET /" + b"x" * 20_000,
        b"GET /mqtt HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
        b"HELLO\r\n\r\n",
    ],
)
def test_what_is_no_request_is_closed_at_once(run, data):
    async def scenario(reactor):
        listener = echoing(reactor)
        sock = socket.create_connection(listener.address)
        sock.setblocking(False)
        peer = Peer(sock)
        await peer.send(data)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                await peer.receive_all()
        assert listener.statistics().handshakes_failed == 1
        assert listener.statistics().handshakes == 0
        peer.close()

    run(scenario)


def test_a_peer_that_asks_slowly_has_until_the_deadline(run):
    async def scenario(reactor):
        listener = echoing(reactor, how={"handshake_timeout_s": 0.15})
        sock = socket.create_connection(listener.address)
        sock.setblocking(False)
        peer = Peer(sock)
        await peer.send(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n")
        assert await peer.receive_all() == b""
        assert listener.statistics().handshakes_failed == 1
        assert len(reactor.wheel) == 0
        peer.close()

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 900\r\n\r\n", "answers 404 Not Found"),
        (b"HTTP/1.0 403 Forbidden\r\n\r\n<html>", "answers 403 Forbidden"),
        (b"SSH-2.0-OpenSSH\r\n", "does not begin with HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "the far side's answer is wrong"),
        (b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 9000, "longer than"),
        (b"", "closed by the peer"),
    ],
)
def test_far_sides_that_speak_no_websocket(run, answer, text):
    async def scenario(reactor):
        def accept(link):
            def reply(data):
                link.write(answer)
                if not answer:
                    link.close("no")

            Owner(link, reply)

        listener = listen(reactor, ListenerSettings(bind="127.0.0.1:0"), accept)
        with pytest.raises(ConnectError, match=text) as refused:
            await dial(reactor, *listener.address, websocket="/mqtt")
        assert refused.value.step == "websocket"
        assert f"127.0.0.1:{listener.address[1]}" in str(refused.value)

    run(scenario)


def test_a_far_side_that_does_not_know_mqtt(run):
    async def scenario(reactor):
        async def handler(server):
            await server.wait_closed()

        async with serve(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectError, match="subprotocol 'mqtt'") as refused:
                await dial(reactor, "127.0.0.1", port, websocket="/mqtt")
            assert refused.value.step == "websocket"

    run(scenario)


def test_an_abort_is_no_goodbye_and_a_close_is_one(run):
    async def scenario(reactor):
        owners = []
        listener = echoing(reactor, owners)
        for end, code in (("close", 1000), ("abort", 1006)):
            client = await connect(url(listener), subprotocols=MQTT)
            await client.send(b"x")
            assert await client.recv() == b"x"
            getattr(owners[-1].link, end)("done")
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == code
            await client.close()

    run(scenario)


@pytest.mark.alone
def test_an_idle_websocket_costs_little_more_than_a_link(run):
    async def scenario(reactor):
        owners = []
        listener = echoing(reactor, owners)
        await raw(listener)  # what is imported and made once
        gc.collect()
        gc.disable()  # nothing may be left for the collector
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        peers = [await raw(listener) for _ in range(200)]
        await until(lambda: len(owners) == 201)
        each = (tracemalloc.get_traced_memory()[0] - before) / 200
        tracemalloc.stop()
        gc.enable()
        assert each < 4000, each  # both ends, and the owner of the test
        for peer in peers:
            peer.close()

    run(scenario)
