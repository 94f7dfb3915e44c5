"""The JSON Schema and the reference page say everything that the models know."""

import re
from typing import Any

import pytest

from isthmus.app.settings import Settings
from isthmus.config.fields import model_at, walk
from isthmus.config.reference import reference

KEYS = [(path, field) for path, _, _, field in walk(Settings)]


@pytest.mark.parametrize(("path", "field"), KEYS, ids=[path for path, _ in KEYS])
def test_every_key_is_described(path: str, field: Any) -> None:
    assert field.description, path
    assert field.description[0].isupper(), path
    assert field.description.endswith("."), path


def test_the_page_has_every_key_and_section() -> None:
    page = reference(Settings)
    for path, _ in KEYS:
        assert f"| `{path.rpartition('.')[2]}` |" in page
    for title in (
        "Top level",
        "`broker.limits`",
        "`connectors.*.tls`",
        "`listeners[*].tls`",
        "`connectors.*.static_client_ids.*[*]`",
    ):
        assert f"## {title}\n" in page
    for link in re.findall(r"See `([^`]+)`", page):
        assert f"## `{link}`\n" in page


@pytest.mark.parametrize(
    "row",
    [
        "| `keepalive` | duration | `1m` |",
        "| `session_expiry` | duration | `7d` |",
        "| `max_session_expiry` | duration | `never` |",
        "| `max_packet_size` | size | `1MiB` |",
        "| `attempts` | `forever` or number | `forever` |",
        "| `clean_start` | true or false | `false` |",
        "| `listeners` | list of mappings | `[{bind: 127.0.0.1:1883}]` |",
        "| `url` | text or list of texts | required |",
        "| `password` | secret text | not set |",
        "| `topics` | list of texts | required |",
        "| `static_client_ids` | mapping of lists of texts or mappings |",
    ],
)
def test_rows(row: str) -> None:
    assert row in reference(Settings)


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = Settings.model_json_schema()["$defs"][name]["properties"]
    return found


def test_schema_defaults_carry_their_unit() -> None:
    connector, limits = properties("ConnectorSettings"), properties("LimitSettings")
    assert connector["keepalive"]["default"] == "1m"
    assert connector["session_expiry"]["default"] == "7d"
    assert limits["queued_bytes"]["default"] == "64MiB"
    assert properties("BrokerSettings")["max_session_expiry"]["default"] == "never"
    assert properties("RouteSettings")["from"]["examples"] == ["local"]


def test_schema_is_strict_and_described_everywhere() -> None:
    schema = Settings.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    for model in models:
        assert model["additionalProperties"] is False
        assert model["description"]
        for name, field in model["properties"].items():
            assert field["description"], name


def test_schema_patterns_take_the_examples_and_defaults() -> None:
    count = 0
    schema = Settings.model_json_schema()
    for model in schema["$defs"].values():
        for field in model["properties"].values():
            parts = field.get("anyOf", [])
            patterns = [part["pattern"] for part in parts if "pattern" in part]
            words = [part["const"] for part in parts if "const" in part]
            if patterns:
                default = field["default"]
                for text in [*field.get("examples", []), *([] if default is None else [default])]:
                    count += 1
                    assert text in words or re.search(patterns[0], text)
    assert count > 30


def test_secrets_have_no_default_in_the_schema() -> None:
    assert properties("ConnectorSettings")["password"]["default"] is None


def test_models_by_path() -> None:
    assert model_at(Settings, ("connectors", "x", "reconnect")).__name__ == "ReconnectSettings"
    assert model_at(Settings, ("listeners", 0, "tls")).__name__ == "TLSServerSettings"
    assert model_at(Settings, ("listeners", "x")) is None
    assert model_at(Settings, ("broker", "data")) is None
