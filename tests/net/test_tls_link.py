"""TLS links against the blocking sockets of `ssl`, which share OpenSSL but none of our code."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
import ssl
import time
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from net_peers import Owner, connected, until

from isthmus.errors import ConnectError
from isthmus.net.contexts import server_context
from isthmus.net.dial import dial
from isthmus.net.link import READ_LIMIT, Link
from isthmus.net.listener import listen
from isthmus.net.reactor import Reactor
from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings
from isthmus.net.tls import TLSLink

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(params=list(VERSIONS))
def version(request):
    return request.param


def listening(reactor, accept, **tls):
    settings = ListenerSettings(bind="127.0.0.1:0", tls=TLSServerSettings(**tls))
    return listen(reactor, settings, accept)


def plain_client(pki, version="1.3", **chain):
    context = ssl.create_default_context(cafile=pki.ca)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    if chain:
        context.load_cert_chain(**chain)
    return context


def plain_server(certificate, version="1.3", client_ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    context.load_cert_chain(certificate)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def serve(context, conversation):
    """Listen with blocking sockets; return the port and the task that has the conversation."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def accept():
        with listening, listening.accept()[0] as raw:
            raw.settimeout(5)
            with context.wrap_socket(raw, server_side=True) as sock:
                return conversation(sock)

    return port, asyncio.create_task(asyncio.to_thread(accept))


def call(context, port, conversation, name="localhost"):
    """Connect with blocking sockets and have the conversation in a thread."""

    def connect():
        with (
            socket.create_connection(("127.0.0.1", port), 5) as raw,
            context.wrap_socket(raw, server_hostname=name) as sock,
        ):
            return conversation(sock)

    return asyncio.to_thread(connect)


def receive(sock, size):
    data = bytearray()
    while len(data) < size and (chunk := sock.recv(65_536)):
        data += chunk
    return bytes(data)


def test_a_listener_speaks_with_an_ssl_client(run, pki, version):
    async def scenario(reactor):
        owners = []

        def accept(link):
            owners.append(Owner(link, link.write))

        listener = listening(reactor, accept, certificate=pki.server, alpn=["mqtt", "x"])
        context = plain_client(pki, version)
        context.set_alpn_protocols(["y", "mqtt"])

        def conversation(sock):
            sock.sendall(b"hello")
            return sock.recv(100), sock.version(), sock.selected_alpn_protocol()

        answer = await call(context, listener.address[1], conversation, "broker.test")
        assert answer == (b"hello", f"TLSv{version}", "mqtt")
        await until(lambda: owners[0].reasons)
        assert owners[0].reasons == ["closed by the peer"]
        link = owners[0].link
        assert (link.version, link.alpn, link.requested_name, link.peer_certificate) == (
            f"TLSv{version}",
            "mqtt",
            "broker.test",
            None,
        )

    run(scenario)


def test_a_dialled_link_speaks_with_an_ssl_server(run, pki, version):
    async def scenario(reactor):
        def conversation(sock):
            sock.sendall(b"welcome ")
            sock.sendall(sock.recv(100))
            return sock.recv(100)  # b"" at close_notify; an error without one

        port, task = serve(plain_server(pki.server, version), conversation)
        link = await dial(reactor, "localhost", port, tls=TLSClientSettings(ca=pki.ca))
        owner = Owner(link)
        link.write(b"hello")
        await until(lambda: owner.received == b"welcome hello")
        assert link.version == f"TLSv{version}"
        assert ("DNS", "broker.test") in link.peer_certificate["subjectAltName"]
        assert isinstance(link.peer_certificate_der, bytes)
        link.close("done")
        assert await task == b""
        await until(lambda: owner.reasons == ["done"])

    run(scenario)


def test_a_mebibyte_both_ways_at_once(run, pki, version):
    async def scenario(reactor):
        data = os.urandom(1 << 20)
        owners = []
        listener = listening(
            reactor, lambda link: owners.append(Owner(link, link.write)), certificate=pki.server
        )
        settings = TLSClientSettings(ca=pki.ca, min_version=version)
        link = await dial(reactor, *listener.address, tls=settings)
        owner = Owner(link)
        for start in range(0, len(data), 100_000):
            link.write(data[start : start + 100_000])
        link.write(data)
        await until(lambda: len(owner.received) == 2 << 20)
        assert owner.received == data * 2
        assert max(map(len, owner.reads)) <= READ_LIMIT
        link.close("done")
        await until(lambda: owners[0].reasons)
        listener.close()

    run(scenario)


def test_big_writes_to_an_ssl_peer_that_reads_slowly_and_close_delivers_them(run, pki, version):
    async def scenario(reactor):
        data = os.urandom(1 << 20)

        def accept(link):
            Owner(link)
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            for start in range(0, len(data), 1000):
                link.write(data[start : start + 1000])
            reactor.loop.call_later(0.05, late, link)

        def late(link):
            assert link.blocked
            assert link.unsent > 0
            link.write(b"written while blocked")
            link.close("done")

        listener = listening(reactor, accept, certificate=pki.server)

        def conversation(sock):
            time.sleep(0.1)
            return receive(sock, 2 << 20)

        received = await call(plain_client(pki, version), listener.address[1], conversation)
        assert received == data + b"written while blocked"

    run(scenario)


def test_all_records_of_a_read_arrive_in_one_call(run, pki, version):
    async def scenario(reactor):
        owners = []
        listener = listening(
            reactor, lambda link: owners.append(Owner(link)), certificate=pki.server
        )
        context = plain_client(pki, version)
        raw = socket.create_connection(listener.address)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        raw.setblocking(False)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    await reactor.loop.sock_sendall(raw, outgoing.read())
                incoming.write(await reactor.loop.sock_recv(raw, 65_536))
        # The last flight of the handshake and 100 small records in one segment: what follows the
        # handshake is left over in the BIO, and no event will report it.
        for n in range(100):
            client.write(b"%02d" % n)
        await reactor.loop.sock_sendall(raw, outgoing.read())
        await until(lambda: owners and len(owners[0].received) == 200)
        assert len(owners[0].reads) == 1
        raw.close()

    run(scenario)


def test_data_behind_the_handshake_waits_for_on_data(run, pki):
    async def scenario(reactor):
        links = []
        listener = listening(reactor, links.append, certificate=pki.server)

        def conversation(sock):
            sock.sendall(b"at once")
            return sock.recv(100)

        task = asyncio.create_task(call(plain_client(pki), listener.address[1], conversation))
        await until(lambda: links)
        await asyncio.sleep(0.03)
        owner = Owner(links[0])
        await until(lambda: owner.received == b"at once")
        links[0].pause()
        await asyncio.sleep(0)
        links[0].resume()
        links[0].write(b"ok")
        assert await task == b"ok"

    run(scenario)


@pytest.mark.parametrize("certificate", ["client", "foreign_client", None])
def test_a_listener_that_requires_client_certificates(run, pki, version, certificate):
    async def scenario(reactor):
        owners = []
        listener = listening(
            reactor,
            lambda link: owners.append(Owner(link, link.write)),
            certificate=pki.server,
            client_ca=pki.ca,
            require_client_certificate=True,
        )
        chain = {"certfile": getattr(pki, certificate)} if certificate else {}

        def conversation(sock):
            sock.sendall(b"me")
            return sock.recv(100)

        talk = call(plain_client(pki, version, **chain), listener.address[1], conversation)
        if certificate == "client":
            assert await talk == b"me"
            subject = owners[0].link.peer_certificate["subject"]
            assert ("commonName", "device-7") in [pair for group in subject for pair in group]
        else:
            with pytest.raises(ssl.SSLError) as refused:  # and not a mere reset: it got the alert
                await talk
            assert "ALERT" in refused.value.reason
            assert owners == []
            assert listener.statistics().handshakes_failed == 1

    run(scenario)


def test_a_client_certificate_may_be_optional(run, pki):
    async def scenario(reactor):
        owners = []
        listener = listening(
            reactor,
            lambda link: owners.append(Owner(link, link.write)),
            certificate=pki.server,
            client_ca=pki.ca,
        )
        for settings in (
            TLSClientSettings(ca=pki.ca),
            TLSClientSettings(ca=pki.ca, certificate=pki.client),
        ):
            link = await dial(reactor, *listener.address, tls=settings)
            owner = Owner(link)
            link.write(b"x")
            await until(lambda owner=owner: owner.received == b"x")
        assert [bool(owner.link.peer_certificate) for owner in owners] == [False, True]

    run(scenario)


@pytest.mark.parametrize(
    ("server", "text", "hint"),
    [
        ("misnamed", "the certificate is for another", "tls.server_name"),
        ("untrusted", "from an authority that is not trusted", "tls.ca"),
        ("expired", "the certificate has expired", "renewed"),
    ],
)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_certificates_that_must_be_refused(run, pki, version, server, text, hint, host):
    async def scenario(reactor):
        def conversation(sock):
            return "connected"

        port, task = serve(plain_server(getattr(pki, server), version), conversation)
        with pytest.raises(ConnectError, match=text) as refused:
            await dial(reactor, host, port, tls=TLSClientSettings(ca=pki.ca))
        assert refused.value.step == "tls"
        assert hint in refused.value.hint
        assert f"{host}:{port}" in str(refused.value)
        with pytest.raises(ssl.SSLError, match="ALERT"):
            await task

    run(scenario)


def test_a_self_signed_certificate_is_refused_unless_it_is_the_ca(run, pki, tmp_path):
    path = self_signed(tmp_path)

    async def scenario(reactor):
        port, task = serve(plain_server(path), lambda sock: None)
        with pytest.raises(ConnectError, match="self-signed") as refused:
            await dial(reactor, "localhost", port, tls=TLSClientSettings(ca=pki.ca))
        assert refused.value.step == "tls"
        with suppress(OSError):
            await task
        port, task = serve(plain_server(path), lambda sock: None)
        link = await dial(reactor, "localhost", port, tls=TLSClientSettings(ca=path))
        link.close("done")
        await task

    run(scenario)


def self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "self-signed.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def test_the_host_name_check_can_be_moved_or_switched_off(run, pki):
    async def scenario(reactor):
        for how in ({"server_name": "elsewhere.test"}, {"verify_hostname": False}):
            port, task = serve(plain_server(pki.misnamed), lambda sock: None)
            link = await dial(reactor, "localhost", port, tls=TLSClientSettings(ca=pki.ca, **how))
            link.close("done")
            await task

    run(scenario)


def test_a_server_that_wants_a_certificate_that_we_do_not_have(run, pki, version):
    async def scenario(reactor):
        context = plain_server(pki.server, version, client_ca=pki.ca)
        port, task = serve(context, lambda sock: None)
        connecting = dial(reactor, "localhost", port, tls=TLSClientSettings(ca=pki.ca))
        if version == "1.3":  # our side is through before the server has looked
            owner = Owner(await connecting)
            await until(lambda: owner.reasons)
            assert owner.reasons == ["TLS: the peer requires a certificate"]
        else:
            with pytest.raises(ConnectError) as refused:
                await connecting
            assert refused.value.step == "tls"
            assert "certificate" in refused.value.hint
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            await task

    run(scenario)


def test_a_peer_with_an_older_version_than_allowed_is_refused(run, pki):
    async def scenario(reactor):
        port, task = serve(plain_server(pki.server, "1.2"), lambda sock: None)
        with pytest.raises(ConnectError, match="no TLS version that is allowed"):
            await dial(
                reactor, "localhost", port, tls=TLSClientSettings(ca=pki.ca, min_version="1.3")
            )
        with suppress(OSError):
            await task
        listener = listening(reactor, Owner, certificate=pki.server, min_version="1.3")
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await call(plain_client(pki, "1.2"), listener.address[1], lambda sock: None)

    run(scenario)


def test_dialling_tls_to_a_port_without_it(run, pki):
    async def scenario(reactor):
        settings = ListenerSettings(bind="127.0.0.1:0")
        listener = listen(
            reactor, settings, lambda link: Owner(link, lambda _: link.write(b"no!!!"))
        )
        with pytest.raises(ConnectError, match="does not speak TLS") as refused:
            await dial(reactor, *listener.address, tls=TLSClientSettings(ca=pki.ca))
        assert refused.value.step == "tls"
        assert "port" in refused.value.hint

    run(scenario)


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_a_peer_that_goes_during_the_handshake(run, pki, end):
    async def scenario(reactor):
        def leave(link):
            def on_data(data):
                link.close("no") if end == "fin" else link.abort("no")

            Owner(link, on_data)

        listener = listen(reactor, ListenerSettings(bind="127.0.0.1:0"), leave)
        with pytest.raises(ConnectError) as refused:
            await dial(reactor, *listener.address, tls=TLSClientSettings(ca=pki.ca))
        assert refused.value.step == "tls"

    run(scenario)


def test_garbage_after_the_handshake_closes_the_link_with_a_reason(run, pki):
    async def scenario(reactor):
        owners = []
        listener = listening(
            reactor, lambda link: owners.append(Owner(link, link.write)), certificate=pki.server
        )

        def conversation(sock):
            sock.sendall(b"fine")
            sock.recv(4)
            with socket.socket(fileno=os.dup(sock.fileno())) as raw:
                raw.sendall(b"\x17\x03\x03\x00\x20" + b"\xff" * 32)
            with suppress(OSError):
                sock.recv(100)

        await call(plain_client(pki), listener.address[1], conversation)
        await until(lambda: owners[0].reasons)
        assert owners[0].received == b"fine"
        assert owners[0].reasons == ["TLS: decryption failed or bad record mac"]

    run(scenario)


def test_an_exception_in_on_data_closes_one_tls_link_only(run, pki, caplog):
    async def scenario(reactor):
        def fail(data):
            raise KeyError("bug")

        links = []

        def accept(link):
            links.append(Owner(link, fail if not links else link.write))

        listener = listening(reactor, accept, certificate=pki.server)
        owners = [
            Owner(await dial(reactor, *listener.address, tls=TLSClientSettings(ca=pki.ca)))
            for _ in range(2)
        ]
        for owner in owners:
            owner.link.write(b"x")
        await until(lambda: owners[0].reasons and owners[1].received == b"x")
        assert links[0].reasons == ["internal error in on_data"]

    run(scenario)


async def test_a_stranger_fills_64_kib_before_the_handshake_and_no_more(pki):
    """The handshake's buffer is bounded even while its step waits for the budget of a turn."""
    steps = []

    class Stuck(Reactor):
        """The step never comes."""

        def later(self, link):
            steps.append(link)

    reactor = Stuck()
    near, far = connected()
    context = server_context(TLSServerSettings(certificate=pki.server))
    link = TLSLink(reactor, near, None, context, server_side=True)
    link.handshake(lambda reason: None)
    with suppress(BlockingIOError):
        for _ in range(100):
            far.send(b"\x16\x03\x01\x40\x00" + b"\x01" * 16_384)
    await asyncio.sleep(0.05)
    assert link.paused
    assert link._incoming.pending < 3 * READ_LIMIT
    reactor.close()
    far.close()


async def test_links_without_tls_have_no_certificate():
    reactor = Reactor()
    near, far = connected()
    assert Link(reactor, near, None).peer_certificate is None
    near.close()
    far.close()
    reactor.close()


def test_the_alert_of_a_server_is_heard_although_its_reset_is_there_already(run, pki):
    """With TLS 1.3 it refuses us when we are through, and resets as it did not read all."""

    async def scenario(reactor):
        context = plain_server(pki.server, client_ca=pki.ca)
        port, task = serve(context, lambda sock: None)
        link = await dial(reactor, "localhost", port, tls=TLSClientSettings(ca=pki.ca))
        assert link.paused  # nobody takes what it says yet
        with pytest.raises(ssl.SSLError):
            await task
        await until(lambda: link.closed)
        assert link.reason == "TLS: the peer requires a certificate"
        assert link.error.reason.endswith("CERTIFICATE_REQUIRED")

    run(scenario)
