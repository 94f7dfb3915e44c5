"""From `mosquitto.conf` to settings, or to one `ConfigError` with `file:line` for each problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isthmus.app.configuration import Loaded
from isthmus.app.mosquitto.draft import Draft, Note
from isthmus.app.mosquitto.translation import translate
from isthmus.app.open_secrets import open_secrets
from isthmus.app.settings import Settings
from isthmus.config.messages import problems_of
from isthmus.config.problems import Loc, Problem, path_text
from isthmus.errors import ConfigError

_PLACE = re.compile(r"(.*?):(\d+): ", re.DOTALL)


def load(
    path: Path | None, *, ports: Sequence[int] = (), verbose: bool = False, quiet: bool = False
) -> Loaded:
    """Return the settings that a file describes; None is an empty file.

    Args:
        path: the file; paths in it are relative to the working folder, as in Mosquitto.
        ports: `-p`, which counts only where the file opens no listener.
        verbose: `-v`, log everything whatever the file says.
        quiet: `-q`, log nothing.

    Raises:
        ConfigError: with one text for everything that is wrong or refused.
    """
    draft = translate(path, ports)
    if verbose:
        draft.put(("log", "level"), "debug")
    if quiet:
        draft.put(("log",), {"to": []})
    problems = [*draft.problems, *(f"{note} (refused)" for note in draft.refused)]
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(draft.data)
    except ValidationError as error:
        found = {problem.loc: problem for problem in problems_of(error, Settings, draft.data)}
        for problem in Settings.problems_in(draft.data):
            found.setdefault(problem.loc, problem)
        # What a line with a problem would have set is missing, which is no problem of its own.
        told = [one for one in found.values() if not problems or _is_set(draft.data, one.loc)]
        problems += _sentences(draft, told, path)
    if settings is None or problems:
        raise ConfigError(*in_order(problems))
    secrets = (Note(draft.line_of(loc), text, loud=True) for loc, text in open_secrets(settings))
    return Loaded(settings, [*draft.notes, *secrets], lambda loc: _where(draft, loc, path))


def in_order(problems: Iterable[str]) -> list[str]:
    """Problems by the file and the line that they begin with."""
    return sorted(problems, key=_place)


def _place(problem: str) -> tuple[str, int]:
    """The file and the line that a problem begins with."""
    match = _PLACE.match(problem)
    return (match[1], int(match[2])) if match else ("", 0)


def _is_set(data: Any, loc: Loc) -> bool:
    try:
        for key in loc:
            data = data[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _sentences(draft: Draft, problems: Iterable[Problem], path: Path | None) -> list[str]:
    return [
        f"{_where(draft, problem.loc, path)}: {path_text(problem.loc)}: {problem.text}"
        for problem in problems
    ]


def _where(draft: Draft, loc: Loc, path: Path | None) -> str:
    line = draft.line_of(loc)
    return f"{line.where}: {line.name}" if line else f"{path or 'mosquitto'}:1"
