"""Where certificates come from, what is revoked, and files that change while links are open."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import os
import shutil
import subprocess

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from net_peers import Owner, until

from isthmus.app.explanation import explain
from isthmus.app.files import load_files
from isthmus.app.settings import Settings
from isthmus.config.loader import parse_text
from isthmus.errors import ConfigError, ConnectError
from isthmus.net import contexts, renewal
from isthmus.net.contexts import client_context, server_context, usable_client_context
from isthmus.net.dial import dial
from isthmus.net.listener import listen
from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings


class Authority:
    """An authority that revokes, which trustme does not."""

    def __init__(self, folder, name):
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.folder = folder
        self.pem = folder / f"{name}.pem"
        self.ca.cert_pem.write_to_path(self.pem)
        self.key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        self.certificate = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())

    def issue(self, name, *names, **how):
        leaf = self.ca.issue_cert(*names, key_type=trustme.KeyType.ECDSA, **how)
        path = self.folder / name
        leaf.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def revoke(self, path, *certificates, days=1):
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - dt.timedelta(days=2))
            .next_update(now + dt.timedelta(days=days))
        )
        for certificate in certificates:
            serial = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(revoked.build())
        revocations = builder.sign(self.key, hashes.SHA256())
        path.write_bytes(revocations.public_bytes(serialization.Encoding.PEM))
        return path


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ca")


@pytest.fixture
def store(pki):
    """A PKCS#12 store of the client's certificate."""
    key = serialization.load_pem_private_key(pki.client.read_bytes(), None)
    certificate = x509.load_pem_x509_certificate(pki.client.read_bytes())
    path = pki.folder / "client.p12"
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"edge",
            key,
            certificate,
            None,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    return path


def serving(reactor, owners=None, **tls):
    def accept(link):
        owner = Owner(link, link.write)
        if owners is not None:
            owners.append(owner)

    settings = ListenerSettings(bind="127.0.0.1:0", tls=TLSServerSettings(**tls))
    return listen(reactor, settings, accept)


async def opened(reactor, listener, **tls):
    """Connect, send and get back, or get a reason; the link stays open."""
    link = await dial(reactor, "localhost", listener.address[1], tls=TLSClientSettings(**tls))
    owner = Owner(link)
    link.write(b"x")
    await until(lambda: owner.received or owner.reasons)
    return owner


async def talk(reactor, listener, **tls):
    """Connect, send and get back; return the reason if it does not work."""
    try:
        owner = await opened(reactor, listener, **tls)
    except ConnectError as error:
        return str(error)
    owner.link.close("done")
    return "".join(owner.reasons) if not owner.received else ""


async def still_open(*owners):
    """Every link carries what is sent, both ways."""
    before = [owner.received for owner in owners]
    for owner in owners:
        owner.link.write(b"y")
    await until(
        lambda: all(owner.received == old + b"y" for owner, old in zip(owners, before, strict=True))
    )
    assert not any(owner.reasons for owner in owners)


def common_name(link):
    """Whose certificate the other side showed."""
    subject = link.peer_certificate["subject"]
    return dict(pair for group in subject for pair in group)["commonName"]


# -- where they come from --------------------------------------------------------------------------


def test_everything_may_stand_in_the_configuration(run, pki):
    def content(path):
        return {"content": path.read_text()}

    async def scenario(reactor):
        listener = serving(
            reactor,
            certificate=content(pki.server),
            client_ca=content(pki.ca),
            require_client_certificate=True,
        )
        key = pki.client.read_text()
        assert not await talk(
            reactor, listener, ca=content(pki.ca), certificate=content(pki.client),
            key={"content": key},
        )  # fmt: skip
        assert await talk(reactor, listener, ca=content(pki.ca))

    run(scenario)


def test_contents_are_not_shown(pki):
    settings = TLSServerSettings(certificate={"content": "CANARY-17"})
    with pytest.raises(ConfigError) as wrong:
        server_context(settings)
    shown = f"{settings} {settings!r} {settings.model_dump_json()} {wrong.value}"
    assert "CANARY-17" not in shown
    assert "the given content and key the given content are no PEM" in str(wrong.value)


@pytest.mark.parametrize("key", ["pkcs12", "jks"])
@pytest.mark.parametrize("inline", [False, True])
def test_a_store(run, pki, store, key, inline):
    """Java writes PKCS#12 into what it calls key stores."""

    async def scenario(reactor):
        listener = serving(
            reactor, certificate=pki.server, client_ca=pki.ca, require_client_certificate=True
        )
        text = base64.encodebytes(store.read_bytes()).decode()
        source = {"content": text} if inline else store
        assert not await talk(
            reactor, listener, ca=pki.ca, store_password="open sesame", **{key: source}
        )

    run(scenario)


def test_a_listener_may_have_a_store(run, pki, store):
    async def scenario(reactor):
        listener = serving(reactor, pkcs12=store, store_password="open sesame")
        assert not await talk(reactor, listener, ca=pki.ca, server_name="device-7")

    run(scenario)


def test_a_key_never_gets_onto_a_disk(pki, store, monkeypatch):
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr("tempfile.mkdtemp", None)
    assert client_context(TLSClientSettings(pkcs12=store, store_password="open sesame"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"store_password": "wrong"}, "pkcs12: .*: store_password does not open it"),
        ({}, "pkcs12: .*: it is no PKCS#12 store, or store_password is missing"),
        ({"pkcs12": "missing.p12"}, "pkcs12: .*missing.p12: No such file"),
        ({"pkcs12": {"content": "no base 64!"}}, "pkcs12: the given content"),
        ({"jks": "half.jks", "pkcs12": None}, "jks: .*half.jks: it is damaged"),
        ({"pkcs12": "empty.p12", "store_password": "x"}, "holds no private key"),
        (
            {"jks": "client.pem", "pkcs12": None},
            "jks: .*: it is a PEM file, .*'certificate'.*'key'",
        ),
        ({"ca": "empty.p12", "pkcs12": None}, r"ca: .*PKCS#12.*keytool -exportcert -rfc .*\.p12"),
    ],
)
def test_stores_that_cannot_be_used(pki, store, change, text):
    (pki.folder / "client.pem").write_bytes(pki.client.read_bytes())
    (pki.folder / "half.jks").write_bytes(b"\xfe\xed\xfe\xed\0\0\0\2\0\0\0\1")
    certificate = x509.load_pem_x509_certificate(pki.client.read_bytes())
    (pki.folder / "empty.p12").write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"x", None, certificate, None, serialization.BestAvailableEncryption(b"x")
        )
    )
    values = {"pkcs12": store} | {
        key: pki.folder / value if key != "store_password" and isinstance(value, str) else value
        for key, value in change.items()
    }
    with pytest.raises(ConfigError, match=text):
        client_context(TLSClientSettings(**values))


def test_stores_that_another_program_made(pki, tmp_path):
    """By keytool in both formats where Java is, else by openssl."""
    keytool = shutil.which("keytool")
    openssl = shutil.which("openssl")
    if keytool:
        command = [keytool, "-genkeypair", "-keyalg", "EC", "-alias", "a", "-dname", "CN=x",
                   "-storepass", "secret1", "-keystore"]  # fmt: skip
        old = ["-storetype", "JKS", "-keypass", "secret2"]
        commands = {"new.jks": [*command, "new.jks"], "old.jks": [*command, "old.jks", *old]}
    else:
        assert openssl
        command = [openssl, "pkcs12", "-export", "-in", str(pki.client), "-out", "openssl.p12",
                   "-passout", "pass:secret1"]  # fmt: skip
        commands = {"openssl.p12": command}
    for name, command in commands.items():
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        store = {"jks" if keytool else "pkcs12": tmp_path / name}
        passwords = {"store_password": "secret1", "key_password": "secret2"}
        assert client_context(TLSClientSettings(**store, **passwords))


def test_a_folder_of_authorities(run, pki, tmp_path):
    async def scenario(reactor):
        shutil.copy(pki.ca, tmp_path / "one.crt")
        shutil.copy(pki.other_ca, tmp_path / "two.pem")
        (tmp_path / "README").write_text("no certificate")
        listener = serving(
            reactor, certificate=pki.server, client_ca=tmp_path, require_client_certificate=True
        )
        for client in (pki.client, pki.foreign_client):
            assert not await talk(reactor, listener, ca=tmp_path, certificate=client)
        (tmp_path / "three.pem").write_text("garbage")
        with pytest.raises(ConfigError, match=r"client_ca: .*three\.pem holds no PEM"):
            server_context(TLSServerSettings(certificate=pki.server, client_ca=tmp_path))

    run(scenario)


def test_an_empty_folder_of_authorities(pki, tmp_path):
    with pytest.raises(ConfigError, match=r"has no files that end in \.pem, \.crt, \.cer"):
        server_context(TLSServerSettings(certificate=pki.server, client_ca=tmp_path))


def test_versions_and_ciphers(run, pki):
    async def scenario(reactor):
        owners = []
        listener = serving(
            reactor,
            owners,
            certificate=pki.server,
            max_version="1.2",
            ciphers="ECDHE-ECDSA-AES256-GCM-SHA384",
        )
        assert not await talk(reactor, listener, ca=pki.ca)
        link = owners[0].link
        assert link.version == "TLSv1.2"
        assert link._tls.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
        reason = await talk(reactor, listener, ca=pki.ca, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
        assert "the handshake" in reason
        assert "no TLS version" in await talk(reactor, listener, ca=pki.ca, min_version="1.3")

    run(scenario)
    with pytest.raises(ConfigError, match="ciphers: OpenSSL knows no cipher in 'NONE-SUCH'"):
        client_context(TLSClientSettings(ciphers="NONE-SUCH"))


# -- revocation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_revoked_client_is_refused(run, authority, tmp_path, version, caplog):
    caplog.set_level("INFO")

    async def scenario(reactor):
        good = authority.issue("good.pem", "good")
        bad = authority.issue("bad.pem", "bad")
        listener = serving(
            reactor,
            certificate=authority.issue("server.pem", "localhost"),
            client_ca=authority.pem,
            crl=authority.revoke(tmp_path / "revoked.pem", bad),
        )
        how = {"ca": authority.pem, "max_version": version}
        assert not await talk(reactor, listener, certificate=good, **how)
        assert not await talk(reactor, listener, **how)  # none was required
        reason = await talk(reactor, listener, certificate=bad, **how)
        assert "certificate was revoked" in reason
        assert listener.statistics().handshakes_failed == 1

    run(scenario)
    assert "the certificate was revoked" in caplog.text


def test_a_revoked_server_is_refused(run, authority, tmp_path):
    async def scenario(reactor):
        server = authority.issue("server.pem", "localhost")
        listener = serving(reactor, certificate=server)
        crl = authority.revoke(tmp_path / "revoked.pem", server)
        reason = await talk(reactor, listener, ca=authority.pem, crl=crl)
        assert "the certificate was revoked" in reason
        old = authority.revoke(tmp_path / "old.pem", days=-1)
        assert "list has expired" in await talk(reactor, listener, ca=authority.pem, crl=old)
        other = Authority(tmp_path, "other").revoke(tmp_path / "other-list.pem")
        assert "no revocation list" in await talk(reactor, listener, ca=authority.pem, crl=other)

    run(scenario)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_certificates_of_clients_may_be_good_for_ever(run, authority, tmp_path, version):
    async def scenario(reactor):
        now = dt.datetime.now(dt.UTC)
        shown = {
            "old": authority.issue("old.pem", "old", not_after=now - dt.timedelta(days=1)),
            "early": authority.issue("early.pem", "early", not_before=now + dt.timedelta(days=1)),
            "stranger": Authority(tmp_path, "stranger").issue("stranger.pem", "stranger"),
            "revoked": authority.issue("revoked.pem", "revoked"),
        }
        how = {
            "certificate": authority.issue("server.pem", "localhost"),
            "client_ca": authority.pem,
            "crl": authority.revoke(tmp_path / "list.pem", shown["revoked"], days=-1),
        }
        strict = serving(reactor, **how)
        lenient = serving(reactor, **how, verify_client_dates=False)
        taken = {
            (name, listener is lenient)
            for name, path in shown.items()
            for listener in (strict, lenient)
            if not await talk(
                reactor, listener, ca=authority.pem, certificate=path, max_version=version
            )
        }
        assert taken == {("old", True), ("early", True)}

    run(scenario)


@pytest.mark.parametrize("text", ["garbage", "certificate"])
def test_a_file_that_is_no_revocation_list(pki, tmp_path, text):
    path = tmp_path / "crl.pem"
    path.write_text(text if text == "garbage" else pki.ca.read_text())
    with pytest.raises(ConfigError, match=r"crl: .* holds no PEM revocation list"):
        client_context(TLSClientSettings(ca=pki.ca, crl=path))


# -- renewal ---------------------------------------------------------------------------------------


def replaced(path, source):
    """As a tool that renews certificates does it: the new file takes the old one's place."""
    new = path.with_suffix(".new")
    shutil.copy(source, new)
    new.replace(path)


def test_a_listener_uses_renewed_files_and_drops_no_link(run, authority, tmp_path, monkeypatch):
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.03)

    async def scenario(reactor):
        path = tmp_path / "live.pem"
        shutil.copy(authority.issue("one.pem", "localhost", common_name="one"), path)
        bad = authority.issue("bad.pem", "bad")
        crl = authority.revoke(tmp_path / "revoked.pem")
        owners = []
        listener = serving(reactor, owners, certificate=path, client_ca=authority.pem, crl=crl)

        async def connected():
            return await opened(reactor, listener, ca=authority.pem, certificate=bad)

        old = await connected()
        assert common_name(old.link) == "one"
        replaced(path, authority.issue("two.pem", "localhost", common_name="two"))
        await until(lambda: listener.statistics().renewals == 1)
        new = await connected()
        assert (common_name(new.link), new.received) == ("two", b"x")
        # The client is revoked: new connections of it are refused, the old ones stay.
        authority.revoke(crl, bad)
        await until(lambda: listener.statistics().renewals == 2)
        refused = await connected()
        assert not refused.received
        await still_open(old, new)
        listener.close()

    run(scenario)


def test_a_listener_trusts_the_new_authority_and_drops_no_link(
    run, authority, tmp_path, monkeypatch
):
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.03)

    async def scenario(reactor):
        trusted = tmp_path / "trusted.pem"
        shutil.copy(authority.pem, trusted)
        stranger = Authority(tmp_path, "stranger")
        listener = serving(
            reactor,
            certificate=authority.issue("server.pem", "localhost"),
            client_ca=trusted,
            require_client_certificate=True,
        )
        first = {"ca": authority.pem, "certificate": authority.issue("first.pem", "first")}
        second = {"ca": authority.pem, "certificate": stranger.issue("second.pem", "second")}
        old = await opened(reactor, listener, **first)
        assert await talk(reactor, listener, **second)
        replaced(trusted, stranger.pem)
        await until(lambda: listener.statistics().renewals == 1)
        new = await opened(reactor, listener, **second)
        assert await talk(reactor, listener, **first)
        await still_open(old, new)
        listener.close()

    run(scenario)


def test_a_broken_new_file_leaves_the_old_one_in_use(run, authority, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.03)

    async def scenario(reactor):
        caplog.clear()
        path = tmp_path / "live.pem"
        good = authority.issue("good.pem", "localhost")
        shutil.copy(good, path)
        listener = serving(reactor, certificate=path)
        path.write_text("half a certifi")
        await until(lambda: listener.statistics().renewals_failed == 1)
        await asyncio.sleep(0.15)
        assert listener.statistics().renewals_failed == 1  # once for this change
        lines = [one for one in caplog.records if one.levelname == "ERROR"]
        assert len(lines) == 1
        assert "the old ones stay in use: tls.certificate: " in lines[0].getMessage()
        assert not await talk(reactor, listener, ca=authority.pem)
        path.unlink()
        await until(lambda: listener.statistics().renewals_failed == 2)
        assert not await talk(reactor, listener, ca=authority.pem)
        replaced(path, good)
        await until(lambda: listener.statistics().renewals == 1)
        assert not await talk(reactor, listener, ca=authority.pem)
        listener.close()

    run(scenario)


def test_a_connector_uses_renewed_files_and_keeps_old_ones_instead_of_broken_ones(
    run, authority, tmp_path, caplog
):
    async def scenario(reactor):
        caplog.clear()
        ca = tmp_path / "trusted.pem"
        shutil.copy(authority.pem, ca)
        listener = serving(reactor, certificate=authority.issue("server.pem", "localhost"))
        assert not await talk(reactor, listener, ca=ca)
        ca.write_text("garbage")
        before = contexts.client_failures.count
        assert not await talk(reactor, listener, ca=ca)
        assert not await talk(reactor, listener, ca=ca)
        assert contexts.client_failures.count == before + 1
        assert [one.levelname for one in caplog.records].count("ERROR") == 1
        replaced(ca, Authority(tmp_path, "new").pem)
        assert "not trusted" in await talk(reactor, listener, ca=ca)

    run(scenario)
    with pytest.raises(ConfigError):  # files that never were good
        usable_client_context(TLSClientSettings(ca=tmp_path / "missing.pem"))


def test_a_connector_shows_a_renewed_certificate_and_drops_no_link(
    run, authority, tmp_path, caplog
):
    async def scenario(reactor):
        caplog.clear()
        shown = {"certificate": tmp_path / "shown.pem", "key": tmp_path / "shown.key"}

        def issue(name):
            leaf = authority.ca.issue_cert(name, common_name=name, key_type=trustme.KeyType.ECDSA)
            chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
            leaf.cert_chain_pems[0].write_to_path(chain)
            leaf.private_key_pem.write_to_path(key)
            return chain, key

        for path, source in zip(shown.values(), issue("one"), strict=True):
            shutil.copy(source, path)
        there = []
        listener = serving(
            reactor,
            there,
            certificate=authority.issue("server.pem", "localhost"),
            client_ca=authority.pem,
            require_client_certificate=True,
        )
        how = {"ca": authority.pem, **shown}
        old = await opened(reactor, listener, **how)
        chain, key = issue("two")
        # Between the two files the old pair stays in use.
        replaced(shown["certificate"], chain)
        before = contexts.client_failures.count
        between = await opened(reactor, listener, **how)
        assert contexts.client_failures.count == before + 1
        assert "the old ones stay in use: tls.key: " in caplog.text
        replaced(shown["key"], key)
        new = await opened(reactor, listener, **how)
        assert [common_name(owner.link) for owner in there] == ["one", "one", "two"]
        await still_open(old, between, new)
        listener.close()

    run(scenario)


def test_a_connector_refuses_what_a_new_list_revokes_and_drops_no_link(run, authority, tmp_path):
    async def scenario(reactor):
        server = authority.issue("server.pem", "localhost")
        crl = authority.revoke(tmp_path / "revoked.pem")
        listener = serving(reactor, certificate=server)
        how = {"ca": authority.pem, "crl": crl}
        old = await opened(reactor, listener, **how)
        authority.revoke(crl, server)
        assert "the certificate was revoked" in await talk(reactor, listener, **how)
        authority.revoke(crl)
        new = await opened(reactor, listener, **how)
        await still_open(old, new)
        listener.close()

    run(scenario)


def test_no_task_looks_after_contents(run, pki):
    async def scenario(reactor):
        listener = serving(reactor, certificate={"content": pki.server.read_text()})
        assert listener._renewal._task is None
        listener.close()

    run(scenario)


def test_folders_and_contents_in_a_configuration_file(pki, tmp_path):
    (tmp_path / "authorities").mkdir()
    shutil.copy(pki.ca, tmp_path / "authorities" / "one.crt")
    shutil.copy(pki.server, tmp_path / "server.pem")
    text = (
        "listeners: [{bind: '127.0.0.1:0', tls: {certificate: {content: '${file:server.pem}'}, "
        "client_ca: authorities}}]"
    )
    settings = parse_text(Settings, text, base=tmp_path)
    tls = settings.listeners[0].tls
    assert tls.client_ca == tmp_path / "authorities"
    load_files(settings)
    said = "\n".join(explain(settings))
    assert "BEGIN" not in said
    with pytest.raises(ConfigError, match=r"tls\.certificate: '.*authorities' is no file"):
        parse_text(Settings, text.replace("{content: '${file:server.pem}'}", "authorities"),
                   base=tmp_path)  # fmt: skip
