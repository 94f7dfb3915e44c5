"""A configuration file of any kind that `isthmus run` takes, told apart by its name."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from isthmus.app.open_secrets import open_secrets
from isthmus.app.settings import Settings
from isthmus.config.document import nearest_line
from isthmus.config.loader import load_text, parse, parse_text
from isthmus.config.problems import path_text
from isthmus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.app.mosquitto.draft import Note
    from isthmus.config.problems import Loc

MOSQUITTO_SUFFIX = ".conf"
"""How the name of a file ends that is Mosquitto's."""

_PATH = re.compile(r"([a-z_]+)((?:\.[\w-]+|\[\d+\])*): ")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")


def nowhere(loc: Loc) -> str:
    """The place of what stands in no file."""
    del loc
    return ""


class Loaded(NamedTuple):
    """Settings, what their reader should know, and where each of them stands.

    `place` returns "file:line" and what else helps to find it, or "" where there is no file.
    """

    settings: Settings
    notes: list[Note]
    place: Callable[[Loc], str] = nowhere

    def placed(self, error: ConfigError) -> ConfigError:
        """An error that was found after the file was read, with file and line in front.

        Its texts begin with the path of what is wrong, such as `listeners[0].bind: `; others, about
        a file that the configuration names, stay as they are.
        """
        return type(error)(*map(self._placed, error.problems))

    def _placed(self, text: str) -> str:
        found = _PATH.match(text)
        if found is None or found[1] not in Settings.model_fields:
            return text
        steps = _STEP.findall(found[2])
        place = self.place((found[1], *(name or int(index) for name, index in steps)))
        return f"{place}: {text}" if place else text


def is_mosquitto(path: Path) -> bool:
    """Whether a file is Mosquitto's by its name."""
    return path.suffix.lower() == MOSQUITTO_SUFFIX


def read_configuration(path: Path) -> Loaded:
    """Return the settings of a file, and what its reader should know.

    Raises:
        ConfigError: with one text for everything that is wrong.
    """
    if is_mosquitto(path):
        from isthmus.app.mosquitto.loading import load  # only who has such a file pays for it

        return load(path)
    return _loaded(parse(Settings, path), partial(_line_in, path))


def read_text(text: str, name: str) -> Loaded:
    """The same for YAML that stands in no file; errors call it `name`.

    Raises:
        ConfigError: with one text for everything that is wrong.
    """
    return _loaded(parse_text(Settings, text, name=name), partial(_line_of, text, name))


def _loaded(settings: Settings, place: Callable[[Loc], str]) -> Loaded:
    notes: list[Note] = []
    for loc, text in open_secrets(settings):
        from isthmus.app.mosquitto.draft import Note

        notes.append(Note(None, f"{place(loc)}: {path_text(loc)}: {text}", loud=True))
    return Loaded(settings, notes, place)


def _line_in(path: Path, loc: Loc) -> str:
    from isthmus.config.loader import load

    try:
        return f"{path}:{nearest_line(load(path).positions, loc)}"
    except ConfigError:  # it was changed meanwhile
        return str(path)


def _line_of(text: str, name: str, loc: Loc) -> str:
    return f"{name}:{nearest_line(load_text(text, name).positions, loc)}"
