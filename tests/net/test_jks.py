"""Java key stores of the old format, made by an encoder that shares nothing with the decoder."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import struct
import sys
from types import SimpleNamespace

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st
from net_peers import Owner, until

from isthmus.errors import ConfigError
from isthmus.net import jks
from isthmus.net.contexts import client_context, server_context
from isthmus.net.dial import dial
from isthmus.net.listener import listen
from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings

STORE, KEY = "store sesame", "kéy sesame€"

PROTECTOR = bytes.fromhex("300e060a2b060104012a0211010105 00".replace(" ", ""))
"""AlgorithmIdentifier of 1.3.6.1.4.1.42.2.17.1.1 without parameters, as Java writes it."""


# -- the encoder -----------------------------------------------------------------------------------


def sha1(*parts):
    return hashlib.sha1(b"".join(parts), usedforsecurity=False).digest()


def der(tag, content):
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def protected(key, password, *, salt=b"s" * 20, algorithm=PROTECTOR):
    """A private key as Sun's KeyProtector writes it."""
    secret = b"".join(struct.pack(">H", unit) for unit in units(password))
    stream, last = b"", salt
    while len(stream) < len(key):
        last = sha1(secret, last)
        stream += last
    hidden = bytes(one ^ other for one, other in zip(key, stream, strict=False))
    return der(0x30, algorithm + der(0x04, salt + hidden + sha1(secret, key)))


def units(password):
    """A password as Java has it: UTF-16 units."""
    for point in map(ord, password):
        if point < 0x1_0000:
            yield point
        else:
            yield 0xD800 + (point - 0x1_0000 >> 10)
            yield 0xDC00 + (point - 0x1_0000 & 0x3FF)


def text(value):
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def certificate_field(certificate, version, kind="X.509"):
    name = text(kind) if version == 2 else b""
    return name + struct.pack(">I", len(certificate)) + certificate


def key_entry(alias, key, chain, *, version=2):
    head = struct.pack(">I", 1) + text(alias) + struct.pack(">Q", 1_700_000_000_000)
    certificates = b"".join(certificate_field(one, version) for one in chain)
    return head + struct.pack(">I", len(key)) + key + struct.pack(">I", len(chain)) + certificates


def trusted_entry(alias, certificate, *, version=2, kind="X.509"):
    head = struct.pack(">I", 2) + text(alias) + struct.pack(">Q", 1_700_000_000_000)
    return head + certificate_field(certificate, version, kind)


def sealed(body, password=STORE):
    secret = b"".join(struct.pack(">H", unit) for unit in units(password))
    return body + sha1(secret, b"Mighty Aphrodite", body)


def store(*entries, version=2, password=STORE, count=None):
    head = b"\xfe\xed\xfe\xed" + struct.pack(">II", version, len(entries))
    if count is not None:
        head = head[:8] + struct.pack(">I", count)
    return sealed(head + b"".join(entries), password)


# -- certificates ----------------------------------------------------------------------------------


def as_der(leaf):
    """The key and the chain of a certificate of trustme."""
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = b"".join(one.bytes() for one in leaf.cert_chain_pems)
    chain = x509.load_pem_x509_certificates(pem)
    return key, [one.public_bytes(serialization.Encoding.DER) for one in chain]


@pytest.fixture(scope="module")
def made():
    """Keys and chains, as DER: an EC server, and an RSA client of an intermediate authority."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    between = authority.create_child_ca(key_type=trustme.KeyType.ECDSA)
    server = as_der(authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA))
    leaf = between.issue_cert("device-7", common_name="device-7", key_type=trustme.KeyType.RSA)
    client = as_der(leaf)
    root = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    assert len(client[1]) == 2
    return SimpleNamespace(
        authority=root.public_bytes(serialization.Encoding.DER), server=server, client=client
    )


@pytest.fixture
def one_key(made, tmp_path):
    """A store with the server's key, whose password is that of the store."""
    key, chain = made.server
    path = tmp_path / "server.jks"
    path.write_bytes(store(key_entry("server", protected(key, STORE), chain)))
    return path


def content(data):
    return {"content": base64.b64encode(data).decode()}


def opened(data, **how):
    """A context of a listener with that store."""
    values = {"jks": content(data), "store_password": STORE} | how
    return server_context(TLSServerSettings(**values))


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_a_connection_with_java_key_stores_on_both_sides(run, made, tmp_path, version):
    """The listener demands a certificate; both sides trust what a store says is trusted."""

    async def scenario(reactor):
        trust, server, client = (tmp_path / name for name in ("trust.jks", "srv.jks", "client.jks"))
        authority = trusted_entry("authority", made.authority, version=version)
        trust.write_bytes(store(authority, version=version, password="of nobody here"))
        key, chain = made.server
        entry = key_entry("server", protected(key, STORE), chain, version=version)
        server.write_bytes(store(authority, entry, version=version))
        key, chain = made.client
        entry = key_entry("device", protected(key, KEY), chain, version=version)
        client.write_bytes(store(entry, authority, version=version))

        there = []

        def accept(link):
            there.append(Owner(link, link.write))

        tls = TLSServerSettings(
            jks=server, store_password=STORE, client_ca=trust, require_client_certificate=True
        )
        listener = listen(reactor, ListenerSettings(bind="127.0.0.1:0", tls=tls), accept)
        for ca in (trust, client):  # a store may be both
            tls = TLSClientSettings(ca=ca, jks=client, store_password=STORE, key_password=KEY)
            link = await dial(reactor, "localhost", listener.address[1], tls=tls)
            owner = Owner(link)
            link.write(b"x")
            await until(lambda owner=owner: owner.received == b"x")
            subject = there[-1].link.peer_certificate["subject"]
            assert ("commonName", "device-7") in [pair for group in subject for pair in group]
            link.close("done")

        bare = await dial(
            reactor, "localhost", listener.address[1], tls=TLSClientSettings(ca=trust)
        )
        stranger = Owner(bare)
        bare.write(b"x")
        await until(lambda: stranger.reasons)
        assert not stranger.received

    run(scenario)


@pytest.mark.parametrize("password", [STORE, "", "kéy€", "𝄞 clef"])
def test_passwords_as_java_has_them(made, password):
    key, chain = made.client
    data = store(key_entry("a", protected(key, password), chain), password=password)
    assert opened(data, store_password=password)


def test_a_store_may_stand_under_the_name_of_the_other_format(one_key):
    settings = TLSServerSettings(pkcs12=one_key, store_password=STORE)
    assert server_context(settings)


def test_a_key_of_such_a_store_never_gets_onto_a_disk(one_key, monkeypatch):
    monkeypatch.setattr(os, "open", None)
    monkeypatch.setattr("tempfile.mkdtemp", None)
    assert server_context(TLSServerSettings(jks=one_key, store_password=STORE))


def test_no_other_package_is_needed(one_key, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert server_context(TLSServerSettings(jks=one_key, store_password=STORE))


def test_a_changed_store_is_read_anew(made, one_key):
    settings = TLSServerSettings(jks=one_key, store_password=STORE)
    first = server_context(settings)
    assert server_context(settings) is first
    key, chain = made.client
    one_key.write_bytes(store(key_entry("other", protected(key, STORE), chain)))
    assert server_context(settings) is not first


# -- what is not -----------------------------------------------------------------------------------


def test_a_store_without_a_password(one_key):
    with pytest.raises(ConfigError, match=r"jks: .*server\.jks: store_password is missing$"):
        server_context(TLSServerSettings(jks=one_key))


@pytest.mark.parametrize(
    ("passwords", "why"),
    [
        ({"store_password": "wrong"}, "store_password does not open it, or it is damaged"),
        ({"key_password": "wrong"}, "key_password does not open the private key 'a'"),
        (
            {"key_password": None},
            "store_password does not open the private key 'a', so key_password is needed",
        ),
        ({"store_password": "\ud800"}, "store_password does not open it"),
    ],
)
def test_wrong_passwords(made, passwords, why):
    key, chain = made.server
    data = store(key_entry("a", protected(key, KEY), chain))
    with pytest.raises(ConfigError) as wrong:
        opened(data, **{"key_password": KEY} | passwords)
    assert str(wrong.value).startswith(f"jks: the given content: {why}")
    assert "wrong" not in str(wrong.value)


def test_several_keys_are_named_and_none_is_taken(made):
    key, chain = made.server
    entries = [key_entry(f"key-{n}", protected(key, STORE), chain) for n in range(9)]
    with pytest.raises(ConfigError) as wrong:
        opened(store(*entries[:2]))
    assert (
        "has several private keys: 'key-0', 'key-1'; copy the one to use into a store of its own: "
        "keytool -importkeystore -srckeystore old.jks -destkeystore new.p12 -deststoretype PKCS12 "
        "-srcalias ALIAS"
    ) in str(wrong.value)
    with pytest.raises(ConfigError, match="'key-4', and 4 more; copy"):
        opened(store(*entries))


def test_an_alias_cannot_garble_the_error(made):
    entry = key_entry("a\n\x1b[31m" + "x" * 1000, protected(made.server[0], KEY), made.server[1])
    with pytest.raises(ConfigError) as wrong:
        opened(store(entry))
    assert str(wrong.value).isprintable()
    assert len(str(wrong.value)) < 300


def test_stores_with_the_wrong_content(made):
    authority = trusted_entry("authority", made.authority)
    other = key_entry("a", protected(made.client[0], STORE), made.server[1])
    same_kind = key_entry("a", protected(made.server[0], STORE), [made.authority])
    bare = key_entry("a", protected(made.server[0], STORE), [])
    broken = key_entry("a", protected(made.server[0], STORE), [b"no certificate"])
    no_key = key_entry("a", protected(b"no key", STORE), made.server[1])
    foreign = PROTECTOR.replace(b"\x2a\x02\x11", b"\x2a\x02\x13")
    unknown = key_entry("a", protected(b"", STORE, algorithm=foreign), made.server[1])
    for entries, why in (
        ([], "it has no private key"),
        ([authority], "it has no private key; its certificates can be 'ca' or 'client_ca'"),
        ([bare], "the private key 'a' has no certificate"),
        ([other], "the private key does not belong to the certificate"),
        ([same_kind], "the private key does not belong to the certificate"),
        ([broken], "key or certificate cannot be used: "),
        ([no_key], "key or certificate cannot be used: "),
        ([unknown], "the private key 'a' is not encrypted as Java does it in JKS"),
        ([trusted_entry("x", b"x", kind="PGP")], "it has a certificate of the type 'PGP'"),
    ):
        with pytest.raises(ConfigError) as wrong:
            opened(store(*entries))
        assert str(wrong.value).startswith(f"jks: the given content: {why}"), wrong.value


def test_damaged_stores(made):
    key, chain = made.server
    whole = store(trusted_entry("t", made.authority), key_entry("a", protected(key, STORE), chain))
    for size in range(4, len(whole)):
        with pytest.raises(ConfigError, match="is damaged: "):
            opened(whole[:size])
    with pytest.raises(ConfigError, match="is damaged: there is something behind its end"):
        opened(whole + b"\n")
    with pytest.raises(ConfigError, match="has version 3, and 1 and 2 are known"):
        opened(store(version=3))
    with pytest.raises(ConfigError, match="is damaged: no entry has the kind 7"):
        opened(store(struct.pack(">I", 7) + b"\0" * 40))


def test_a_store_is_bounded(made, monkeypatch):
    entry = trusted_entry("t", made.authority)
    with pytest.raises(ConfigError, match="claims 4294967295 entries; at most 10000 are read"):
        opened(store(entry, count=0xFFFF_FFFF))
    monkeypatch.setattr(jks, "MAX_CHAIN", 2)
    with pytest.raises(ConfigError, match="claims a chain of 3 certificates; at most 2 are read"):
        opened(store(key_entry("a", protected(made.server[0], STORE), [made.authority] * 3)))
    monkeypatch.setattr(jks, "MAX_KEY_BYTES", 60)
    with pytest.raises(ConfigError, match=r"claims a private key of .* bytes; at most 60 are read"):
        opened(store(key_entry("a", protected(made.server[0], STORE), [])))


@pytest.mark.parametrize("key", ["jks", "pkcs12", "ca"])
def test_jceks_is_refused_with_what_converts_it(tmp_path, key):
    path = tmp_path / "old.jceks"
    path.write_bytes(b"\xce\xce\xce\xce\0\0\0\2\0\0\0\1")
    with pytest.raises(ConfigError) as wrong:
        client_context(TLSClientSettings(**{key: path}))
    assert str(wrong.value) == (
        f"{key}: {path}: it is a JCEKS store, which cannot be read; convert it: keytool "
        f"-importkeystore -srckeystore {path} -srcstoretype JCEKS -destkeystore new.p12 "
        "-deststoretype PKCS12"
    )


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([], r"it has no trusted certificate"),
        ([trusted_entry("x", b"garbage")], r"a certificate in it cannot be read"),
    ],
)
def test_stores_that_are_no_authorities(tmp_path, entries, why):
    path = tmp_path / "trust.jks"
    path.write_bytes(store(*entries))
    with pytest.raises(ConfigError, match=rf"ca: .*trust\.jks: {why}"):
        client_context(TLSClientSettings(ca=path))


def test_the_keys_of_a_store_are_not_trusted(made, one_key):
    with pytest.raises(ConfigError, match="has no trusted certificate"):
        client_context(TLSClientSettings(ca=one_key))


# -- garbage ---------------------------------------------------------------------------------------

SIMPLE = trusted_entry("t", b"certificate") + key_entry("k", protected(b"key", STORE), [b"c", b"d"])


def refused(data):
    with pytest.raises(ConfigError):
        jks.identity(data, STORE, None)


@given(body=st.binary(max_size=200), version=st.integers(0, 3), count=st.integers(0, 4))
def test_garbage_only_gives_our_error(body, version, count):
    """With the right sum behind it too, so that all is looked at."""
    refused(body)
    refused(b"\xfe\xed\xfe\xed" + body)
    refused(store(body, version=version, count=count))
    refused(store(key_entry("a", body, [b"c"])))
    refused(store(key_entry("a", der(0x30, PROTECTOR + der(0x04, body)), [b"c"])))


@given(
    at=st.integers(4, len(SIMPLE) + 11),
    value=st.binary(min_size=1, max_size=8),
    cut=st.integers(0, 4),
)
@example(at=4, value=b"", cut=0)
def test_a_changed_store_gives_our_error_or_what_openssl_judges(at, value, cut):
    whole = b"\xfe\xed\xfe\xed" + struct.pack(">II", 2, 2) + SIMPLE
    data = sealed((whole[:at] + value + whole[at + len(value) :])[: len(whole) - cut])
    for read in (lambda: jks.identity(data, STORE, None), lambda: jks.trusted(data)):
        with contextlib.suppress(ConfigError):
            assert isinstance(read(), bytes)
    with pytest.raises(ConfigError) as wrong:
        opened(data)
    assert str(wrong.value).isprintable()
