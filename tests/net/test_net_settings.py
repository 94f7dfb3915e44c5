from __future__ import annotations

import pytest
from pydantic import ValidationError

from isthmus.net.settings import ListenerSettings, TLSClientSettings, TLSServerSettings


@pytest.mark.parametrize(
    ("bind", "host", "port", "loopback"),
    [
        ("127.0.0.1:1883", "127.0.0.1", 1883, True),
        ("127.3.2.1:0", "127.3.2.1", 0, True),
        ("localhost:1", "localhost", 1, True),
        ("[::1]:1883", "::1", 1883, True),
        ("0.0.0.0:8883", "0.0.0.0", 8883, False),
        ("[::]:65535", "::", 65535, False),
        ("*:1883", "*", 1883, False),
        ("edge.example.com:1883", "edge.example.com", 1883, False),
    ],
)
def test_bind(bind, host, port, loopback):
    settings = ListenerSettings(bind=bind)
    assert (settings.host, settings.port, settings.loopback) == (host, port, loopback)


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        ("1883", "such as 127.0.0.1:1883"),
        (":1883", "such as 127.0.0.1:1883"),
        ("localhost", "such as 127.0.0.1:1883"),
        ("localhost:", "such as 127.0.0.1:1883"),
        ("localhost:65536", "such as 127.0.0.1:1883"),
        ("localhost:-1", "such as 127.0.0.1:1883"),
        ("localhost:\u0661", "such as 127.0.0.1:1883"),
        ("::1:1883", "needs brackets"),
    ],
)
def test_bind_that_is_no_address(bind, text):
    with pytest.raises(ValidationError, match=text):
        ListenerSettings(bind=bind)


def test_unknown_keys_are_errors():
    with pytest.raises(ValidationError, match="prot"):
        ListenerSettings(bind="127.0.0.1:1", prot="x")


def test_required_client_certificates_need_an_authority():
    with pytest.raises(ValidationError, match="needs client_ca"):
        TLSServerSettings(certificate="a.pem", require_client_certificate=True)


def test_a_key_needs_a_certificate():
    with pytest.raises(ValidationError, match="key needs certificate"):
        TLSClientSettings(key="a.key")


@pytest.mark.parametrize("name", ["", "é", "x" * 256])
def test_alpn_names_that_do_not_fit(name):
    with pytest.raises(ValidationError, match="ALPN"):
        TLSClientSettings(alpn=[name])


def test_old_tls_versions_do_not_exist():
    with pytest.raises(ValidationError, match=r"1\.2"):
        TLSClientSettings(min_version="1.1")


def test_the_password_is_not_shown():
    settings = TLSServerSettings(certificate="a.pem", key_password="secret-word")
    assert "secret-word" not in repr(settings)
    assert "secret-word" not in settings.model_dump_json()


def test_bind_that_is_a_port_alone():
    with pytest.raises(ValueError, match=r"such as 127\.0\.0\.1:1883"):
        ListenerSettings(bind=1883)
