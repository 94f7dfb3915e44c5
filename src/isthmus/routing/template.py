"""Templates: text with `${...}` in it, filled from the topic and the publisher of a message.

Levels are counted as Python counts them, whose notation `topic[1]` and `topic[2:]` is: from 0,
without the end of a range, negative numbers from the last level. So `${topic[:2]}/${topic[2:]}` is
the whole topic. Captures are counted from 1, as in every other language of patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus.config.problems import did_you_mean
from isthmus.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TEMPLATE_NAMES = ("topic", "clientid", "username", "node", "connection.client_id")
"""Names that a template may hold as `${name}`, besides captures and levels of the topic."""

PUBLISHER_NAMES = frozenset({"clientid", "username"})
"""Names whose value is the publisher's: such a route is resolved for each publisher."""

_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_CAPTURE = re.compile(r"[1-9][0-9]{0,4}")
_LEVEL = re.compile(r"topic\[(-?[0-9]{1,5})\]")
_RANGE = re.compile(r"topic\[(-?[0-9]{1,5})?:(-?[0-9]{1,5})?\]")


@dataclass(frozen=True, slots=True)
class Capture:
    """What the wildcard with this number in the matching filter stands for; 1 is the first."""

    number: int

    def value(self, topic: bytes, filter_: bytes) -> bytes:
        """The text of the topic; empty where `#` stands for no level at all."""
        levels = topic.split(b"/")
        seen = 0
        for index, wanted in enumerate(filter_.split(b"/")):
            if wanted in (b"+", b"#"):
                seen += 1
                if seen == self.number:
                    return levels[index] if wanted == b"+" else b"/".join(levels[index:])
        raise ProtocolViolation(f"{filter_.decode()} has no wildcard {self.number}", 0x90)

    def problem(self, filter_: str) -> str:
        """Why `filter_` never has it, or an empty text."""
        count = sum(level in ("+", "#") for level in filter_.split("/"))
        if self.number <= count:
            return ""
        has = f"only {count}" if count else "no"
        return f"'{filter_}' has {has} wildcard{'s' if count > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the topic."""

    index: int

    def value(self, topic: bytes, filter_: bytes) -> bytes:
        """The text of the level."""
        del filter_
        levels = topic.split(b"/")
        if not -len(levels) <= self.index < len(levels):
            raise ProtocolViolation(f"the topic has no level {self.index}", 0x90)
        return levels[self.index]

    def problem(self, filter_: str) -> str:
        """Why no topic of `filter_` has it, or an empty text."""
        count = _fixed_levels(filter_)
        if count is None or -count <= self.index < count:
            return ""
        return (
            f"topics of '{filter_}' have only the levels 0 to {count - 1}"
            if count > 1
            else f"topics of '{filter_}' have only level 0"
        )


@dataclass(frozen=True, slots=True)
class Range:
    """Levels of the topic that follow each other, with the slashes between them."""

    start: int | None
    stop: int | None

    def value(self, topic: bytes, filter_: bytes) -> bytes:
        """The text of the levels; empty where the topic is too short."""
        del filter_
        return b"/".join(topic.split(b"/")[self.start : self.stop])

    def problem(self, filter_: str) -> str:
        """Why it is empty for every topic of `filter_`, or an empty text."""
        count = _fixed_levels(filter_)
        if count is None or range(count)[self.start : self.stop]:
            return ""
        return f"it is empty for every topic of '{filter_}'"


@dataclass(frozen=True, slots=True)
class Name:
    """A value that has a name: one of `TEMPLATE_NAMES`."""

    name: str

    @property
    def is_one_level(self) -> bool:
        """Whether it has no slash: a publisher whose name has one is refused."""
        return self.name in PUBLISHER_NAMES


Part = str | Capture | Level | Range | Name


class Template:
    """A template, taken apart.

    `personal` says that the result depends on who published, `connection` that it depends on the
    connection that the message leaves by.
    """

    __slots__ = ("_parts", "connection", "personal")

    def __init__(self, text: str, node: str | None = None) -> None:
        """Take `text` apart; `node` is the name of this process, None to leave it open.

        Raises:
            ValueError: A placeholder is not known, or not closed.
        """
        parts: list[Part] = []
        pieces = _PLACEHOLDER.split(text)
        for index, piece in enumerate(pieces):
            part: Part = piece if index % 2 == 0 else _placeholder(piece)
            if node is not None and part == Name("node"):
                part = node
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part:
                parts.append(part)
        if any("${" in piece for piece in pieces[::2]):
            raise ValueError("holds a '${' without its '}'")
        self._parts = tuple(parts)
        names = {part.name for part in parts if isinstance(part, Name)}
        self.personal = bool(names & PUBLISHER_NAMES)
        self.connection = "connection.client_id" in names

    @property
    def literal(self) -> str:
        """The text outside of the placeholders."""
        return "".join(part for part in self._parts if isinstance(part, str))

    @property
    def prefix(self) -> str | None:
        """What it puts in front of the topic, if it does nothing else; None otherwise.

        A `${node}` that was left open counts as the text "node".
        """
        if not self._parts or self._parts[-1] != Name("topic"):
            return None
        front = ["node" if part == Name("node") else part for part in self._parts[:-1]]
        texts = [part for part in front if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(front) else None

    @property
    def image(self) -> bytes:
        """A filter that matches all results, or more."""
        levels = [b""]
        for part in self._parts:
            if isinstance(part, str):
                first, *others = part.encode().split(b"/")
                if levels[-1] != b"+":
                    levels[-1] += first
                levels += others
            elif isinstance(part, Level) or (isinstance(part, Name) and part.is_one_level):
                levels[-1] = b"+"
            else:
                levels[-1] = b"#"
                break
        return b"/".join(levels)

    def problems(self, filters: Iterable[str]) -> Iterator[str]:
        """Yield the placeholders that never have a value, because of one of these filters."""
        plain = [without_share(filter_) for filter_ in filters]
        for part in self._parts:
            if isinstance(part, Capture | Level | Range):
                for filter_ in plain:
                    problem = part.problem(filter_)
                    if problem:
                        yield f"'{shown(part)}' does not exist: {problem}"
                        break

    def fill(
        self,
        topic: bytes,
        filter_: bytes,
        *,
        client_id: str = "",
        username: str = "",
        connection: str = "",
    ) -> bytes:
        """The text for a message of `topic`, which matched `filter_`.

        Raises:
            ProtocolViolation: The topic has no such level (0x90).
        """
        values = {
            "topic": topic,
            "clientid": client_id.encode(errors="surrogatepass"),
            "username": username.encode(errors="surrogatepass"),
            "connection.client_id": connection.encode(errors="surrogatepass"),
        }
        return b"".join(
            part.encode()
            if isinstance(part, str)
            else values.get(part.name, b"")
            if isinstance(part, Name)
            else part.value(topic, filter_)
            for part in self._parts
        )

    def __str__(self) -> str:
        return "".join(shown(part) for part in self._parts)


def shown(part: Part) -> str:
    """A part as it is written."""
    if isinstance(part, str):
        return part
    if isinstance(part, Name):
        return f"${{{part.name}}}"
    if isinstance(part, Capture):
        return f"${{{part.number}}}"
    if isinstance(part, Level):
        return f"${{topic[{part.index}]}}"
    ends = ("" if end is None else str(end) for end in (part.start, part.stop))
    return f"${{topic[{':'.join(ends)}]}}"


def without_share(filter_: str) -> str:
    """The filter that topics are matched with."""
    return filter_.split("/", 2)[2] if filter_.startswith("$share/") else filter_


def _placeholder(text: str) -> Part:
    if text in TEMPLATE_NAMES:
        return Name(text)
    if _CAPTURE.fullmatch(text):
        return Capture(int(text))
    if match := _LEVEL.fullmatch(text):
        return Level(int(match[1]))
    if match := _RANGE.fullmatch(text):
        start, stop = (int(end) if end is not None else None for end in match.groups())
        return Range(start, stop)
    known = ", ".join(f"${{{known}}}" for known in TEMPLATE_NAMES)
    hint = did_you_mean(text, TEMPLATE_NAMES)
    raise ValueError(
        f"'${{{text}}}' is unknown, use {known}, ${{1}}, ${{topic[0]}} or ${{topic[1:]}}{hint}"
    )


def _fixed_levels(filter_: str) -> int | None:
    """How many levels every topic of `filter_` has, or None where that is open."""
    levels = filter_.split("/")
    return None if levels[-1] == "#" else len(levels)
