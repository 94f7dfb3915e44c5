"""From a file to settings, or to every problem of it with file, line, path and suggestion."""

import json
from pathlib import Path

import pytest

from isthmus.app.settings import Settings
from isthmus.config.loader import load, parse, parse_text
from isthmus.errors import ConfigError

UNIT = "unknown unit of time, use one of ms, s, m, h, d, w"
FILTER = "'a#' is no valid topic filter: # is not the last whole level [MQTT-4.7.1-1]"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_text(Settings, text, name="f")
    return [problem.removeprefix("f:") for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["a.yaml", "a.yml", "a.toml", "a.json"])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_valid(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    settings = parse(Settings, path)
    assert settings == Settings()
    assert [listener.bind for listener in settings.listeners] == ["127.0.0.1:1883"]


def test_sections_that_are_commented_out() -> None:
    text = "listeners:\nbroker:\nauth:\nconnectors:\n#  cloud: {url: h}\nroutes:\nlog:\n"
    assert parse_text(Settings, text) == Settings()


YAML = """
node: edge-a
connectors:
  cloud:
    url: mqtts://broker.example.com
    version: 3.1
    reconnect: {max: 2m}
    max_packet_size: 5MiB
routes:
  telemetry: {from: local, to: cloud, topics: [sensor/#], qos: 1}
"""


def test_the_same_settings_from_every_format() -> None:
    from_yaml = parse_text(Settings, YAML)
    data = {
        "node": "edge-a",
        "connectors": {
            "cloud": {
                "url": "mqtts://broker.example.com",
                "version": "3.1",
                "reconnect": {"max": 120},
                "max_packet_size": 5 << 20,
            }
        },
        "routes": {"telemetry": {"from": "local", "to": "cloud", "topics": ["sensor/#"], "qos": 1}},
    }
    toml = """
        node = "edge-a"
        [connectors.cloud]
        url = "mqtts://broker.example.com"
        version = 3.1
        reconnect.max = "120s"
        max_packet_size = "5120KiB"
        [routes.telemetry]
        from = "local"
        to = "cloud"
        topics = ["sensor/#"]
        qos = 1
    """
    assert parse_text(Settings, json.dumps(data), format="json") == from_yaml
    assert parse_text(Settings, toml, format="toml") == from_yaml
    assert from_yaml.connectors["cloud"].version == "3.1"
    assert from_yaml.connectors["cloud"].reconnect.max == 120.0


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("users", "ca.pem"):
        (folder / name).write_text("x")
    monkeypatch.setenv("USERS", "users")
    (folder / "c.yaml").write_text(
        "broker: {data: ./data}\nauth: {password_file: '${env:USERS}', acl_file: /dev/null}\n"
        "connectors: {c: {url: 'mqtts://h', tls: {ca: ca.pem}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"acl_file: '/dev/null' is no file"):
        parse(Settings, Path("etc/c.yaml"))
    text = (folder / "c.yaml").read_text().replace(", acl_file: /dev/null", "")
    (folder / "c.yaml").write_text(text)
    settings = parse(Settings, Path("etc/c.yaml"))
    assert settings.broker.data == folder / "data"
    assert settings.auth.password_file == folder / "users"
    tls = settings.connectors["c"].tls
    assert tls is not None
    assert tls.ca == folder / "ca.pem"


def test_everything_that_is_wrong_is_reported_at_once_in_order_of_lines() -> None:
    found = problems("""\
broker: {max_inflght: 3, topic_levels: 4, max_inflight: 0}
connectors:
  cloud:
    url: mqtt://h
    pasword: x
    reconnect: {min: 5x, attempts: none}
    pool: two
    keepalive: 60S
    bridge_bit: maybe
    bridge_bit: true
  local: {url: h}
  a b: {url: h}
routes:
  r:
    source: local
    to: clod
    topics: [a#, b/+]
    retain: keeep
http: {bind: 1}
rules: {}
log: {level: inf}
""")
    assert found == [
        "1: broker.max_inflight: must be at least 1",
        "1: broker.max_inflght: unknown key; did you mean 'max_inflight'?",
        "1: broker.topic_levels: unknown key; did you mean 'broker.limits.topic_levels'?",
        "5: connectors.cloud.pasword: unknown key; did you mean 'password'?",
        f"6: connectors.cloud.reconnect.min: {UNIT}",
        "6: connectors.cloud.reconnect.attempts: must be 'forever' or a whole number",
        "7: connectors.cloud.pool: must be a whole number",
        f"8: connectors.cloud.keepalive: {UNIT}; did you mean 's'?",
        "9: connectors.cloud.bridge_bit: is there twice, first on line 9 and again on line 10",
        "11: connectors.local: is the name of the embedded broker; choose another",
        "12: connectors.a b: a name may hold only letters, digits, '_' and '-'",
        "15: routes.r.source: unknown key; did you mean 'from'?",
        "16: routes.r.to: there is no connector 'clod'; did you mean 'cloud'?",
        f"17: routes.r.topics[0]: {FILTER}",
        "18: routes.r.retain: must be 'keep', 'set' or 'clear'; did you mean 'keep'?",
        "19: http.bind: needs an address in front of the port, such as 127.0.0.1:1",
        "20: rules: unknown key; did you mean 'routes'?",
        "21: log.level: must be 'debug', 'info', 'warning' or 'error'; did you mean 'info'?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("connectors: {c: {}}", "1: connectors.c.url: is required"),
        ("connectors: [c]", "1: connectors: must be a mapping of names"),
        ("connectors:\n  c: 3", "2: connectors.c: must be a mapping of keys"),
        ("listeners: {bind: x}", "1: listeners: must be a list"),
        ("listeners:\n- tls: {}\n  bind: a:1", "2: listeners[0].tls.certificate: is required"),
        ("node: 7", "1: node: must be text; put it in quotes"),
        ("broker: {max_packet_size: 300MiB}", "1: broker.max_packet_size: must be at most"),
        ("connectors: {c: {url: h, lazy: {after: 8d}}}", "c.lazy.after: must be at most 7d"),
        ("broker: {limits: {queued_bytes: 1000}}", "queued_bytes: must be at least 1KiB"),
        ("routes: {r: {queue: {max_age: 0}}}", "r.queue.max_age: must be more than 0s"),
        ("connectors: {c: {url: h, rate_limit: 0}}", "c.rate_limit: must be more than 0/s"),
        ("broker: {data: '~nobody-such/x'}", "1: broker.data: has a '~' that stands for no home"),
        ("connectors: {c: {url: h, password: 5}}", "must be text; put it in quotes"),
        ("auth: {password_file: '${env:NONE_SUCH_X}'}", "1: auth.password_file: environment vari"),
        ("routes: {r: {from: a, to: b, topics: a/#}}", 'must be a list, such as ["sensor/#"]'),
        ("routes:\n  r:\n    topics:\n    - #\n", "begins with # in quotes"),
        ("routes: {r: {from: local, to: local, topics: []}}", "topics: must not be empty"),
    ],
)
def test_single_problems(text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(text)), problems(text)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.yaml", b"a: [", "c.yaml:1: "),
        ("c.yaml", b"- a\n", "c.yaml:1: must be a mapping of keys"),
        ("c.yaml", b"a: 1\nb: \xff", "c.yaml:2: is not UTF-8 text"),
        ("c.conf", b"", "the file name must end in one of .yaml, .yml, .toml, .json"),
        ("c.json", b"[1]", "c.json:1: must be a mapping of keys"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        parse(Settings, tmp_path / name)
    assert expected in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file"):
        parse(Settings, tmp_path / "none.yaml")
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        parse(Settings, tmp_path / "d.yaml")


def test_load_gives_plain_data_with_positions(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: 1\nb:\n  - c: ${env:X}\n")
    data, positions = load(tmp_path / "c.yaml")
    assert data == {"a": 1, "b": [{"c": "${env:X}"}]}
    assert positions["b", 0, "c"] == (3, 5)
    (tmp_path / "c.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(ConfigError, match=r"c.yaml:1: a: is there twice"):
        load(tmp_path / "c.yaml")


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfnode: a\n")
    assert parse(Settings, tmp_path / "c.yaml").node == "a"


def test_a_key_that_a_misspelt_one_stands_for_is_not_missing_too() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(
            Settings, "routes:\n  u: {from: local, topcs: [a]}\n  v: {from: local, too: x}\n"
        )
    assert [text.partition(": ")[2] for text in caught.value.problems] == [
        "routes.u.to: is required",
        "routes.u.topcs: unknown key; did you mean 'topics'?",
        "routes.v.topics: is required",
        "routes.v.too: unknown key; did you mean 'to'?",
    ]
