"""The settings of connectors, routes and the root: values, contradictions, what fits together."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from isthmus.app.settings import Settings
from isthmus.config.loader import parse_text
from isthmus.connectors.address import parse_address
from isthmus.connectors.settings import SESSION_NEVER_EXPIRES_S, ConnectorSettings
from isthmus.errors import ConfigError
from isthmus.routing.settings import RouteSettings


def connector(**values: Any) -> ConnectorSettings:
    return ConnectorSettings.model_validate({"url": "h", **values})


def route(**values: Any) -> RouteSettings:
    return RouteSettings.model_validate({"from": "local", "to": "c", "topics": ["a/#"], **values})


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("h", "h", 1883, False),
        ("h:7", "h", 7, False),
        ("mqtt://broker.example.com", "broker.example.com", 1883, False),
        ("mqtts://h", "h", 8883, True),
        ("MQTTS://h:1/", "h", 1, True),
        ("[::1]:1883", "::1", 1883, False),
        ("mqtts://[fe80::1%eth0]", "fe80::1%eth0", 8883, True),
        ("10.0.0.1:65535", "10.0.0.1", 65535, False),
        ("ws://h", "h", 80, False),
        ("wss://[::1]/a/mqtt?x=y", "::1", 443, True),
        ("unix:/run/mqtt.sock", "/run/mqtt.sock", 0, False),
        ("mqtt+unix:///run/mqtt.sock", "/run/mqtt.sock", 0, False),
    ],
)
def test_addresses(url: str, host: str, port: int, tls: bool) -> None:
    settings = connector(url=url)
    assert (settings.host, settings.port, settings.use_tls) == (host, port, tls)
    assert parse_address(str(settings.address)) == settings.address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must be host, host:port"),
        ("a b", "must be host, host:port"),
        ("h:0", "between 1 and 65535"),
        ("h:70000", "between 1 and 65535"),
        ("::1", "put an IPv6 address in brackets"),
        ("::1:1883", "put an IPv6 address in brackets"),
        ("mqtt://u:p@h", "'username' and 'password'"),
        ("http://h", "'http://' is unknown"),
        ("ssl://h", "did you mean 'mqtts'"),
        ("tcp://h", "did you mean 'mqtt'"),
        ("mqqt://h", "did you mean 'mqtt'"),
        ("ws://h/a b", "the path must not hold spaces"),
        ("ws://u:p@h/x", "'username' and 'password'"),
        ("https://h/mqtt", "did you mean 'wss'"),
        ("unix:relative", "needs an absolute path"),
        ("mqtt+unix://host/path", "needs an absolute path"),
        ("mqtt://h/mqtt", "has no path"),
        ("mqtt://h?x=1", "has no path"),
    ],
)
def test_wrong_addresses(url: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        connector(url=url)
    assert problem in str(caught.value)


def test_paths_of_websockets() -> None:
    assert parse_address("ws://h").path == "/mqtt"
    assert parse_address("ws://h/").path == "/mqtt"
    assert parse_address("wss://h:8084/broker/mqtt?token=x").path == "/broker/mqtt?token=x"
    assert parse_address("mqtt://h").path == ""


def test_a_proxy_is_a_secret() -> None:
    settings = connector(proxy="socks5://ann:CANARY@h")
    assert settings.proxy_address is not None
    assert (settings.proxy_address.username, settings.proxy_address.password) == ("ann", "CANARY")
    assert "CANARY" not in repr(settings) + settings.model_dump_json()
    assert connector(proxy="").proxy_address is None


def test_connector_defaults() -> None:
    settings = connector()
    assert settings.version == "5"
    assert settings.keepalive == 60
    assert settings.session_expiry == 7 * 86400
    assert settings.reconnect.attempts == "forever"
    assert not settings.clean_start
    assert settings.username is None
    assert settings.password is None


def test_empty_names_mean_none() -> None:
    settings = connector(username="", password="", client_id="", client_id_prefix="")
    assert settings.username is None
    assert settings.password is None
    assert settings.client_id is None
    assert settings.client_id_prefix is None


@pytest.mark.parametrize(("value", "version"), [(5, "5"), (5.0, "5"), (3.1, "3.1"), ("5", "5")])
def test_versions_that_yaml_reads_as_numbers(value: object, version: str) -> None:
    assert connector(version=value).version == version


def test_a_pool_without_effect_needs_no_topic_for_several_connections() -> None:
    one = connector(
        static_client_ids={"n": ["x"]}, pool=5, notifications={"enabled": True, "topic": "a"}
    )
    assert one.without_effect == "'pool'"


def test_session_expiry_never() -> None:
    assert connector(session_expiry="never").session_expiry == SESSION_NEVER_EXPIRES_S
    assert connector(session_expiry=0).session_expiry == 0


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"client_id": "x", "pool": 2}, "use 'client_id_prefix' with 'pool: 2', or 'pool: 1'"),
        ({"client_id": "x", "client_id_prefix": "y"}, "no effect together with 'client_id'"),
        ({"tls": {}}, "write mqtts:// in 'url'"),
        ({"url": []}, "at least one address"),
        ({"url": ["a", "b", "a"]}, "names an address twice"),
        ({"url": ["a", "tcp://b"]}, "did you mean 'mqtt'"),
        ({"bind_address": "eth0"}, "must be an IP address of this machine"),
        ({"static_client_ids": {"n": ["x"], "m": ["x"]}}, "stands there twice"),
        ({"static_client_ids": {"n": ["x"]}, "client_id": "y"}, "drop one"),
        ({"static_client_ids": {"n": [{"client_id": "x", "key": "k"}]}}, "needs 'certificate'"),
        (
            {"static_client_ids": {"n": [{"client_id": "x", "key_password": "k"}]}},
            "key_password: needs 'certificate', 'pkcs12' or 'jks' of this client id",
        ),
        (
            {"static_client_ids": {"n": [{"client_id": "x", "jks": "k", "certificate": "c"}]}},
            "certificate: is in the store already",
        ),
        (
            {"static_client_ids": {"n": [{"client_id": "x", "store_password": "k"}]}},
            "store_password: needs 'pkcs12' or 'jks'",
        ),
        ({"will": {"topic": "a/#"}}, "is no topic to publish on"),
        ({"unsubscribe_out": ["a/#/b"]}, "is no topic filter"),
        ({"notifications": {"enabled": True}, "will": {"topic": "a"}}, "which are the will"),
        (
            {"notifications": {"enabled": True, "topic": "a"}, "pool": 2},
            "as there are several connections",
        ),
        ({"proxy": "ftp://CANARY@h"}, "use http:// or socks5://"),
        ({"url": "unix:/x", "proxy": "http://h"}, "has no effect on a unix socket"),
        ({"password": "x", "version": "3.1.1"}, "needs a 'username' in MQTT 3.1.1"),
        ({"reconnect": {"min": 5, "max": 1}}, "must not be shorter than 'min'"),
        ({"keepalive": 1.5}, "must be whole seconds"),
        ({"keepalive": 65536}, "less than or equal to 65535"),
        ({"username": "a\0"}, "U+0000"),
        ({"client_id": "ü" * 40000}, "longer than 65535 bytes"),
        ({"session_expiry": "soon"}, "must be a duration"),
        ({"receive_maximum": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_connectors(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        connector(**values)
    assert problem in str(caught.value)


def test_a_password_without_a_name_is_allowed_in_mqtt_5() -> None:
    assert connector(password="x", version="5").password is not None


def test_route_by_alias_and_by_name() -> None:
    assert route().source == "local"
    by_name = RouteSettings(source="local", to="c", topics=("a/#", "$share/g/b"))
    assert by_name.filters == (b"a/#", b"$share/g/b")
    assert not by_name.maps_topics
    assert not route(topic="${topic}").maps_topics
    assert route(topic="x/${topic}").maps_topics
    assert route(strip="a/").maps_topics
    assert route(qos="1", max_qos="1").qos == 1


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"topics": ["a/#/b"]}, "is no valid topic filter"),
        ({"topics": [""]}, "is no valid topic filter"),
        ({"topics": ["!a/#"]}, "only takes topics out"),
        ({"topics": ["a/#", "!a/#/b"]}, "is no valid topic filter"),
        ({"topics": ["a/#", "!$share/g/a"]}, "cannot be shared"),
        ({"topic": "x/${tpic}"}, "did you mean 'topic'"),
        ({"topic": "x/${topic"}, "holds a '${' without its '}'"),
        ({"topic": "x/#"}, "must not hold the wildcards"),
        ({"topic": ""}, "must not be empty"),
        ({"prepend": "a/+/"}, "must not hold the wildcards"),
        ({"topic": "a", "strip": "b"}, "cannot be used together with 'topic'"),
        ({"qos": 3}, "'keep', 0, 1 or 2"),
        ({"qos": 2, "max_qos": 1}, "is below the fixed 'qos: 2'"),
    ],
)
def test_wrong_routes(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        route(**values)
    assert problem in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        connector().url = "x"  # type: ignore[misc]


def root(text: str) -> Settings:
    return parse_text(Settings, text, name="f")


PUBLIC = "listeners: [{bind: 0.0.0.0:1}]"


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("listeners: [{bind: '[::1]:1'}, {bind: 127.8.0.1:2}, {bind: 'localhost:3'}]", True),
        ("auth: {allow_anonymous: true}", True),
        (f"{PUBLIC}\nauth: {{allow_anonymous: on, insecure_public_anonymous: on}}", True),
        ("auth: {password_file: /etc/hostname}", False),
        ("auth: {password_file: /etc/hostname, allow_anonymous: true}", True),
        ("listeners: [{bind: 0.0.0.0:1}]\nauth: {password_file: /etc/hostname}", False),
        ("listeners: [{bind: 'example.com:1'}]\nauth: {password_file: /etc/hostname}", False),
    ],
)  # fmt: skip
def test_who_may_be_anonymous(text: str, allowed: bool) -> None:
    assert root(text).doors[0].anonymous_allowed is allowed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("auth: {allow_anonymous: true}\nlisteners:\n- bind: 127.0.0.1:1\n- bind: 0.0.0.0:1",
         "f:4: listeners[1].bind: '0.0.0.0:1' is open to others"),
        ("listeners: [{bind: '*:1'}]", "f:1: auth.password_file: is required, as a listener"),
        ("auth: {allow_anonymous: false}", "auth.password_file: is required, as 'allow_anonymous'"),
        ("auth: {password_file: none.txt}", "f:1: auth.password_file: there is no file '"),
        ("broker: {data: /etc/hostname}", "f:1: broker.data: '/etc/hostname' is no folder"),
        ("listeners: [{bind: 127.0.0.1:1}, {bind: 127.0.0.1:1}]",
         "listeners[1].bind: is the same as listeners[0].bind"),
        ("routes:\n  r:\n    from: local\n    to: local\n    topics: [a]",
         "f:4: routes.r.to: is the same as 'from'"),
        ("routes:\n  r:\n    from: local\n    to: far\n    topics: [a]",
         "f:4: routes.r.to: there is no connector 'far'"),
        ("connectors: {c: {url: h}}\nroutes: {r: {from: local, to: c, topics: [a, $share/g/a]}}",
         "f:2: routes.r.topics[1]: is a shared subscription, which only a connector can make"),
        ("listeners: [{bind: 127.0.0.1:5}]\nconnectors: {c: {url: 127.0.0.1:5}}",
         "f:2: connectors.c.url: leads to this process itself"),
        ("listeners: [{bind: 'localhost:5'}]\nconnectors: {c: {url: localhost:5}}",
         "f:2: connectors.c.url: leads to this process itself"),
        ("node: a/b", "f:1: node: must not be empty or hold +, #, /"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        root(text)
    assert problem in str(caught.value)


def test_a_route_to_itself_with_another_topic() -> None:
    text = "routes: {r: {from: local, to: local, topics: [a/#], topic: 'b/${topic}'}}"
    assert root(text).routes["r"].maps_topics


def test_port_0_may_be_there_twice() -> None:
    assert len(root("listeners: [{bind: 127.0.0.1:0}, {bind: 127.0.0.1:0}]").listeners) == 2


def test_no_listener_needs_no_users() -> None:
    settings = root("listeners: []")
    assert settings.listeners == ()
    assert settings.doors[0].anonymous_allowed


def test_anonymous_behind_required_certificates(tmp_path: Path) -> None:
    for name in ("s.pem", "ca.pem"):
        (tmp_path / name).write_text("x")
    text = (
        "auth: {allow_anonymous: true}\nlisteners: [{bind: 0.0.0.0:1, tls: {certificate: s.pem,"
        " client_ca: ca.pem, require_client_certificate: true}}]"
    )
    assert parse_text(Settings, text, base=tmp_path).doors[0].anonymous_allowed
