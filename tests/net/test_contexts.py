from __future__ import annotations

import os
import shutil
import ssl

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from isthmus.errors import ConfigError
from isthmus.net import contexts
from isthmus.net.contexts import cached_context, client_context, server_context
from isthmus.net.settings import TLSClientSettings, TLSServerSettings


@pytest.fixture
def encrypted_key(pki):
    key = serialization.load_pem_private_key(pki.server.read_bytes(), None)
    path = pki.folder / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    return path


def test_equal_settings_share_a_context(pki):
    first = server_context(TLSServerSettings(certificate=pki.server))
    assert server_context(TLSServerSettings(certificate=str(pki.server))) is first
    assert server_context(TLSServerSettings(certificate=pki.server, alpn=["mqtt"])) is not first
    settings = TLSClientSettings(ca=pki.ca)
    assert client_context(settings) is client_context(settings)


def test_a_renewed_certificate_makes_a_new_context(pki, tmp_path):
    path = tmp_path / "renewed.pem"
    shutil.copy(pki.server, path)
    settings = TLSServerSettings(certificate=path)
    first = server_context(settings)
    assert cached_context(settings) is first
    os.utime(path, (1, 1))
    assert cached_context(settings) is None
    assert server_context(settings) is not first


def test_the_number_of_contexts_is_bounded(pki, monkeypatch):
    monkeypatch.setattr(contexts, "MAX_CONTEXTS", 3)
    for n in range(6):
        client_context(TLSClientSettings(ca=pki.ca, server_name=f"host-{n}"))
    assert len(contexts._contexts) <= 3


def test_what_a_context_insists_on(pki):
    server = server_context(
        TLSServerSettings(
            certificate=pki.server,
            client_ca=pki.ca,
            require_client_certificate=True,
            min_version="1.3",
        )
    )
    assert server.verify_mode == ssl.CERT_REQUIRED
    assert server.minimum_version == ssl.TLSVersion.TLSv1_3
    assert server.options & ssl.OP_NO_RENEGOTIATION
    client = client_context(TLSClientSettings())
    assert client.verify_mode == ssl.CERT_REQUIRED
    assert client.check_hostname
    assert client.minimum_version == ssl.TLSVersion.TLSv1_2
    lax = client_context(TLSClientSettings(verify_hostname=False))
    assert lax.verify_mode == ssl.CERT_REQUIRED
    assert not lax.check_hostname


def test_an_encrypted_key(pki, encrypted_key):
    settings = TLSServerSettings(
        certificate=pki.server, key=encrypted_key, key_password="open sesame"
    )
    assert server_context(settings)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"certificate": "missing.pem"}, "certificate: .*missing.pem: No such file"),
        ({"key": "missing.key"}, "key: .*missing.key: No such file"),
        ({"client_ca": "missing.ca"}, "client_ca: .*missing.ca: No such file"),
        ({"certificate": "garbage"}, "are no PEM certificate"),
        ({"client_ca": "garbage"}, "client_ca: .* holds no PEM certificate"),
        ({"key": "client.pem"}, "client.pem does not belong to the certificate"),
        ({"key": "rsa.key"}, "rsa.key does not belong to the certificate"),
        ({"key": "encrypted.key"}, "encrypted; key_password is missing"),
        ({"key": "encrypted.key", "key_password": "wrong"}, "key_password: it does not open"),
    ],
)
def test_files_that_cannot_be_used_are_named(pki, encrypted_key, change, text):
    (pki.folder / "garbage").write_text("no certificate")
    other_kind = trustme.CA(key_type=trustme.KeyType.RSA).private_key_pem
    other_kind.write_to_path(pki.folder / "rsa.key")
    values = {"certificate": pki.server} | {
        key: value if key == "key_password" else pki.folder / value for key, value in change.items()
    }
    with pytest.raises(ConfigError, match=text):
        server_context(TLSServerSettings(**values))
