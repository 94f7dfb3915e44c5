"""A configuration of this project while it is written from another one.

Plain data as a YAML file would give it, and for every value the line that it comes from, or a word
on why it is there. What has to be said about single lines stands in `notes` and `problems`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from isthmus.app.mosquitto.blocks import Block, Setting
from isthmus.app.mosquitto.grammar import Statement
from isthmus.config.problems import Loc
from isthmus.config.secrets import Expanded

SECRET_OPTIONS = frozenset(
    {"remote_password", "password", "local_password", "bridge_psk", "tls_engine_kpass_sha1"}
)
"""Options whose value is never shown."""


class Note(NamedTuple):
    """What a reader should know about a line. `loud` notes are warnings."""

    statement: Statement | None
    text: str
    loud: bool = False

    def __str__(self) -> str:
        if self.statement is None:
            return self.text
        return f"{self.statement.where}: {self.statement.name}: {self.text}"


@dataclass(slots=True)
class Draft:
    """Plain data, and where it comes from. `problems` are fatal, `file:line: text` each."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[Loc, Statement | None] = field(default_factory=dict)
    refused: list[Note] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def put(self, loc: Loc, value: Any, origin: Setting | Block | None = None) -> None:
        """Write a value; mappings and lists on the way are made."""
        at: Any = self.data
        for part, following in pairwise(loc):
            empty: Any = [] if isinstance(following, int) else {}
            if isinstance(part, int):
                if part == len(at):
                    at.append(empty)
                at = at[part]
            else:
                at = at.setdefault(part, empty)
        if isinstance(loc[-1], int) and loc[-1] == len(at):
            at.append(value)
        else:
            at[loc[-1]] = value
        self.origins[loc] = _statement(origin)

    def take(self, block: Block, option: str, loc: Loc) -> Setting | None:
        """Write the value of an option of a block as it is, if the option is there."""
        found = block.last(option)
        if found is not None:
            self.put(loc, literal(found.value), found)
        return found

    def note(self, setting: Setting | Block | None, text: str, *, loud: bool = False) -> None:
        """Say something about a line."""
        self.notes.append(Note(_statement(setting), text, loud))

    def problem(self, setting: Setting | Block, text: str) -> None:
        """Say that a line cannot be used."""
        statement = _statement(setting)
        assert statement is not None
        self.problems.append(f"{statement.where}: {statement.name}: {text}")

    def refuse(self, setting: Setting, text: str) -> None:
        """Say that a line is right for Mosquitto and not done here."""
        self.refused.append(Note(setting.statement, text))

    def line_of(self, loc: Loc) -> Statement | None:
        """The line that a value, or the nearest thing around or in it, comes from."""
        for length in range(len(loc), 0, -1):
            near = loc[:length]
            if self.origins.get(near) is not None:
                return self.origins[near]
            within = [
                origin
                for found, origin in self.origins.items()
                if found[:length] == near and origin
            ]
            if within:
                return within[0]
        return None


def literal(value: Any) -> Any:
    """A value that stands for itself: nothing in it is a reference to a secret.

    Text with `${` in it would else be taken for one that was not expanded.
    """
    return Expanded(value) if isinstance(value, str) and "${" in value else value


def _statement(origin: Setting | Block | None) -> Statement | None:
    if isinstance(origin, Setting):
        return origin.statement
    if origin is not None and origin.opened is not None:
        return origin.opened.statement
    return None
