"""YAML to a `Document`, over PyYAML's node graph, which keeps the position of every key.

Only the scalars of YAML 1.2's core schema are recognised: `on`, `off`, `yes` and `no` stay text
(fields that are switches take them all the same), `12:30` is no number in base 60 and
`2026-01-01` no date. Tags are refused, so a file can make nothing but plain data. Anchors, aliases
and merge keys (`<<`) work; a key of its own wins over a merged one.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from isthmus.config.document import Document, DocumentError, Position
from isthmus.config.problems import Loc, Problem

MAX_NODES = 200_000
"""Values after aliases are expanded. A file of a few lines could ask for billions."""

_PREFIX = "tag:yaml.org,2002:"
_NUMBER_START = list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _NUMBER_START),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", _NUMBER_START),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_PREFIX + _name, re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(text: str) -> Document:
    """Return the document of a YAML text; empty text gives None as data.

    Raises:
        DocumentError: the text is no YAML, or holds more than one document.
    """
    try:
        node = _Loader(text).get_single_node()
        builder = _Builder()
        if node is not None:
            builder.document.data = builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise DocumentError(line, _explain(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(line, "holds a character that YAML does not allow") from None
    except RecursionError:
        raise DocumentError(1, "is nested too deeply") from None
    return builder.document


class _Builder:
    def __init__(self) -> None:
        self.document = Document()
        self._open: set[int] = set()
        self._nodes = 0

    def build(self, node: Node, loc: Loc) -> Any:
        self._count(node)
        if id(node) in self._open:
            self._problem(loc, "refers to itself")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, loc)
            if isinstance(node, SequenceNode):
                return self._sequence(node, loc)
            return self._scalar(node, loc)
        finally:
            self._open.discard(id(node))

    def _count(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise DocumentError(_position(node).line, "is too big after its aliases are expanded")

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        self._check_tag(node, "map", loc)
        result: dict[str, Any] = {}
        for key_node, value_node, merged in self._pairs(node, loc):
            if not isinstance(key_node, ScalarNode):
                self._problem(loc, "has a key that is not plain text")
                continue
            key = key_node.value
            if key in result:
                if not merged:
                    first = self.document.positions[*loc, key].line
                    line = _position(key_node).line
                    text = f"is there twice, first on line {first} and again on line {line}"
                    self._problem((*loc, key), text)
                continue
            self.document.positions[*loc, key] = _position(key_node)
            result[key] = self.build(value_node, (*loc, key))
        return result

    def _pairs(self, node: MappingNode, loc: Loc) -> Iterator[tuple[Node, Node, bool]]:
        """The mapping's own pairs, then those of its merge keys, in order of precedence."""
        sources: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _PREFIX + "merge":
                many = isinstance(value_node, SequenceNode)
                sources += value_node.value if many else [value_node]
            else:
                yield key_node, value_node, False
        for source in sources:
            self._count(source)
            if isinstance(source, MappingNode) and id(source) not in self._open:
                self._open.add(id(source))
                for key_node, value_node, _ in self._pairs(source, loc):
                    yield key_node, value_node, True
                self._open.discard(id(source))
            else:
                self._problem(loc, "merges ('<<') something that is no mapping")

    def _sequence(self, node: SequenceNode, loc: Loc) -> list[Any]:
        self._check_tag(node, "seq", loc)
        result = []
        for index, item in enumerate(node.value):
            self.document.positions[*loc, index] = _position(item)
            result.append(self.build(item, (*loc, index)))
        return result

    def _scalar(self, node: Node, loc: Loc) -> Any:
        value = node.value
        try:
            match node.tag.removeprefix(_PREFIX):
                case "str" | "merge":
                    return value
                case "null":
                    return None
                case "bool":
                    return value.lower() == "true"
                case "int":
                    # base 0 refuses the leading zeros that YAML takes as decimal
                    return int(value, 0) if value[:2] in ("0o", "0x") else int(value)
                case "float":
                    return float(value)
        except ValueError:
            self._problem(loc, "is no number that can be read")
            return None
        self._problem(loc, _TAG_TEXT)
        return None

    def _check_tag(self, node: Node, kind: str, loc: Loc) -> None:
        if node.tag != _PREFIX + kind:
            self._problem(loc, _TAG_TEXT)

    def _problem(self, loc: Loc, text: str) -> None:
        self.document.problems.append(Problem(loc, text))


_TAG_TEXT = "has a tag ('!...'), which is not allowed; quote a text that begins with '!'"


def _position(node: Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _explain(error: yaml.MarkedYAMLError) -> str:
    """Say what is wrong without names from the file: `password: *x` would be one."""
    problem = error.problem or "is no YAML"
    if "alias" in problem or "anchor" in problem:
        return "has a wrong anchor or alias; quote a text that begins with '&' or '*'"
    if "tag" in problem:
        return _TAG_TEXT
    if "'\\t'" in problem:
        return "is indented with a tab; use spaces"
    if "mapping values are not allowed" in problem:
        return "has a ': ' too many on one line; quote a text that holds ': '"
    if "document" in problem:
        return "holds more than one document ('---')"
    if "cannot start any token" in problem:
        return f"{problem}; quote the text"
    if "expected ',' or" in problem or "expected the node content" in problem:
        return f"{problem}; between brackets, quote a text that holds '#', '{{' or '${{...}}'"
    return problem
