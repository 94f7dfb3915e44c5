"""`isthmus check` and `isthmus schema`: what they print."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isthmus.app.explanation import explain
from isthmus.app.settings import Settings
from isthmus.cli.main import main
from isthmus.config.loader import parse_text


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["isthmus", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


SITE = """
node: site-7
connectors:
  cloud: {url: broker.example.com, username: edge, password: hidden, pool: 2}
  spare: {url: "mqtts://[::1]", version: 3.1.1, client_id: edge-7}
routes:
  telemetry: {from: local, to: cloud, topics: ["sensor/#", z], topic: "${node}/${topic}"}
  control: {from: cloud, to: local, topics: [control/+], strip: control/, qos: 1, retain: clear}
  fast: {from: local, to: cloud, topics: [in], max_qos: 1, durability: memory, retain: set}
  raised: {from: local, to: cloud, topics: [up], qos: 2}
  lowered: {from: local, to: cloud, topics: [down], max_qos: 0}
"""

WORDS = """\
This is node site-7.
Clients connect to 127.0.0.1:1883, not encrypted, from this machine only.
Clients need no user name and no password, and may read and write every topic.
Metrics and health are at http://127.0.0.1:8080, for this machine only, without a password, \
unless something else is there already.
Sessions and retained messages are in memory: a restart forgets them. Without a data folder \
(broker.data) generated client ids are new at each start, so far sides keep nothing for this one \
over a restart.
Connector cloud: 2 connections to broker.example.com port 1883, not encrypted, MQTT 5, or 3.1.1 \
if that is refused, with a user name and a password.
  Everybody on the way to broker.example.com can read the password: use mqtts://.
Connector spare: one connection to ::1 port 8883, TLS verified with the authorities of this \
system, MQTT 3.1.1, without a user name, client id edge-7.
  No route uses spare: it connects, and nothing moves.
Route telemetry, from local to cloud: what clients of this broker publish on sensor/# and z goes \
to cloud, as site-7/${topic}: for example sensor/b becomes site-7/sensor/b.
  Messages keep their QoS; they are retained if they were.
  Their publisher gets the acknowledgement of QoS 1 and 2 when cloud has sent its own; QoS 0 is \
dropped while cloud is away.
Route control, from cloud to local: what cloud sends on control/+ goes to the clients of this \
broker, with control/ taken from the front: for example control/a becomes a.
  Every message leaves with QoS 1; none is retained.
  cloud gets the acknowledgement when this broker has the message.
Route fast, from local to cloud: what clients of this broker publish on in goes to cloud, on the \
same topic.
  Messages keep their QoS, but leave with 1 at most; all are retained.
  Their publisher gets the acknowledgement when the message is in memory here: what waits there is \
lost with the process; QoS 0 is dropped while cloud is away.
Route raised, from local to cloud: what clients of this broker publish on up goes to cloud, on the \
same topic.
  Every message leaves with QoS 2; they are retained if they were.
  Their publisher gets the acknowledgement of QoS 1 and 2 when cloud has sent its own; QoS 0 waits \
in memory while cloud is away.
Route lowered, from local to cloud: what clients of this broker publish on down goes to cloud, on \
the same topic.
  Messages keep their QoS, but leave with 0 at most; they are retained if they were.
  Their publisher gets the acknowledgement at once, as the messages leave with QoS 0: they are \
dropped while cloud is away.
"""


@pytest.mark.parametrize("stdin", [False, True])
def test_check_says_everything_in_words(
    monkeypatch, capsys, tmp_path: Path, *, stdin: bool
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(SITE.encode())))
    assert run(monkeypatch, "check", "-" if stdin else str(path)) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (WORDS, "")


def test_check_names_line_and_path_of_stdin(monkeypatch, capsys) -> None:
    text = b"node: a\nroutes:\n  r: {from: local, to: x, topics: [a]}\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert run(monkeypatch, "check", "-") == 2
    assert capsys.readouterr().err.startswith("isthmus: <stdin>:3: routes.r.to: ")


def test_access_in_words(certificates, tmp_path: Path) -> None:
    for name in ("users", "acl"):
        (tmp_path / name).touch()
    settings = Settings.model_validate(
        {
            "node": "a",
            "http": None,
            "listeners": [
                {
                    "bind": "0.0.0.0:8883",
                    "tls": {
                        "certificate": certificates.server,
                        "client_ca": certificates.ca,
                        "require_client_certificate": True,
                    },
                }
            ],
            "broker": {"data": tmp_path / "data"},
            "auth": {"password_file": tmp_path / "users", "acl_file": tmp_path / "acl"},
        }
    )
    assert list(explain(settings)) == [
        "This is node a.",
        (
            "Clients connect to 0.0.0.0:8883 with TLS, showing a certificate signed by "
            f"{certificates.ca}."
        ),
        (
            f"Clients need a user name and password of {tmp_path / 'users'}, "
            f"and may read and write what {tmp_path / 'acl'} allows."
        ),
        (
            "Sessions with what waits for them, retained messages, what waits for connectors and "
            f"generated client ids are kept in {tmp_path / 'data'}."
        ),
        "There are no routes: messages stay between the clients of this broker.",
    ]


def test_several_addresses_can_get_one_message_of_qos_2() -> None:
    url = ["a.example.com", "b.example.com"]
    base = {"from": "local", "to": "cloud", "topics": ["a"]}
    for more, said in (
        ({}, True),
        ({"qos": 2}, True),
        ({"max_qos": 1}, False),
        ({"qos": 1}, False),
        ({"to": "one"}, False),
    ):
        settings = Settings.model_validate(
            {
                "connectors": {"cloud": {"url": url}, "one": {"url": "c.example.com"}},
                "routes": {"r": {**base, **more}},
            }
        )
        line = (
            "  What is on its way with QoS 2 when cloud changes its address can arrive at both "
            "addresses."
        )
        assert (line in explain(settings)) is said


@pytest.mark.parametrize(
    ("data", "connector", "key", "value", "line"),
    [
        (
            True,
            {},
            "drain_rate",
            "100/s",
            "  What an outage has left for up/a/#, up/b is sent at 100/s at most, and what stands",
        ),
        (
            True,
            {},
            "may_overtake",
            True,
            "  After an outage new messages are sent before those that waited, out of order.",
        ),
        (False, {}, "drain_rate", "1/s", "nothing waits on disk without a data folder and "),
        (False, {}, "may_overtake", True, "nothing waits on disk without a data folder and "),
        (True, {"memory": True}, "drain_rate", "1/s", "nothing waits on disk without "),
        (True, {"rate_limit": "9/s"}, "drain_rate", "1/s", "cloud has a rate_limit, which holds "),
        (True, {"rate_limit": "9/s"}, "may_overtake", True, "cloud has a rate_limit, which holds "),
        (True, None, "drain_rate", "1/s", "nothing on the way to local waits on disk."),
        (True, None, "may_overtake", True, "nothing on the way to local waits on disk."),
    ],
)
def test_what_an_outage_leaves_in_words(
    tmp_path: Path, data: bool, connector: Any, key: str, value: Any, line: str
) -> None:
    memory = bool(connector and connector.pop("memory", False))
    cloud = {"url": "far.example:1883", **(connector or {})}
    ends = (
        {"from": "cloud", "to": "local"} if connector is None else {"from": "local", "to": "cloud"}
    )
    route = {**ends, "topics": ["a/#", "b", "!a/x"], "topic": "up/${topic}", key: value}
    if memory:
        route["durability"] = "memory"
    broker = {"data": str(tmp_path)} if data else {}
    settings = Settings.model_validate(
        {"connectors": {"cloud": cloud}, "routes": {"r": route}, "broker": broker}
    )
    if not line.startswith(" "):
        line = f"  {key} has no effect: {line}"
    assert any(one.startswith(line) for one in explain(settings))


def test_a_topic_that_the_file_has_is_no_example() -> None:
    text = "routes: {r: {from: local, to: c, topics: [%s], prepend: x/}}\nconnectors: {c: {url: c}}"
    for topics, words in (("a", ": a becomes x/a."), ("a/+", ": for example a/a becomes x/a/a.")):
        settings = parse_text(Settings, text % topics)
        assert any(line.endswith(words) for line in explain(settings)), list(explain(settings))


def test_schema_is_json_schema_of_the_file(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"node", "listeners", "broker", "auth", "connectors", "routes"} <= set(
        schema["properties"]
    )
    assert "from" in schema["$defs"]["RouteSettings"]["properties"]
    assert schema["additionalProperties"] is False


def test_schema_as_a_page(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "schema", "--markdown") == 0
    page = capsys.readouterr().out
    assert page.startswith("# Configuration reference\n")
    assert "| `url` |" in page


@pytest.mark.parametrize(
    "name", ["run", "check", "explain", "pub", "sub", "test", "schema", "demo"]
)
def test_every_command_has_help(monkeypatch, capsys, name: str) -> None:
    assert run(monkeypatch, name, "--help") == 0
    assert "Usage: isthmus" in capsys.readouterr().out


STATIC = """
node: one
connectors:
  cloud:
    url: broker.example.com
    static_client_ids:
      one: [{client_id: a, username: u, password: hidden}, b]
routes: {up: {from: local, to: cloud, topics: [up]}}
"""


def test_each_static_client_id_has_its_login() -> None:
    lines = list(explain(parse_text(Settings, STATIC)))
    assert (
        "Connector cloud: 2 connections to broker.example.com port 1883, not encrypted, MQTT 5, or "
        "3.1.1 if that is refused, client id a with a user name and a password, client id b "
        "without a user name."
    ) in lines
    assert any("can read the password" in line for line in lines)
    assert not any("generated client ids" in line for line in lines)


def test_a_node_without_client_ids_opens_none() -> None:
    lines = list(explain(parse_text(Settings, STATIC.replace("node: one", "node: two"))))
    assert (
        "Connector cloud: no connection is opened, as 'static_client_ids' has no client id for "
        "node two; messages for it wait."
    ) in lines


@pytest.mark.parametrize("node", ["one", "two"])
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("pool: 4", "'pool'"),
        ("client_id_prefix: x", "'client_id_prefix'"),
        ("pool: 1\n    client_id_prefix: x", "'pool' and 'client_id_prefix'"),
    ],
)
def test_what_static_client_ids_leave_without_effect(node: str, keys: str, words: str) -> None:
    text = STATIC.replace("node: one", f"node: {node}")
    assert not any("effect" in line for line in explain(parse_text(Settings, text)))
    text = text.replace("    static_client_ids:", f"    {keys}\n    static_client_ids:")
    lines = list(explain(parse_text(Settings, text)))
    at = next(index for index, line in enumerate(lines) if line.startswith("Connector cloud: "))
    assert lines[at + 1] == f"  Without effect beside 'static_client_ids': {words}."


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (r'broker: {data: "/tmp/x\e[31m"}', 0),
        (r'auth: {acl_file: "/nowhere/x\e[31m"}', 2),
    ],
)
def test_control_characters_are_escaped(monkeypatch, capsys, text: str, status: int) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert run(monkeypatch, "check", "-") == status
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "\x1b" not in shown
    assert r"x\x1b[31m" in shown


def test_a_byte_order_mark_in_mosquitto_conf(monkeypatch, capsys, tmp_path: Path) -> None:
    path = tmp_path / "mosquitto.conf"
    path.write_bytes(b"\xef\xbb\xbflistener 1884 127.0.0.1\nallow_anonymous true\n")
    assert run(monkeypatch, "check", str(path)) == 0
    assert "Clients connect to 127.0.0.1:1884" in capsys.readouterr().out


def test_a_variable_that_is_not_set_is_one_problem(monkeypatch, capsys) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    text = STATIC.replace("hidden", "'${env:NOPE}'").encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert run(monkeypatch, "check", "-") == 2
    errors = capsys.readouterr().err
    assert "environment variable 'NOPE' is not set" in errors
    assert "must be text" not in errors
    assert errors.count("<stdin>:") == 1


def test_when_a_connector_connects(tmp_path: Path) -> None:
    """A lazy one keeps QoS 0, which waits for others only where the route says so."""
    far = {"url": "far.example:1883"}
    lazy = {**far, "start": "lazy", "lazy": {"threshold": 3, "after": "5m", "idle_timeout": "2s"}}
    connectors = {"a": lazy, "b": {**far, "start": "once"}, "c": far}
    routes = {f"to-{name}": {"from": "local", "topics": [name], "to": name} for name in connectors}
    routes["zero"] = {"from": "local", "topics": ["z"], "to": "a", "qos": 0}
    routes["kept"] = {"from": "local", "topics": ["k"], "to": "c", "qos": 0, "queue_qos0": True}
    settings = Settings.model_validate(
        {"connectors": connectors, "routes": routes, "broker": {"data": str(tmp_path)}}
    )
    text = "\n".join(explain(settings))
    assert text.count("It connects") == 2
    assert "It connects when 3 messages wait, or one for 5m, and closes after 2s" in text
    assert "It connects once, when this process starts, and not again." in text
    assert "QoS 0 waits in memory while a is away" in text
    assert "QoS 0 is dropped while b is away" in text
    assert "QoS 0 is dropped while c is away" in text
    assert "they wait in memory while a is away" in text
    assert "they wait in memory while c is away" in text
