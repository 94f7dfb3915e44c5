"""YAML, TOML and JSON give the same data and the right lines."""

import pytest

from isthmus.config import yaml_source
from isthmus.config.document import Document, DocumentError, nearest_line
from isthmus.config.json_source import read_json
from isthmus.config.toml_source import read_toml
from isthmus.config.yaml_source import read_yaml

YAML = """\
# a comment
broker:
  data: ./x
  limits: {connections: 5}
listeners:
  - bind: a:1
  - {bind: "b:2"}
text: |
  data = 3
  [broker]
"""
TOML = '''\
listeners = [
  {bind = "a:1"},
  {bind = "b:2"},
]
text = """
data = 3
[broker]
"""
[broker]
data = "./x"
[broker.limits]
connections = 5
'''
JSON = """{
  "listeners": [
\t{"bind": "a:1"},
    {"bind":
       "b:2"}
  ],
  "text": "data = 3\\n[broker]\\n", "broker": {
    "data": "./x",
    "limits": {"connections": 5}
  }
}"""
DATA = {
    "broker": {"data": "./x", "limits": {"connections": 5}},
    "listeners": [{"bind": "a:1"}, {"bind": "b:2"}],
    "text": "data = 3\n[broker]\n",
}


def lines(document: Document, *paths: tuple[str | int, ...]) -> list[int]:
    return [nearest_line(document.positions, path) for path in paths]


PATHS = [
    ("broker",), ("broker", "data"), ("broker", "limits", "connections"), ("listeners",),
    ("listeners", 0, "bind"), ("listeners", 1, "bind"), ("text",), ("none",), ("broker", "none"),
]  # fmt: skip


def test_same_data_and_lines_of_every_format() -> None:
    yaml, toml, json = read_yaml(YAML), read_toml(TOML), read_json(JSON)
    assert yaml.data == toml.data == json.data == DATA
    assert lines(yaml, *PATHS) == [2, 3, 4, 5, 6, 7, 8, 1, 2]
    assert lines(json, *PATHS) == [7, 8, 9, 2, 3, 4, 7, 1, 7]
    # inside an array only the array's line is known
    assert lines(toml, *PATHS) == [9, 10, 12, 1, 1, 1, 5, 1, 9]
    assert not yaml.problems + toml.problems + json.problems


def test_arrays_of_tables() -> None:
    document = read_toml(
        '[[listeners]]\nbind = "a:1"\n[[listeners]]\nbind = "b:2"\n[listeners.tls]\nkey = "k"\n'
        '[connectors."far away"]\nreconnect.min = 3\n'
    )
    wanted = [("listeners", 0, "bind"), ("listeners", 1, "bind"), ("listeners", 1, "tls", "key")]
    assert lines(document, *wanted) == [2, 4, 6]
    assert lines(document, ("connectors", "far away", "reconnect", "min")) == [8]


def test_yaml_scalars_are_those_of_version_1_2() -> None:
    document = read_yaml(
        "a: [on, off, yes, no, 12:30, 2026-01-01, 1_000, 0123, 0x1f, 0o17, 1e3, .5, ~, TRUE, 3.1]"
    )
    assert document.data["a"] == [
        "on", "off", "yes", "no", "12:30", "2026-01-01", "1_000", 123, 31, 15, 1000.0, 0.5, None,
        True, 3.1,
    ]  # fmt: skip


def test_yaml_keys_are_text() -> None:
    assert read_yaml("1: a\ntrue: b\n3.10: c\n").data == {"1": "a", "true": "b", "3.10": "c"}


def test_yaml_anchors_and_merge_keys() -> None:
    document = read_yaml(
        "a: &a {url: h, pool: 1}\nb:\n  <<: *a\n  pool: 2\nc:\n  <<: [{pool: 3}, *a]\nd: *a\n"
    )
    assert document.data["b"] == {"url": "h", "pool": 2}
    assert document.data["c"] == {"url": "h", "pool": 3}
    assert document.data["d"] == document.data["a"]
    assert not document.problems


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_duplicate_keys_are_problems(read) -> None:  # type: ignore[no-untyped-def]
    document = read('{"a": {\n"b": 1,\n"c": 2,\n"b": 3},\n"a": 4}')
    texts = {problem.loc: problem.text for problem in document.problems}
    assert texts[("a", "b")] == "is there twice, first on line 2 and again on line 4"
    assert texts[("a",)] == "is there twice, first on line 1 and again on line 5"


def test_duplicate_keys_in_toml() -> None:
    with pytest.raises(DocumentError, match="overwrite") as caught:
        read_toml("a = 1\nb = 2\na = 3\n")
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!python/object/apply:os.system [echo]", "has a tag"),
        ("a: !secret x", "has a tag"),
        ("a: &a [*a]", "refers to itself"),
        ("? [1, 2]\n: x", "has a key that is not plain text"),
        ("a:\n  <<: 3", "merges"),
        ("a: " + "9" * 5000, "is no number that can be read"),
    ],
)
def test_yaml_that_is_refused(text: str, problem: str) -> None:
    document = read_yaml(text)
    assert [found.text for found in document.problems if problem in found.text]


@pytest.mark.parametrize(
    ("read", "text", "line", "problem"),
    [
        (read_yaml, "a: 1\n\tb: 2", 2, "tab"),
        (read_yaml, "a: 1\nb: c: d", 2, "quote a text that holds ': '"),
        (read_yaml, "a: 1\nb: *hunter2", 2, "wrong anchor or alias"),
        (read_yaml, "a: 1\nb: !x!hunter2 y", 2, "has a tag"),
        (read_yaml, "a: @hunter2", 1, "quote the text"),
        (read_yaml, "a: 1\n---\nb: 2", 2, "more than one document"),
        (read_yaml, "a: [1, 2\nb: 3", 2, "expected"),
        (read_yaml, "a: {topics: [#]}\n", 2, "quote a text that holds '#'"),
        (read_yaml, "a: {topic: x/${topic}}", 1, r"quote a text that holds .* '\${"),
        (read_yaml, "a: \x01", 1, "character that YAML does not allow"),
        (read_yaml, "[" * 600, 1, "nested too deeply"),
        (read_json, '{"a": 1,\n"b": }', 2, "is no JSON"),
        (read_json, "[" * 200_000, 1, "nested too deeply"),
        (read_toml, "a = 1\nb = hunter2", 2, "Invalid value"),
    ],
)
def test_text_that_cannot_be_read(read, text: str, line: int, problem: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DocumentError, match=problem) as caught:
        read(text)
    assert caught.value.line == line
    assert "hunter2" not in str(caught.value)


def test_a_few_lines_cannot_ask_for_billions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "MAX_NODES", 5000)
    text = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)
    )
    with pytest.raises(DocumentError, match="too big"):
        read_yaml(text)


def test_merge_keys_cannot_ask_for_billions_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "MAX_NODES", 5000)
    text = "a0: &a0 {}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20)
    )
    with pytest.raises(DocumentError, match="too big"):
        read_yaml(text)


@pytest.mark.parametrize("read", [read_yaml, read_json, read_toml])
def test_empty_text(read) -> None:  # type: ignore[no-untyped-def]
    assert not read("").data
    assert not read("\n\n").data
