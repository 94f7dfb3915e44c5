"""The lines of `mosquitto.conf`: what is a comment, what is a word, what a value.

Its quirks are kept, as files in the field rely on them. A `#` makes a comment only as the very
first character of a line. Only spaces separate: a tab in front of an option is part of its name. A
text is the rest of the line, so a comment behind a password belongs to the password. `include_dir`
works in the main file only; an included file begins with no listener and no connection.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isthmus.config.problems import did_you_mean
from isthmus.errors import ConfigError

MAX_TEXT_BYTES = 65_535

_NUMBER = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_BLANKS = " \t\v\f\r\n"


class ValueProblem(ValueError):
    """A value is not what its option takes; the text says what is wrong and never repeats it."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One file as it is read; `included` is false for the main file."""

    path: Path
    included: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One line that says something: an option and what follows it."""

    source: Source
    line: int
    name: str
    rest: str

    @property
    def where(self) -> str:
        """`file:line`, as it stands before an error."""
        return f"{self.source.path}:{self.line}"

    @property
    def words(self) -> list[str]:
        """What follows, split at spaces."""
        return [word for word in self.rest.split(" ") if word]

    def text(self) -> str:
        """The rest of the line.

        Raises:
            ValueProblem: it is empty, too long, or not UTF-8.
        """
        value = self.rest.strip(_BLANKS)
        if not value:
            raise ValueProblem("needs a value")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ValueProblem("is not UTF-8 text") from None
        if size > MAX_TEXT_BYTES:
            raise ValueProblem(f"must not be longer than {MAX_TEXT_BYTES} bytes")
        return value

    def switch(self) -> bool:
        """The next word as true or false.

        Raises:
            ValueProblem: it is neither.
        """
        word = self._word()
        if word not in ("true", "false", "1", "0"):
            raise ValueProblem("must be true or false, in small letters, or 1 or 0")
        return word in ("true", "1")

    def number(self) -> int:
        """The next word as a whole number.

        Raises:
            ValueProblem: it is none. (Mosquitto 2.0 read `10abc` as 10; 2.1 refuses it as well.)
        """
        match = _NUMBER.fullmatch(self._word())
        if match is None:
            raise ValueProblem("must be a whole number")
        digits = match[2]
        octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
        number = int(digits, 8 if octal else 0)
        if number > 2**31 - 1:
            raise ValueProblem("is out of range")
        return -number if match[1] == "-" else number

    def _word(self) -> str:
        words = self.words
        if not words:
            raise ValueProblem("needs a value")
        return words[0]


def read_statements(path: Path, problems: list[str]) -> Iterator[Statement]:
    """Yield the statements of a file and of the folders that it includes, in order.

    What is wrong with an included file is added to `problems`.

    Raises:
        ConfigError: the file itself cannot be read.
    """
    source = Source(path)
    for statement in _statements(source, _read(path)):
        if statement.name != "include_dir":
            yield statement
            continue
        try:
            folder = Path(statement.rest.strip(_BLANKS))
            if not statement.rest.strip(_BLANKS):
                raise ValueProblem("needs a value")
            for file in included_files(folder):
                included = Source(file, included=True)
                for inner in _statements(included, _read(file)):
                    if inner.name == "include_dir":
                        problems.append(f"{inner.where}: include_dir: only in the main file")
                    else:
                        yield inner
        except ValueProblem as problem:
            problems.append(f"{statement.where}: include_dir: {problem}")
        except ConfigError as error:
            problems += error.problems


def included_files(folder: Path) -> list[Path]:
    """The files of an `include_dir`: `*.conf`, capitals count only between equal names.

    Raises:
        ValueProblem: the folder cannot be read.
    """
    try:
        found = [entry for entry in folder.iterdir() if entry.name.endswith(".conf")]
    except OSError as error:
        raise ValueProblem(f"the folder {folder} cannot be read: {error.strerror}") from None
    named = [entry for entry in found if len(entry.name) > len(".conf")]
    return sorted(named, key=lambda entry: (entry.name.lower(), entry.name))


def unknown_option(statement: Statement, known: list[str]) -> str:
    """Say that an option is unknown, and why that may be."""
    name = statement.name
    if name.startswith("#"):
        return "a comment must begin in the first column; as it stands, '#' is read as an option"
    if "\t" in name:
        return (
            "has a tab, and only spaces separate; Mosquitto reads the tab as part of the option's "
            "name and refuses it as well"
        )
    shown = f"'{name}'" if name.isprintable() and len(name) <= 60 else "this"
    return f"there is no option {shown}{did_you_mean(name, known)}"


def _statements(source: Source, data: bytes) -> Iterator[Statement]:
    for number, raw in enumerate(data.removeprefix(BOM_UTF8).split(b"\n"), 1):
        line = raw.decode(errors="surrogateescape").rstrip("\r")
        if line.startswith("#"):
            continue
        name, _, rest = line.lstrip(" ").partition(" ")
        if name:
            yield Statement(source, number, name, rest)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
