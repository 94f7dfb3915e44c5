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


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"bind": "unix:relative"}, "needs an absolute path"),
        ({"bind": "unix:/" + "x" * 107}, "longer than 107 bytes"),
        ({"transport": "websocket", "path": "*x"}, "must begin with /"),
        ({"path": "/x"}, "is only for 'transport: websocket'"),
        ({"origins": ["*"]}, "is only for 'transport: websocket'"),
        ({"transport": "websocket", "path": "mqtt"}, "must begin with /"),
        ({"transport": "websocket", "path": "/a b"}, "must begin with /"),
        ({"transport": "websocket", "origins": ["app.example"]}, "a site is scheme and host"),
        ({"transport": "websocket", "origins": ["https://a/b"]}, "a site is scheme and host"),
        ({"mode": "0660"}, "only for a bind of unix:"),
        ({"bind": "unix:/x", "interface": "eth0"}, "not for a unix socket"),
        ({"interface": ""}, "name of a network interface"),
        ({"interface": "eth0\n"}, "name of a network interface"),
        ({"interface": "x" * 16}, "name of a network interface"),
        ({"bind": "unix:/x", "mode": "rw"}, "three octal digits"),
        ({"bind": "unix:/x", "mode": 999}, "three octal digits"),
        ({"trusted_proxies": ["10.0.0.0/8"]}, "needs 'proxy_protocol: true'"),
        ({"proxy_protocol": True, "trusted_proxies": ["10.0.0.1/8"]}, "has host bits set"),
        ({"proxy_protocol": "v3"}, "v2"),
        ({"bind": "0.0.0.0:1", "proxy_protocol": True}, "anybody could claim any address"),
    ],
)
def test_listeners_that_contradict_themselves(values, text):
    with pytest.raises(ValidationError, match=text):
        ListenerSettings(**{"bind": "127.0.0.1:1", **values})


def test_a_unix_socket():
    settings = ListenerSettings(bind="unix:/run/mqtt.sock", mode=666)
    assert (settings.unix_path, settings.host, settings.port) == ("/run/mqtt.sock",) * 2 + (0,)
    assert settings.loopback
    assert int(settings.mode, 8) == 0o666
    assert ListenerSettings(bind="127.0.0.1:1").unix_path is None


def test_only_this_machine_is_trusted_by_itself():
    settings = ListenerSettings(bind="127.0.0.1:1", proxy_protocol=True)
    assert not settings.loopback  # others come through the load balancer
    assert settings.proxy_networks == ("127.0.0.0/8", "::1/128")
    settings = ListenerSettings(bind="*:1", proxy_protocol="v2", trusted_proxies=["10.0.0.7"])
    assert settings.proxy_networks == ("10.0.0.7",)


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (TLSClientSettings, {"pkcs12": "a", "jks": "b"}, "cannot be combined with 'pkcs12'"),
        (TLSClientSettings, {"pkcs12": "a", "certificate": "b"}, "is in the store already"),
        (TLSClientSettings, {"jks": "a", "key": "b"}, "is in the store already"),
        (TLSClientSettings, {"store_password": "a"}, "needs 'pkcs12' or 'jks'"),
        (TLSClientSettings, {"min_version": "1.3", "max_version": "1.2"}, "must not be older"),
        (TLSClientSettings, {"ca": {"contents": "x"}}, "ca"),
        (TLSServerSettings, {}, "certificate: is required"),
        (TLSServerSettings, {"certificate": "a", "crl": "b"}, "needs client_ca"),
        (TLSServerSettings, {"certificate": "a", "verify_client_dates": False}, "needs client_ca"),
    ],
)
def test_tls_that_contradicts_itself(kind, values, text):
    with pytest.raises(ValidationError, match=text):
        kind(**values)
