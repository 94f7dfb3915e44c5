"""Secrets are read from where they are, and are never shown."""

import io
import logging
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from isthmus import log
from isthmus.app.settings import Settings
from isthmus.config.loader import load, parse, parse_text
from isthmus.config.secrets import Expanded, SecretError, expand
from isthmus.connectors.settings import ConnectorSettings
from isthmus.errors import ConfigError

CANARY = "canary-7f3a91"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", CANARY)


def test_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from file\n")
    assert expand("${env:CANARY}", tmp_path) == CANARY
    assert expand("a ${env:CANARY} b ${file:secret}", tmp_path) == f"a {CANARY} b from file"
    assert expand(f"${{file:{tmp_path}/secret}}", Path("/none")) == "from file"


def test_what_is_left_alone(tmp_path: Path) -> None:
    assert expand("site/${topic}", tmp_path) == "site/${topic}"
    assert expand("$${env:CANARY}", tmp_path) == "${env:CANARY}"
    assert expand("$5 {x}", tmp_path) == "$5 {x}"


def test_values_are_not_expanded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER", "${env:CANARY}")
    assert expand("${env:OUTER}", tmp_path) == "${env:CANARY}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${env:NONE_SUCH}", "environment variable 'NONE_SUCH' is not set"),
        ("${file:none}", "cannot read .*: No such file"),
        ("${vault:x}", "is unknown, use"),
        ("${file:big}", "too big for a secret"),
        ("${file:binary}", "not UTF-8"),
    ],
)
def test_references_that_lead_nowhere(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "big").write_bytes(bytes(1 << 21))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SecretError, match=problem):
        expand(text, tmp_path)


def test_expanded_text_hides_from_repr(tmp_path: Path) -> None:
    value = expand("${env:CANARY}", tmp_path)
    assert isinstance(value, Expanded)
    assert CANARY not in repr(value)
    assert CANARY not in repr({"password": [value]})


def shell_style(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_text(Settings, f"connectors: {{c: {{url: h, username: u, password: '{text}'}}}}")
    return caught.value


def test_a_reference_without_its_kind_is_no_password() -> None:
    assert "is not expanded" in str(shell_style("${CLOUD_PASSWORD}"))


def test_a_literal_dollar_and_brace_in_a_password() -> None:
    text = "connectors: {c: {url: h, username: u, password: 'a$${b}'}}"
    password = parse_text(Settings, text).connectors["c"].password
    assert password is not None
    assert password.get_secret_value() == "a${b}"


def test_canary_in_settings_and_logs(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(CANARY)
    path = tmp_path / "c.yaml"
    path.write_text(
        f"connectors:\n  a: {{url: h, username: u, password: {CANARY}}}\n"
        "  b: {url: h, username: u, password: '${env:CANARY}'}\n"
        "  c: {url: h, username: u, password: '${file:token}'}\n"
    )
    settings = parse(Settings, path)
    stream = io.StringIO()
    log.configure("debug", "json", stream)
    logging.getLogger("isthmus.test").info("%s %r %s", settings, settings, settings.connectors)
    logging.getLogger("isthmus.test").info(settings.model_dump_json())
    shown = [repr(settings), str(settings), str(settings.model_dump()), stream.getvalue()]
    assert all(CANARY not in text for text in shown)
    assert "**********" in stream.getvalue()
    for connector in settings.connectors.values():
        assert connector.password is not None
        assert connector.password.get_secret_value() == CANARY
    assert "${env:CANARY}" in str(load(path).data)  # plain data is not expanded


EVERY_KEY = [
    "url", "version", "username", "password", "client_id", "pool", "keepalive", "session_expiry",
    "reconnect", "tls", "max_packet_size", "bridge_bit", "unknown",
]  # fmt: skip


@pytest.mark.parametrize("key", EVERY_KEY)
@pytest.mark.parametrize("value", ["${env:CANARY}", "[${env:CANARY}]", "{min: '${env:CANARY}'}"])
def test_canary_in_errors_wherever_it_stands(key: str, value: str) -> None:
    """A broken value everywhere, so that there is an error whatever the key takes."""
    text = f"broker: {{data: 3}}\nconnectors:\n  c:\n    url: h\n    {key}: {value}\n"
    text += "routes:\n  r: {from: '${env:CANARY}', to: '${env:CANARY}', qos: '${env:CANARY}',\n"
    text += "    topics: ['${env:CANARY}#'], topic: '${env:CANARY}+', retain: '${env:CANARY}'}\n"
    text += "listeners: [{bind: '${env:CANARY}'}]\nauth: {password_file: '${env:CANARY}'}\n"
    text += "log: {level: '${env:CANARY}'}\nhttp: ${env:CANARY}\n"
    with pytest.raises(ConfigError) as caught:
        parse_text(Settings, text)
    trace = "".join(traceback.format_exception(caught.value))
    assert CANARY not in trace
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize(
    "url", [f"mqtt://u:{CANARY}@h", f"u:{CANARY}@h:1883", f"mqtts://{CANARY}@h/path"]
)
def test_canary_in_the_url(url: str) -> None:
    with pytest.raises(ConfigError, match="'username' and 'password'") as caught:
        parse_text(Settings, f"connectors: {{c: {{url: '{url}'}}}}")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_canary_in_plain_validation_errors() -> None:
    with pytest.raises(ValidationError) as caught:
        ConnectorSettings.model_validate({"url": "h", "password": [CANARY], "pool": CANARY})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("value", [f"*{CANARY}", f"!{CANARY}", f"@{CANARY}", f"a: {CANARY}: b"])
def test_canary_in_a_password_that_is_no_yaml(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(Settings, f"connectors:\n  c:\n    url: h\n    password: {value}\n")
    assert CANARY not in "".join(traceback.format_exception(caught.value))
